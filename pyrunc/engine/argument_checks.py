"""Kinds of arguments that are texts and lists of them: whoever gives another is told so by name."""

from pyrunc.errors import InvalidArgument
from pyrunc.runtime.option_checks import refuse

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def check_text(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no text."""
    if not isinstance(value, str):
        raise refuse(what, "a text", value)


def check_argv(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no list of texts, and not None."""
    if value is not None and not (
        isinstance(value, list | tuple) and all(isinstance(each, str) and "\0" not in each for each in value)
    ):
        raise refuse(what, "a list of texts without NUL", value)


def pairs(filters: "Iterable[tuple[str, str]]") -> "list[tuple[str, str]]":
    """*filters* as a list. Raises InvalidArgument for what are no pairs of texts."""
    found: list[Any] = [] if isinstance(filters, str | dict) else list(filters)
    wrong = [each for each in found if len(each) != 2 or {type(part) for part in each} != {str}]
    if isinstance(filters, str | dict) or wrong:
        raise InvalidArgument(f'filters must be pairs, such as ("status", "exited"), not {filters!r}')
    return found
