"""A bundle: the directory with `config.json`, read and judged before anything is made of it."""

from __future__ import annotations

import os

from pyrunc.errors import InvalidSpec
from pyrunc.oci.log import Failure, reason
from pyrunc.records import NamedTuple, loads
from pyrunc.runtime import caller
from pyrunc.spec import document

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

_MAX_SIZE = 16 << 20
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
    text = _text(path, directory)
    try:
        spec = loads(text)
    except RecursionError:
        raise Failure(f"{CONFIG}: nested too deeply") from None
    except ValueError as error:
        raise Failure(f"{CONFIG}: {str(error)[:1].lower()}{str(error)[1:]}") from None
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


def _text(path: str, directory: int) -> str:
    try:
        if directory >= 0:
            opened = caller.opened(CONFIG, directory)
        else:
            os.stat(path)
            opened = caller.opened(f"{path}/{CONFIG}")
    except FileNotFoundError as error:
        if error.filename == path:
            raise Failure(f"chdir {path}: {reason(error)}") from None
        raise Failure(f"JSON specification file {CONFIG} not found") from None
    except OSError as error:
        raise Failure(f"open {error.filename}: {reason(error)}") from None
    try:
        data = _all(opened)
    except OSError as error:
        raise Failure(f"read {CONFIG}: {reason(error)}") from None
    finally:
        os.close(opened)
    if len(data) > _MAX_SIZE:
        raise InvalidSpec(f"{CONFIG}: more than {_MAX_SIZE} bytes")
    # What is no UTF-8 becomes U+FFFD, as Go reads it.
    return data.decode("utf-8", "replace")


def _all(fd: int) -> bytes:
    data = b""
    while chunk := os.read(fd, 1 << 20):
        data += chunk
        if len(data) > _MAX_SIZE:
            break
    return data


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
