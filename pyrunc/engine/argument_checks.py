"""Kinds of arguments that are texts and lists of them: whoever gives another is told so by name."""

from _collections_abc import Mapping  # collections.abc would import all of collections

from pyrunc.errors import InvalidArgument
from pyrunc.runtime.option_checks import refuse

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def check_text(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no text, or none that UTF-8 can write."""
    if not isinstance(value, str):
        raise refuse(what, "a text", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise refuse(what, "a text that UTF-8 can write", value) from None


def check_path(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no path."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise refuse(what, "a path", value)


def check_texts(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no list of texts."""
    if not isinstance(value, list | tuple):
        raise refuse(what, "a list of texts", value)
    for each in value:
        check_text(what, each)


def check_argv(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no list of texts, and not None."""
    if value is not None and not (
        isinstance(value, list | tuple) and all(isinstance(each, str) and "\0" not in each for each in value)
    ):
        raise refuse(what, "a list of texts without NUL", value)


def check_document(value: object) -> None:
    """Raises InvalidArgument for what is neither one of Docker's documents nor None."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidArgument(f"a document must be an object with Docker's keys, not {value!r:.100}")


def pairs(filters: "Iterable[tuple[str, str]]") -> "list[tuple[str, str]]":
    """*filters* as a list. Raises InvalidArgument for what are no pairs of texts."""
    try:
        found: list[Any] = [] if isinstance(filters, str | bytes | dict) else list(filters)
        wrong = [each for each in found if len(each) != 2 or {type(part) for part in each} != {str}]
    except TypeError:
        found, wrong = [], [filters]
    if isinstance(filters, str | bytes | dict) or wrong:
        raise InvalidArgument(f'filters must be pairs, such as ("status", "exited"), not {filters!r}')
    return found
