"""Go's fmt.Sprintf and fmt.Sprint, for what templates hand to them."""

import re
from typing import Any

from pyrunc.cli.values import encode, shown

_DIRECTIVE = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+)?(?:\.(?P<precision>\d*))?(?P<verb>.)?", re.DOTALL
)
_GO_TYPES = {str: "string", int: "int", float: "float64", bool: "bool"}
_INTEGERS = {"d": "d", "x": "x", "X": "X", "o": "o", "b": "b"}
_FLOATS = "eEfFgG"


def spaced(values: tuple[Any, ...]) -> str:
    """Go's Sprint: a space between two operands when neither is a string."""
    out = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out.append(" ")
        out.append(shown(value))
    return "".join(out)


def printf(template: Any, *values: Any) -> str:
    """Go's Sprintf for %v %s %q %d %t %x %X %o %b %c %e %f %g %T and %%, with flags, width and precision."""
    if not isinstance(template, str):
        raise TypeError("the format is not a string")
    left = list(values)
    for match in _DIRECTIVE.finditer(template):
        if _too_large(match["width"]) or _too_large(match["precision"]):
            template = template[: match.start()] + "%"  # Go reads no further
            break

    def one(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb is None:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        return _padded(_value(left.pop(0), verb, match), match)

    text = _DIRECTIVE.sub(one, template)
    if left:
        text += "%!(EXTRA " + ", ".join(f"{_type(value)}={shown(value)}" for value in left) + ")"
    return text


def _too_large(digits: str | None) -> bool:
    """Whether Go gives up on a width or precision: fmt's parsenum, before it adds the last digit."""
    return int((digits or "0")[:-1][:9] or 0) > 1_000_000


def _padded(text: str, match: re.Match[str]) -> str:
    width = int(match["width"] or 0)
    if "-" in match["flags"]:
        return text.ljust(width)
    if "0" in match["flags"] and match["verb"] in (*_INTEGERS, *_FLOATS):
        return text.zfill(width)
    return text.rjust(width)


def _value(value: Any, verb: str, match: re.Match[str]) -> str:
    precision = match["precision"]
    sign = "+" if "+" in match["flags"] else ""
    if verb == "T":
        return _type(value)
    if verb == "v" and "#" in match["flags"] and isinstance(value, str):
        return encode(value)
    if verb == "v" or (verb == "s" and not isinstance(value, int | float | bool | None)):
        text = shown(value)
        return text if precision is None else text[: int(precision or 0)]
    if verb == "q" and isinstance(value, str):
        return encode(value)
    if verb == "q" and isinstance(value, list | tuple):
        return "[" + " ".join(encode(item) for item in value) + "]"
    if verb == "t" and isinstance(value, bool):
        return shown(value)
    if verb in "xX" and isinstance(value, str):
        digits = value.encode().hex()
        return digits.upper() if verb == "X" else digits
    if isinstance(value, int) and not isinstance(value, bool):
        if verb in _INTEGERS:
            return format(value, sign + _INTEGERS[verb])
        if verb == "c":
            return chr(value)
    if verb in _FLOATS and isinstance(value, float):
        places = (
            "" if precision is None and verb in "gG" else f".{precision or (0 if precision == '' else 6)}"
        )
        return format(value, f"{sign}{places}{verb}") if places else shown(value)
    return f"%!{verb}({_type(value)}={shown(value)})" if value is not None else f"%!{verb}(<nil>)"


def _type(value: Any) -> str:
    if value is None:
        return "<nil>"
    return _GO_TYPES.get(type(value)) or (
        "[]string" if isinstance(value, list | tuple) else "map[string]string"
    )
