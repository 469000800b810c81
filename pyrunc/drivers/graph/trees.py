"""Whole directory trees, by descriptor and as deep as a container may have made them: removed, copied, measured.

Nothing recurses and no path grows: of each tree one directory is open at a time. The way back up is "..", which is
checked against where the way down came from, since a container that still runs may move directories about.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from pyrunc._native.descriptor import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409
_CHUNK = 1 << 30
_CANNOT_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_ATTEMPTS = 64


def opened(path: str, dir_fd: int | None = None) -> Descriptor:
    """The directory *path* (below the open directory *dir_fd*), for a ``with`` block; never a symlink."""
    return Descriptor(path, _DIRECTORY) if dir_fd is None else Descriptor(path, _DIRECTORY, dir_fd=dir_fd)


class Moved(OSError):
    """The tree was changed under the walk: a directory is no longer where it was."""


class _Walk:
    """One open directory of a tree, and what lies above it."""

    def __init__(self, root: int) -> None:
        self.fd = os.open(".", _DIRECTORY, dir_fd=root)
        self._above: list[tuple[int, int]] = []

    def down(self, name: str) -> None:
        status = os.fstat(self.fd)
        below = os.open(name, _DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = below
        self._above.append((status.st_dev, status.st_ino))

    def up(self) -> None:
        above = os.open("..", _DIRECTORY, dir_fd=self.fd)
        status = os.fstat(above)
        if (status.st_dev, status.st_ino) != self._above.pop():
            os.close(above)
            raise Moved(errno.ESTALE, "a directory was moved while its tree was walked")
        os.close(self.fd)
        self.fd = above

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


def remove(parent: int, name: str) -> None:
    """Remove the file or tree *name* of the open directory *parent*; what is gone already is no error.

    Raises OSError for what cannot be removed, such as an immutable file.
    """
    for _ in range(_ATTEMPTS):
        try:
            top = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno not in (errno.ENOTDIR, errno.ELOOP):  # a file, a symlink
                raise
            os.unlink(name, dir_fd=parent)
            return
        try:
            _empty(top)
            os.rmdir(name, dir_fd=parent)
            return
        except OSError as exc:
            # Another removes it too, or a container still makes files in it: once more from the top.
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.ESTALE):
                raise
        finally:
            os.close(top)
    raise OSError(errno.EBUSY, "it is being written to", name)


def _empty(top: int) -> None:
    with _Walk(top) as walk:
        way: list[str] = []
        waiting = [_unlink_files(walk.fd)]
        while waiting:
            if waiting[-1]:
                below = waiting[-1].pop()
                walk.down(below)
                way.append(below)
                waiting.append(_unlink_files(walk.fd))
            else:
                waiting.pop()
                if way:
                    walk.up()
                    os.rmdir(way.pop(), dir_fd=walk.fd)


def _unlink_files(directory: int) -> list[str]:
    """Unlink all but directories; those that are not empty are returned."""
    left = []
    with os.scandir(directory) as entries:
        # A list: a directory that is changed while it is read may be read in part only.
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        try:
            if is_directory:
                os.rmdir(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as exc:
            if not is_directory or exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            left.append(name)
    return left


def measure(root: int) -> tuple[int, int]:
    """Bytes (of allocated blocks) and inodes below and with the open directory *root*; a hard link counts once.

    What a container makes or removes meanwhile may count or not.
    """
    status = os.fstat(root)
    size, inodes = status.st_blocks * 512, 1
    for status in _entries(root):
        size += status.st_blocks * 512
        inodes += 1
    return size, inodes


def walk(
    root: int, hidden: Callable[[int], bool] | None = None
) -> Iterator[tuple[int, str, str, os.stat_result]]:
    """All that is below the open directory *root*, by name, a directory before what is in it.

    Each with the open directory that it is in, its path from *root*, its name, and its status. What is made or removed
    meanwhile may be there or not. A directory on another device that is *hidden*, by its descriptor, is not entered.
    Raises Moved if a directory was moved while the walk was below it.
    """
    with _Walk(root) as where:
        way: list[str] = []
        waiting = [sorted(os.listdir(where.fd), reverse=True)]
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                if way:
                    where.up()
                    way.pop()
                continue
            name = waiting[-1].pop()
            try:
                status = os.stat(name, dir_fd=where.fd, follow_symlinks=False)
                yield where.fd, "/".join((*way, name)), name, status
                if not stat.S_ISDIR(status.st_mode):
                    continue
                device = os.fstat(where.fd).st_dev
                where.down(name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            way.append(name)
            shown = hidden is None or os.fstat(where.fd).st_dev == device or not hidden(where.fd)
            waiting.append(sorted(os.listdir(where.fd), reverse=True) if shown else [])


def content_bytes(root: int) -> int:
    """The lengths of all files below the open directory *root*; a hard link counts once, and directories not at all."""
    return sum(status.st_size for status in _entries(root) if not stat.S_ISDIR(status.st_mode))


def _entries(root: int) -> Iterator[os.stat_result]:
    """The status of everything below *root*, of each file once."""
    seen: set[int] = set()
    with _Walk(root) as walk:
        waiting: list[list[str]] = []
        while True:
            below = []
            with os.scandir(walk.fd) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        below.append(entry.name)
                    elif status.st_nlink > 1:
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    yield status
            waiting.append(below)
            if not _next(walk, waiting):
                return


def _next(walk: _Walk, waiting: list[list[str]]) -> bool:
    """Go to the next directory in depth-first order; False if there is none."""
    while waiting:
        while waiting[-1]:
            try:
                walk.down(waiting[-1].pop())
            except (FileNotFoundError, NotADirectoryError):
                continue
            return True
        waiting.pop()
        if waiting:
            try:
                walk.up()
            except Moved:
                return False
    return False


def copy_attributes(source: int, target: int) -> None:
    """Give the open file or directory *target* the owner, mode, extended attributes and times of *source*.

    Overlay's own attributes stay behind.
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))  # after chown, which clears set-user-ID
    for key in os.listxattr(source):
        if not key.startswith("trusted.overlay."):
            os.setxattr(
                target, key, os.getxattr(source, key)
            )  # after chown, which clears security.capability
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


