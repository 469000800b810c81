"""A program on a terminal that somebody feeds and reads to its end, instead of a person."""

from __future__ import annotations

import errno
import os
import select
import time

from pyrunc.runtime.supervised import EXITED

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.supervised import Supervised

_CHUNK = 65536
_END_OF_FILE = b"\x04"


def converse(child: Supervised, stdin: bytes, deadline: float | None, output: bytearray) -> bool:
    """Type *stdin* and the end of file, and append to *output* what appears, until the program has ended.

    *child* was STARTED with a terminal. Returns False if *deadline* (monotonic seconds) comes first.
    """
    master = child.terminal
    os.set_blocking(master, False)
    left = memoryview(stdin + _END_OF_FILE)
    poller = select.poll()
    poller.register(child, select.POLLIN)
    poller.register(master, select.POLLIN | select.POLLOUT)
    while True:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        found = dict(poller.poll(timeout))
        if not found:
            return False
        state = found.get(master, 0)
        if state & select.POLLOUT and left:
            left = left[_write(master, left[:_CHUNK]) :]
            if not left:
                poller.modify(master, select.POLLIN)
        if state & ~select.POLLOUT and not _read(master, output):
            poller.unregister(master)
        if child.fileno() in found and child.take() == EXITED:
            while _read(master, output) and select.select([master], [], [], 0)[0]:
                pass  # what it had written before
            return True


def _write(master: int, data: memoryview) -> int:
    try:
        return os.write(master, data)
    except BlockingIOError:
        return 0
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        return len(data)


def _read(master: int, output: bytearray) -> bool:
    """Take what there is; False when nobody has the other side any more."""
    try:
        output += os.read(master, _CHUNK)
    except BlockingIOError:
        pass
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        return False
    return True
