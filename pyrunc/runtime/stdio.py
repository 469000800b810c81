"""The three pipes of one run, and the conversation over them; who waits for them is up to the caller."""

from __future__ import annotations

import os

from pyrunc._native import requester
from pyrunc._native.descriptor import Descriptor
from pyrunc.runtime import held
from pyrunc.runtime import option_checks as checks

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Stdio:
    """Three descriptors of the caller's, /dev/null in the place of each None."""

    def __init__(self, *chosen: int | None) -> None:
        """Raises InvalidArgument for what can be no descriptor."""
        for fd in chosen:
            if fd is not None:
                checks.integer(0)(fd, "a descriptor")
        self._chosen = chosen
        self._null: Descriptor | None = None

    def __enter__(self) -> tuple[int, ...]:
        if None not in self._chosen:
            return tuple(self._chosen)  # type: ignore[arg-type]
        # One for each start, as for requester.Pipes.
        self._null = Descriptor("/dev/null", os.O_RDWR)
        null = self._null.fd
        return tuple(null if fd is None else fd for fd in self._chosen)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._null is not None:
            self._null.close()


class Pipes(requester.Pipes, held.Holder):
    """Input and output of one run; requester.Pipes with the input's end held by this process alone.

    `receive` and `feed` are called when their descriptor is ready and never wait; `drain`
    when the container has ended. Nothing here waits for the end of a pipe: a process outside
    that was given the container's end of one could put it off for ever.
    """

    def __new__(cls, stdin: bytes) -> Self:
        """*stdin* is what the program shall read; raises InvalidArgument if it is not bytes."""
        if not isinstance(stdin, bytes | bytearray | memoryview):
            raise checks.refuse("stdin", "bytes", stdin)
        if not stdin:
            return super().__new__(cls, b"")
        with held.lock:
            self = super().__new__(cls, bytes(stdin))
            held.note(self)
        return self

    def close(self) -> None:
        """Close whatever is still open."""
        if self.input >= 0:
            held.forget(self)
        self.close_ours()

    def let_go(self) -> None:
        """Close them in a process that the holder was forked into."""
        self.close()

    def close_input(self) -> None:
        """Give the program the end of its input."""
        if self.input >= 0:
            held.forget(self)
            self.shut_input()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
