"""A bundle: the directory with `config.json`, read and judged before anything is made of it."""

from __future__ import annotations

import os

from pyrunc.errors import InvalidSpec
from pyrunc.oci.log import Failure, reason
from pyrunc.oci.reading import contents, parsed
from pyrunc.records import NamedTuple
from pyrunc.spec import document

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

CONFIG = "config.json"


class Bundle(NamedTuple):
    """*path* is the directory's, *rootfs* the root's, both absolute; *spec* is the document as it stands there."""

    path: str
    rootfs: str
    spec: dict[str, Any]


def read(path: str, directory: int = -1) -> Bundle:
    """Read the bundle at *path* ("" is the working directory); *directory* is its descriptor, if it is open.

    Raises Failure in runc's words for what cannot be read, InvalidSpec, which names the field, for the rest.
    """
    path = os.path.abspath(path or ".")
    try:
        spec = parsed(
            _contents(path, directory), CONFIG, "replace"
        )  # what is no UTF-8 becomes U+FFFD, as Go reads it
    except Failure as failure:
        raise Failure(_lower(failure.message)) from None
    if not isinstance(spec, dict):
        raise InvalidSpec(f"{CONFIG}: must be an object, not {type(spec).__name__}")
    check(spec)
    root = os.path.realpath(os.path.join(path, spec["root"]["path"]))
    try:
        os.stat(root)
    except OSError as error:
        raise Failure(f"invalid rootfs: stat {root}: {reason(error)}") from None
    if not os.path.isdir(root):
        raise Failure(f"invalid rootfs: {root}: not a directory")
    return Bundle(path, root, spec)


def _lower(message: str) -> str:
    """Have json's words after the file's name, begin in lower case."""
    name, colon, words = message.partition(": ")
    return f"{name}{colon}{words[:1].lower()}{words[1:]}"


def _contents(path: str, directory: int) -> bytes:
    try:
        if directory >= 0:
            return contents(CONFIG, directory=directory, name=CONFIG)
        os.stat(path)
        return contents(f"{path}/{CONFIG}", name=CONFIG)
    except FileNotFoundError as error:
        if error.filename == path:
            raise Failure(f"chdir {path}: {reason(error)}") from None
        raise Failure(f"JSON specification file {CONFIG} not found") from None
    except OSError as error:
        raise Failure(f"open {error.filename}: {reason(error)}") from None


def check(spec: dict[str, Any]) -> None:
    """Judge the document: types, and what must be there. Raises InvalidSpec, which names the field."""
    document.check(spec)
    root = spec.get("root")
    if not root or not root.get("path"):
        raise InvalidSpec("root.path: root must be specified")
    process = spec.get("process")
    if process is None:
        raise InvalidSpec("process: process property must not be empty")
    if not process.get("args"):
        raise InvalidSpec("process.args: args must not be empty")
    if not process.get("cwd"):
        raise InvalidSpec("process.cwd: Cwd property must not be empty")
    if not process["cwd"].startswith("/"):
        raise InvalidSpec(f"process.cwd: Cwd must be an absolute path, not {process['cwd']!r}")
