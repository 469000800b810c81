"""Between the caller's streams and a program's: what is typed goes there, what it writes comes here, until it ends.

Nothing is lost and nothing waits for one side only: while a side takes nothing more, the other is not read.
"""

from __future__ import annotations

import errno
import os
import select

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import ClassVar, Protocol

    from pyrunc.runtime.terminal import DetachScanner
else:
    Protocol = object

STDOUT, STDERR = 1, 2
_CHUNK = 65536
_ENOUGH = 65536  # that wait to be written, before no more is read
_PIPE_BUF = 4096  # a descriptor that poll(2) calls writable takes so much without waiting


class Outcome:
    """Why a conversation is over: the program has ended, or the user has detached, or the user's terminal is gone."""

    ENDED: ClassVar[Outcome]
    DETACHED: ClassVar[Outcome]
    GONE: ClassVar[Outcome]

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"<Outcome {self.value}>"


Outcome.ENDED, Outcome.DETACHED, Outcome.GONE = map(Outcome, ("ended", "detached", "gone"))


class Stream(Protocol):
    """A program's input and output, seen from outside."""

    @property
    def closed(self) -> bool:
        """Whether it has ended, and all that it wrote has been received."""

    def watched(self, sending: bool) -> Iterable[tuple[int, int]]:
        """The descriptors to wait for, with poll(2)'s events; *sending* says that there is something to `send`."""

    def receive(self, ready: set[int]) -> list[tuple[int, bytes]]:
        """What it has written: STDOUT or STDERR, and the bytes; *ready* are those of `watched` that have something."""

    def send(self, data: bytes) -> int:
        """Give it input, without waiting; how much was taken."""

    def close_stdin(self) -> None:
        """There is no more input."""

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal, if it has one, shall be of this size."""

    def detach(self) -> None:
        """Leave it alone."""


class Attached(Protocol):
    """What of pyrunc.runtime.attach.AttachClient is used here."""

    closed: bool

    @property
    def exit_status(self) -> object:
        """How it has ended, or None; the last that comes."""

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent that was taken."""

    def flush(self) -> bool:
        """Send it."""

    def fileno(self) -> int:
        """The connection."""

    def receive(self) -> list[tuple[int, bytes]]:
        """Frames that have come."""

    def send(self, data: bytes) -> int:
        """Input; how much was taken."""

    def close_stdin(self) -> None:
        """No more input."""

    def resize(self, rows: int, columns: int) -> None:
        """The terminal's size."""

    def detach(self) -> None:
        """Go away without ending anything."""


class AttachStream:
    """A program behind a shim."""

    def __init__(self, client: Attached) -> None:
        self._client = client

    @property
    def closed(self) -> bool:
        """See Stream."""
        return self._client.closed or self._client.exit_status is not None

    def watched(self, sending: bool) -> Iterable[tuple[int, int]]:
        """See Stream."""
        more = sending or self._client.pending
        return ((self._client.fileno(), select.POLLIN | (select.POLLOUT if more else 0)),)

    def receive(self, ready: set[int]) -> list[tuple[int, bytes]]:
        """See Stream."""
        del ready
        self._client.flush()
        return [(kind, data) for kind, data in self._client.receive() if kind in (STDOUT, STDERR)]

    def send(self, data: bytes) -> int:
        """See Stream."""
        return self._client.send(data)

    def close_stdin(self) -> None:
        """See Stream."""
        self._client.close_stdin()

    def resize(self, rows: int, columns: int) -> None:
        """See Stream."""
        self._client.resize(rows, columns)

    def detach(self) -> None:
        """See Stream."""
        self._client.detach()


