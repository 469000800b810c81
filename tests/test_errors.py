"""The tree of errors: as its module draws it, usable where Python's own errors are, and whole in another process."""

import errno
import inspect
import os
import pickle
import re
from collections.abc import Callable

import pytest

from pyrunc import errors

ROOT = errors.PyruncError


CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ROOT)]
STARTS = [kind for kind in CLASSES if issubclass(kind, errors.StartError)]


def drawn() -> dict[str, tuple[str, str | None, int | None]]:
    """name -> (parent in the drawing, built-in class in brackets, exit code) of the module's docstring."""
    found: dict[str, tuple[str, str | None, int | None]] = {}
    path: list[str] = []
    for line in (inspect.getdoc(errors) or "").splitlines():
        match = re.match(r"([ │├└─]*)(\w+)(?: +\((\w+)\))?(?: +.*?(?:exit code (\d+))?)?$", line)
        if match is None or not hasattr(errors, match[2]):
            continue
        # The drawing is indented by four columns; each level takes four more.
        depth = (len(match[1]) - 4) // 4
        path[depth:] = [match[2]]
        parent = path[depth - 1] if depth else ""
        found[match[2]] = (parent, match[3], int(match[4]) if match[4] else None)
    return found


def test_the_tree_is_as_drawn() -> None:
    real = {
        kind.__name__: (
            next((base.__name__ for base in kind.__bases__ if issubclass(base, ROOT)), ""),
            next(
                (base.__name__ for base in kind.__bases__ if not issubclass(base, ROOT) and kind is not ROOT),
                None,
            ),
            vars(kind).get("exit_code"),
        )
        for kind in CLASSES
    }
    assert drawn() == real


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is(kind: type[ROOT]) -> None:
    assert kind.__doc__
    assert kind.exit_code in (125, 126, 127)
    assert str(kind("no such thing: x")) == "no such thing: x"


@pytest.mark.parametrize(
    ("make", "number", "filename"),
    [
        (lambda: errors.CommandNotFound("gone", path="/bin/x", errno=errno.ENOENT), errno.ENOENT, "/bin/x"),
        (lambda: errors.CommandNotExecutable("no", path="x", errno=errno.EACCES), errno.EACCES, "x"),
        (lambda: errors.PermissionDenied("needs root"), errno.EPERM, None),
        (lambda: errors.TimedOut("late"), errno.ETIMEDOUT, None),
        (lambda: errors.StorageFull("full"), errno.ENOSPC, None),
        (lambda: errors.StorageFull("over quota", errno.EDQUOT), errno.EDQUOT, None),
    ],
)  # fmt: skip
def test_what_comes_from_errno_is_an_os_error(
    make: Callable[[], ROOT], number: int, filename: str | None
) -> None:
    error = make()
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (number, filename)
    assert str(error) == error.args[0]
    # The class is the one that the kernel's own answer would have had.
    assert isinstance(error, type(OSError(number, "")))


@pytest.mark.parametrize("kind", STARTS, ids=lambda kind: kind.__name__)
def test_a_start_error_crosses_processes_whole(kind: type[errors.StartError]) -> None:
    error = kind("cannot attach a mount at /x", step="attach", path="/x", errno=errno.EINVAL)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind
    assert str(twin) == "cannot attach a mount at /x"
    assert (twin.step, twin.path, twin.errno) == ("attach", "/x", errno.EINVAL)
    assert twin.strerror == os.strerror(errno.EINVAL)


def test_a_time_out_crosses_processes_with_its_output() -> None:
    twin = pickle.loads(pickle.dumps(errors.TimedOut("late", b"out", b"err")))
    assert (type(twin), str(twin), twin.stdout, twin.stderr) == (errors.TimedOut, "late", b"out", b"err")


def test_built_in_classes_catch_them() -> None:
    for kind, built_in in (
        (errors.InvalidSpec, ValueError), (errors.NotFound, LookupError), (errors.TimedOut, TimeoutError),
        (errors.CommandNotFound, FileNotFoundError), (errors.CommandNotExecutable, PermissionError),
    ):  # fmt: skip
        with pytest.raises(built_in):
            raise kind("x")
