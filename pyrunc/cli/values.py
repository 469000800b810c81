"""Values as Go prints and encodes them: what templates work on.

A document that came as JSON is made of dict, list, str, int, float, bool and None. What Docker has as a Go struct is a
`Struct` here: its fields keep their order, and other names of a field are found by *aliases*. A slice or a map that is
nil prints as an empty one but is `null` in JSON.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    _Fields = dict[str, Any]
    _Items = list[Any]
else:
    _Fields, _Items = dict, list


class Struct(_Fields):
    """Fields in order; *type_name* is what Go's errors call it, "" for a document that is a map to Go.

    *unset* are the values of last fields that Go prints and JSON leaves out. *aliases* are other names of fields,
    *missing* the values of fields that JSON leaves out because they are empty.
    """

    type_name = ""
    unset: tuple[Any, ...] = ()
    aliases: Mapping[str, str] = {}
    missing: Mapping[str, Any] = {}


class Method:
    """What a template calls with one argument: ``{{.Label "tier"}}``."""

    def __init__(self, call: Callable[[str], str]) -> None:
        self.call = call


class _Nil:
    """A pointer that is nil: prints otherwise than what is not there."""

    def __bool__(self) -> bool:
        return False


NIL = _Nil()


class NilSlice(_Items):
    """A slice that is nil."""


class NilMap(_Fields):
    """A map that is nil."""


def shown(value: Any) -> str:
    """*value* as Go's %v prints it."""
    if isinstance(value, str):
        return value
    if value is None or value is NIL:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Struct):
        return "{" + " ".join(shown(field) for field in (*value.values(), *value.unset)) + "}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{shown(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(shown(item) for item in value) + "]"
    return str(value)


def truth(value: Any) -> bool:
    """Whether Go's `if` takes *value* for true: structs are, empty strings, slices and maps are not."""
    return True if isinstance(value, Struct) else bool(value)


def encode(value: Any, *, escape: bool = False, indent: int = 0, level: int = 0) -> str:
    """*value* as Go's encoding/json writes it: maps sorted by key, structs in their order.

    *escape* writes <, > and & by their numbers, as Go does for HTML. *indent* is the number of spaces.
    """
    if isinstance(value, NilSlice | NilMap | _Nil) or value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value, escape)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        keys = value if isinstance(value, Struct) else sorted(value)
        colon = ": " if indent else ":"
        items = [
            f"{_string(key, escape)}{colon}{encode(value[key], escape=escape, indent=indent, level=level + 1)}"
            for key in keys
        ]
        return _joined("{", items, "}", indent, level)
    items = [encode(item, escape=escape, indent=indent, level=level + 1) for item in value]
    return _joined("[", items, "]", indent, level)


def _joined(opening: str, items: list[str], closing: str, indent: int, level: int) -> str:
    if not items or not indent:
        return opening + ",".join(items) + closing
    space = "\n" + " " * (indent * (level + 1))
    return opening + space + ("," + space).join(items) + "\n" + " " * (indent * level) + closing


_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _string(text: str, escape: bool) -> str:
    out = []
    for char in text:
        code = ord(char)
        if char in _SHORT:
            out.append(_SHORT[char])
        elif code < 0x20 or (escape and char in "<>&") or char in "\u2028\u2029":
            out.append(f"\\u{code:04x}")
        elif 0xD800 <= code <= 0xDFFF:
            out.append("\ufffd")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


def _float(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    text = repr(value).removesuffix(".0")
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent):+03d}" if exponent else text
