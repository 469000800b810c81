"""Files as Docker's archives for `cp` have them: a file or a tree that may change while it is read.

Only a regular file is opened, never a FIFO or a device that took its place; one that becomes shorter meanwhile is
padded, as GNU tar does. Source: Docker Engine API v1.51, GET /containers/{id}/archive.
"""

import os
import stat
import tarfile

from pyrunc.drivers.graph import trees

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Sink = Callable[[bytes], object]
    Hidden = Callable[[int], bool]

_CAPABILITY = "security.capability"
_CHUNK = 256 << 10


def write(parent: int, name: str, base: str, sink: "Sink", *, hidden: "Hidden | None" = None) -> None:
    """Write the entry *name* of the open directory *parent*, with all below it, as a tar to *sink*.

    It is called *base* there; "." as the *name* is the directory itself, "" as the *base* makes absolute names. Of a
    directory that is *hidden*, by its descriptor, only its entry is written. Raises OSError.
    """
    out: Any = _Sink(sink)
    with tarfile.open(
        fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK, errors="surrogateescape"
    ) as tar:
        writer = _Writer(tar)
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            writer.add(parent, name, base, status)
            return
        writer.add(parent, name, base or "/", status)
        with trees.opened(name, parent) as top:
            for directory, path, entry, found in trees.walk(top, hidden):
                writer.add(directory, entry, f"{base}/{path}", found)


class _Sink:
    """What tarfile takes for a file."""

    def __init__(self, sink: "Sink") -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        self._sink(data)
        return len(data)


class _Exactly:
    """Reads as many bytes of a file as its entry says, zeros where there are no more."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._left = size

    def read(self, size: int) -> bytes:
        data = os.read(self._fd, min(size, self._left))
        if not data:
            data = bytes(min(size, self._left))
        self._left -= len(data)
        return data if len(data) == size or not self._left else data + self.read(size - len(data))


class _Writer:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._links: dict[tuple[int, int], str] = {}
        self._headers: dict[str, str] = {}  # of the present entry

    def add(self, directory: int, name: str, base: str, status: os.stat_result) -> None:
        """Add one entry; one that is gone, or a socket, which no archive has, is passed over."""
        entry = tarfile.TarInfo(base)
        self._headers = {}
        entry.mode, entry.uid, entry.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        entry.mtime = status.st_mtime_ns // 10**9
        if status.st_mtime_ns % 10**9:
            self._headers["mtime"] = f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09}"
        kind = stat.S_IFMT(status.st_mode)
        try:
            if kind == stat.S_IFREG:
                self._file(directory, name, entry, status)
                return
            if kind == stat.S_IFLNK:
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory)
            elif kind == stat.S_IFDIR:
                entry.type = tarfile.DIRTYPE
            elif kind == stat.S_IFIFO:
                entry.type = tarfile.FIFOTYPE
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                entry.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
                entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
            else:
                return
        except FileNotFoundError:
            return
        self._put(entry)

    def _file(self, directory: int, name: str, entry: tarfile.TarInfo, status: os.stat_result) -> None:
        place = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and place in self._links:
            entry.type, entry.linkname = tarfile.LNKTYPE, self._links[place]
            self._put(entry)
            return
        # Not blocking: a FIFO may have taken its place.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return
            try:
                value = os.getxattr(fd, _CAPABILITY)
            except OSError:
                pass
            else:
                self._headers[f"SCHILY.xattr.{_CAPABILITY}"] = value.decode("utf-8", "surrogateescape")
            entry.size = found.st_size
            self._put(entry, _Exactly(fd, entry.size))
        finally:
            os.close(fd)
        if status.st_nlink > 1:
            self._links[place] = entry.name

    def _put(self, entry: tarfile.TarInfo, content: _Exactly | None = None) -> None:
        entry.pax_headers = self._headers
        self._tar.addfile(entry, content)  # type: ignore[arg-type]  # all that it needs is read()
        self._tar.members.clear()  # type: ignore[attr-defined]  # which it would keep, as many as there are
