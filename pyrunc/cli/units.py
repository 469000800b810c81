"""Sizes and times as Docker prints and reads them. Source: the formats of github.com/docker/go-units, observed."""

import time

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from datetime import datetime

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_SIZE = r"(?P<number>\d+(?:\.\d+)*|\.\d+) ?(?P<unit>[kmgtpKMGTP])?[iI]?[bB]?"
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def now() -> float:
    """Seconds since 1970; the one clock of all that is shown."""
    return time.time()


def size(count: float, digits: int = 4) -> str:
    """*count* bytes in powers of 1000 with *digits* significant digits, such as ``13.2kB``."""
    power = 0
    while count >= 1000 and power < len(_DECIMAL) - 1:
        count /= 1000
        power += 1
    return f"{count:.{digits}g}{_DECIMAL[power]}"


def memory(text: str) -> int:
    """Bytes of ``64m`` and the like, in powers of 1024. Raises ValueError with Docker's words."""
    import re  # slow, and few commands are given a size

    match = re.fullmatch(_SIZE, text)
    if match is None or match["number"].count(".") > 1:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match["number"]) * 1024 ** _POWERS[(match["unit"] or "").lower()])


def duration(seconds: float) -> str:
    """A length of time in one unit, such as ``2 weeks``."""
    whole = int(seconds)
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return f"{whole} second{'s' * (whole != 1)}"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 730:
        return f"{days // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(created_ns: int) -> str:
    """How long ago *created_ns* (nanoseconds since 1970) was; N/A where it is not known."""
    return f"{duration(now() - created_ns / 1e9)} ago" if created_ns > 0 else "N/A"


def stamp(time_ns: int) -> str:
    """``2022-03-04 00:00:00 +0000 UTC`` in the local zone."""
    return _local(time_ns).strftime("%Y-%m-%d %H:%M:%S %z %Z")


def rfc3339(time_ns: int) -> str:
    """``2022-03-04T00:00:00Z`` in the local zone."""
    return _local(time_ns).isoformat(timespec="seconds").replace("+00:00", "Z")


def _local(time_ns: int) -> "datetime":
    from datetime import UTC, datetime  # slow, and few commands show a date

    return datetime.fromtimestamp(time_ns // 10**9, UTC).astimezone()
