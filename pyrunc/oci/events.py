"""`events`: statistics at an interval and notifications of the out-of-memory killer, one line of JSON each."""

from __future__ import annotations

import os
import select
import time

from pyrunc.oci import go_json
from pyrunc.oci.container_cgroups import controller_directory, unified_directory
from pyrunc.oci.log import Failure, print_out
from pyrunc.oci.state import load, root_of, start_time
from pyrunc.oci.statistics import statistics

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Print one line with --stats; without, a line each interval and each kill, until the container ends."""
    container = load(root_of(command.options), command.arguments[0])
    interval_s = command.number("interval") / 1e9
    if interval_s <= 0:
        raise Failure("duration interval must be greater than 0")
    if container.status() in ("stopped", "creating"):
        raise Failure(f"container with id {container.id} is not running")
    if command.flag("stats"):
        _say(container, "stats", statistics(container))
    else:
        _watch(container, interval_s)
    return 0


def _say(container: Container, kind: str, data: dict[str, Any] | None = None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container.id}
    if data is not None:
        event["data"] = data
    print_out(f"{go_json.compact(event)}\n")


def _watch(container: Container, interval_s: float) -> None:
    try:
        process = os.pidfd_open(container.pid)
    except OSError:
        return
    notice = _OutOfMemory(container)
    try:
        if start_time(container.pid) != container.own.get("start_time"):
            return
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if notice.descriptor >= 0:
            poll.register(notice.descriptor, notice.mask)
        due = time.monotonic() + interval_s
        ended = False
        while not ended:
            left_s = max(0.0, due - time.monotonic())
            ready = dict(poll.poll(left_s * 1000))
            ended = process in ready
            # Once more at the end: the kill that ended it may be known just now.
            for _ in range(notice.take()):
                _say(container, "oom")
            if not ended and time.monotonic() >= due:
                due += interval_s
                _say(container, "stats", statistics(container))
    finally:
        notice.close()
        os.close(process)


class _OutOfMemory:
    """Counts kills for want of memory: by an eventfd of cgroup v1, by memory.events of v2.

    Source: kernel Documentation/admin-guide/cgroup-v1/memory.rst, section 10; cgroup-v2.rst, "memory.events".
    """

    __slots__ = ("_control", "_known", "_place", "descriptor", "mask", "version")

    def __init__(self, container: Container) -> None:
        self.descriptor = self._control = -1
        self._place = ""
        self.mask = select.POLLIN
        self.version = 0
        self._known = 0
        directory = controller_directory(container, "memory")
        try:
            if directory:
                self._open_v1(directory)
            elif unified_directory(container):
                self._open_v2(unified_directory(container))
        except OSError:
            # No memory controller: nothing is counted. A cgroup that is gone has said so by its process.
            self.close()

    def _open_v1(self, directory: str) -> None:
        self._control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._place = f"{directory}/cgroup.event_control"
        with open(self._place, "w", encoding="ascii") as file:
            file.write(f"{self.descriptor} {self._control}")
        self.version = 1

    def _open_v2(self, directory: str) -> None:
        # The kernel notifies a change with POLLPRI, relative to what was read before by the same descriptor.
        self.descriptor = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self.mask = select.POLLPRI
        self.version = 2
        self._known = self._count()

    def _count(self) -> int:
        for line in os.pread(self.descriptor, 4096, 0).decode("ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0

    def take(self) -> int:
        """How many kills there were since it was last asked."""
        try:
            if self.version == 1:
                count = os.eventfd_read(self.descriptor)
                # The end of the cgroup is notified by the same descriptor, once.
                return count if os.path.exists(self._place) else count - 1
            if self.version == 2:
                count = self._count()
                new, self._known = count - self._known, count
                return new
        except BlockingIOError:
            return 0
        except OSError:
            return 0  # the cgroup is gone
        return 0

    def close(self) -> None:
        """Close what was opened."""
        for descriptor in (self.descriptor, self._control):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._control = -1
        self.version = 0
