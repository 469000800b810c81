"""The public Sandbox: isolated processes from a root directory, with no image, store or daemon."""

from __future__ import annotations

import select
import time
from _operator import itemgetter
from _thread import allocate_lock

from pyrunc._native import plan as native
from pyrunc._native.requester import FED, NOTHING
from pyrunc.errors import FailedPrecondition, PyruncError, TimedOut
from pyrunc.records import NamedTuple
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime.launcher import Launcher, StrPath
from pyrunc.runtime.options import IdMap, Mount, SandboxOptions
from pyrunc.runtime.stdio import Pipes, Stdio
from pyrunc.runtime.supervised import ATTEMPTS, EXITED, STARTED, Exit, NotTaken, Supervised, give_up

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self, Unpack

    from pyrunc.runtime.joining import Joining

    Ask = Callable[[Sequence[int], int], Supervised]

__all__ = ["ExecProcess", "IdMap", "Mount", "RunResult", "Sandbox", "SandboxProcess"]

_SIGKILL = 9

TIMEOUT = checks.number(0, 1e6)  # poll(2) counts milliseconds in an int


class RunResult(NamedTuple):
    """What a finished run left.

    *exit_code* is the program's, or 128 + the signal that killed it; *oom_killed* whether
    the memory limit killed a process; *timings_ns* how long each stage took, in the order
    in which they happened. *utime_us* and *stime_us* are the CPU time of the container's processes, *overhead_us*
    that of its supervisor.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    oom_killed: bool
    timings_ns: dict[str, int]
    utime_us: int
    stime_us: int
    maxrss_bytes: int
    overhead_us: int

    @classmethod
    def of(cls, end: Exit | None, output: tuple[bytes, bytes], begun: int) -> Self:
        """From the supervisor's record, what the pipes gave, and when (monotonic nanoseconds) the run was asked for."""
        assert end is not None
        timings = {}
        name, since = "request", begun
        for stage, at in sorted(end.stages_ns.items(), key=itemgetter(1)):
            timings[name] = at - since
            name, since = stage, at
        timings[name] = time.monotonic_ns() - since
        ooms = end.oom_kills > 0
        return cls(
            end.exit_code,
            *output,
            ooms,
            timings,
            end.utime_us,
            end.stime_us,
            end.maxrss_bytes,
            end.overhead_us,
        )


class Process:
    """What all processes have in common: a container, or a program in a running one, that was asked for."""

    _what = "container"

    def __init__(self, child: Supervised) -> None:
        self._child = child
        self._lock = allocate_lock()
        self._error: PyruncError | None = None

    @property
    def pid(self) -> int:
        """The program's process (of a container, its init), as the host numbers it."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """As RunResult has it, or None while it runs.

        Raises Unavailable if the supervisor was killed.
        """
        return self._child.exit.exit_code if self._take() and self._child.exit else None

    def fileno(self) -> int:
        """A descriptor that becomes readable when it has ended."""
        return self._child.fileno()

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send *signal* to the process; one that has ended is no error.

        Raises FailedPrecondition in a process that this one's was forked into.
        """
        if self._child.exit is None and self._error is None:
            _check_open(self._child)
            self._child.kill(signal)

    def _take(self) -> bool:
        """Take the record of the end if it has come; whether the container has ended."""
        child = self._child
        if child.exit is None and self._error is None:
            _check_open(child)
            with self._lock:  # of several threads that wait, one takes it
                if not child.over and _readable(child, 0):
                    try:
                        child.take()
                    except PyruncError as exc:
                        self._error = exc
        if self._error is not None:
            raise self._error
        return child.exit is not None

    @property
    def terminal(self) -> int:
        """The descriptor of our side of its terminal, which this object keeps; -1 if it has none, or after `close`.

        Read it until EIO: then nobody has the other side open any more.
        """
        return self._child.terminal

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal, and by SIGWINCH who is in front on it, how large it is.

        Raises FailedPrecondition if it has none, or has none any more.
        """
        from termios import tcsetwinsize

        checks.size((rows, columns), "size")
        if self._child.terminal < 0:
            raise FailedPrecondition(f"the {self._what} has no terminal")
        tcsetwinsize(self._child.terminal, (rows, columns))

    def _joining(self, *arguments: Any) -> Joining:
        """What `exec` is about, checked; *arguments* are those of Wanted. Imported when first used."""
        from pyrunc.runtime.joining import Joining, Wanted

        if self._child.exit is None and self._error is None:
            _check_open(self._child)
        return Joining.of_child(self._child, self._lock, Wanted(*arguments))


class RunningProcess(Process):
    """What SandboxProcess and ExecProcess have in common."""

    def __init__(self, child: Supervised) -> None:
        super().__init__(child)
        self._waiting = 0
        self._closing = False

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises TimedOut after *timeout_s* seconds; the process goes on. Raises Unavailable if
        the supervisor was killed; the process was then killed too.
        """
        deadline = None if timeout_s is None else time.monotonic() + TIMEOUT(timeout_s, "timeout_s")
        with self._lock:
            self._waiting += 1
        try:
            while not self._take():
                if not _readable(self._child, deadline) and not self._take():
                    raise TimedOut(f"the {self._what} still runs after {timeout_s} s")
        finally:
            with self._lock:
                self._waiting -= 1
                self._close_if_last()
        assert self._child.exit is not None
        return self._child.exit.exit_code

    def close(self) -> None:
        """Kill what still runs, and wait until nothing of it is left."""
        self._closing = True
        if self._error is None:
            self.kill()
            self.wait()

    def _close_if_last(self) -> None:
        # Another thread may be about to wait for the descriptor, whose number must not be another's by then.
        if not self._waiting and self._child.over and (self._closing or self._error is not None):
            self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ExecProcess(RunningProcess):
    """A further program in a container, with which it ends; leaving its ``with`` block, or dropping it, kills it."""

    _what = "program"


