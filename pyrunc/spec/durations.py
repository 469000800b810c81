"""Durations as Go writes them, and so Docker in health checks and filters."""

from pyrunc.errors import InvalidArgument

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def parse_duration(text: str) -> int:
    """Return in nanoseconds what Go's ``1h2m3.5s`` means. Raises InvalidArgument."""
    from decimal import Decimal

    wrong = InvalidArgument(f'time: invalid duration "{text}"')
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    total = Decimal(0)
    if not rest:
        raise wrong
    while rest:
        end = next((i for i, sign in enumerate(rest) if sign not in "0123456789."), len(rest))
        number, rest = rest[:end], rest[end:]
        end = next((i for i, sign in enumerate(rest) if sign in "0123456789."), len(rest))
        unit, rest = rest[:end], rest[end:]
        if number.count(".") > 1 or not number.strip("."):
            raise wrong
        if not unit:
            raise InvalidArgument(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS_NS:
            raise InvalidArgument(f'time: unknown unit "{unit}" in duration "{text}"')
        total += Decimal(number) * _UNITS_NS[unit]
    if total >= 1 << 63:
        raise wrong
    return -int(total) if text.startswith("-") else int(total)
