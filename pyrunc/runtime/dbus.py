"""D-Bus messages as bytes: what is said to systemd is laid out here, and sent by `_native/systemd`.

Our own and not a library's, since a cold start has neither the time (jeepney imports enum, typing and re: 35 ms) nor
the path (Python runs without site-packages) for one.

Source: D-Bus Specification, "Marshaling (Wire Format)" and "Message Protocol".
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Code, size and alignment of what has a fixed length.
_FIXED = {
    "y": ("B", 1), "b": ("I", 4), "n": ("h", 2), "q": ("H", 2), "i": ("i", 4), "u": ("I", 4), "x": ("q", 8),
    "t": ("Q", 8), "d": ("d", 8),
}  # fmt: skip
_ALIGNED = {"s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "{": 8, "v": 1}
_CALL = 1
# Header fields, by their numbers.
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8

BLANK = object()
"""In the place of a "u" that is filled in later; `Message.blank` says where."""


def split(signature: str) -> list[str]:
    """The single complete types of *signature*. Raises ValueError where it has none."""
    found = []
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        found.append(signature[at:end])
        at = end
    return found


def _end(signature: str, at: int) -> int:
    """Behind the complete type that begins at *at*."""
    code = signature[at : at + 1]
    if code == "a":
        return _end(signature, at + 1)
    if code in ("(", "{"):
        close = ")" if code == "(" else "}"
        at += 1
        while signature[at : at + 1] != close:
            at = _end(signature, at)
        return at + 1
    if code and (code in _FIXED or code in "sogv"):
        return at + 1
    raise ValueError(f"{signature!r} is no signature of D-Bus")


class Message:
    """Bytes that grow, little-endian, each value at its alignment."""

    __slots__ = ("blank", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self.blank = 0

    def align(self, size: int) -> None:
        """Fill up to a multiple of *size*."""
        self.data += bytes(-len(self.data) % size)

    def put(self, signature: str, value: Any) -> None:
        """Append a value of one complete type; that of a variant is a pair of its signature and itself.

        Raises ValueError, TypeError or struct.error for a value that has not that type.
        """
        code = signature[0]
        if code in _FIXED:
            letter, size = _FIXED[code]
            self.align(size)
            if value is BLANK:
                self.blank = len(self.data)
                value = 0
            self.data += struct.pack(f"<{letter}", bool(value) if code == "b" else value)
        elif code == "v":
            self.put("g", value[0])
            self.put(value[0], value[1])
        elif code in "sog":
            text = value.encode("utf-8", "surrogateescape")
            if b"\0" in text:
                raise ValueError("a string of D-Bus holds no NUL")
            self.put("y" if code == "g" else "u", len(text))
            self.data += text + b"\0"
        elif code == "a":
            self._put_array(signature[1:], value)
        else:
            self.align(8)
            for kind, member in zip(split(signature[1:-1]), value, strict=True):
                self.put(kind, member)

    def _put_array(self, kind: str, values: Sequence[Any]) -> None:
        self.put("u", 0)
        length_at = len(self.data) - 4
        self.align(_FIXED[kind[0]][1] if kind[0] in _FIXED else _ALIGNED[kind[0]])
        start = len(self.data)
        for value in values:
            self.put(kind, value)
        self.data[length_at : length_at + 4] = struct.pack("<I", len(self.data) - start)


def call(
    serial: int, destination: str, path: str, interface: str, member: str, signature: str = "", *values: Any
) -> Message:
    """A method's call, whole; its `blank` is where the only BLANK of *values* goes, from the message's beginning."""
    body = Message()
    for kind, value in zip(split(signature), values, strict=True):
        body.put(kind, value)
    fields: list[tuple[int, tuple[str, str]]] = [
        (_PATH, ("o", path)),
        (_INTERFACE, ("s", interface)),
        (_MEMBER, ("s", member)),
        (_DESTINATION, ("s", destination)),
    ]
    if signature:
        fields.append((_SIGNATURE, ("g", signature)))
    message = Message()
    for kind, value in zip("yyyyuu", (ord("l"), _CALL, 0, 1, len(body.data), serial), strict=True):
        message.put(kind, value)
    message.put("a(yv)", fields)
    message.align(8)
    if body.blank:
        message.blank = len(message.data) + body.blank
    message.data += body.data
    return message
