"""Flags as Docker's client reads them: ``--name value``, ``--name=value``, ``-abc``, ``-fvalue``, ``--yes=false``.

Source: the behaviour of github.com/spf13/pflag, observed with Docker's client.
"""

from __future__ import annotations

from pyrunc.cli import units

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class UsageError(Exception):
    """The command line cannot be read; exit code 125. *hint* is the command's usage, to be said below."""

    exit_code = 125
    hint = ""


class Refused(Exception):
    """A flag, or a value of one, that pyrunc knows and does not do: its name and the reason; exit code 125."""

    exit_code = 125


class Flag:
    """One flag. *names* are such as ``-f --filter``; *kind* is Docker's word for its value, "" for a bool.

    Kinds whose value is a list collect every use. *refused* is the reason why pyrunc does not do what it asks for.
    *reader* takes the place of what reads values of that kind. A command's function has its value as *name*.
    """

    __slots__ = ("_reader", "fallback", "kind", "long", "name", "names", "refused", "short", "shown", "text")

    def __init__(
        self, names: str, kind: str = "", text: str = "", *, default: Any = None, refused: str = "", shown: bool = True,
        reader: Callable[[str], Any] | None = None,
    ) -> None:  # fmt: skip
        self.names = names.split()
        self.short = ""
        if self.names[0][1] != "-":
            self.short = self.names[0]
        self.long = self.names[1 if self.short else 0]
        self.name = self.long[2:].replace("-", "_")
        self._reader = reader or _READERS.get(kind, str)
        self.kind = kind
        self.refused = refused
        self.shown = shown
        self.fallback = default
        self.text = text

    @property
    def label(self) -> str:
        """``-f, --filter``, as errors have it."""
        return f"{self.short}, {self.long}" if self.short else self.long

    @property
    def listed(self) -> bool:
        """Whether every use of it counts."""
        return self.kind in _LISTS

    def begin(self) -> Any:
        """The value before any use."""
        if self.fallback is not None:
            return self.fallback
        return [] if self.listed else {"": False, "string": ""}.get(self.kind)

    def read(self, text: str) -> Any:
        """The value of *text*. Raises UsageError with Docker's words."""
        try:
            return self._reader(text)
        except ValueError as exc:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            raise UsageError(f'invalid argument "{quoted}" for "{self.label}" flag: {exc}') from exc


def parse(
    flags: Sequence[Flag], words: Sequence[str], interspersed: bool = True
) -> tuple[dict[str, Any], list[str], set[str]]:
    """The values of *flags* by name, the arguments, and the names of the flags that were used.

    Without *interspersed* the first argument ends the flags, as for a program's own arguments.
    Raises UsageError or Refused.
    """
    known = {name: flag for flag in flags for name in flag.names}
    values = {flag.name: flag.begin() for flag in flags}
    used: set[str] = set()
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += left
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not interspersed:
                rest += left
                break
        elif word.startswith("--"):
            _long(word, left, known, values, used)
        else:
            _short(word, left, known, values, used)
    return values, rest, used


def _long(word: str, left: list[str], known: dict[str, Flag], values: dict[str, Any], used: set[str]) -> None:
    name, equals, text = word.partition("=")
    flag = known.get(name)
    if flag is None or len(name) < 3:
        raise UsageError(f"bad flag syntax: {word}" if name in ("--", "---") else f"unknown flag: {name}")
    if not equals:
        if flag.kind == "":
            text = "true"
        elif left:
            text = left.pop(0)
        else:
            raise UsageError(f"flag needs an argument: {name}")
    _set(flag, text, values, used)


def _short(
    word: str, left: list[str], known: dict[str, Flag], values: dict[str, Any], used: set[str]
) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = known.get(f"-{letter}")
        if flag is None:
            raise UsageError(f"unknown shorthand flag: '{letter}' in -{letter}{letters}")
        if letters.startswith("="):
            _set(flag, letters[1:], values, used)
            return
        if flag.kind == "":
            _set(flag, "true", values, used)
        elif letters:
            _set(flag, letters, values, used)
            return
        elif left:
            _set(flag, left.pop(0), values, used)
        else:
            raise UsageError(f"flag needs an argument: '{letter}' in -{letter}")


def _set(flag: Flag, text: str, values: dict[str, Any], used: set[str]) -> None:
    if flag.kind == "filter" and not text:
        return  # as with docker, for scripts that may have none
    value = flag.read(text)
    if flag.refused and value is not False:
        raise Refused(f"{flag.long}: {flag.refused}")
    name = flag.name
    if flag.listed:
        values[name] = [*values[name], *(value if isinstance(value, list) else [value])]
    else:
        values[name] = value
    used.add(name)


def _bool(text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _integer(kind: str, low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise ValueError(f'strconv.{kind}: parsing "{text}": invalid syntax') from None
        if not low <= value <= high:
            raise ValueError(f'strconv.{kind}: parsing "{text}": value out of range')
        return value

    return read


def _decimal(text: str) -> float:
    import re  # which no other flag needs

    if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) is None:
        raise ValueError(f"failed to parse {text} as a rational number")
    return float(text)


def _bytes(text: str) -> int:
    return -1 if text == "-1" else units.memory(text)


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def _map(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name:
        raise ValueError(f"invalid argument: {text}")
    return name, value if equals else ""


_LISTS = frozenset(("list", "strings", "filter", "map", "ulimit", "mount", "network", "gpu-request"))
_READERS: dict[str, Callable[[str], Any]] = {
    "": _bool, "bytes": _bytes, "decimal": _decimal, "filter": _filter, "map": _map,
    "int": _integer("ParseInt", -(1 << 63), (1 << 63) - 1), "uint": _integer("ParseUint", 0, (1 << 64) - 1),
    "uint16": _integer("ParseUint", 0, 65535), "strings": lambda text: text.split(","),
}  # fmt: skip
