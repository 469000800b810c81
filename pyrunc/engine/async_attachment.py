"""The twin of Attachment for asyncio: the event loop waits for the descriptor, with no thread."""

import asyncio
from types import TracebackType
from typing import Self

from pyrunc.engine.attachment import READY_S, Streams
from pyrunc.errors import FailedPrecondition, TimedOut
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.sandbox import TIMEOUT

__all__ = ["AsyncAttachment", "Readiness"]


class Readiness:
    """Who waits for a descriptor: any number of tasks of one loop, which watches it only as long as one does."""

    def __init__(self) -> None:
        self._reads: set[asyncio.Future[None]] = set()
        self._writes: set[asyncio.Future[None]] = set()

    async def wait(self, fd: int, *, writes: bool) -> None:
        """Until it is readable or, if *writes*, writable, or `over`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        kinds = [(self._reads, loop.add_reader, loop.remove_reader)]
        if writes:
            kinds.append((self._writes, loop.add_writer, loop.remove_writer))
        for waiting, add, _ in kinds:
            if not waiting:
                add(fd, _wake, waiting)
            waiting.add(future)
        try:
            await future
        finally:
            for waiting, _, remove in kinds:
                if future in waiting:
                    waiting.discard(future)
                    if not waiting:
                        remove(fd)

    def over(self, fd: int) -> None:
        """Nobody waits any more for *fd*, which is about to be another's, or is closed."""
        if fd >= 0 and (self._reads or self._writes):
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            for waiting in (self._reads, self._writes):
                _wake(waiting)
                waiting.clear()


def _wake(waiting: "set[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


class AsyncAttachment(Streams):
    """Attached to a running container: ``async for stream, data in …`` gives what it writes, until it ends.

    It is as Attachment, for one event loop: one task may read while another writes. Leaving the ``async with`` block
    closes it; the container goes on.
    """

    def __init__(self, client: AttachClient, *, stdin: bool, terminal: bool) -> None:
        super().__init__(client, stdin=stdin, terminal=terminal)
        self._ready = Readiness()

    async def read(self, timeout_s: float | None = None) -> tuple[str, bytes] | None:
        """The next (stream, data); None at the end. Raises TimedOut when nothing comes for *timeout_s* seconds."""
        async with _within(timeout_s):
            while True:
                if not self._received:
                    self._receive()
                if self._received:
                    return self._received.pop(0)
                if self._client.closed:
                    return None
                await self._wait()

    async def write(self, data: bytes | bytearray | memoryview, timeout_s: float | None = None) -> None:
        """Give the program all of *data* as input; what it writes meanwhile is kept for `read`, in memory.

        Raises TimedOut after *timeout_s* seconds, a part of it is then given; FailedPrecondition when the container has
        ended, or without stdin=True; InvalidArgument for what is not bytes.
        """
        left = self._check_input(data)
        async with _within(timeout_s):
            while True:
                if self._client.closed:
                    raise self._gone()
                left = left[self._client.send(left) :]
                if not left and self._client.flush():
                    return
                self._receive()
                await self._wait(writes=True)

    async def close_stdin(self) -> None:
        """Say that no more input comes; see Attachment.close_stdin. Raises FailedPrecondition without stdin=True."""
        self._check_input(b"")
        self._client.close_stdin()
        await self._flushed()

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the container's terminal how large it is. Raises InvalidArgument, FailedPrecondition without one."""
        self._check_size(rows, columns)
        self._client.resize(rows, columns)
        await self._flushed()

    async def communicate(self, data: bytes = b"", timeout_s: float | None = None) -> tuple[bytes, bytes]:
        """Write *data*, close the input, and read until the container ends: (stdout, stderr), in memory.

        Raises TimedOut after *timeout_s* seconds, with what has come until then; the container goes on.
        Raises FailedPrecondition for input without stdin=True, InvalidArgument for what is not bytes.
        """
        left = self._check_input(data) if data or self._stdin else memoryview(b"")
        feeding = self._stdin
        found: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        try:
            async with _within(timeout_s):
                while not self._client.closed or self._received:
                    if left:
                        left = left[self._client.send(left) :]
                    elif feeding:
                        self._client.close_stdin()
                        feeding = False
                    self._receive()
                    got, self._received = self._received, []
                    for stream, part in got:
                        found[stream].append(part)
                    if got:
                        await asyncio.sleep(0)
                    else:
                        await self._wait(writes=bool(left) or feeding)
        except TimedOut as exc:
            exc.stdout, exc.stderr = b"".join(found["stdout"]), b"".join(found["stderr"])
            raise
        return b"".join(found["stdout"]), b"".join(found["stderr"])

    def detach(self) -> None:
        """Leave, and leave the program's input open for others."""
        self._ready.over(self._client.fileno())
        self._client.detach()

    def close(self) -> None:
        """Hang up; the program's input ends as by `close_stdin`, if it was this one's. A task that reads stops."""
        self._ready.over(self._client.fileno())
        self._client.close()

    def _receive(self) -> None:
        fd = self._client.fileno()
        super()._receive()
        if self._client.closed and fd >= 0:
            self._ready.over(fd)

    async def ready(self) -> None:
        """Wait until the shim says that nothing is missed from here on. Raises FailedPrecondition, TimedOut."""
        async with _within(READY_S):
            while not self._client.is_ready and not self._client.closed:
                await self._wait()
                self._receive()
        if not self._client.is_ready and self._client.exit_status is None:
            raise FailedPrecondition("the container is not running")

    async def _flushed(self) -> None:
        while not self._client.closed and not self._client.flush():
            self._receive()
            await self._wait(writes=True)

    async def _wait(self, *, writes: bool = False) -> None:
        """Wait until there is something to receive or, if that is wanted or due, the socket takes something."""
        if self._client.fileno() >= 0:
            await self._ready.wait(self._client.fileno(), writes=writes or self._client.pending)
            self._client.flush()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        found = await self.read()
        if found is None:
            raise StopAsyncIteration
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _within:  # noqa: N801 - it is used as a function
    """TimedOut after *timeout_s* seconds, where asyncio.timeout would raise the builtin one."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._timeout = asyncio.timeout(None if timeout_s is None else TIMEOUT(timeout_s, "timeout_s"))

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, value, trace)
        except TimeoutError:
            if not self._timeout.expired():
                raise
            raise TimedOut(f"the container still runs after {self._timeout_s} s") from None
