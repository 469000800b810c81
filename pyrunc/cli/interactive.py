"""A program's streams on this command's own: with a terminal raw mode, its size, and the keys that detach."""

import os
import sys

from pyrunc.cli.session import CommandError
from pyrunc.runtime.pumping import Outcome, Pump, Stream

__all__ = ["Outcome", "check_input", "converse", "own_size"]


def check_input(*, stdin: bool, tty: bool) -> None:
    """Refuse to type from what is no terminal into a program's. Raises CommandError in Docker's words."""
    if stdin and tty and not os.isatty(0):
        raise CommandError("the input device is not a TTY")


def own_size() -> tuple[int, int]:
    """Rows and columns of this command's terminal; (0, 0) without one."""
    for fd in (1, 0):
        if os.isatty(fd):
            from pyrunc.runtime.terminal import size_of

            return size_of(fd)
    return 0, 0


def converse(
    stream: Stream, *, stdin: bool = False, stdout: bool = True, stderr: bool = True, tty: bool = False, keys: str = ""
) -> Outcome:  # fmt: skip
    """Connect this command's streams, those that are wanted, with *stream*'s until it is over.

    With *tty* the program has a terminal, so this command's, if it has one, is raw meanwhile, and its size the
    program's too. *keys*, in Docker's syntax, detach. Raises InvalidArgument for them.
    """
    sequence = b""
    if tty or keys:
        from pyrunc.runtime.terminal import detach_keys

        sequence = detach_keys(keys)
    sys.stdout.flush()
    raw = tty and stdin and os.isatty(0)
    sized = tty and (os.isatty(1) or os.isatty(0))
    pump = Pump(
        stream, 0 if stdin else None, 1 if stdout else None, 2 if stderr else None, keys=sequence if tty else b"",
        stdin_is_terminal=raw, resized=own_size if sized else None,
    )  # fmt: skip
    try:
        if raw:
            from pyrunc.runtime.terminal import RawTerminal

            with RawTerminal(0, pump.poke):
                return pump.run()
        if sized and _is_main_thread():
            import signal  # enum comes with it

            before = signal.signal(signal.SIGWINCH, lambda *_: pump.poke())
            try:
                return pump.run()
            finally:
                signal.signal(signal.SIGWINCH, signal.SIG_DFL if before is None else before)
        return pump.run()
    finally:
        pump.close()


def _is_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
