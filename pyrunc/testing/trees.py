"""Directory trees with everything in them that a layer can hold, and what two of them have to agree in."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import NamedTuple

# Version 2, effective; permitted: CAP_NET_BIND_SERVICE (include/uapi/linux/capability.h)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(NamedTuple):
    """One name of a tree; *content* is that of a small file, the SHA-256 of a large one, a symlink's target.

    *links* are all names of the same file.
    """

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: int
    content: bytes
    attributes: tuple[tuple[str, bytes], ...]
    links: tuple[str, ...]


def entries(root: int) -> dict[str, Entry]:
    """Every path below the open directory *root*, and itself as ``.``."""
    found: dict[str, os.stat_result] = {".": os.fstat(root)}
    names: dict[int, list[str]] = {}
    waiting = [""]
    while waiting:
        above = waiting.pop()
        directory = os.open(above or ".", _DIRECTORY, dir_fd=root)
        try:
            for name in os.listdir(directory):
                path = f"{above}/{name}" if above else name
                found[path] = status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
                elif status.st_nlink > 1:
                    names.setdefault(status.st_ino, []).append(path)
        finally:
            os.close(directory)
    return {
        path: _entry(root, path, status, sorted(names.get(status.st_ino, [path])))
        for path, status in found.items()
    }


def _entry(root: int, path: str, status: os.stat_result, links: list[str]) -> Entry:
    kind = stat.S_IFMT(status.st_mode)
    content = b""
    if kind == stat.S_IFREG:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root), "rb") as file:
            content = file.read() if status.st_size < 4096 else hashlib.file_digest(file, "sha256").digest()
    elif kind == stat.S_IFLNK:
        content = os.fsencode(os.readlink(path, dir_fd=root))
    place = f"/proc/self/fd/{root}/{path}"
    attributes = tuple(
        (key, os.getxattr(place, key, follow_symlinks=False))
        for key in sorted(os.listxattr(place, follow_symlinks=False))
        if not key.startswith("trusted.overlay.")
    )
    size = status.st_size if kind in (stat.S_IFREG, stat.S_IFLNK) else 0
    device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return Entry(
        status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, device, content, attributes,
        tuple(links),
    )  # fmt: skip


def write(root: int, path: str, content: bytes) -> None:
    """Write a file below the open directory *root*."""
    fd = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=root
    )
    with open(fd, "wb") as file:
        file.write(content)


def fill(root: int) -> None:
    """Put one of everything into the open directory *root*; names must be free."""
    write(root, "plain", b"plain")
    place = f"/proc/self/fd/{root}"
    for key, value in (("user.note", b"a\0b"), ("trusted.note", b"t"), ("security.capability", CAPABILITY)):
        os.setxattr(f"{place}/plain", key, value)
    write(root, "empty", b"")
    write(root, "set-user-id", b"#!")
    os.chown("set-user-id", 1000, 2000, dir_fd=root)
    os.chmod("set-user-id", 0o6755, dir_fd=root)
    write(root, "old", b"old")
    os.chown("old", 4_000_000_000, 4_000_000_001, dir_fd=root)
    os.utime("old", ns=(1, 1_000_000_000_123_456_789), dir_fd=root)
    write(root, "before-1970", b"")
    os.utime("before-1970", ns=(0, -1_500_000_000), dir_fd=root)
    _sparse(root)
    write(root, "large", bytes(range(256)) * 4096)
    write(root, "n\u00e4me \n\udcff", b"odd")
    write(root, "x" * 255, b"long")
    os.symlink("/does/not/exist", "link", dir_fd=root)
    os.symlink("y" * 3000, "long-link", dir_fd=root)
    os.chown("link", 7, 8, dir_fd=root, follow_symlinks=False)
    os.utime("link", ns=(1, 5_000_000_001), dir_fd=root, follow_symlinks=False)
    os.setxattr(f"{place}/link", "trusted.note", b"of a link", follow_symlinks=False)
    os.mkfifo("fifo", 0o640, dir_fd=root)
    os.mknod("character", stat.S_IFCHR | 0o600, os.makedev(1, 7), dir_fd=root)
    os.mknod("block", stat.S_IFBLK | 0o660, os.makedev(300, 70000), dir_fd=root)
    os.mkdir("hard", dir_fd=root)
    write(root, "hard/one", b"linked")
    for name in ("two", "three"):
        os.link("hard/one", f"hard/{name}", src_dir_fd=root, dst_dir_fd=root)
    os.mkdir("sticky", dir_fd=root)
    os.chmod("sticky", 0o3777, dir_fd=root)
    os.setxattr(f"{place}/sticky", "user.note", b"of a directory")
    os.mkdir("nested", dir_fd=root)
    os.mkdir("nested/empty", dir_fd=root)
    os.chmod("nested/empty", 0o000, dir_fd=root)
    for name in ("hard", "sticky", "nested/empty", "nested"):
        os.utime(name, ns=(1, 2_000_000_000_000_000_003), dir_fd=root)


def _sparse(root: int) -> None:
    fd = os.open("sparse", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=root)
    try:
        os.pwrite(fd, b"begin", 0)
        os.pwrite(fd, b"middle", 1 << 20)
        os.ftruncate(fd, 3 << 20)
    finally:
        os.close(fd)


def deep(root: int, levels: int) -> None:
    """Make *levels* directories within each other below the open directory *root*: far beyond what a path can name."""
    fd = os.dup(root)
    for _ in range(levels):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", _DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    write(fd, "bottom", b"bottom")
    os.close(fd)
