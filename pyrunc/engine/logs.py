"""What a container has written: the json-file log, read from its end or its beginning, while it is rotated.

    <root>/containers/<id>/<id>-json.log      the latest; `.1` is the one before, `.2` the one before that

Each line is a record, `{"log": "…", "stream": "stdout", "time": "…"}`. What was read from the program without a line
feed is a record of its own, so a line of the program may be several records of its stream.

Source: Docker's json-file logging driver, recorded (tests/fixtures/docker/logs.json).
"""

import json
import os
import time

from pyrunc.engine.rotated import CHUNK, LONGEST, Pace, RotatedFile, opened
from pyrunc.errors import InvalidSpec
from pyrunc.records import NamedTuple
from pyrunc.spec.image import nanoseconds

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_LATEST = 1 << 63
_NO_DETAILS: "Mapping[str, str]" = {}


class LogEntry(NamedTuple):
    """Something that a container wrote: *data* to *stream* ("stdout", "stderr") at *time_ns* since 1970.

    *whole_line* says that it ends a line; *details* are what the log's options add.
    """

    stream: str
    data: bytes
    time_ns: int
    whole_line: bool
    details: "Mapping[str, str]" = _NO_DETAILS


def read(
    path: str, *, follow: bool = False, tail: int | None = None, since_ns: int = 0, until_ns: int | None = None,
    ended: "Callable[[], bool] | None" = None, note: "Callable[[str], object] | None" = None,
    sleep: "Callable[[float], object]" = time.sleep,
) -> "Iterator[LogEntry]":  # fmt: skip
    """The entries of the log *path* and its older files, in their order; none if there is no such file.

    *tail* begins that many lines before the end; of these, and of all, those from *since_ns* to *until_ns*
    (nanoseconds since 1970) come. With *follow* those too that are still to come, until *until_ns* has come or
    *ended* says that nothing will; it is asked up to ten times a second when idle, and what was written before it said
    so is read. *sleep* is what waits. *note* gets a line about records that are damaged, which are skipped.
    Raises InvalidArgument, at once; OSError for a file that cannot be read.
    """
    found = steps(
        path, follow=follow, tail=tail, since_ns=since_ns, until_ns=until_ns, ended=ended, note=note
    )
    return _awake(found, sleep)


def _awake(steps: "Iterator[LogEntry | float]", sleep: "Callable[[float], object]") -> "Iterator[LogEntry]":
    for step in steps:
        if isinstance(step, float):
            sleep(step)
        else:
            yield step


def steps(
    path: str, *, follow: bool = False, tail: int | None = None, since_ns: int = 0, until_ns: int | None = None,
    ended: "Callable[[], bool] | None" = None, note: "Callable[[str], object] | None" = None,
) -> "Iterator[LogEntry | float]":  # fmt: skip
    """What `read` gives, and how many seconds to wait before the next look. Raises InvalidArgument, at once."""
    for what, value, low in (
        ("tail", tail, 0),
        ("since_ns", since_ns, -_LATEST),
        ("until_ns", until_ns, -_LATEST),
    ):
        if value is not None and not (type(value) is int and value >= low):
            from pyrunc.runtime.option_checks import integer

            integer(low)(value, what)
    return _steps(path, follow, tail, since_ns, until_ns, ended, note)


def _steps(
    path: str, follow: bool, tail: int | None, since_ns: int, until_ns: int | None,
    ended: "Callable[[], bool] | None", note: "Callable[[str], object] | None",
) -> "Iterator[LogEntry | float]":  # fmt: skip
    files = opened(path)
    try:
        if tail is not None:
            _seek(files, tail)
        file = RotatedFile(path, files)
    except BaseException:
        for fd in files:
            os.close(fd)
        raise
    with file:
        moment = _Moments()
        pace = Pace()
        damaged = said = 0
        while True:
            late = until_ns is not None and time.time_ns() > until_ns
            over = not follow or late or (ended is not None and ended())
            for line in file.lines(go_on=follow):
                entry = _parse(line, moment)
                if entry is None:
                    damaged += 1
                    continue
                pace.reset()
                if until_ns is not None and entry.time_ns > until_ns:
                    return
                if entry.time_ns >= since_ns:
                    yield entry
            if note is not None and file.skipped + damaged > said:
                new = file.skipped + damaged - said
                note(f"{path}: {new} damaged record{' was' if new == 1 else 's were'} skipped")
                said = file.skipped + damaged
            if over:
                return
            yield pace.next_s(until_ns)


class _Moments:
    """Reads times; those of one second have the same beginning."""

    def __init__(self) -> None:
        self._second, self._ns = "", 0

    def read(self, text: str) -> int:
        """Nanoseconds since 1970 of ``2026-01-02T03:04:05.123456789Z``. Raises ValueError."""
        if text[:19] != self._second or text[-1:] != "Z":
            try:
                found = nanoseconds(text, "time")
            except InvalidSpec as exc:
                raise ValueError from exc
            if text[-1:] == "Z":
                self._second, self._ns = text[:19], found - found % 10**9
            return found
        fraction = text[20:-1]
        return self._ns + (int(fraction.ljust(9, "0")[:9]) if fraction else 0)


def _parse(line: bytes, moments: _Moments) -> LogEntry | None:
    """The entry of a record; None for what is none."""
    try:
        found = json.loads(line)
        text, stream = found["log"], found["stream"]
        moment = moments.read(found["time"])
        details = found.get("attrs") or _NO_DETAILS
        return LogEntry(
            stream if stream == "stderr" else "stdout", _bytes(text), moment, text[-1:] == "\n",
            {str(key): str(value) for key, value in details.items()} if details else _NO_DETAILS,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a pair, by its number
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text).encode()


# --- from the end


def _seek(files: "list[int]", count: int) -> None:
    """Close those of *files* that are not needed for the last *count* lines, and set the first where they begin."""
    left = _Lines(count)
    for place in range(len(files) - 1, -1, -1):
        for end, record in _backwards(files[place]):
            if left.is_before(record):
                os.lseek(files[place], end, os.SEEK_SET)
                for fd in files[:place]:
                    os.close(fd)
                del files[:place]
                return


class _Lines:
    """Counts lines, from the last record to the first."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._begun: set[str] = set()
        self._moments = _Moments()

    def is_before(self, record: bytes) -> bool:
        """Whether *record* belongs to a line before those that are wanted."""
        entry = _parse(record, self._moments)
        if entry is None:
            return self._left <= 0
        # A record without a line feed is a part of the line that was counted with the one after it, if there is one.
        if entry.whole_line or entry.stream not in self._begun:
            self._begun.add(entry.stream)
            self._left -= 1
        return self._left < 0


def _backwards(fd: int) -> "Iterator[tuple[int, bytes]]":
    """The records of a file from its last one on, each with the place after it; what no line feed ends is none."""
    position = os.fstat(fd).st_size
    end: int | None = None
    rest = b""
    while position:
        length = min(CHUNK, position)
        position -= length
        block = os.pread(fd, length, position)
        high = len(block)
        while (at := block.rfind(b"\n", 0, high)) >= 0:
            if end is not None:
                yield end, block[at + 1 : high] + rest
            end, high, rest = position + at + 1, at, b""
        # What is too long for a record is as good as its end.
        rest = (block[:high] + rest)[-LONGEST:]
    if end is not None:
        yield end, rest
