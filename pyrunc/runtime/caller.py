"""For whom a plan is made: for this process itself, or, in a planner, for another that asks for it."""

from __future__ import annotations

import os

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