class Pump:
    """Copies between *stream* and this process's descriptors; None for one is nothing, or nowhere.

    *keys* detach, if they are typed on *stdin*; *resized* gives rows and columns, when `run` begins and soon after each
    `poke`, which a signal handler may call. *stdin_is_terminal* says that its end is the user's, not the input's.
    """

    def __init__(
        self, stream: Stream, stdin: int | None, stdout: int | None, stderr: int | None, *, keys: bytes = b"",
        stdin_is_terminal: bool = False, resized: Callable[[], tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        self._stream = stream
        self._stdin = stdin
        self._to = {STDOUT: stdout, STDERR: stderr}
        self._scanner: DetachScanner | None = None
        if keys:
            from pyrunc.runtime.terminal import DetachScanner

            self._scanner = DetachScanner(keys)
        self._stdin_is_terminal = stdin_is_terminal
        self._resized = resized
        self._input = bytearray()
        self._output: dict[int, bytearray] = {STDOUT: bytearray(), STDERR: bytearray()}
        self._end_of_input = False
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def poke(self) -> None:
        """Wake `run` up, from a signal handler: the size is another."""
        try:
            os.write(self._woken, b"x")
        except BlockingIOError:
            pass  # it will wake up anyway

    def close(self) -> None:
        """Give up its own descriptors."""
        os.close(self._wake)
        os.close(self._woken)

    def run(self) -> Outcome:
        """Copy until it is over, and say why it is."""
        if self._resized is not None:
            self._stream.resize(*self._resized())
        while not self._stream.closed or any(self._output.values()):
            ready = self._wait()
            if self._wake in ready:
                os.read(self._wake, _CHUNK)
                if self._resized is not None:
                    self._stream.resize(*self._resized())
            outcome = self._type(ready)
            if outcome is not None:
                return outcome
            if not self._stream.closed:
                self._exchange(ready)
            if not self._show(ready):
                return Outcome.GONE
        return Outcome.ENDED

    def _wait(self) -> dict[int, int]:
        poller = select.poll()
        wanted = {self._wake: select.POLLIN}
        if not self._stream.closed:
            full = any(len(waiting) >= _ENOUGH for waiting in self._output.values())
            for fd, events in self._stream.watched(bool(self._input)):
                wanted[fd] = wanted.get(fd, 0) | (events & ~select.POLLIN if full else events)
        if self._stdin is not None and not self._end_of_input and len(self._input) < _ENOUGH:
            wanted[self._stdin] = wanted.get(self._stdin, 0) | select.POLLIN
        for kind, waiting in self._output.items():
            to = self._to[kind]
            if waiting and to is not None:
                wanted[to] = wanted.get(to, 0) | select.POLLOUT
        for fd, events in wanted.items():
            if events:
                poller.register(fd, events)
        return dict(poller.poll())

    def _type(self, ready: dict[int, int]) -> Outcome | None:
        """Take what is typed; an outcome if that is the end."""
        state = ready.get(-1 if self._stdin is None else self._stdin, 0)
        if self._stdin is None or not state & ~select.POLLOUT:
            return None
        try:
            data = os.read(self._stdin, _CHUNK)
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            data = b""
        if not data and self._stdin_is_terminal:
            return Outcome.GONE
        onward, detached = (data, False) if self._scanner is None else self._scanner.feed(data)
        if detached:
            self._stream.detach()
            return Outcome.DETACHED
        self._input += onward
        if not data:
            self._end_of_input = True
            if not self._input:
                self._stream.close_stdin()
        return None

    def _exchange(self, ready: dict[int, int]) -> None:
        """Send and receive."""
        if self._input:
            taken = self._stream.send(bytes(self._input[:_CHUNK]))
            del self._input[:taken]
            if not self._input and self._end_of_input:
                self._stream.close_stdin()
        if all(len(waiting) < _ENOUGH for waiting in self._output.values()):
            for kind, data in self._stream.receive(set(ready)):
                if self._to.get(kind) is not None:
                    self._output[kind] += data

    def _show(self, ready: dict[int, int]) -> bool:
        """Write what can be written; False if the terminal is gone.

        Raises BrokenPipeError if another reader is: as with Docker, nobody stays for what nobody reads.
        """
        for kind, waiting in self._output.items():
            to = self._to[kind]
            if not waiting or to is None or not ready.get(to, 0) & ~select.POLLIN:
                continue
            try:
                del waiting[: os.write(to, waiting[:_PIPE_BUF])]
            except BlockingIOError:
                pass
            except OSError as exc:
                if exc.errno != errno.EIO:
                    raise
                if exc.errno == errno.EIO and self._stdin_is_terminal:
                    return False
                self._to[kind] = None
                waiting.clear()
        return True
