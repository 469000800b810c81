"""The three pipes of one run, and the conversation over them; who waits for them is up to the caller."""

from __future__ import annotations

import os
import select

from pyrunc.runtime import held
from pyrunc.runtime import option_checks as checks

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_CHUNK = 65536


def open_null() -> int:
    """A descriptor of /dev/null.

    One for each start: a shared one would have to survive a close in another thread, and a host
    program that closes whatever is open, as one does that becomes a daemon.
    """
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


class Stdio:
    """Three descriptors of the caller's, /dev/null in the place of each None."""

    def __init__(self, *chosen: int | None) -> None:
        self._chosen = chosen
        self._null = -1

    def __enter__(self) -> tuple[int, ...]:
        if None in self._chosen:
            self._null = open_null()
        return tuple(self._null if fd is None else fd for fd in self._chosen)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._null >= 0:
            os.close(self._null)


class Pipes(held.Holder):
    """Input and output of one run.

    `receive` and `feed` are called when their descriptor is ready and never wait; `drain`
    when the container has ended. Nothing here waits for the end of a pipe: a process outside
    that was given the container's end of one could put it off for ever.
    """

    def __init__(self, stdin: bytes) -> None:
        """*stdin* is what the program shall read; raises InvalidArgument if it is not bytes."""
        if not isinstance(stdin, bytes | bytearray | memoryview):
            raise checks.refuse("stdin", "bytes", stdin)
        self._input = memoryview(stdin)
        self._theirs: list[int] = []
        self.input = self.output = self.errors = -1
        try:
            if stdin:
                with held.lock:
                    first, self.input = os.pipe2(os.O_CLOEXEC)
                    held.note(self)
                self._theirs.append(first)
                os.set_blocking(self.input, False)
            else:
                first = open_null()
                self._theirs.append(first)
            self.output, out = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(out)
            self.errors, err = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(err)
        except BaseException:
            self.close()
            raise
        self.theirs = (first, out, err)
        self._out: list[bytes] = []
        self._err: list[bytes] = []

    def close_theirs(self) -> None:
        """Give up the container's ends.

        Until then the end of its output is not seen: one event less to wait for.
        """
        while self._theirs:
            os.close(self._theirs.pop())

    def receive(self, fd: int) -> bool:
        """Take what *fd*, `output` or `errors`, holds; False at its end. It must be readable."""
        data = os.read(fd, _CHUNK)
        if not data:
            return False
        (self._out if fd == self.output else self._err).append(data)
        return True

    def feed(self) -> bool:
        """Write what `input` takes now; False when there is no more to write, and it is to be closed."""
        try:
            sent = os.write(self.input, self._input[:_CHUNK])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            sent = len(self._input)  # nobody reads it: as in a shell's pipe, no error
        self._input = self._input[sent:]
        return bool(self._input)

    def drain(self) -> tuple[bytes, bytes]:
        """Take what is left in the pipes of a container that has ended; all that it wrote."""
        self.close_theirs()
        poller = select.poll()
        poller.register(self.output, select.POLLIN)
        poller.register(self.errors, select.POLLIN)
        more = True
        while more:
            more = False
            for fd, events in poller.poll(0):
                if events & select.POLLIN and self.receive(fd):
                    more = True
        return self.written()

    def written(self) -> tuple[bytes, bytes]:
        """What was taken so far."""
        return b"".join(self._out), b"".join(self._err)

    def close(self) -> None:
        """Close whatever is still open."""
        self.close_theirs()
        self.close_input()
        for fd in (self.output, self.errors):
            if fd >= 0:
                os.close(fd)
        self.output = self.errors = -1

    def let_go(self) -> None:
        """Close them in a process that the holder was forked into."""
        self.close()

    def close_input(self) -> None:
        """Give the program the end of its input."""
        if self.input >= 0:
            held.forget(self)
            os.close(self.input)
            self.input = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
