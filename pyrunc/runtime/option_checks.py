"""What a value must be before anything is built from it: one function per kind, each naming the option.

All raise InvalidArgument. They run once for each Sandbox, so that no value of a wrong type or size gets as far
as the packing of a plan.
"""

from __future__ import annotations

import _socket
import os
from _collections_abc import Iterable, Mapping, Sequence  # collections.abc would import all of collections

from pyrunc.errors import InvalidArgument

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[object, str], Any]

INT64 = (1 << 63) - 1
MAX_ID = 0xFFFF_FFFE
_SHOWN = 100


def refuse(option: str, wanted: str, value: object) -> InvalidArgument:
    """The error for *value*, which is shown shortened."""
    shown = repr(value)
    return InvalidArgument(
        f"{option} must be {wanted}, not {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}"
    )


def integer(low: int, high: int = INT64) -> Check:
    """An integer of *low*..*high*; a bool is none."""

    def check(value: object, option: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise refuse(option, f"an integer from {low} to {high}", value)
        return value

    return check


def number(low: float, high: float) -> Check:
    """A finite number of *low*..*high*."""

    def check(value: object, option: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise refuse(option, f"a number from {low} to {high}", value)
        return value

    return check


def size(value: object, option: str) -> tuple[int, int]:
    """Rows and columns of a terminal."""
    fits = isinstance(value, tuple) and len(value) == 2
    if not fits or not all(type(part) is int and 0 <= part <= 0xFFFF for part in value):  # type: ignore[attr-defined]
        raise refuse(option, "two integers from 0 to 65535, rows and columns", value)
    return value  # type: ignore[return-value]


def flag(value: object, option: str) -> bool:
    """True or False, and nothing that only behaves so."""
    if not isinstance(value, bool):
        raise refuse(option, "True or False", value)
    return value


def one_of(*choices: str) -> Check:
    """One of a few words."""

    def check(value: object, option: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise refuse(option, " or ".join(map(repr, choices)), value)
        return value

    return check


def text(value: object, option: str) -> str:
    """A string that can reach the kernel: no NUL, and nothing that has no bytes."""
    if not isinstance(value, str):
        raise refuse(option, "a string", value)
    try:
        unfit = "\0" in value or (not value.isascii() and not os.fsencode(value))
    except UnicodeEncodeError:
        unfit = True
    if unfit:
        raise refuse(option, "text without NUL characters", value)
    return value


def word(value: object, option: str) -> str:
    """A string without spaces and control characters, "" included."""
    found = text(value, option)
    if not found.isprintable() or " " in found:
        raise refuse(option, "text without spaces and control characters", value)
    return found


def name(value: object, option: str) -> str:
    """A host or domain name as the kernel holds it: at most 64 bytes (__NEW_UTS_LEN)."""
    found = word(value, option)
    if len(os.fsencode(found)) > 64:
        raise refuse(option, "at most 64 bytes", value)
    return found


def path(value: object, option: str) -> str:
    """An absolute path, at most 4095 bytes (PATH_MAX), without "..", as *option* names it."""
    found = text(value, option)
    if not found.startswith("/") or len(os.fsencode(found)) > 4095 or ".." in found.split("/"):
        raise refuse(option, "an absolute path without '..'", value)
    return found


def address(value: object, option: str) -> str:
    """An IPv4 or IPv6 address."""
    found = text(value, option)
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, found)
        except OSError:
            continue
        return found
    raise refuse(option, "an IP address", value)


def listed(item: Check) -> Check:
    """A sequence, each of whose members passes *item*."""

    def check(value: object, option: str) -> list[Any]:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise refuse(option, "a list", value)
        return [item(member, f"{option}[{index}]") for index, member in enumerate(value)]

    return check


def mapped(key: Check, item: Check) -> Check:
    """A mapping with keys that pass *key* and values that pass *item*."""

    def check(value: object, option: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise refuse(option, "a mapping", value)
        return {key(k, option): item(v, f"{option}[{k!r:.{_SHOWN}}]") for k, v in value.items()}

    return check


def environment(value: object, option: str = "env") -> dict[str, str]:
    """Variables, whose names are not empty and contain no ``=``."""
    found: dict[str, str] = mapped(text, text)(value, option)
    for key in found:
        if not key or "=" in key:
            raise refuse(option, "names without '=' and their values", key)
    return found


def changes(value: object, option: str = "env") -> dict[str, str | None]:
    """Variables for who has some; one that is None is taken away."""
    if not isinstance(value, Mapping):
        return {**environment(value, option)}
    environment({name: "" if each is None else each for name, each in value.items()}, option)
    return dict(value)


def arguments(value: object, option: str = "argv") -> Sequence[str]:
    """A program and its arguments."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise refuse(option, "a list of strings that begins with a program", value)
    for member in value:
        text(member, option)
    if not value[0]:
        raise refuse(option, "a list of strings that begins with a program", value)
    return value
