"""Directory trees compared entry by entry: all that a layer can say of a file."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """What is compared of one file; *pieces* are where it has data and no hole, and *links* name the group.

    A count of blocks would not do: ext4 counts those of its own maps among them, at times of its choosing.
    """

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int | None
    rdev: int
    content: str
    size: int
    pieces: tuple[tuple[int, int], ...]
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[str, ...]


def paths(root: Path) -> list[Path]:
    """Everything below *root*; Path.rglob of Python 3.11.2 stumbles over symlinks longer than a name may be."""
    return sorted(Path(at, name) for at, below, files in os.walk(root) for name in (*below, *files))


def tree(root: Path | str, *, directory_times: bool = True, overlay: bool = False) -> dict[str, Entry]:
    """Return every entry below *root* by its path, without the root itself.

    An *overlay* may list names that do not exist: of whiteouts in a directory that only one layer has.
    """
    top = os.fspath(root)
    found: dict[str, tuple[os.stat_result, str]] = {}
    groups: dict[tuple[int, int], list[str]] = {}
    for directory, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                if overlay:
                    continue
                raise
            short = os.path.relpath(path, top)
            found[short] = status, path
            if not stat.S_ISDIR(status.st_mode):
                groups.setdefault((status.st_dev, status.st_ino), []).append(short)
    return {
        short: _entry(
            status,
            path,
            tuple(sorted(groups.get((status.st_dev, status.st_ino), ()))),
            times=directory_times or not stat.S_ISDIR(status.st_mode),
        )
        for short, (status, path) in sorted(found.items())
    }


def _entry(status: os.stat_result, path: str, links: tuple[str, ...], *, times: bool) -> Entry:
    kind = stat.S_IFMT(status.st_mode)
    regular = kind == stat.S_IFREG
    content = ""
    pieces: tuple[tuple[int, int], ...] = ()
    if regular:
        with open(path, "rb") as file:
            pieces = tuple(_pieces(file.fileno()))
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux"]
    return Entry(
        kind,
        stat.S_IMODE(status.st_mode),
        (status.st_uid, status.st_gid),
        status.st_mtime_ns if times else None,
        status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        content,
        status.st_size if regular else 0,
        pieces,
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names)),
        links if len(links) > 1 else (),
    )


def _pieces(fd: int) -> Iterator[tuple[int, int]]:
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what is not the same in both, by path."""
    return {
        path: (one.get(path), other.get(path))
        for path in sorted({*one, *other})
        if one.get(path) != other.get(path)
    }
