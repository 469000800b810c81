"""Run a function of a test in a child, so that namespaces, mounts and filters die with it."""

import os
import traceback
from collections.abc import Callable
from typing import NoReturn

from . import linux


def in_child(function: Callable[[], None], unshare: int = 0) -> None:
    """Run *function* in a fork that first left the namespaces *unshare* (CLONE_NEW*).

    With CLONE_NEWNS no mount leads back to the parent. Raises AssertionError with the child's traceback.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(function, unshare, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        report = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, report or f"the child ended with {code}"


def _child(function: Callable[[], None], unshare: int, report: int) -> NoReturn:
    """Run *function*, write a failure to *report*, and never come back into pytest."""
    code = 1
    try:
        if unshare:
            linux.unshare(unshare)
        if unshare & linux.CLONE_NEWNS:
            linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        function()
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child has nobody to raise to
        os.write(report, traceback.format_exc().encode())
    finally:
        os._exit(code)
