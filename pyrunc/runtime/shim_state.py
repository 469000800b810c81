"""What a shim has left in its state directory, for whoever was not its starter: who runs, and how it ended.

Apart from pyrunc.runtime.shim, so that who only looks, or ends a container, imports nothing that starts one.
"""

from __future__ import annotations

import os
from _signal import pidfd_send_signal  # type: ignore[import-not-found]  # signal imports enum

from pyrunc._native.descriptor import Descriptor
from pyrunc.errors import FailedPrecondition
from pyrunc.records import NamedTuple, loads

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


_ENOUGH = 4096


class Running(NamedTuple):
    """Who runs: the container's init and its shim.

    *pid_started* and *shim_started* are when those were born, in clock ticks since boot (proc_pid_stat(5)):
    a number of a process may become another's. *started_ns* is realtime.
    """

    pid: int
    pid_started: int
    shim: int
    shim_started: int
    started_ns: int


class Status(NamedTuple):
    """How a container ended: as Exit has it; *finished_ns* is realtime, *cgroups_left* says that one stayed busy."""

    exit_code: int
    signal: int
    oom_kills: int
    finished_ns: int
    utime_us: int
    stime_us: int
    maxrss_bytes: int
    cgroups_left: int

    @classmethod
    def of(cls, numbers: Mapping[str, int]) -> Self:
        """From what the shim has written."""
        return cls(*(numbers.get(name, 0) for name in cls._fields))


def running(state_dir: str) -> Running | None:
    """Who runs, as the shim of *state_dir* has written, whether or not it still does; None if it never ran."""
    numbers = _numbers(f"{state_dir}/running")
    return None if numbers is None else Running(*(numbers.get(name, 0) for name in Running._fields))


def status(state_dir: str) -> Status | None:
    """How the container of *state_dir* ended; None as long as it has not, or if its shim was killed."""
    numbers = _numbers(f"{state_dir}/status")
    return None if numbers is None else Status.of(numbers)


def numbers_of(text: str) -> dict[str, int]:
    """A flat JSON object of numbers. Raises ValueError."""
    found: object = loads(text)
    if not isinstance(found, dict) or {*map(type, found.values())} - {int}:
        raise ValueError(f"no object of numbers: {text!r}")
    return found


def _numbers(path: str) -> dict[str, int] | None:
    text = _contents(path)
    try:
        return None if text is None else numbers_of(text.decode())
    except ValueError:
        return None  # torn when the whole machine went down: a shim writes and renames, and waits for no disk


def _contents(path: str) -> bytes | None:
    """A small file at once, for a third of what a file object costs: `ps` reads three for each container."""
    try:
        with Descriptor(path, os.O_RDONLY) as fd:
            return os.read(fd, _ENOUGH)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None


def is_alive(pid: int, born: int) -> bool:
    """Whether the process *pid* that was born at *born* (clock ticks since boot) runs, and is no zombie."""
    return _parent(pid, born) >= 0


def is_child(pid: int, born: int, parent: int) -> bool:
    """The same, and whether *parent* is its parent."""
    return _parent(pid, born) == parent


def _parent(pid: int, born: int) -> int:
    """The number of a living process's parent, -1 if it does not live."""
    found = _contents(f"/proc/{pid}/stat")
    if not found:
        return -1
    fields = found.rpartition(b")")[2].split()
    return int(fields[1]) if int(fields[19]) == born and fields[0] not in b"ZX" else -1


def not_running(container_id: str) -> FailedPrecondition:
    """In Docker's words."""
    return FailedPrecondition(f"Container {container_id} is not running")


def signal(who: Running, number: int) -> bool:
    """Send the signal *number* to the container's init; False when that has ended.

    Raises PermissionError, and ProcessLookupError never.
    """
    try:
        pidfd = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return False
    try:
        # By now the number is this descriptor's process for good; was it the container's?
        if not is_alive(who.pid, who.pid_started):
            return False
        pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
