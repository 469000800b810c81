"""The threads of an AsyncEngine, and the objects whose verbs run there."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

_T = TypeVar("_T")
_Object = TypeVar("_Object")
_P = ParamSpec("_P")


class Threads:
    """At most *count* calls at once."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="pyrunc")

    async def call(self, function: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """What *function* returns, from a thread; a task that is cancelled meanwhile waits, and has it undone."""
        future = self._begun(function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await settled(future)
            if undo is not None and not future.cancelled() and future.exception() is None:
                await settled(self._begun(partial(undo, future.result())))
            raise

    async def finally_call(self, function: Callable[[], object]) -> None:
        """Call it, however often the task is cancelled meanwhile; what it raises is not what went wrong first."""
        future = self._begun(function)
        await settled(future)
        future.exception()

    def _begun(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        loop = asyncio.get_running_loop()
        try:
            return loop.run_in_executor(self._pool, function)
        except RuntimeError:  # after `close` the pool takes nothing, and the engine says so in its own words
            return loop.run_in_executor(None, function)

    async def close(self, last: Callable[[], object]) -> None:
        """When all calls are over, call *last*, and let the threads end."""
        closer = ThreadPoolExecutor(1, thread_name_prefix="pyrunc-close")

        def close() -> None:
            self._pool.shutdown()
            last()

        try:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(closer, close))
        finally:
            closer.shutdown(wait=False)


class Face(Generic[_Object]):
    """The form for asyncio of an object of the engine's, *target*."""

    def __init__(self, threads: Threads, target: _Object) -> None:
        self._threads = threads
        self._target = target


def verb(
    function: Callable[Concatenate[_Object, _P], _T],
) -> Callable[Concatenate[Face[_Object], _P], Coroutine[Any, Any, _T]]:
    """A method's form for asyncio: the same, on a thread."""

    @wraps(function)
    async def method(self: Face[_Object], /, *arguments: _P.args, **named: _P.kwargs) -> _T:
        return await self._threads.call(partial(function, self._target, *arguments, **named))

    return method


async def settled(future: "asyncio.Future[Any]") -> None:
    """Wait until *future* is done, however often the task is cancelled meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
