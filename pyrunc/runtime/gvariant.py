"""Values of D-Bus as people write them, GVariant's text: `true`, `uint64 5`, `'name'`, `['a.service']`, `@as []`.

Source: GLib documentation, "GVariant Text Format".
"""

from __future__ import annotations

from pyrunc.runtime import dbus

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

_TYPES = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t",
    "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NUMBERS = {"y": (0, 8), "n": (1, 16), "q": (0, 16), "i": (1, 32), "u": (0, 32), "x": (1, 64), "t": (0, 64)}


def parse(text: str) -> tuple[str, Any]:
    """The signature and the value of *text*. Raises ValueError."""
    parser = _Parser(text)
    found = parser.value("")
    if parser.peek():
        raise ValueError(f"unexpected {parser.text[parser.at :]!r}")
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, wanted: str) -> bool:
        if self.peek() != wanted:
            return False
        self.at += 1
        return True

    def word(self, letters: frozenset[str]) -> str:
        start = self.at
        while self.text[self.at : self.at + 1] in letters and self.at < len(self.text):
            self.at += 1
        return self.text[start : self.at]

    def value(self, wanted: str) -> tuple[str, Any]:
        """A value of the type *wanted*, or of whichever it is where that is ""."""
        first = self.peek()
        if first == "@":
            self.at += 1
            named = self.word(_WORD | frozenset("(){}"))
            if dbus.split(named) != [named]:
                raise ValueError(f"{named!r} is not the type of one value")
            return self.value(_agreed(wanted, named))
        if first in ("'", '"'):
            return (wanted if wanted in ("o", "g") else _agreed(wanted, "s")), self._string(first)
        if first == "[":
            return self._array(wanted)
        if first == "(":
            return self._tuple(wanted)
        if first == "<":
            self.at += 1
            inner = self.value("")
            if not self.take(">"):
                raise ValueError("a variant has no end")
            return _agreed(wanted, "v"), inner
        word = self.word(_WORD)
        if word in _TYPES:
            return self.value(_agreed(wanted, _TYPES[word]))
        if word in ("true", "false"):
            return _agreed(wanted, "b"), word == "true"
        return _number(word, wanted)

    def _string(self, quote: str) -> str:
        self.at += 1
        out = []
        while (character := self.text[self.at : self.at + 1]) != quote:
            if not character:
                raise ValueError("a string has no end")
            self.at += 1
            if character == "\\":
                character = self._escape()
            out.append(character)
        self.at += 1
        return "".join(out)

    def _escape(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        digits = {"u": 4, "U": 8}.get(letter)
        if digits is None:
            return _ESCAPES.get(letter, letter)
        code = self.text[self.at : self.at + digits]
        self.at += digits
        return chr(int(code, 16))

    def _array(self, wanted: str) -> tuple[str, list[Any]]:
        if wanted and wanted[0] != "a":
            raise ValueError(f"an array where {wanted!r} is wanted")
        self.at += 1
        kind = wanted[1:]
        found: list[Any] = []
        while not self.take("]"):
            if found and not self.take(","):
                raise ValueError("an array has no end")
            kind, value = self.value(kind)
            found.append(value)
        if not kind:
            raise ValueError("an empty array does not say of what it is")
        return f"a{kind}", found

    def _tuple(self, wanted: str) -> tuple[str, tuple[Any, ...]]:
        if wanted and wanted[0] != "(":
            raise ValueError(f"a tuple where {wanted!r} is wanted")
        self.at += 1
        kinds = dbus.split(wanted[1:-1]) if wanted else []
        found: list[tuple[str, Any]] = []
        while not self.take(")"):
            if (found and not self.take(",")) or not self.peek():
                raise ValueError("a tuple has no end")
            if not self.take(")"):
                found.append(self.value(kinds[len(found)] if len(found) < len(kinds) else ""))
                continue
            break
        kind = f"({''.join(kind for kind, _ in found)})"
        return _agreed(wanted, kind), tuple(value for _, value in found)


def _agreed(wanted: str, found: str) -> str:
    if wanted not in ("", found):
        raise ValueError(f"{found!r} where {wanted!r} is wanted")
    return found


def _number(word: str, wanted: str) -> tuple[str, Any]:
    if not word:
        raise ValueError("there is no value")
    if wanted == "d" or (
        not wanted and not word.lower().startswith(("0x", "-0x")) and word.strip("+-0123456789")
    ):
        return "d", float(word)
    kind = wanted or "i"
    if kind not in _NUMBERS:
        raise ValueError(f"{word!r} where {wanted!r} is wanted")
    digits = word.lstrip("+-")
    # As C has it: 010 is eight.
    base = 8 if len(digits) > 1 and digits[0] == "0" and digits.isdigit() else 0
    number = int(word, base)
    signed, bits = _NUMBERS[kind]
    low, high = (-1 << (bits - 1), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise ValueError(f"{word} is out of the range of {kind!r}")
    return kind, number
