"""The twin of Sandbox for asyncio: the event loop waits for its descriptors, with no thread."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from pyrunc._native import plan as native
from pyrunc.errors import TimedOut, Unsupported
from pyrunc.runtime.launcher import Launcher, StrPath
from pyrunc.runtime.options import SandboxOptions
from pyrunc.runtime.sandbox import TIMEOUT, Process, RunResult
from pyrunc.runtime.stdio import Pipes, Stdio
from pyrunc.runtime.supervised import ATTEMPTS, NotTaken, Supervised

__all__ = ["AsyncExecProcess", "AsyncSandbox", "AsyncSandboxProcess"]

Ask = Callable[[Sequence[int], int], Awaitable[Supervised]]

_SIGKILL = 9
_QUEUE_FULL_S = 0.002
_GIVEN_UP_S = 1.0


class AsyncRunningProcess(Process):
    """What AsyncSandboxProcess and AsyncExecProcess have in common."""

    def __init__(self, child: Supervised) -> None:
        super().__init__(child)
        self._ended: asyncio.Future[None] | None = None
        self._waiting = 0

    async def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit code; several tasks of one event loop may.

        Raises TimedOut after *timeout_s* seconds; the process goes on, as it does when the
        waiting task is cancelled. Raises Unavailable if the supervisor was killed; the
        process was then killed too.
        """
        if timeout_s is not None:
            TIMEOUT(timeout_s, "timeout_s")
        if not self._take():
            loop = asyncio.get_running_loop()
            if self._ended is None:
                self._ended = loop.create_future()
                loop.add_reader(self.fileno(), self._ended_now, loop, self._ended)
            self._waiting += 1
            try:
                await asyncio.wait([self._ended], timeout=timeout_s)
            finally:
                self._waiting -= 1
                if not self._waiting:  # no reference from the loop: a process that is dropped is killed
                    self._ended = None
                    if self.fileno() >= 0:
                        loop.remove_reader(self.fileno())
            if not self._take():
                raise TimedOut(f"the {self._what} still runs after {timeout_s} s")
        assert self._child.exit is not None
        return self._child.exit.exit_code

    def _ended_now(self, loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[None]") -> None:
        loop.remove_reader(self.fileno())
        if not ended.done():
            ended.set_result(None)

    async def close(self) -> None:
        """Kill what still runs, and wait until nothing of it is left."""
        try:
            if self._error is None and self._child.exit is None:
                self.kill()
                await self.wait()
        finally:
            if self._child.over:
                self._child.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncExecProcess(AsyncRunningProcess):
    """A further program in a running container, which ends it too; leaving its ``async with`` block kills it."""

    _what = "program"


class AsyncSandboxProcess(AsyncRunningProcess):
    """A running container; leaving its ``async with`` block, or dropping it, kills it."""

    async def exec(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, cwd: str | None = None,
        user: str | None = None, groups: Sequence[str] = (), stdin: bytes = b"", timeout_s: float | None = None,
        privileged: bool = False,
    ) -> RunResult:  # fmt: skip
        """Run a further program in the container to its end; the arguments are those of SandboxProcess.exec.

        Raises what that does. If the task is cancelled the program is killed. For one on a terminal there is
        `exec_start`.
        """
        begun = time.monotonic_ns()
        with self._joining(argv, env, cwd, user, groups, False, (0, 0), privileged) as joining:

            async def ask(stdio: Sequence[int], flags: int) -> Supervised:
                return await patiently(lambda: joining.request(stdio, flags, wait=False))

            return await run_asked(ask, argv, stdin, begun, timeout_s)

    async def exec_start(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, cwd: str | None = None,
        user: str | None = None, groups: Sequence[str] = (), stdin: int | None = None,
        stdout: int | None = None, stderr: int | None = None, tty: bool = False,
        size: tuple[int, int] = (0, 0), privileged: bool = False,
    ) -> AsyncExecProcess:  # fmt: skip
        """Start a further program in the container; the arguments are those of SandboxProcess.exec_start.

        Raises what that does. If the task is cancelled, nothing is left.
        """
        with self._joining(argv, env, cwd, user, groups, tty, size, privileged) as joining:

            async def ask(stdio: Sequence[int], flags: int) -> Supervised:
                return await patiently(lambda: joining.request(stdio, flags, wait=False))

            return AsyncExecProcess(await start_asked(ask, stdin, stdout, stderr))


class AsyncSandbox:
    """Sandbox for asyncio: a way to run programs, each isolated in a container of its own.

    The arguments are those of Sandbox, and so are the errors. It belongs to one event loop,
    of any kind that can wait for descriptors. A `run` in progress needs four descriptors, or
    five with input; its start costs the loop about 0.1 ms.
    """

    def __init__(self, rootfs: StrPath | Sequence[StrPath], **options: Unpack[SandboxOptions]) -> None:
        self._launcher = Launcher.of_options(rootfs, options)
        self._queue = asyncio.Lock()

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], bundle: StrPath = ".") -> Self:
        """As Sandbox.from_spec: the isolation of an OCI runtime document.

        Raises InvalidSpec or Unsupported, naming the field.
        """
        self = cls.__new__(cls)
        self._launcher = Launcher.of_spec(spec, bundle)
        self._queue = asyncio.Lock()
        return self

    @classmethod
    def of_launcher(cls, launcher: Launcher) -> Self:
        """A sandbox for what was compiled elsewhere."""
        self = cls.__new__(cls)
        self._launcher = launcher
        self._queue = asyncio.Lock()
        return self

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes = b"",
        timeout_s: float | None = None,
    ) -> RunResult:  # fmt: skip
        """Run a program to its end.

        *env* is added to the sandbox's; *stdin* is what the program can read. After *timeout_s*
        seconds it is killed and TimedOut raised, with what it wrote in ``.stdout`` and ``.stderr``.
        Raises StartError or one of its kind if it cannot start. If the task is cancelled the
        container is killed, and the task ends when nothing of it is left.
        """
        return await self.run_by(argv, env, stdin, timeout_s, None)

    async def run_by(
        self, argv: Sequence[str], env: Mapping[str, str] | None, stdin: bytes, timeout_s: float | None,
        until: float | None,
    ) -> RunResult:  # fmt: skip
        """As `run`; unless the program runs by *until* (monotonic seconds) TimedOut is raised. Its time begins then."""
        begun = time.monotonic_ns()
        if self._launcher.tty:
            raise Unsupported("tty: run() reads no terminal; start() gives it")

        async def ask(stdio: Sequence[int], flags: int) -> Supervised:
            return await self._request(argv, env, stdio, flags)

        return await run_asked(ask, argv, stdin, begun, timeout_s, until)

    async def start(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None,
        stdin: int | None = None, stdout: int | None = None, stderr: int | None = None,
    ) -> AsyncSandboxProcess:  # fmt: skip
        """Start a program and return as soon as it runs.

        *stdin*, *stdout* and *stderr* are descriptors of the caller's, who keeps them; None is /dev/null.
        Raises StartError or one of its kind if it cannot start. If the task is cancelled, nothing is left.
        """

        async def ask(stdio: Sequence[int], flags: int) -> Supervised:
            return await self._request(argv, env, stdio, flags)

        return AsyncSandboxProcess(await start_asked(ask, stdin, stdout, stderr))

    def plan(self, argv: Sequence[str]) -> str:
        """What a start does, one step a line, as `pyrunc run --plan` prints it. Raises InvalidArgument."""
        return self._launcher.plan(argv)

    def close(self) -> None:
        """Start no more; what was started goes on."""
        self._launcher.close()

    async def _request(
        self, argv: Sequence[str], env: Mapping[str, str] | None, stdio: Sequence[int], flags: int
    ) -> Supervised:
        async with self._queue:  # one task tries again, the others wait for their turn
            return await patiently(lambda: self._launcher.request(argv, env, stdio, flags, wait=False))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def patiently(request: Callable[[], Supervised]) -> Supervised:
    """Make *request*, again as long as the spawner's queue is full."""
    while True:
        try:
            return request()
        except BlockingIOError:
            # Some hundred starts are ahead: a pause costs nothing, and needs no descriptor of its own.
            await asyncio.sleep(_QUEUE_FULL_S)


