"""The command line of pyrunc-oci, read as runc's is read.

What is a flag and what is not follows Go's `flag` package and the `cli` package that runc uses, since scripts and
engines rely on it: `-flag` is `--flag`, a value follows as the next argument or behind `=`, a boolean has a value
only behind `=`, `--` ends the flags, and flags may follow the arguments (not for `exec` and `ps`, whose arguments
have flags of their own). There is no parser of the standard library here: argparse costs more than a whole verb.
"""

from __future__ import annotations

import os

from pyrunc.oci.grammar import BOOL, DURATION, GLOBAL, INT, NUMBERS, SLICE, STRING, VERBS, Flag
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

    Value = bool | int | str | list[str]

NAME = "pyrunc-oci"

_MOST_PRESERVED = 1 << 20  # OCI_MAX_PRESERVED in pyrunc/_native/plan_oci.pxd
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_HELP = Flag(("help", "h"), BOOL)
_EMPTY: dict[int, Value] = {BOOL: False, STRING: "", INT: 0}
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def absolute(path: str) -> str:
    """*path* from the root on; "" for ""."""
    return os.path.abspath(path) if path else ""


class Options(NamedTuple):
    """The global options."""

    root: str = ""
    """"" where none was given; see `pyrunc.oci.state` for what that means."""
    log: str = ""
    log_format: str = "text"
    debug: bool = False
    systemd_cgroup: bool = False
    rootless: str = "auto"
    criu: str = "criu"


