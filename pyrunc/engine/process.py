"""A container that has a row, while its program runs: waiting for it, signals, and what is due at its end."""

import time
from _thread import allocate_lock

from pyrunc.api import ContainerResult
from pyrunc.errors import InvalidArgument, PyruncError, TimedOut
from pyrunc.runtime.sandbox import ATTEMPTS, TIMEOUT, RunResult, SandboxProcess, talk
from pyrunc.runtime.stdio import Pipes
from pyrunc.runtime.supervised import NotTaken, Supervised

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from pyrunc.runtime.launcher import Launcher

_SIGKILL, _SIGTERM = 9, 15
_STOP_TIMEOUT_S = 10.0  # Docker's


class Starting:
    """A container about to start: who it is, its plan, its *config*, and whom to tell that it runs and has ended."""

    def __init__(
        self, container_id: str, name: str, argv: "Sequence[str]", launcher: "Launcher",
        started: "Callable[[int], None]", ended: "Callable[[int, bool], None]", config: "Mapping[str, Any]",
    ) -> None:  # fmt: skip
        self.config = config
        self.container_id = container_id
        self.name = name
        self._argv = argv
        self._launcher = launcher
        self._started = started
        self._ended = ended

    def start(self, stdio: "Sequence[int]") -> "ContainerProcess":
        """Start it with the three descriptors *stdio*. Raises StartError."""
        return ContainerProcess(self, SandboxProcess(self._request(stdio)))

    def run(self, stdin: bytes, timeout_s: float | None) -> ContainerResult:
        """Run it to its end. Raises StartError, TimedOut."""
        begun = time.monotonic_ns()
        deadline = None if timeout_s is None else begun / 1e9 + TIMEOUT(timeout_s, "timeout_s")
        with Pipes(stdin) as pipes:
            child = self._request(pipes.theirs)
            try:
                if not talk(pipes, child, deadline):
                    raise TimedOut(f"{self._argv[0]}: killed after {timeout_s} s")
            except BaseException as exc:
                child.abandon()
                self.end(child.exit.exit_code if child.exit else 128 + _SIGKILL)
                if isinstance(exc, TimedOut):
                    exc.stdout, exc.stderr = pipes.drain()
                raise
            finally:
                child.close()
            result = RunResult.of(child.exit, pipes.drain(), begun)
        self.end(result.exit_code)
        return ContainerResult(*result, self.container_id, self.name)

    def end(self, exit_code: int) -> None:
        """Say that it has ended."""
        self._ended(exit_code, True)

    def _request(self, stdio: "Sequence[int]") -> Supervised:
        attempts = 1
        while True:
            try:
                child = self._launcher.request(self._argv, None, stdio, 0, container_id=self.container_id)
                try:
                    child.take()
                except BaseException:
                    child.abandon()
                    child.close()
                    raise
                self._started(child.pid)
                return child
            except NotTaken:
                if attempts == ATTEMPTS:
                    self._ended(PyruncError.exit_code, False)
                    raise
                attempts += 1
            except BaseException as exc:
                self._ended(getattr(exc, "exit_code", PyruncError.exit_code), False)
                raise


class ContainerProcess:
    """A running container; leaving its ``with`` block kills it. *id* and *name* are those of its row."""

    def __init__(self, starting: Starting, process: SandboxProcess) -> None:
        self.id = starting.container_id
        self.name = starting.name
        self._starting = starting
        self._process = process
        self._lock = allocate_lock()
        self._over = False

    @property
    def pid(self) -> int:
        """The container's init, as the host numbers it."""
        return self._process.pid

    def fileno(self) -> int:
        """A descriptor that becomes readable when the container has ended; then `wait` does not block."""
        return self._process.fileno()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises TimedOut after *timeout_s*; the container goes on."""
        try:
            code = self._process.wait(timeout_s)
        except TimedOut:
            raise
        except PyruncError:
            self._end(128 + _SIGKILL)
            raise
        self._end(code)
        return code

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send *signal* to the container's init; one that has ended is no error."""
        self._process.kill(signal)

    def stop(self, timeout_s: float | None = None) -> int:
        """Send the stop signal, kill what has not ended *timeout_s* seconds later, and return the exit code.

        The signal is the image's, or SIGTERM where it has none or no known one; the time is the container's
        StopTimeout, or 10 s.
        """
        if timeout_s is None:
            timeout_s = float(self._starting.config.get("StopTimeout") or _STOP_TIMEOUT_S)
        self.kill(_stop_signal(self._starting.config))
        try:
            return self.wait(timeout_s)
        except TimedOut:
            self.kill()
        return self.wait()

    def close(self) -> None:
        """Kill what still runs, and do what is due at its end."""
        self._process.close()
        code = self._process.exit_code
        self._end(128 + _SIGKILL if code is None else code)

    def _end(self, code: int) -> None:
        with self._lock:
            over, self._over = self._over, True
        if not over:
            self._starting.end(code)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()


def _stop_signal(config: "Mapping[str, Any]") -> int:
    from pyrunc.image.changes import check_signal

    try:
        return check_signal(config["StopSignal"])
    except (KeyError, InvalidArgument):
        return _SIGTERM
