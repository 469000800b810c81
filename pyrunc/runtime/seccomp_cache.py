"""Compiled seccomp filters in files, for the next process.

A filter decides what a container may do, so a file is only believed if nobody but root can have written it:
the directory is root's with no rights for others, the file is root's, has one name, and only root may write
it; both are looked at through descriptors that no symbolic link led to. A file repeats its whole key, and
the checksum of the rest, so a collision of names or a torn write is a miss. What cannot be read or
written is a miss too, never an error.

    magic (8 bytes) | checksum | flags | lengths of key, program, names (4 bytes each) | key | program | names
"""

import os
import stat
from binascii import crc32

_MAGIC = b"pyrunc\x00\x01"
_HEADER = len(_MAGIC) + 5 * 4
_MAX_FILE = 1 << 20
_MAX_FILES = 64
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry:
    """What is stored: the BPF program, its flags, and the names in the profile that were skipped."""

    __slots__ = ("bpf", "flags", "skipped")

    def __init__(self, bpf: bytes, flags: int, skipped: tuple[str, ...]) -> None:
        self.bpf = bpf
        self.flags = flags
        self.skipped = skipped


def load(directory: str, key: bytes) -> Entry | None:
    """Return what was stored in *directory* for *key*, if it can be trusted."""
    try:
        dir_fd = os.open(directory, _OPEN_DIR)
        try:
            if not _is_private(dir_fd):
                return None
            fd = os.open(_name(key), _OPEN_FILE, dir_fd=dir_fd)
        finally:
            os.close(dir_fd)
        try:
            status = os.fstat(fd)
            if (
                not stat.S_ISREG(status.st_mode)
                or status.st_uid != 0
                or status.st_mode & 0o022
                or status.st_nlink != 1
                or status.st_size > _MAX_FILE
            ):
                return None
            data = os.read(fd, status.st_size)
        finally:
            os.close(fd)
    except OSError:
        return None
    return _decode(data, key)


def store(directory: str, key: bytes, entry: Entry) -> None:
    """Keep *entry* for *key* in *directory*, which is made if it is missing, and emptied if it is full.

    Only root stores anything, since nobody else could be trusted by the next reader.
    """
    data = _encode(key, entry)
    if os.geteuid() != 0 or len(data) > _MAX_FILE:
        return
    try:
        if not os.path.lexists(directory):
            os.mkdir(directory, 0o700)
        dir_fd = os.open(directory, _OPEN_DIR)
        try:
            if _is_private(dir_fd):
                _make_room(dir_fd)
                _write(dir_fd, _name(key), data)
        finally:
            os.close(dir_fd)
    except OSError:
        return


def _write(dir_fd: int, name: str, data: bytes) -> None:
    # No fsync: what a crash tears, the checksum shows, and it is only a cache.
    temporary = f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written == len(data):
            os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            return
    except OSError:
        pass
    os.unlink(temporary, dir_fd=dir_fd)


def _make_room(dir_fd: int) -> None:
    """Remove everything if there are too many files: profiles may come from whoever may start containers."""
    names = os.listdir(dir_fd)
    if len(names) >= _MAX_FILES:
        for name in names:
            try:
                os.unlink(name, dir_fd=dir_fd)
            except OSError:
                continue


def _is_private(dir_fd: int) -> bool:
    status = os.fstat(dir_fd)
    return status.st_uid == 0 and not status.st_mode & 0o077


def _name(key: bytes) -> str:
    return f"{crc32(key):08x}"


def _encode(key: bytes, entry: Entry) -> bytes:
    names = "\0".join(entry.skipped).encode()
    numbers = (entry.flags, len(key), len(entry.bpf), len(names))
    body = b"".join(number.to_bytes(4, "little") for number in numbers) + key + entry.bpf + names
    return _MAGIC + crc32(body).to_bytes(4, "little") + body


def _decode(data: bytes, key: bytes) -> Entry | None:
    if len(data) < _HEADER or not data.startswith(_MAGIC):
        return None
    checksum, flags, key_length, bpf_length, names_length = (
        int.from_bytes(data[at : at + 4], "little") for at in range(len(_MAGIC), _HEADER, 4)
    )
    bpf_at = _HEADER + key_length
    names_at = bpf_at + bpf_length
    if (
        len(data) != names_at + names_length
        or data[_HEADER:bpf_at] != key
        or crc32(data[len(_MAGIC) + 4 :]) != checksum
    ):
        return None
    names = data[names_at:].decode()
    return Entry(data[bpf_at:names_at], flags, tuple(names.split("\0")) if names else ())