class BadUsage(Exception):
    """A command line that cannot be read.

    *message* is what is logged. *verb* is that whose usage is shown ("" for that of the whole program, None for
    none), after a first line *headline*. *options* are the global ones, where the mistake comes behind them.
    """

    options: Options | None = None

    def __init__(self, message: str, verb: str | None, headline: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.verb = verb
        self.headline = headline
        self.exit_code = exit_code


class Command(NamedTuple):
    """A command line that was understood."""

    options: Options
    verb: str
    """A key of `pyrunc.oci.grammar.VERBS`; "help" with the verb (or nothing) in *arguments*; "version"."""
    arguments: list[str]
    values: dict[str, Value]
    """Of every flag of the verb, by its long name: a default where it was not given."""
    given: frozenset[str]
    """The long names of the flags that were given."""
    raw: tuple[str, ...] = ()
    """The whole command line, without the program's name."""
    front_door: str = ""
    """The path of the executable that was called, which does the act of creating."""

    def flag(self, name: str) -> bool:
        """The value of a boolean flag."""
        return bool(self.values[name])

    def text(self, name: str) -> str:
        """The value of a flag that is a string."""
        return str(self.values[name])

    def path(self, name: str) -> str:
        """The value of a flag that is a path, made absolute, or ""."""
        return absolute(self.text(name))

    def number(self, name: str) -> int:
        """The value of a flag that is a number, or nanoseconds for a duration."""
        found = self.values[name]
        return found if isinstance(found, int) else 0

    def texts(self, name: str) -> list[str]:
        """The values of a flag that may be given several times, those of numbers too."""
        found = self.values[name]
        return found if isinstance(found, list) else []


def preserved(count: int) -> int:
    """*count*, the descriptors that the program gets beside its streams; raises Failure for what nobody has open."""
    if not 0 <= count <= _MOST_PRESERVED:
        from pyrunc.oci.log import Failure

        raise Failure(f"invalid number of descriptors to preserve: {count}")
    return count


def parse(raw: Sequence[str], front_door: str = "") -> Command:
    """Read a whole command line, without the program's name.

    Raises BadUsage for what runc refuses before it looks at a container.
    """
    try:
        found, given, rest = _read(GLOBAL, list(raw))
    except ValueError as error:
        raise BadUsage(str(error), "", f"Incorrect Usage. {error}") from None
    options = Options(
        str(found["root"]),
        str(found["log"]),
        str(found["log-format"]),
        bool(found["debug"]),
        bool(found["systemd-cgroup"]),
        str(found["rootless"]),
        str(found["criu"]),
    )
    if found["help"] or found["version"] or not rest:
        only_version = found["version"] and not found["help"]
        return Command(options, "version" if only_version else "help", [], {}, given)
    try:
        return _parse_verb(options, rest[0], rest[1:])._replace(raw=tuple(raw), front_door=front_door)
    except BadUsage as error:
        error.options = options
        raise


def _parse_verb(options: Options, name: str, arguments: list[str]) -> Command:
    if name in ("help", "h"):
        if arguments and arguments[0] not in VERBS:
            raise BadUsage(f"No help topic for '{arguments[0]}'\n", None, "", 3)
        return Command(options, "help", arguments[:1], {}, frozenset())
    if name not in VERBS:
        raise BadUsage(f"No help topic for '{name}'\n", None, "", 3)
    verb = VERBS[name]
    known = (*verb.flags, _HELP)
    try:
        values, given, arguments = _read(known, _reordered(known, arguments) if verb.reorder else arguments)
    except ValueError as error:
        raise BadUsage(str(error), name, f"Incorrect Usage: {error}") from None
    if values.pop("help"):
        return Command(options, "help", [name], {}, given)
    _count(name, len(arguments), verb.least, verb.most)
    return Command(options, name, arguments, values, given)


def _count(verb: str, found: int, least: int, most: int | None) -> None:
    """Check how many arguments a verb has, in runc's words."""
    if least == most:
        if found == least:
            return
        wanted = f"exactly {least}"
    elif found < least:
        wanted = f"a minimum of {least}"
    elif most is not None and found > most:
        wanted = f"a maximum of {most}"
    else:
        return
    raise BadUsage(f'{NAME}: "{verb}" requires {wanted} argument(s)', verb, "Incorrect Usage.")


def _reordered(flags: Sequence[Flag], arguments: list[str]) -> list[str]:
    """Put flags before arguments, each with the argument behind it, which may be its value."""
    names = {name for flag in flags for name in flag.names}
    first, last = [], []
    value_may_follow = False
    for index, argument in enumerate(arguments):
        if argument == "--":
            last += arguments[index:]
            break
        known = len(argument) > 1 and argument[0] == "-" and _bare(argument) in names
        if known:
            first.append(argument)
            value_may_follow = "=" not in argument
        elif value_may_follow:
            # Behind a boolean too: `kill x --all KILL` is read as `kill --all KILL x`, as runc reads it.
            value_may_follow = False
            first.append(argument)
        else:
            last.append(argument)
    return first + last


def _bare(argument: str) -> str:
    dashes = 2 if argument.startswith("--") else 1
    return argument[dashes:].partition("=")[0]


def _read(flags: Sequence[Flag], arguments: list[str]) -> tuple[dict[str, Value], frozenset[str], list[str]]:
    """Take the flags from the front of *arguments*; gives values, the long names given, and what is left."""
    by_name = {name: flag for flag in flags for name in flag.names}
    values: dict[str, Value] = {}
    spelled: dict[str, str] = {}
    place = 0
    while place < len(arguments):
        argument = arguments[place]
        if len(argument) < 2 or argument[0] != "-":
            break
        place += 1
        if argument == "--":
            break
        body = argument[2:] if argument[1] == "-" else argument[1:]
        if not body or body[0] in "-=":
            raise ValueError(f"bad flag syntax: {argument}")
        name, has_value, value = body.partition("=")
        if name not in by_name:
            raise ValueError(f"flag provided but not defined: -{name}")
        flag = by_name[name]
        long = flag.names[0]
        if flag.kind == BOOL:
            if has_value and value not in _TRUE and value not in _FALSE:
                raise ValueError(f"invalid boolean value {quote(value)} for -{name}: parse error")
            values[long] = not has_value or value in _TRUE
        else:
            if not has_value:
                if place == len(arguments):
                    raise ValueError(f"flag needs an argument: -{name}")
                value = arguments[place]
                place += 1
            _keep(values, flag, name, value)
        other = spelled.setdefault(long, name)
        if other != name:
            earlier, later = sorted((other, name), key=flag.names.index)
            raise ValueError(f"Cannot use two forms of the same flag: {later} {earlier}")
    given = frozenset(values)
    for flag in flags:
        if flag.names[0] not in values:
            default = _EMPTY.get(flag.kind, 0) if flag.default is None else flag.default
            values[flag.names[0]] = [] if flag.kind in (SLICE, NUMBERS) else default
    return values, given, arguments[place:]


def _keep(values: dict[str, Value], flag: Flag, name: str, text: str) -> None:
    if flag.kind == STRING:
        values[flag.names[0]] = text
        return
    if flag.kind in (SLICE, NUMBERS):
        if flag.kind == NUMBERS:
            try:
                decimal(text)
            except ValueError as error:
                raise ValueError(f"invalid value {quote(text)} for flag -{name}: {error}") from None
        kept = values.setdefault(flag.names[0], [])
        assert isinstance(kept, list)
        kept.append(text)
        return
    try:
        values[flag.names[0]] = integer(text) if flag.kind == INT else duration_ns(text)
    except OverflowError:
        raise ValueError(f"invalid value {quote(text)} for flag -{name}: value out of range") from None
    except ValueError:
        raise ValueError(f"invalid value {quote(text)} for flag -{name}: parse error") from None


def decimal(text: str, low: int = -(1 << 63), high: int = (1 << 63) - 1) -> int:
    """Read a decimal number, unsigned where *low* is 0; raises ValueError in the words of Go's strconv."""
    parsed = f"strconv.{'ParseInt' if low else 'ParseUint'}: parsing {quote(text)}"
    digits = text[1:] if low and text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f"{parsed}: invalid syntax")
    if not low <= int(text) <= high:
        raise ValueError(f"{parsed}: value out of range")
    return int(text)