class SandboxProcess(RunningProcess):
    """A running container; leaving its ``with`` block, or dropping it, kills it."""

    def exec(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, cwd: str | None = None,
        user: str | None = None, groups: Sequence[str] = (), stdin: bytes = b"", timeout_s: float | None = None,
        tty: bool = False, size: tuple[int, int] = (0, 0), privileged: bool = False,
    ) -> RunResult:  # fmt: skip
        """Run a further program in the container to its end.

        It has the limits, capabilities, seccomp filter and umask of the container's program, and by default its
        environment, to which *env* is added (a variable that is None is taken away), its working directory and its
        user. *user* (``name[:group]`` or numbers) and *groups* are looked up in the container; with a *user* root
        holds what the container may hold at most, and nobody else any capability; with *privileged* it holds all of
        this process's, under the container's filter. With *tty* it has a terminal of *size* rows and columns, on
        which *stdin* and the end of file are typed, and what appears there is ``.stdout``. *stdin* and *timeout_s*
        are else as for Sandbox.run; what the program itself has started is not killed with it, but with the
        container.
        Raises FailedPrecondition if the container has ended, InvalidArgument or NotFound for the user, and StartError
        or one of its kind if the program cannot start.
        """
        begun = time.monotonic_ns()
        with self._joining(argv, env, cwd, user, groups, tty, size, privileged) as joining:
            return run_asked(joining.request, argv, stdin, begun, timeout_s, tty)

    def exec_start(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, cwd: str | None = None,
        user: str | None = None, groups: Sequence[str] = (), stdin: int | None = None,
        stdout: int | None = None, stderr: int | None = None, tty: bool = False,
        size: tuple[int, int] = (0, 0), privileged: bool = False,
    ) -> ExecProcess:  # fmt: skip
        """Start a further program in the container and return as soon as it runs.

        *stdin*, *stdout* and *stderr* are descriptors of the caller's, who keeps them; None is /dev/null. With *tty*
        there are none: the program's is ``.terminal``.
        The rest, and what is raised, is as for `exec`.
        """
        with self._joining(argv, env, cwd, user, groups, tty, size, privileged) as joining:
            return ExecProcess(start_asked(joining.request, stdin, stdout, stderr))


class Sandbox:
    """A way to run programs, each isolated in a container of its own.

    *rootfs* is a directory, or several (the lowest first) that become one overlay. Every
    `run` and `start` gets fresh namespaces, cgroups and, unless *writable* says otherwise, a
    fresh scratch over *rootfs*. Safe to use from several threads, and after a fork.
    The options are those of SandboxOptions.

    Raises InvalidArgument, NotFound, InvalidSpec or Unsupported, and names the option.
    """

    def __init__(self, rootfs: StrPath | Sequence[StrPath], **options: Unpack[SandboxOptions]) -> None:
        self._launcher = Launcher.of_options(rootfs, options)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], bundle: StrPath = ".") -> Self:
        """A sandbox with the isolation of an OCI runtime document; *bundle* is what its root.path is relative to.

        Raises InvalidSpec or Unsupported, naming the field.
        Source: OCI runtime-spec config.md.
        """
        return cls.of_launcher(Launcher.of_spec(spec, bundle))

    @classmethod
    def of_launcher(cls, launcher: Launcher) -> Self:
        """A sandbox for what was compiled elsewhere."""
        self = cls.__new__(cls)
        self._launcher = launcher
        return self

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes = b"",
        timeout_s: float | None = None,
    ) -> RunResult:  # fmt: skip
        """Run a program to its end.

        *env* is added to the sandbox's; *stdin* is what the program can read. After
        *timeout_s* seconds it is killed and TimedOut raised, with what it wrote in ``.stdout`` and ``.stderr``.
        All that it writes is kept in memory, as subprocess.run does; let a program that may write without end
        write to a file or pipe of your own, by `start`.
        Raises StartError or one of its kind if it cannot start. However it ends, by KeyboardInterrupt
        too, nothing of the container is left.
        """
        return self.run_by(argv, env, stdin, timeout_s, None)

    def run_by(
        self, argv: Sequence[str], env: Mapping[str, str] | None, stdin: bytes, timeout_s: float | None,
        until: float | None,
    ) -> RunResult:  # fmt: skip
        """As `run`; unless the program runs by *until* (monotonic seconds) TimedOut is raised. Its time begins then."""
        begun = time.monotonic_ns()

        def ask(stdio: Sequence[int], flags: int) -> Supervised:
            return self._launcher.request(argv, env, stdio, flags)

        return run_asked(ask, argv, stdin, begun, timeout_s, self._launcher.tty, until)

    def start(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None,
        stdin: int | None = None, stdout: int | None = None, stderr: int | None = None,
    ) -> SandboxProcess:  # fmt: skip
        """Start a program and return as soon as it runs.

        *env* is added to the sandbox's; *stdin*, *stdout* and *stderr* are descriptors of the
        caller's, who keeps them; None is /dev/null.
        Raises StartError or one of its kind if it cannot start; KilledBySeccomp by a filter that kills
        execve(2) itself comes when the process is waited for.
        """

        def ask(stdio: Sequence[int], flags: int) -> Supervised:
            return self._launcher.request(argv, env, stdio, flags)

        return SandboxProcess(start_asked(ask, stdin, stdout, stderr))

    def plan(self, argv: Sequence[str]) -> str:
        """What a start of *argv* does, one step a line, as `pyrunc run --plan` prints it. Raises InvalidArgument."""
        return self._launcher.plan(argv)

    def close(self) -> None:
        """Start no more; what was started goes on, in other threads too."""
        self._launcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_asked(
    ask: Ask, argv: Sequence[str], stdin: bytes, begun: int, timeout_s: float | None, tty: bool,
    until: float | None = None,
) -> RunResult:  # fmt: skip
    """Run what *ask* asks for to its end; *until* is when (monotonic seconds) it must have started."""
    once = _run_on_terminal if tty else _run_once
    if timeout_s is not None:
        TIMEOUT(timeout_s, "timeout_s")
    attempts = 1
    while True:
        try:
            return once(ask, argv, stdin, begun, timeout_s, until)
        except NotTaken:
            if attempts == ATTEMPTS:
                raise
            attempts += 1


