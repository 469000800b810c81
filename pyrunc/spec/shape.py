"""Checks of a document's shape, put together like the document: each takes a value and the path of its field.

A check returns nothing, or raises InvalidSpec whose message begins with the path. `null` stands, as in
Go, whose structures these documents are, for a field that is left out; unknown fields are ignored.
"""

from _collections_abc import Mapping  # collections.abc would import all of collections

from pyrunc.errors import InvalidSpec

TYPE_CHECKING = False  # typing costs 9 ms at the start of a program; type checkers take this name for theirs
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[object, str], None]
_SHOWN = 100


def refuse(field: str, wanted: str, value: object) -> InvalidSpec:
    """Return the error for *field*, which must be *wanted* and is *value*."""
    return InvalidSpec(f"{field or 'the document'}: must be {wanted}, not {repr(value)[:_SHOWN]}")


def text(value: object, field: str) -> None:
    """A string that can be passed to the kernel."""
    if not isinstance(value, str):
        raise refuse(field, "a string", value)
    try:
        unfit = b"\0" in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        unfit = True
    if unfit:
        raise refuse(field, "text without NUL characters", value)


def flag(value: object, field: str) -> None:
    """A boolean."""
    if not isinstance(value, bool):
        raise refuse(field, "true or false", value)


def integer(low: int, high: int) -> "Check":
    """An integer from *low* to *high*."""

    def check(value: object, field: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise refuse(field, f"an integer from {low} to {high}", value)

    return check


def list_of(item: "Check") -> "Check":
    """A list whose every member passes *item*."""

    def check(value: object, field: str) -> None:
        if not isinstance(value, list | tuple):
            raise refuse(field, "a list", value)
        for index, member in enumerate(value):
            item(member, f"{field}[{index}]")

    return check


def map_of(item: "Check", name: "Check" = text) -> "Check":
    """An object whose every key passes *name*, and every value *item*."""

    def check(value: object, field: str) -> None:
        if not isinstance(value, Mapping):
            raise refuse(field, "an object", value)
        for key, member in value.items():
            name(key, field)
            item(member, f"{field}[{key!r}]")

    return check


def record(**fields: "Check") -> "Check":
    """An object with these fields, each of which may be missing."""

    def check(value: object, field: str) -> None:
        if not isinstance(value, Mapping):
            raise refuse(field, "an object", value)
        for key, item in fields.items():
            member: Any = value.get(key)
            if member is not None:
                item(member, f"{field}.{key}" if field else key)

    return check
