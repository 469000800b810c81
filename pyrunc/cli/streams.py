"""Where commands write files to and read them from: a path, or a standard stream."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pyrunc.cli.session import CommandError


@contextmanager
def written(path: str, what: str) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all, or stdout for "". Raises CommandError, which names *what*.

    Stdout that is a terminal is refused: what comes is no text.
    """
    if not path:
        if sys.stdout.isatty():
            raise CommandError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise CommandError(
            f"{what}: invalid output path: stat {os.path.dirname(path)}: no such file or directory"
        )
    if os.path.isdir(path):
        raise CommandError(f"{what}: invalid output path: {path!r} must be a file")
    if os.path.lexists(path) and not os.path.isfile(path):
        with open(path, "wb") as device:  # such as /dev/null, which nothing may take the place of
            yield device
        return
    temporary = os.path.join(directory, f".{os.path.basename(path)}.{os.urandom(6).hex()}")
    try:
        with open(temporary, "xb") as file:
            os.fchmod(file.fileno(), 0o600)
            yield file
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise


@contextmanager
def read_from(path: str) -> Iterator[BinaryIO]:
    """The file *path*, or stdin for "" and "-". Raises CommandError in Docker's words."""
    if path in ("", "-"):
        if sys.stdin.isatty():
            raise CommandError("requested load from stdin, but stdin is empty")
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as exc:
        raise CommandError(f"open {path}: {(exc.strerror or str(exc)).lower()}") from exc
    with file:
        yield file