def integer(text: str, bits: int = 64, signed: bool = True) -> int:
    """Read a number as Go's strconv.ParseInt with base 0 does: 0x, 0o, 0b and a leading 0 say the base.

    Raises ValueError for anything else, OverflowError for one that has more than *bits* bits.
    """
    sign, digits = (text[0], text[1:]) if signed and text[:1] in ("+", "-") else ("", text)
    # int() accepts spaces, digits of other scripts, and a second sign.
    if not digits[:1].isdigit() or not digits.isascii() or not digits.replace("_", "").isalnum():
        raise ValueError(text)
    if digits[0] == "0" and len(digits) > 1 and digits[1] in "01234567_":
        digits = "0o" + digits[1:].lstrip("_")
    number = int(sign + digits, 0)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise OverflowError(text)
    return number


def duration_ns(text: str) -> int:
    """Read a duration such as `1m30s` or `1.5s`, as Go's time.ParseDuration does; gives nanoseconds.

    Raises ValueError.
    """
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = 0
    if not rest or not rest.replace("µ", "u").replace("μ", "u").isascii():
        raise ValueError(text)
    while rest:
        number = rest[: _run(rest, "0123456789.")]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        rest = rest[len(unit) :]
        whole, point, part = number.partition(".")
        if (
            unit not in _NANOSECONDS
            or "." in part
            or not (whole or part)
            or (point and not number.strip("."))
        ):
            raise ValueError(text)
        total += int(whole or 0) * _NANOSECONDS[unit]
        total += int(part or 0) * _NANOSECONDS[unit] // 10 ** len(part)
    if total >= 1 << 63:
        raise ValueError(text)
    return sign * total


def _run(text: str, characters: str) -> int:
    return len(text) - len(text.lstrip(characters))


def quote(text: str) -> str:
    """*text* in double quotes, as Go's %q writes it; bytes that are no UTF-8, surrogates here, in hexadecimal."""
    parts = []
    for character in text:
        code = ord(character)
        if character in '"\\':
            parts.append("\\" + character)
        elif 0xDC80 <= code <= 0xDCFF:
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable() and not (character.isspace() and character != " "):
            parts.append(character)
        elif character in _ESCAPES:
            parts.append(_ESCAPES[character])
        else:
            parts.append(
                f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
            )
    return '"' + "".join(parts) + '"'


_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}

__all__ = [
    "DURATION",
    "NAME",
    "BadUsage",
    "Command",
    "Options",
    "absolute",
    "decimal",
    "duration_ns",
    "integer",
    "parse",
    "quote",
]