class Copier:
    """Copies one tree into an empty directory, with everything that a file system keeps of it.

    Contents share their blocks with the source where the file system can (FICLONE); else they are copied by the
    kernel, holes left out. *links* is an open, empty directory beside the copy: hard links are kept there under
    short names until the copy is whole, since the path of the first name may be longer than the kernel takes.
    Nobody may write to the source meanwhile.
    """

    def __init__(self, links: int) -> None:
        self._links = links
        self._kept: set[str] = set()
        self._clones = True

    def copy(self, source: int, target: int) -> None:
        """Copy the content and the attributes of the open directory *source* to *target*.

        Raises OSError, with a part copied.
        """
        with _Walk(source) as here, _Walk(target) as there:
            waiting = [self._entries(here.fd, there.fd)]
            while waiting:
                if waiting[-1]:
                    name = waiting[-1].pop()
                    os.mkdir(name, 0o700, dir_fd=there.fd)
                    here.down(name)
                    there.down(name)
                    waiting.append(self._entries(here.fd, there.fd))
                    continue
                waiting.pop()
                # Last, as whatever is made in a directory changes its time.
                copy_attributes(here.fd, there.fd)
                if waiting:
                    here.up()
                    there.up()
        for name in self._kept:
            os.unlink(name, dir_fd=self._links)

    def _entries(self, source: int, target: int) -> list[str]:
        """Copy all but directories; their names are returned."""
        below = []
        with os.scandir(source) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                    continue
                status = entry.stat(follow_symlinks=False)
                kept = str(status.st_ino) if status.st_nlink > 1 else ""
                if kept in self._kept:
                    os.link(
                        kept,
                        entry.name,
                        src_dir_fd=self._links,
                        dst_dir_fd=target,
                        follow_symlinks=False,
                    )
                    continue
                if stat.S_ISREG(status.st_mode):
                    self._file(source, target, entry.name, status)
                else:
                    self._node(source, target, entry.name, status)
                if kept:
                    os.link(
                        entry.name,
                        kept,
                        src_dir_fd=target,
                        dst_dir_fd=self._links,
                        follow_symlinks=False,
                    )
                    self._kept.add(kept)
        return below

    def _node(self, source: int, target: int, name: str, status: os.stat_result) -> None:
        """A symlink, device, FIFO or socket."""
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        # Neither can be opened without side effects; and these calls have no form for a name in a directory.
        old, new = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
        for key in os.listxattr(old, follow_symlinks=False):
            value = os.getxattr(old, key, follow_symlinks=False)
            os.setxattr(new, key, value, follow_symlinks=False)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)

    def _file(self, source: int, target: int, name: str, status: os.stat_result) -> None:
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writing = os.open(name, flags, 0o600, dir_fd=target)
            try:
                if status.st_size and not self._clone(reading, writing):
                    _copy_data(reading, writing, status)
                copy_attributes(reading, writing)
            finally:
                os.close(writing)
        finally:
            os.close(reading)

    def _clone(self, reading: int, writing: int) -> bool:
        if self._clones:
            try:
                fcntl.ioctl(writing, _FICLONE, reading)
            except OSError as exc:
                if exc.errno not in _CANNOT_CLONE:
                    raise
                self._clones = False  # the file system cannot: not asked again
        return self._clones


def _copy_data(reading: int, writing: int, status: os.stat_result) -> None:
    """Copy what is data; holes stay holes."""
    sparse = status.st_blocks * 512 < status.st_size
    at = 0
    while at < status.st_size:
        end = status.st_size
        if sparse:
            try:
                at = os.lseek(reading, at, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                break  # a hole up to the end
            end = os.lseek(reading, at, os.SEEK_HOLE)
        at = _copy_range(reading, writing, at, end)
    os.ftruncate(writing, status.st_size)


def _copy_range(reading: int, writing: int, at: int, end: int) -> int:
    while at < end:
        try:
            done = os.copy_file_range(reading, writing, min(end - at, _CHUNK), at, at)
        except OSError as exc:
            if exc.errno not in _CANNOT_CLONE:
                raise
            done = 0
        if not done:
            # Another file system (before 5.19), or one that says nothing about its length.
            block = os.pread(reading, min(end - at, 1 << 20), at)
            if not block:
                break
            done = os.pwrite(writing, block, at)
        at += done
    return max(at, end)
