"""AsyncEngine: the engine for asyncio.

What runs needs no thread while it does. Every other verb is the Engine's own, on a few threads; what lasts (waiting,
following, streams) is done by the event loop.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

from pyrunc.api import ContainerResult
from pyrunc.engine import events, throwaway
from pyrunc.engine.async_attachment import Readiness
from pyrunc.engine.async_calls import Face, Threads, verb
from pyrunc.engine.async_container import AsyncContainer, awake
from pyrunc.engine.async_objects import AsyncContainers, AsyncImages, AsyncVolumes
from pyrunc.engine.deadlines import Deadline
from pyrunc.engine.engine import HOST, Engine, check_scratch
from pyrunc.engine.events import Event
from pyrunc.engine.foreground import Foreground
from pyrunc.runtime.async_sandbox import AsyncSandbox
from pyrunc.runtime.option_checks import integer
from pyrunc.runtime.options import SandboxOptions
from pyrunc.runtime.sandbox import TIMEOUT

_T = TypeVar("_T")
_THREADS = integer(1, 1000)


class AsyncEngine(Face[Engine]):
    """Engine for asyncio: images, volumes, and containers of them.

    *root* and *graph* are those of Engine, *threads* how many verbs may be in progress at once; containers that run
    take none. A task that is cancelled ends when what it did is undone: no container is left by it. It belongs to one
    event loop.
    """

    def __init__(
        self, root: "str | os.PathLike[str] | None" = None, *, graph: str | None = None, threads: int = 8
    ) -> None:
        _THREADS(threads, "threads")
        super().__init__(Threads(threads), Engine(root, graph=graph))
        self.engine = self._target
        self.containers = AsyncContainers(self._threads, self.engine.containers)
        self.images = AsyncImages(self._threads, self.engine.images)

    @property
    def volumes(self) -> AsyncVolumes:
        """Data that outlives containers."""
        return AsyncVolumes(self._threads, self.engine.volumes)

    async def call(self, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Run any function on one of the threads: ``call(shutil.rmtree, path)``.

        Raises what that does. A task that is cancelled waits for it, since a thread cannot be interrupted.
        """
        return await self._threads.call(partial(function, *arguments, **named))

    async def run(
        self, image: str, argv: Sequence[str] | None = None, *, name: str | None = None, remove: bool = True,
        entrypoint: Sequence[str] | None = None, stdin: bytes = b"", timeout_s: float | None = None,
        create_timeout_s: float | None = None, allow_host: bool = False,
        scratch: Literal["memory", "disk"] | None = None, **options: Unpack[SandboxOptions],
    ) -> ContainerResult:  # fmt: skip
        """Run a program in a container of *image* to its end; the arguments are those of Engine.run.

        Raises what that does. If the task is cancelled the program is killed at once, and the task ends when nothing of
        the container is left.
        """
        keeps = name is not None or not remove
        host = allow_host and image == HOST
        if scratch is not None:
            check_scratch(scratch, keeps, host)
        if timeout_s is not None:
            TIMEOUT(timeout_s, "timeout_s")
        begun = time.monotonic_ns()
        with Deadline(create_timeout_s) as deadline:
            if host:
                prepare = partial(self.engine._host, argv, keeps, entrypoint, options)  # noqa: SLF001 - its other half
                launcher, command = await self._threads.call(prepare)
                box = AsyncSandbox.of_launcher(launcher)
                return ContainerResult(*await box.run_by(command, None, stdin, timeout_s, deadline.at))
            if not keeps and scratch != "disk":
                env = options.pop("env", None)
                ready = await self._threads.call(
                    partial(self.engine._make_ready, image, entrypoint, options, deadline),  # noqa: SLF001
                    lambda made: self.engine._throwaway.leave(made.held),  # noqa: SLF001
                )
                try:
                    if ready.sandbox is not None:
                        box = AsyncSandbox.of_launcher(ready.sandbox._launcher)  # noqa: SLF001
                        image_ns = time.monotonic_ns() - begun
                        done = await box.run_by(ready.command(argv), env, stdin, timeout_s, deadline.at)
                        return throwaway.result(done, image_ns)
                finally:
                    self.engine._throwaway.leave(ready.held)  # noqa: SLF001
                if env:
                    options["env"] = env
            begin = partial(
                self.engine._begin, image, argv, name, remove, entrypoint, stdin, options, deadline  # noqa: SLF001
            )  # fmt: skip
            running = await self._threads.call(begin, _ended_at_once)
        done_all = await self._see_to_its_end(running, timeout_s)
        return done_all._replace(container_id="", name="") if remove else done_all

    async def start(self, image: str, argv: Sequence[str] | None = None, **wanted: Any) -> AsyncContainer:
        """Make a container and start it; the arguments are those of Engine.start.

        Raises what that does. If the task is cancelled, no container is left.
        """
        made = await self._threads.call(
            partial(self.engine.start, image, argv, **wanted), lambda made: made.__exit__(None, None, None)
        )
        return AsyncContainer(self._threads, made)

    async def events(
        self, *, since_ns: int | None = 0, until_ns: int | None = None, follow: bool = False,
        filters: Iterable[tuple[str, str]] = (),
    ) -> AsyncIterator[Event]:  # fmt: skip
        """What happened to containers, images and volumes; see Engine.events.

        Raises InvalidArgument for a filter that there is not.
        """
        root = self.engine._parts.root  # noqa: SLF001
        steps = events.steps(root, since_ns=since_ns, until_ns=until_ns, follow=follow, filters=filters)
        async for event in awake(steps):
            yield event

    check = verb(Engine.check)
    info = verb(Engine.info)
    version = verb(Engine.version)

    async def close(self) -> None:
        """Let go of what was opened, when the verbs in progress are over; containers that run go on.

        A `run` that lasts longer raises FailedPrecondition when its container, if it has a row, has ended.
        """
        await self._threads.close(self.engine.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _see_to_its_end(self, running: Foreground, timeout_s: float | None) -> ContainerResult:
        try:
            in_time = await _talk(running, timeout_s)
            if not in_time:
                running.kill()
                await _talk(running, None)
        except BaseException:
            running.kill()
            await self._threads.finally_call(running.finish)
            raise
        done = await self._threads.call(running.finish)
        if not in_time:
            raise running.late(timeout_s)
        return done


def _ended_at_once(running: Foreground) -> None:
    running.kill()
    running.finish()


async def _talk(running: Foreground, timeout_s: float | None) -> bool:
    """Feed and read until the container has ended; False if that takes longer than *timeout_s* seconds."""
    ready = Readiness()
    try:
        async with asyncio.timeout(timeout_s):
            while not running.client.closed:
                running.feed()
                running.receive()
                if not running.client.closed:
                    await ready.wait(running.client.fileno(), writes=running.feeding)
    except TimeoutError:
        return False
    return True


__all__ = ["AsyncContainer", "AsyncEngine"]
