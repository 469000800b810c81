"""Documents that a caller names, read whole: whatever stands under their names, nobody waits for it for ever."""

from __future__ import annotations

import os
import stat

from pyrunc.oci.log import Failure, reason
from pyrunc.records import loads

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

MAX_SIZE = 16 << 20
_PATIENCE_S = 10


def contents(
    path: str, *, directory: int | None = None, follow: bool = True, piped: bool = False, name: str = ""
) -> bytes:
    """What is in the file *path*, which may be relative to the open *directory*; of a pipe only where *piped*.

    Raises OSError where it cannot be opened, and Failure, which calls it *name*, for what is no regular file and for
    more than MAX_SIZE bytes. No device is opened: that alone may do something, or wait.
    """
    name = name or path
    place = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), dir_fd=directory)
    try:
        found = os.stat(f"/proc/self/fd/{place}")
        if stat.S_ISDIR(found.st_mode):
            raise Failure(f"read {name}: is a directory")
        if stat.S_ISSOCK(found.st_mode):
            raise Failure(f"open {name}: no such device or address")
        if not stat.S_ISREG(found.st_mode) and not (piped and stat.S_ISFIFO(found.st_mode)):
            raise Failure(f"read {name}: not a regular file")
        opened = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        if stat.S_ISREG(found.st_mode) and found.st_size > MAX_SIZE:
            raise _too_much(name)
        return whole(opened, name, 0 if stat.S_ISREG(found.st_mode) else _PATIENCE_S)
    finally:
        os.close(opened)


def whole(fd: int, name: str, patience_s: float | None = None) -> bytes:
    """What can be read from the descriptor *fd*, which the caller keeps; Failure as above.

    Of what may keep its reader waiting: also where nothing comes for *patience_s*; None for as long as it takes.
    """
    data = b""
    while True:
        try:
            if patience_s != 0 and not _comes(fd, patience_s):
                raise Failure(f"read {name}: nobody has written to it for {patience_s} seconds")
            chunk = os.read(fd, 1 << 20)
        except BlockingIOError:
            continue  # somebody else has read it
        except OSError as error:
            raise Failure(f"read {name}: {reason(error)}") from None
        if not chunk:
            return data
        data += chunk
        if len(data) > MAX_SIZE:
            raise _too_much(name)


def _comes(fd: int, patience_s: float | None) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if patience_s is None else patience_s * 1000))


def _too_much(name: str) -> Failure:
    return Failure(f"{name}: more than {MAX_SIZE} bytes")


def parsed(data: bytes, name: str, errors: str = "surrogateescape") -> Any:
    """The JSON document in *data*; Failure, which calls it *name*, for what is none. *errors* as for bytes.decode."""
    try:
        return loads(data.decode("utf-8", errors))
    except RecursionError:
        raise Failure(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise Failure(f"{name}: {error}") from None