async def run_asked(
    ask: Ask, argv: Sequence[str], stdin: bytes, begun: int, timeout_s: float | None, until: float | None = None
) -> RunResult:  # fmt: skip
    """Run what *ask* asks for to its end; *until* is when (monotonic seconds) it must have started."""
    if timeout_s is not None:
        TIMEOUT(timeout_s, "timeout_s")
    attempts = 1
    while True:
        try:
            return await _run_once(ask, argv, stdin, begun, timeout_s, until)
        except NotTaken:
            if attempts == ATTEMPTS:
                raise
            attempts += 1


async def _run_once(
    ask: Ask, argv: Sequence[str], stdin: bytes, begun: int, timeout_s: float | None, until: float | None
) -> RunResult:
    with Pipes(stdin) as pipes:
        child = await ask(pipes.theirs, native.FLAG_QUIET if until is None else 0)
        asked = begun
        pipes.close_theirs()
        talk = _Conversation(child, pipes)
        try:
            if until is not None:
                if not await talk.record(max(0.0, until - time.monotonic())):
                    await talk.give_up()
                    raise TimedOut("waiting for its start")
                talk.go_on()
                begun = time.monotonic_ns()
            left = None if timeout_s is None else timeout_s - (time.monotonic_ns() - begun) / 1e9
            if not await talk.record(left):
                await talk.end()
                raise TimedOut(f"{argv[0]}: killed after {timeout_s} s", *pipes.drain(), stage="run")
            return RunResult.of(child.exit, pipes.drain(), asked)
        except BaseException:
            await talk.end()
            raise
        finally:
            talk.close()
            child.close()


