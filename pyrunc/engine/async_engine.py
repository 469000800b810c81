"""AsyncEngine: the engine for asyncio.

A throw-away run is native: it needs no thread while it runs. Every other verb is the Engine's own, on a few threads;
what lasts (waiting, following) is done by the event loop.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from pyrunc.api import ContainerRecord, ContainerResult
from pyrunc.engine import events, logs
from pyrunc.engine.container import Container
from pyrunc.engine.engine import Engine
from pyrunc.engine.events import Event
from pyrunc.engine.logs import LogEntry
from pyrunc.errors import InvalidArgument, TimedOut
from pyrunc.runtime.async_sandbox import AsyncSandbox
from pyrunc.runtime.options import SandboxOptions
from pyrunc.runtime.sandbox import RunResult

_T = TypeVar("_T")
_Records = list[ContainerRecord]
_LOOK_S = 1.0  # how often a container that runs is looked at, if its end is not told
_SOON_S = 0.005


class AsyncEngine:
    """Engine for asyncio: images, and containers of them.

    *root* and *graph* are those of Engine, *threads* how many verbs may be in progress at once. A task that is
    cancelled ends when what it did is undone: no container is left by it.
    """

    def __init__(
        self, root: "str | os.PathLike[str] | None" = None, *, graph: str | None = None, threads: int = 8
    ) -> None:
        self.engine = Engine(root, graph=graph)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pyrunc")

    async def call(self, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Run a verb of *engine*, or any other function, on one of the threads: ``call(e.engine.images.load, path)``.

        Raises what that does. A task that is cancelled waits for it, since a thread cannot be interrupted.
        """
        return await self._call(partial(function, *arguments, **named))

    async def run(
        self, image: str, argv: Sequence[str] | None = None, *, name: str | None = None, remove: bool = True,
        entrypoint: Sequence[str] | None = None, stdin: bytes = b"", timeout_s: float | None = None,
        **options: Unpack[SandboxOptions],
    ) -> ContainerResult:  # fmt: skip
        """Run a program in a container of *image* to its end; the arguments are those of Engine.run.

        Raises what that does. If the task is cancelled the program is killed, at once for one that is thrown away.
        """
        if name is not None or not remove:
            return await self._call(
                partial(
                    self.engine.run, image, argv, name=name, remove=remove, entrypoint=entrypoint, stdin=stdin,
                    timeout_s=timeout_s, **options,
                )
            )  # fmt: skip
        env = options.pop("env", None)
        engine = self.engine
        ready = await self._call(
            partial(engine._make_ready, image, entrypoint, options),  # noqa: SLF001 - the other half of it
            lambda made: engine._throwaway.leave(made.held),  # noqa: SLF001
        )
        try:
            if ready.sandbox is None:
                if env:
                    options["env"] = env
                return await self.call(
                    engine.run,
                    image,
                    argv,
                    entrypoint=entrypoint,
                    stdin=stdin,
                    timeout_s=timeout_s,
                    **options,
                )
            command = (*ready.entrypoint, *argv) if argv else ready.argv
            if not command:
                raise InvalidArgument("No command specified")
            box = AsyncSandbox.of_launcher(ready.sandbox._launcher)  # noqa: SLF001
            return ContainerResult(*await box.run(command, env=env, stdin=stdin, timeout_s=timeout_s))
        finally:
            engine._throwaway.leave(ready.held)  # noqa: SLF001

    async def start(self, image: str, argv: Sequence[str] | None = None, **wanted: Any) -> "AsyncContainer":
        """Make a container and start it; the arguments are those of Engine.start.

        Raises what that does. If the task is cancelled, no container is left.
        """
        made = await self._call(
            partial(self.engine.start, image, argv, **wanted),
            lambda container: container.remove(force=True, volumes=True),
        )
        return AsyncContainer(self, made)

    async def create(self, image: str, argv: Sequence[str] | None = None, **wanted: Any) -> "AsyncContainer":
        """Make a container and do not start it; the arguments are those of Containers.create.

        Raises what that does. If the task is cancelled, no container is left.
        """
        made = await self._call(
            partial(self.engine.containers.create, image, argv, **wanted),
            lambda container: container.remove(force=True, volumes=True),
        )
        return AsyncContainer(self, made)

    async def get(self, text: str) -> "AsyncContainer":
        """The container of that id, name, or beginning of an id. Raises NotFound, InvalidArgument for several."""
        return AsyncContainer(self, await self.call(self.engine.containers.get, text))

    async def list(
        self, *, all: bool = False, filters: Iterable[tuple[str, str]] = (), limit: int = 0  # noqa: A002
    ) -> _Records:  # fmt: skip
        """The containers that run, or *all*; see Containers.list. Raises InvalidArgument, NotFound."""
        return await self.call(self.engine.containers.list, all=all, filters=filters, limit=limit)

    async def events(
        self, *, since_ns: int | None = None, until_ns: int | None = None, follow: bool = True,
        filters: Iterable[tuple[str, str]] = (),
    ) -> AsyncIterator[Event]:  # fmt: skip
        """What happens to containers, images and volumes, from now on if *since_ns* is None; see Engine.events.

        Raises InvalidArgument for a filter that there is not.
        """
        root = self.engine._parts.root  # noqa: SLF001
        steps = events.steps(root, since_ns=since_ns, until_ns=until_ns, follow=follow, filters=filters)
        async for event in _awake(steps):
            yield event

    async def close(self) -> None:
        """Let go of what was opened, when the verbs in progress are over; containers that run go on."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        self._pool.shutdown()
        self.engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, function: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """What *function* returns, from a thread; a task that is cancelled meanwhile has it undone."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _settled(future)
            if undo is not None and not future.cancelled() and future.exception() is None:
                await _settled(loop.run_in_executor(self._pool, undo, future.result()))
            raise


