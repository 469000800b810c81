"""Files that are there whole or not at all, and locks between processes."""

import errno
import fcntl
import os
import stat
import time

from pyrunc._native.descriptor import Descriptor
from pyrunc.errors import FailedPrecondition, StorageFull, TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def save(path: str, data: "Buffer", mode: int = 0o644) -> None:
    """Replace the file *path* by one that holds *data*: whoever opens it, whenever, sees the old one or the new.

    It is on the disk when this returns. Raises StorageFull, or OSError; then *path* is as it was.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(8).hex()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                write_all(fd, data)
                os.fchmod(fd, mode)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        sync_directory(directory)
    except OSError as exc:
        raise said_full(exc, path) from exc


def write_all(fd: int, data: "Buffer") -> int:
    """Write all of *data* to *fd*, however many calls it takes; how many bytes that were."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += os.write(fd, view[done:] if done else view)
    return done


def sync_directory(path: str) -> None:
    """Bring the names in the directory *path* to the disk."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: str, mode: int = 0o700) -> None:
    """Make the directory *path* and what is missing above it, durably; it may exist."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(os.path.abspath(path))
    make_directory(parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    except OSError as exc:
        raise said_full(exc, path) from exc
    sync_directory(parent)


def check_private(path: str) -> None:
    """See that nobody but root and this process's user can replace what is in the directory *path*, if it exists.

    An empty one of ours that others may write to, such as a new tmpfs, is taken from them. Raises FailedPrecondition,
    which says who can: another owner, or others who may write to it or, if it is not sticky, to a directory above.
    """
    place = os.path.realpath(path)
    try:
        status = os.stat(place)
    except OSError:
        pass  # it is made for its owner only; or who needs it says why it cannot be used
    else:
        if status.st_uid not in (0, os.geteuid()):
            raise FailedPrecondition(
                f"{place} belongs to user {status.st_uid}, who could replace what is in it"
            )
        if status.st_mode & _OTHERS_WRITE and not _taken(place, status):
            raise FailedPrecondition(
                f"{place} can be written by others, who could replace what is in it: use another directory, or if"
                " all in it is right, chmod go-w"
            )
    while place != "/":
        place = os.path.dirname(place)
        try:
            mode = os.stat(place).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise FailedPrecondition(f"{place} can be written by others, who could replace {path} in it")


def _taken(place: str, status: os.stat_result) -> bool:
    """Take from others the right to write to a directory, if it is ours and empty; whether it is now."""
    if status.st_uid != os.geteuid() or os.listdir(place):
        return False
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.chmod(place, mode & ~_OTHERS_WRITE)
        if not os.listdir(place):
            return True
        os.chmod(place, mode)  # somebody was faster
    except OSError:
        pass
    return False


def said_full(exc: OSError, what: str) -> OSError:
    """Return what to raise for *exc*: StorageFull that names *what* where the disk or a quota is full."""
    return StorageFull(f"no space left for {what}", exc.errno) if exc.errno in _FULL else exc


class Lock:
    """A lock between processes and threads on the file *path*, which is made; a context manager.

    The file stays, unless the lock is *transient*: then it goes with its release, and whoever waited for it makes
    another; where its holder dies, it stays too. *timeout_s* (None: for ever) bounds the wait, after which TimedOut
    is raised. The kernel releases it when its holder dies. A child that is forked meanwhile does not hold it.
    Source: flock(2).
    """

    __slots__ = ("_file", "_pid", "path", "shared", "timeout_s", "transient")

    def __init__(
        self, path: str, *, shared: bool = False, transient: bool = False, timeout_s: float | None = None
    ) -> None:
        self.path = path
        self.shared = shared
        self.transient = transient
        self.timeout_s = timeout_s
        self._file: Descriptor | None = None
        self._pid = 0

    def acquire(self) -> None:
        """Wait for the lock and hold it."""
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        while True:
            try:
                file = Descriptor(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except OSError as exc:
                raise said_full(exc, self.path) from exc
            try:
                self._wait(file.fd, deadline)
                if _is_at(file.fd, self.path):
                    self._file, self._pid = file, os.getpid()
                    return
                # Whoever removed what it guards removed the file too: another may hold the new one.
            finally:
                if self._file is not file:
                    file.close()

    def _wait(self, fd: int, deadline: float | None) -> None:
        kind = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
        if deadline is None:
            fcntl.flock(fd, kind)
            return
        pause = 0.001
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError as exc:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimedOut(f"{self.path} is locked by another for {self.timeout_s} s") from exc
                time.sleep(min(pause, left))
                pause = min(pause * 2, 0.05)

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        file, self._file = self._file, None
        if file is not None:
            # An interrupt may come at any call, and whoever was interrupted wants the lock again.
            try:
                if self._pid == os.getpid():
                    try:
                        if self.transient:
                            self._unlink()
                    finally:
                        # For a forked child that still has the descriptor, too.
                        fcntl.flock(file.fd, fcntl.LOCK_UN)
            finally:
                file.close()

    def _unlink(self) -> None:
        try:
            os.unlink(self.path)  # while it is held, so that nobody else holds a file of that name
        except FileNotFoundError:
            pass  # with its directory

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.release()


def sweep_locks(directory: str) -> None:
    """Remove the files of transient locks in *directory* whose holders have died."""
    for name in os.listdir(directory):
        try:
            with Lock(os.path.join(directory, name), transient=True, timeout_s=0):
                pass
        except (TimedOut, StorageFull):
            continue  # it is held, or it was removed meanwhile and cannot be made again


def _is_at(fd: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