async def start_asked(ask: Ask, stdin: int | None, stdout: int | None, stderr: int | None) -> Supervised:
    """Start what *ask* asks for."""
    attempts = 1
    while True:
        with Stdio(stdin, stdout, stderr) as stdio:
            child = await ask(stdio, 0)
        talk = _Conversation(child)
        try:
            if not child.started:
                await talk.record()
            return child
        except BaseException as exc:
            await talk.end()
            talk.close()
            child.close()
            if not isinstance(exc, NotTaken) or attempts == ATTEMPTS:
                raise
            attempts += 1
        finally:
            talk.close()


class _Conversation:
    """The event loop's side of one start: records of the supervisor, and the pipes if there are any."""

    def __init__(self, child: Supervised, pipes: Pipes | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._child = child
        self._pipes = pipes
        self._watched: dict[int, Callable[[int], bool]] = {}
        self._next: asyncio.Future[None] = self._loop.create_future()
        self._read(child.fileno(), self._record)
        if pipes is not None:
            self._read(pipes.output, pipes.receive, pipes.output)
            self._read(pipes.errors, pipes.receive, pipes.errors)
            if pipes.input >= 0:
                self._watched[pipes.input] = self._loop.remove_writer
                self._loop.add_writer(pipes.input, self._ready, pipes.input, pipes.feed)

    async def record(self, timeout_s: float | None = None) -> bool:
        """Wait until the container runs, or has ended; False after *timeout_s* seconds. Raises as Supervised.take."""
        await asyncio.wait([self._next], timeout=timeout_s)
        if not self._next.done():
            return False
        self._next.result()
        return True

    def go_on(self) -> None:
        """Wait for the next record too, unless there is none."""
        if not self._child.over:
            self._next = self._loop.create_future()

    async def give_up(self) -> None:
        """As `end`, for a start that is too late; one that cannot be ended at once is by our hanging up."""
        try:
            async with asyncio.timeout(_GIVEN_UP_S):
                await self.end()
        except TimeoutError:
            self.close()

    async def end(self) -> None:
        """Kill the container if it runs, and wait until nothing of it is left."""
        fd = self._child.fileno()
        if fd in self._watched:
            self._child.kill(_SIGKILL)
        while fd in self._watched:
            if self._next.done():
                self._next = self._loop.create_future()
            await asyncio.wait([self._next])
        if self._next.done():
            self._next.exception()  # such as init killed before its program ran

    def close(self) -> None:
        """Wait for nothing any more; to be called before the descriptors are closed."""
        for fd in list(self._watched):
            self._forget(fd)

    def _read(self, fd: int, call: Callable[..., bool], *args: Any) -> None:
        self._watched[fd] = self._loop.remove_reader
        self._loop.add_reader(fd, self._ready, fd, call, *args)

    def _ready(self, fd: int, call: Callable[..., bool], *args: Any) -> None:
        """Let *call* act on *fd*; it returns whether there may be more."""
        try:
            more = call(*args)
        except Exception as exc:  # noqa: BLE001 - the task that waits shall have it, not the loop
            self.close()
            if not self._next.done():
                self._next.set_exception(exc)
            return
        if not more:
            self._forget(fd)
            if self._pipes is not None and fd == self._pipes.input:
                self._pipes.close_input()

    def _record(self) -> bool:
        self._child.take()
        if not self._next.done():
            self._next.set_result(None)
        return not self._child.over

    def _forget(self, fd: int) -> None:
        stop = self._watched.pop(fd, None)
        if stop is not None:
            stop(fd)