class AsyncContainer:
    """A container of an AsyncEngine; leaving its ``async with`` block kills and removes it, volumes included.

    *container* is the same one with all its verbs, for `call`: ``await c.call(c.container.pause)``.
    """

    def __init__(self, engine: AsyncEngine, container: Container) -> None:
        self.container = container
        self._engine = engine

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.container.id

    @property
    def name(self) -> str:
        """What it is called."""
        return self.container.name

    async def call(self, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """As AsyncEngine.call, and raises what that does."""
        return await self._engine.call(function, *arguments, **named)

    async def record(self) -> ContainerRecord:
        """What is known of it, in its true state. Raises NotFound."""
        return await self.call(self.container.record)

    async def start(self) -> bool:
        """Start it; False if it runs already. Raises what Container.start does."""
        return await self.call(self.container.start)

    async def stop(self, timeout_s: float | None = None) -> int | None:
        """Ask its program to end, and kill it after *timeout_s* seconds; see Container.stop. Raises what that does."""
        return await self.call(self.container.stop, timeout_s)

    async def kill(self, signal: int | str = "KILL") -> None:
        """Send it a signal. Raises FailedPrecondition if it does not run, InvalidArgument for no signal."""
        await self.call(self.container.kill, signal)

    async def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it. Raises FailedPrecondition, in Docker's words, for one that runs, without *force*."""
        await self.call(self.container.remove, force=force, volumes=volumes)

    async def exec(self, argv: Sequence[str], **wanted: Any) -> RunResult:
        """Run a further program in it to its end; the arguments are those of Container.exec. Raises what that does."""
        return await self.call(self.container.exec, argv, **wanted)

    async def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it does not run: the exit code. No thread is taken meanwhile.

        Raises TimedOut after *timeout_s* seconds, NotFound; the container goes on if the task is cancelled.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return await self.call(self.container.wait, 0.0)
            except TimedOut:
                left = _LOOK_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimedOut(f"container {self.name} still runs after {timeout_s} s") from None
            await _ended(await self.call(lambda: self.container.pid), min(left, _LOOK_S))

    async def logs(
        self, *, follow: bool = False, tail: int | None = None, since_ns: int = 0, until_ns: int | None = None
    ) -> AsyncIterator[LogEntry]:  # fmt: skip
        """What it has written, in its order; see Container.logs. Raises NotFound, Unsupported."""
        path = await self.call(self.container._log_path)  # noqa: SLF001 - the other half of it
        steps = logs.steps(
            path, follow=follow, tail=tail, since_ns=since_ns, until_ns=until_ns, ended=self.container._over,  # noqa: SLF001
        )  # fmt: skip
        async for entry in _awake(steps):
            yield entry

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.call(self.container.__exit__, None, None, None)


async def _settled(future: "asyncio.Future[Any]") -> None:
    """Wait until *future* is done, however often the task is cancelled meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue


async def _awake(steps: Iterator[_T | float]) -> AsyncIterator[_T]:
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


__all__ = ["AsyncContainer", "AsyncEngine"]
