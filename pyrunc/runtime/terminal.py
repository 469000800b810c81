"""The caller's own terminal, while a program's is shown on it: raw mode, its size, the keys that detach."""

from __future__ import annotations

import errno
import os
import termios

from pyrunc.errors import InvalidArgument

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any, Self

    _Handler = Callable[[int, FrameType | None], Any] | int | None
else:
    import _signal as signal  # signal imports enum

DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROL = {f"ctrl-{chr(code + 96) if 0 < code < 27 else chr(code + 64)}": code for code in range(32)}
_DELETE = 127
# What ends this process unless it is handled: it shall not leave a raw terminal behind.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def raw(before: list[Any]) -> list[Any]:
    """The attributes *before*, as tcgetattr(3) has them: no echo, no lines, no signals by keys, nothing changed."""
    found = [*before[:6], [*before[6]]]
    found[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
        | termios.ICRNL | termios.IXON
    )  # fmt: skip
    found[1] &= ~termios.OPOST
    found[2] = found[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    found[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    found[6][termios.VMIN], found[6][termios.VTIME] = 1, 0
    return found


def detach_keys(text: str) -> bytes:
    """What *text* in Docker's syntax, such as ``ctrl-a,a`` or ``DEL``, sends from a keyboard; "" is the default.

    Raises InvalidArgument in Docker's words.
    """
    found = bytearray()
    for key in (text or DETACH_KEYS).split(","):
        if len(key) == 1 and ord(key) < 128:
            found.append(ord(key))
        elif key in _CONTROL:
            found.append(_CONTROL[key])
        elif key == "DEL":
            found.append(_DELETE)
        else:
            raise InvalidArgument(f"Invalid escape keys ({text}) provided")
    return bytes(found)


class DetachScanner:
    """Finds the keys that detach among what is typed.

    Keys that may be the beginning are held back until the next ones decide. As with Docker's, what comes together with
    other input, as in a paste, is none.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of *data*, and of what was held back, goes on; and whether to detach."""
        if not self._keys or not data:
            return data, False
        end = self._held + len(data)
        if self._keys[self._held : end] == data:
            self._held = end
            return b"", end == len(self._keys)
        held, self._held = self._keys[: self._held], 0
        return held + data, False


class RawTerminal:
    """The terminal *fd*, raw from the beginning of a ``with`` block to its end, however that comes.

    A signal that ends this process, or stops it, first gives the terminal back as it was; when it goes on the terminal
    is raw again. *resized* is called, in a signal handler, when its size may be another. Handlers are only set in the
    main thread. Raises OSError (termios.error) if *fd* is no terminal.
    Source: termios(3), the job control of POSIX, "General Terminal Interface".
    """

    def __init__(self, fd: int, resized: Callable[[], object]) -> None:
        self._fd = fd
        self._resized = resized
        self._before: list[Any] | None = None
        self._handlers: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        try:
            for number in (*_ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
                before = signal.getsignal(number)
                # Who ignores a signal, or has a handler for it, keeps that; Python's own of SIGINT raises: an end too.
                if number in (signal.SIGCONT, signal.SIGWINCH) or before is signal.SIG_DFL:
                    signal.signal(number, self._handle)
                    self._handlers[number] = before
        except ValueError:
            pass  # another thread's: no signal comes here
        except BaseException:
            self._give_back_handlers()
            raise
        self.set_raw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back_handlers()
        self.restore()

    def set_raw(self) -> None:
        """No echo, no lines, no signals by keys, nothing changed on the way: all is the program's."""
        if self._before is None:
            return
        self._apply(raw(self._before))

    def restore(self) -> None:
        """As it was before."""
        if self._before is not None:
            self._apply(self._before)

    def _apply(self, attributes: list[Any]) -> None:
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, attributes)
        except termios.error as exc:
            if exc.args[0] not in (errno.EIO, errno.ENOTTY, errno.EBADF):
                raise
            # It has disappeared; whoever reads from it will hear of that.

    def _give_back_handlers(self) -> None:
        while self._handlers:
            number, before = self._handlers.popitem()
            # None is a handler of C's, such as faulthandler's, which cannot be set again.
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGWINCH:
            self._resized()
        elif number == signal.SIGCONT:
            # Stopped without a word (SIGSTOP) or by the handler below; in the background it is another's terminal.
            if self._is_ours():
                self.set_raw()
                self._resized()
        else:
            self.restore()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            # Only SIGTSTP comes back, when the process goes on; SIGCONT has a handler of its own.
            signal.signal(number, self._handle)

    def _is_ours(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True  # no controlling terminal of ours: nobody else's job either


def size_of(fd: int) -> tuple[int, int]:
    """Rows and columns of the terminal *fd*; (0, 0) if it is none."""
    try:
        rows, columns = termios.tcgetwinsize(fd)
    except termios.error:
        return 0, 0
    return rows, columns
