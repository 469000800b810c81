"""The host's side of the second kernel: start it, stream its output, judge it, leave nothing behind."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from .confine import DISK_MIB, Spec
from .guest import JOB, Job

# How long the guest may take to switch off after its verdict.
_POWER_OFF_S = 10.0
# How much of the kernel's console is kept to explain an end without a verdict.
_CONSOLE_BYTES = 16 << 10


class MachineError(Exception):
    """The second kernel could not be started, stopped without a verdict, or could not run the command."""


class MachineTimeout(MachineError):
    """The command did not finish in time."""


class Channels(NamedTuple):
    """The descriptors that the kernel writes to: its console, the command's output, the guest's verdict."""

    console: int
    output: int
    status: int


class Program(NamedTuple):
    """How to start a kernel, and the names that channels, modules and disk have in the guest."""

    helpers: list[list[str]]
    main: list[str]
    modules: str
    output: str
    status: str
    disk: str


class Request(NamedTuple):
    """What to run: *argv* in *cwd*, within *timeout_s* from the start of the kernel."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    memory_mib: int
    timeout_s: float
    append: list[str]


Kernel = Callable[[Channels, int, list[str]], Program]


def _checkout() -> str:
    """Return the directory above the `tests` package."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _quote(word: str) -> str:
    """Quote *word* for sh."""
    return "'" + word.replace("'", "'\\''") + "'"


def _spec(program: Program, request: Request, channels: Channels) -> Spec:
    """Write the job and the guest's init, and combine them with *program*."""
    checkout = _checkout()
    job: Job = {
        "argv": request.argv,
        "cwd": request.cwd,
        "env": request.env,
        "keep": sorted({checkout, request.cwd, sys.prefix, sys.base_prefix}),
        "modules": program.modules,
        "output": program.output,
        "status": program.status,
        "is_terminal": os.isatty(1),
        "disk": program.disk,
    }
    # The kernel's command line has no room for spaces in a path, so init is a script at a known place.
    python = f"{_quote(sys.executable)} -E -s -S -B -m tests.vm.guest"
    init = f"#!/bin/sh\ncd {_quote(checkout)} && exec {python}\n"
    return {
        "files": {"init": init, JOB: json.dumps(job)},
        "tmpfs_mib": request.memory_mib + DISK_MIB + 64,
        "helpers": program.helpers,
        "main": program.main,
        "keep_fds": list(channels),
    }


def _last_words(console: bytes) -> str:
    """Choose the line of the *console* that best explains why a kernel stopped."""
    lines = [line.strip() for line in console.decode(errors="replace").splitlines() if line.strip()]
    panics = [line for line in lines if "panic" in line.lower()]
    return (panics or lines or ["it said nothing"])[-1]


class _Streams:
    """The reading ends of the three channels."""

    def __init__(self, ends: Channels, console_fd: int | None) -> None:
        self.open = set(ends)
        self.console = b""
        self.verdict = b""
        self._ends = ends
        self._console_fd = console_fd

    def pump(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* for bytes and pass them on; an end leaves `open`."""
        ready, _, _ = select.select(list(self.open), [], [], max(timeout_s, 0))
        for fd in ready:
            data = os.read(fd, 1 << 16)
            if not data:
                self.open.discard(fd)
            elif fd == self._ends.output:
                _write_all(1, data)
            elif fd == self._ends.status:
                self.verdict += data
            else:
                self.console = (self.console + data)[-_CONSOLE_BYTES:]
                if self._console_fd is not None:
                    _write_all(self._console_fd, data)


def _write_all(fd: int, data: bytes) -> None:
    """Write all of *data*."""
    while data:
        data = data[os.write(fd, data) :]


def _judge(streams: _Streams) -> int:
    """Turn what the guest said into its command's exit code. Raises MachineError when it did not say one."""
    if not streams.verdict.endswith(b"\n"):
        raise MachineError(f"the kernel stopped without a verdict: {_last_words(streams.console)}")
    verdict = json.loads(streams.verdict)
    if "error" in verdict:
        raise MachineError(f"the guest could not run the command: {verdict['error']}")
    return int(verdict["exit_code"])


def run(kernel: Kernel, request: Request, console_fd: int | None = None) -> int:
    """Run *request* under *kernel* and return the command's exit code; its output goes to descriptor 1, live.

    The kernel's own messages go to *console_fd*, if given. Whatever happens, every process is gone on return.
    Raises MachineError, and MachineTimeout when `request.timeout_s` has passed.
    """
    pipes = [os.pipe() for _ in Channels._fields]
    reading, writing = Channels(*(r for r, _ in pipes)), Channels(*(w for _, w in pipes))
    try:
        spec = _spec(kernel(writing, request.memory_mib, request.append), request, writing)
        # A session of its own: Ctrl-C reaches this process only, and the lifeline does the rest.
        child = subprocess.Popen(
            [sys.executable, "-E", "-s", "-S", "-B", "-m", "tests.vm.confine"],
            cwd=_checkout(),
            stdin=subprocess.PIPE,
            stdout=writing.console,
            stderr=writing.console,
            pass_fds=writing,
            start_new_session=True,
        )
    finally:
        for fd in writing:
            os.close(fd)
    assert child.stdin is not None
    streams = _Streams(reading, console_fd)
    deadline = time.monotonic() + request.timeout_s
    judged = False
    try:
        child.stdin.write(json.dumps(spec).encode() + b"\n")
        child.stdin.flush()
        while streams.open:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            streams.pump(left_s)
            if not judged and streams.verdict.endswith(b"\n"):
                judged, deadline = True, time.monotonic() + _POWER_OFF_S
    finally:
        child.stdin.close()
        child.wait()
        for fd in reading:
            os.close(fd)
    if streams.open and not judged:
        raise MachineTimeout(f"no result within {request.timeout_s:g} s")
    return _judge(streams)
