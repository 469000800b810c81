"""What the tests of the shim share: a way to start one, and to see what it has left."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyrunc._native import mount
from pyrunc.errors import PyruncError
from pyrunc.runtime import cgroup_control, cgroup_layout, shim
from pyrunc.runtime.launcher import Launcher


class Place:
    """A state directory, a log, and what the exit command leaves, below *directory*."""

    def __init__(self, launcher: Launcher, directory: Path) -> None:
        self.launcher = launcher
        self.directory = directory
        self.state = directory / "state"
        self.state.mkdir(mode=0o700)
        self.log = directory / "x-json.log"
        self.marker = directory / "marker"
        self.id = os.urandom(32).hex()
        self.processes: list[shim.Running] = []

    def settings(self, **changes: Any) -> shim.ShimSettings:
        """A log and an exit command that appends a line to `marker`."""
        command = ("/bin/sh", "-c", f'echo "$WORD" >> {self.marker}')
        settings = shim.ShimSettings(
            str(self.state), shim.LogFile(str(self.log)), command, ("WORD=finished",)
        )
        return settings._replace(**changes)

    def start(self, script: str, client: int | None = None, **changes: Any) -> shim.ShimProcess:
        """Run the shell *script* in a container of its own."""
        argv = ["/bin/sh", "-c", script]
        settings = self.settings(**changes)
        process = shim.start(self.launcher, argv, None, settings, self.id, client)
        self.processes.append(process.running)
        return process

    def records(self) -> list[dict[str, str]]:
        """The log's records."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def logged(self, stream: str = "stdout") -> str:
        """All that was logged of one *stream*."""
        return "".join(record["log"] for record in self.records() if record["stream"] == stream)

    def commands(self) -> int:
        """How often the exit command has run."""
        return len(self.marker.read_text().splitlines()) if self.marker.exists() else 0

    def end(self) -> None:
        """Kill what a test has left, by number and time of birth, and wait for the shims to go."""
        for who in self.processes:
            shim.signal(who, signal.SIGKILL)
            eventually(lambda who=who: not shim.is_alive(who.pid, who.pid_started))  # type: ignore[misc]
            if shim.is_alive(who.shim, who.shim_started):
                # Its owner may be kept by the traceback of a failure.
                with suppress(ProcessLookupError):
                    os.kill(who.shim, signal.SIGKILL)
                eventually(lambda who=who: not shim.is_alive(who.shim, who.shim_started))  # type: ignore[misc]
        layout = cgroup_layout.detect()
        cgroup_control.kill(layout, f"/pyrunc/{self.id}")
        cgroup_control.remove(layout, f"/pyrunc/{self.id}")
        cgroup_control.prune(layout, f"/pyrunc/{self.id}")


@contextmanager
def place(launcher: Launcher, directory: Path) -> Iterator[Place]:
    """A Place, of which nothing is left running."""
    made = Place(launcher, directory)
    try:
        yield made
    finally:
        made.end()


def eventually(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Wait until *condition* holds, and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError("it never happened")
        time.sleep(0.005)
    return found


def ended(who: shim.Running) -> bool:
    """Whether neither the container's init nor its shim runs."""
    return not shim.is_alive(who.pid, who.pid_started) and not shim.is_alive(who.shim, who.shim_started)


def in_process(function: Callable[[], None]) -> int:
    """Run *function* in a forked process that waits afterwards to be killed; its pid once the function is done."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os.write(writing, b"x")
            time.sleep(600)
        except PyruncError:
            pass
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    return pid


@contextmanager
def small_tmpfs(at: Path, size: str) -> Iterator[Path]:
    """A file system that is soon full."""
    at.mkdir()
    mount.mount(b"tmpfs", os.fsencode(at), b"tmpfs", 0, f"size={size}".encode())
    try:
        yield at
    finally:
        mount.umount2(os.fsencode(at), mount.MNT_DETACH)
