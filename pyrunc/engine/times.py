"""Times as users write them in filters."""

import re
import time
from datetime import datetime

from pyrunc.errors import InvalidSpec
from pyrunc.spec.image import nanoseconds

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_FORMS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d")


def moment_ns(text: str) -> int:
    """Read a Unix time, a date or time (local where it names no zone), or a duration such as ``1h30m`` ago.

    Raises ValueError with Docker's words.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 10**9)
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time_ns() - sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
    try:
        return nanoseconds(text, "time")
    except InvalidSpec:
        pass
    for form in _FORMS:
        try:
            return int(datetime.strptime(text, form).timestamp()) * 10**9
        except ValueError:
            continue
    raise ValueError(f'failed to parse value as time or duration: "{text}"')