def _run_once(
    ask: Ask, argv: Sequence[str], stdin: bytes, begun: int, timeout_s: float | None, until: float | None
) -> RunResult:
    with Pipes(stdin) as pipes:
        child = ask(pipes.theirs, native.FLAG_QUIET if until is None else 0)
        try:
            since = begun / 1e9
            if until is not None:
                if not talk(pipes, child, until, STARTED):
                    give_up(child)
                    raise TimedOut("waiting for its start")
                since = time.monotonic()
            if not talk(pipes, child, None if timeout_s is None else since + timeout_s):
                child.abandon()
                raise TimedOut(f"{argv[0]}: killed after {timeout_s} s", *pipes.drain(), stage="run")
            return RunResult.of(child.exit, pipes.drain(), begun)
        except BaseException:
            child.abandon()
            raise
        finally:
            child.close()


def _run_on_terminal(
    ask: Ask, argv: Sequence[str], stdin: bytes, begun: int, timeout_s: float | None, until: float | None
) -> RunResult:
    from pyrunc.runtime.terminal_output import converse

    output = bytearray()
    with Stdio(None, None, None) as stdio:
        child = ask(stdio, 0)
    try:
        if until is not None and not _readable(child, until):
            give_up(child)
            raise TimedOut("waiting for its start")
        if not child.started:
            child.take()
        since = begun / 1e9 if until is None else time.monotonic()
        if not converse(child, stdin, None if timeout_s is None else since + timeout_s, output):
            child.abandon()
            raise TimedOut(f"{argv[0]}: killed after {timeout_s} s", bytes(output), b"", stage="run")
        return RunResult.of(child.exit, (bytes(output), b""), begun)
    except BaseException:
        child.abandon()
        raise
    finally:
        child.close()


def start_asked(ask: Ask, stdin: int | None, stdout: int | None, stderr: int | None) -> Supervised:
    """Start what *ask* asks for."""
    attempts = 1
    while True:
        with Stdio(stdin, stdout, stderr) as stdio:
            child = ask(stdio, 0)
        try:
            if not child.started:
                child.take()
            return child
        except BaseException as exc:
            child.abandon()
            child.close()
            if not isinstance(exc, NotTaken) or attempts == ATTEMPTS:
                raise
            attempts += 1


def _check_open(child: Supervised) -> None:
    if child.fileno() < 0:
        raise FailedPrecondition("the container belongs to the process that this one was forked from")


def _readable(child: Supervised, deadline: float | None) -> bool:
    """Wait until there is a record to take, or until *deadline* (monotonic seconds), and say which."""
    _check_open(child)
    poller = select.poll()
    poller.register(child, select.POLLIN)
    return bool(poller.poll(_left_ms(deadline)))


def _left_ms(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000


def talk(pipes: Pipes, child: Supervised, deadline: float | None, kind: int = EXITED) -> bool:
    """Feed and read until the container has ended, or is *kind*; False if *deadline* (monotonic s) comes first."""
    while not child.over:
        found = pipes.wait(child.fileno(), deadline)
        if found == NOTHING:
            return False
        if found == FED:
            pipes.close_input()
        elif child.take() == kind:
            break
    return True
