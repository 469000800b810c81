"""Times as users write them in filters."""

import re
import time
from datetime import datetime

from pyrunc.errors import InvalidArgument, InvalidSpec
from pyrunc.spec.durations import parse_duration
from pyrunc.spec.image import nanoseconds

_FORMS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d")


def moment_ns(text: str) -> int:
    """Read a Unix time, a date or time (local where it names no zone), or a duration such as ``1h30m`` ago.

    Raises ValueError with Docker's words.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 10**9)
    try:
        return time.time_ns() - parse_duration(text)
    except InvalidArgument:
        pass
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
