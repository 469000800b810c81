"""The twin of Container for asyncio."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pyrunc.api import ContainerRecord
from pyrunc.engine import attachment, logs, stopping
from pyrunc.engine import exec as execs
from pyrunc.engine.async_attachment import AsyncAttachment
from pyrunc.engine.async_calls import Face, Threads, verb
from pyrunc.engine.container import Container
from pyrunc.engine.logs import LogEntry
from pyrunc.errors import InvalidArgument, NotFound, TimedOut
from pyrunc.runtime import async_sandbox
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.joining import Joining
from pyrunc.runtime.sandbox import TIMEOUT, RunResult
from pyrunc.runtime.supervised import Supervised

if TYPE_CHECKING:
    from pyrunc.engine.stopping import Condition

__all__ = ["AsyncContainer", "AsyncEngineExec"]

_T = TypeVar("_T")
_LOOK_S = 1.0  # how often a container that runs is looked at, if its end is not told
_SOON_S = 0.005
_IDLE_S = 0.1


class AsyncEngineExec(execs.Told, async_sandbox.AsyncExecProcess):
    """A program in a container of an AsyncEngine's; it ends with this process, or with its container."""


class AsyncContainer(Face[Container]):
    """A container of an AsyncEngine, as Container.

    Leaving its ``async with`` block kills and removes it, volumes included, if this object has *made* it. Its verbs run
    on the engine's threads; `exec`, `wait`, `logs` and the streams of `attach` need none while they last.
    """

    def __init__(self, threads: Threads, container: Container) -> None:
        super().__init__(threads, container)
        self.container = container

    def __repr__(self) -> str:
        return f"<AsyncContainer {self.name} {self.id[:12]}>"

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.container.id

    @property
    def name(self) -> str:
        """What it is called."""
        return self.container.name

    @property
    def made(self) -> bool:
        """Whether this object made it, and did not find it."""
        return self.container.made

    @property
    def timings_ns(self) -> dict[str, int]:
        """How long each stage of its latest start took that was made here."""
        return self.container.timings_ns

    record = verb(Container.record)
    inspect = verb(Container.inspect)
    start = verb(Container.start)
    stop = verb(Container.stop)
    kill = verb(Container.kill)
    restart = verb(Container.restart)
    pause = verb(Container.pause)
    unpause = verb(Container.unpause)
    remove = verb(Container.remove)
    rename = verb(Container.rename)
    exec_detached = verb(Container.exec_detached)
    commit = verb(Container.commit)
    diff = verb(Container.diff)
    export = verb(Container.export)
    stat_path = verb(Container.stat_path)
    get_archive = verb(Container.get_archive)
    put_archive = verb(Container.put_archive)
    top = verb(Container.top)

    async def update(self, **changes: Any) -> None:
        """Change limits and the restart policy, by their HostConfig names, at once if it runs; see Container.update.

        Raises what that does.
        """
        await self._threads.call(partial(self.container.update, **changes))

    async def attach(
        self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> AsyncAttachment:
        """Its streams, from now on; see Container.attach. Raises what that does."""

        def connect() -> tuple[AttachClient, ContainerRecord]:
            record = self.container.record(begun=True)
            return attachment.connect(record, stdin=stdin, stdout=stdout, stderr=stderr), record

        client, record = await self._threads.call(connect, lambda made: made[0].close())
        made = AsyncAttachment(client, stdin=stdin, terminal=bool(record.config.get("Tty")))
        try:
            await made.ready()
        except BaseException:
            made.close()
            raise
        return made

    async def start_attached(
        self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True, keep_running: bool = True
    ) -> AsyncAttachment:
        """Start it, attached from its first byte on; see Container.start_attached. Raises what that does."""
        start = partial(
            attachment.start, self.container, stdin=stdin, stdout=stdout, stderr=stderr, keep_running=keep_running
        )  # fmt: skip
        client, terminal = await self._threads.call(start, lambda made: made[0].close())
        return AsyncAttachment(client, stdin=stdin, terminal=terminal)

    async def exec(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, cwd: str | None = None,
        user: str | None = None, groups: Sequence[str] = (), stdin: bytes = b"", timeout_s: float | None = None,
        privileged: bool = False,
    ) -> RunResult:  # fmt: skip
        """Run a further program in it to its end; the arguments are those of Container.exec.

        Raises what that does. If the task is cancelled the program is killed. For one on a terminal there is
        `exec_start`.
        """
        begun = time.monotonic_ns()
        wanted = execs.Wanted(argv, env, cwd, user, groups, False, (0, 0), privileged)
        async with _Joined(self, wanted) as joined:
            result = await async_sandbox.run_asked(joined.ask, argv, stdin, begun, timeout_s)
        await self._threads.call(partial(joined.told, result.exit_code))
        return result

    async def exec_start(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, cwd: str | None = None,
        user: str | None = None, groups: Sequence[str] = (), stdin: int | None = None, stdout: int | None = None,
        stderr: int | None = None, tty: bool = False, size: tuple[int, int] = (0, 0), privileged: bool = False,
    ) -> AsyncEngineExec:  # fmt: skip
        """Start a further program in it; the arguments are those of Container.exec_start.

        Raises what that does. If the task is cancelled, nothing is left.
        """
        wanted = execs.Wanted(argv, env, cwd, user, groups, tty, size, privileged)
        async with _Joined(self, wanted) as joined:
            child = await async_sandbox.start_asked(joined.ask, stdin, stdout, stderr)
            return AsyncEngineExec(child, joined.parts, joined.record, joined.exec_id)

    async def wait(self, timeout_s: float | None = None, condition: "Condition" = "not-running") -> int:
        """Wait until it does not run, until its "next-exit", or until it is "removed": the exit code.

        No thread is taken meanwhile. Raises TimedOut after *timeout_s* seconds, NotFound, InvalidArgument for another
        condition; the container goes on, also if the task is cancelled.
        """
        if condition not in stopping.CONDITIONS:
            raise InvalidArgument(f"invalid condition: {condition!r}")
        deadline = None if timeout_s is None else time.monotonic() + TIMEOUT(timeout_s, "timeout_s")
        first: ContainerRecord | None = None
        code: int | None = None
        while True:
            try:
                record = await self._threads.call(partial(self.container.record, begun=True))
            except NotFound:
                if code is None:
                    # Of one that went with its end it is known how, if it was started here, or will be in a moment.
                    code = await self._threads.call(partial(self.container.wait, _LOOK_S))
                return code
            first = first or record
            if record.running:
                try:
                    code = await self._threads.call(partial(self.container.wait, 0.0))
                except TimedOut:
                    pass
                else:
                    if condition != "removed":
                        return code
                    continue
            elif record.state != "restarting" and condition == "not-running":
                return record.exit_code
            elif record.finished_ns > first.finished_ns or condition == "removed":
                code = record.exit_code
                if condition == "next-exit":
                    return code
            left = _LOOK_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(f"container {self.name}: still not {condition} after {timeout_s} s")
            if record.running:
                await _ended(record.pid, min(left, _LOOK_S))
            else:
                await asyncio.sleep(min(left, _IDLE_S))

    async def logs(
        self, *, follow: bool = False, tail: int | None = None, since_ns: int = 0, until_ns: int | None = None,
        note: Callable[[str], object] | None = None,
    ) -> AsyncIterator[LogEntry]:  # fmt: skip
        """What it has written, in its order; see Container.logs. Raises NotFound, Unsupported."""
        path = await self._threads.call(self.container._log_path)  # noqa: SLF001 - the other half of it
        steps = logs.steps(
            path, follow=follow, tail=tail, since_ns=since_ns, until_ns=until_ns, ended=self.container._over,  # noqa: SLF001
            note=note,
        )  # fmt: skip
        async for entry in awake(steps):
            yield entry

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._threads.call(partial(self.container.__exit__, None, None, None))


class _Joined:
    """A further program that is asked for; what may wait is done on a thread."""

    def __init__(self, container: AsyncContainer, wanted: execs.Wanted) -> None:
        self.parts = container.container._parts  # noqa: SLF001 - the other half of it
        self._threads = container._threads  # noqa: SLF001
        self._manager = execs.joining_of(self.parts, container.id, wanted)

    async def __aenter__(self) -> Self:
        self._joining, self.record, self.exec_id = await self._threads.call(
            self._manager.__enter__, lambda _: self._manager.__exit__(None, None, None)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.__exit__(None, None, None)

    async def ask(self, stdio: Sequence[int], flags: int) -> Supervised:
        """Ask for it, without ever waiting; another runtime is waited for on a thread."""
        asked = self._joining
        if not isinstance(asked, Joining):
            return await self._threads.call(partial(asked.request, stdio, flags), Supervised.close)
        return await async_sandbox.patiently(lambda: asked.request(stdio, flags, wait=False))

    def told(self, exit_code: int) -> None:
        """It has ended."""
        execs.tell_end(self.parts, self.record, self.exec_id, exit_code)


async def awake(steps: Iterator[_T | float]) -> AsyncIterator[_T]:
    """What *steps* gives; its pauses are the loop's."""
    for step in steps:
        if isinstance(step, float):
            await asyncio.sleep(step)
        else:
            yield step


async def _ended(pid: int, longest_s: float) -> None:
    """Wait until the process *pid* has ended, for *longest_s* seconds at most."""
    try:
        fd = os.pidfd_open(pid) if pid else -1
    except OSError:
        fd = -1
    if fd < 0:  # it is about to be taken note of
        await asyncio.sleep(min(_SOON_S, longest_s))
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(fd, over.set)
    try:
        async with asyncio.timeout(longest_s):
            await over.wait()
        await asyncio.sleep(min(_SOON_S, longest_s))
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(fd)
        os.close(fd)
