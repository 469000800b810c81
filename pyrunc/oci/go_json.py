"""JSON as Go's encoder writes it, so that what is printed is the same text: `<`, `>` and `&` are escaped."""

from __future__ import annotations

from pyrunc.records import quoted

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

_ESCAPED = {
    **{chr(code): f"\\u{code:04x}" for code in (*range(0x20), ord("<"), ord(">"), ord("&"), 0x2028, 0x2029)},
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    '"': '\\"',
    "\\": "\\\\",
    **{chr(code): "\\ufffd" for code in range(0xDC80, 0xDD00)},
}


def text(value: str) -> str:
    """A string in quotes; bytes that are no UTF-8, surrogates here, become the replacement character."""
    if not any(character in _ESCAPED for character in value):
        return quoted(value)
    return '"' + "".join(_ESCAPED.get(character, character) for character in value) + '"'


def exact_text(value: str) -> str:
    """The same, but bytes that are no UTF-8 stay what they are: of a path, which is to be found again."""
    found = quoted(value)
    for character in "<>&\u2028\u2029":
        if character in found:
            found = found.replace(character, f"\\u{ord(character):04x}")
    return found


def compact(value: Any) -> str:
    """*value* on one line, without spaces."""
    return _encode(value, "", "")


def indented(value: Any, step: str = "  ") -> str:
    """*value* over several lines, each level indented by *step* more."""
    return _encode(value, step, "\n")


def _encode(value: Any, step: str, start: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    inner = start + step if start else ""
    colon = ": " if start else ":"
    if isinstance(value, dict):
        parts = [text(key) + colon + _encode(member, step, inner) for key, member in value.items()]
        first, last = "{", "}"
    else:
        parts = [_encode(member, step, inner) for member in value]
        first, last = "[", "]"
    if not parts:
        return first + last
    return first + inner + ("," + inner).join(parts) + start + last
