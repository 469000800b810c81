"""Waiting for what is to become true, however slow the machine is."""

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 60.0


def until(found: Callable[[], object], what: object) -> None:
    """Wait until *found* says so; *what*, or what it says when called, is told where it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)


def executed(pid: object, *command: str) -> None:
    """Wait until *pid* shows this command line: whoever started it hears of it a moment before the kernel shows it."""
    wanted = "".join(f"{word}\0" for word in command).encode()
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == wanted, f"{pid} does not execute {command}")
