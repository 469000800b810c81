"""For whom a plan is made: for this process itself, or, in a planner, for another that asks for it."""

from __future__ import annotations

import errno
import os
import stat

_pid = 0


def serve(pid: int) -> None:
    """Make plans for the process *pid* from now on; 0 for this one itself."""
    global _pid
    _pid = pid


def pid() -> int:
    """Who will carry the plan out."""
    return _pid or os.getpid()


def is_another() -> bool:
    """Whether that is another process than this one."""
    return _pid != 0


def opened(path: str, directory: int | None = None) -> int:
    """A descriptor to read *path* by, which may be relative to an open *directory*. Raises OSError.

    What another process names has to be a regular file: opening anything else may wait, or wake somebody who waits.
    """
    if not _pid:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    place = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, "no regular file", path)
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(place)
