"""Run a function of a test in a child with namespaces of its own, so that all it does dies with it."""

import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from pyrunc._native import mount, namespaces


def in_child(function: Callable[[], None], flags: int = 0) -> None:
    """Run *function* in a process that is born in the new namespaces *flags* (CLONE_NEW*).

    With CLONE_NEWNS no mount leads back to the parent. Raises AssertionError with the child's traceback.
    """
    reading, writing = os.pipe()
    # fork(2) of libc's first: another thread's lock on its memory would be held for ever in a child of clone3 alone.
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _born(function, flags, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        report = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, report or f"the child ended with {code}"


def _born(function: Callable[[], None], flags: int, report: int) -> NoReturn:
    """Run `_child` in a process that is born in the new namespaces, and end as it does."""
    code = 1
    try:
        pid, _ = namespaces.clone3(flags)
        if pid == 0:
            _child(function, flags, report)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except BaseException:  # noqa: BLE001 - pytest must not go on in this process
        os.write(report, traceback.format_exc().encode())
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _child(function: Callable[[], None], flags: int, report: int) -> NoReturn:
    """Run *function*, write a failure to *report*, and never come back into pytest."""
    code = 1
    try:
        if flags & namespaces.CLONE_NEWNS:
            mount.mount(None, b"/", flags=mount.MS_REC | mount.MS_PRIVATE)
        function()
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, pytest must not go on in this process
        os.write(report, traceback.format_exc().encode())
    finally:
        os._exit(code)


@contextmanager
def refused(errno: int, syscall: str, path: str | None = None) -> Iterator[None]:
    """What is inside must raise OSError *errno* whose note names *syscall* and which names *path*."""
    with pytest.raises(OSError, match=re.escape(os.strerror(errno))) as caught:
        yield
    error = caught.value
    assert (error.errno, error.filename) == (errno, path), repr(error)
    assert f"in {syscall}(2)" in error.__notes__, error.__notes__
