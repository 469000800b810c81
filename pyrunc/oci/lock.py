"""The lock of a state directory, which keeps two commands from treading on each other."""

from __future__ import annotations

import fcntl
import os
import time

from pyrunc.oci.log import Failure

_PATIENCE_S = 10.0
_STEP_S = 0.005


def is_held(directory: str) -> bool:
    """Whether somebody holds the lock of *directory*; who looks so keeps nobody from looking."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Lock:
    """The exclusive lock of a state directory, which whoever creates a container holds until it is created."""

    __slots__ = ("_fd",)

    def __init__(self, directory: str) -> None:
        """Open the directory; raises OSError. Nothing is locked yet."""
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, timeout_s: float) -> bool:
        """Wait for the lock; False where somebody else has held it all the time."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_STEP_S)

    def claim(self, container_id: str) -> None:
        """Wait for the lock as long as another command may reasonably hold it. Raises Failure behind that."""
        if not self.take(_PATIENCE_S):
            raise Failure(f"container {container_id} is in use by another command")

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._fd)
