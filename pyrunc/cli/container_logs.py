"""`pyrunc logs`."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, complain, engine
from pyrunc.cli.verb import verb
from pyrunc.engine.logs import LogEntry
from pyrunc.engine.times import moment_ns

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMS = "(e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)"
_MOST = 1 << 16  # bytes that are held back while the stream stays the same


@verb(
    "logs CONTAINER", "Fetch the logs of a container",
    Flag("--details", "", "Show extra details provided to logs"),
    Flag("-f --follow", "", "Follow log output"),
    Flag("--since", "string", f"Show logs since timestamp {_FORMS}"),
    Flag("-n --tail", "string", "Number of lines to show from the end of the logs", default="all"),
    Flag("-t --timestamps", "", "Show timestamps"),
    Flag("--until", "string", f"Show logs before a timestamp {_FORMS}"),
    low=1, high=1,
)  # fmt: skip
def logs(
    details: bool, follow: bool, since: str, tail: str, timestamps: bool, until: str, arguments: list[str]
) -> None:
    """What a container has written, to the streams that it wrote to."""
    since_ns, until_ns = _moment("since", since), _moment("until", until)
    out = _Streams(timestamps, details)
    try:
        for entry in engine().containers.get(arguments[0]).logs(
            follow=follow, tail=_lines(tail), since_ns=since_ns or 0, until_ns=until_ns,
            note=complain, sleep=out.sleep,
        ):  # fmt: skip
            out.put(entry)
    finally:
        out.flush()


def _moment(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        return moment_ns(text)
    except ValueError as exc:
        raise CommandError(f'invalid value for "{name}": {exc}') from exc


def _lines(text: str) -> int | None:
    """How many lines; None for all, which everything is that is no number of them."""
    try:
        count = int(text) if text.isascii() and "_" not in text else -1
    except ValueError:
        return None
    return count if count >= 0 else None


class _Streams:
    """Writes entries to stdout and stderr in their order, in large pieces, with what is to precede each line."""

    def __init__(self, timestamps: bool, details: bool) -> None:
        self._timestamps, self._details = timestamps, details
        self._stream, self._held, self._size = "stdout", list[bytes](), 0
        self._open: set[str] = set()  # streams whose last line has no end yet

    def put(self, entry: LogEntry) -> None:
        if entry.stream != self._stream or self._size > _MOST:
            self.flush()
            self._stream = entry.stream
        if entry.stream not in self._open:
            if self._timestamps:
                self._hold(_stamp(entry.time_ns))
            if self._details:
                self._hold(_pairs(entry.details))
        self._hold(entry.data)
        (self._open.discard if entry.whole_line else self._open.add)(entry.stream)

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._size += len(data)

    def flush(self) -> None:
        file = sys.stderr.buffer if self._stream == "stderr" else sys.stdout.buffer
        held, self._held, self._size = self._held, [], 0
        file.write(b"".join(held))
        file.flush()

    def sleep(self, seconds: float) -> None:
        """Wait for more, when all that there is has been shown."""
        self.flush()
        time.sleep(seconds)


def _stamp(time_ns: int) -> bytes:
    second = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09}Z ".encode()


def _pairs(details: Mapping[str, str]) -> bytes:
    return (",".join(f"{key}={details[key]}" for key in sorted(details)) + " ").encode()
