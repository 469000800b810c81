"""What pyrunc-oci logs: lines of runc's two formats, to standard error or to the file of `--log`.

text: `time="2026-11-25T22:00:00Z" level=error msg="container does not exist"`, and to a terminal, in red,
      `ERRO[0000] container does not exist` with blanks up to the 44th column
json: `{"level":"error","msg":"container does not exist","time":"2026-11-25T22:00:00Z"}`

Engines read the last line of level error for the reason of a failure (containerd's shim, conmon, cri-o).
"""

from __future__ import annotations

import os
import sys
import time

from pyrunc.oci import go_json
from pyrunc.oci.flags import quote

_PLAIN = frozenset("-._/@^+")
_COLOURS = {"error": 31, "warning": 33, "info": 36, "debug": 37}


class Failure(Exception):
    """What ends a verb: *message* is logged at level error, *exit_code* is that of the program."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


_PREFIXES = {"create": "runc create failed: ", "run": "runc run failed: ", "exec": "exec failed: "}


def of_verb(verb: str, failure: Failure) -> Failure:
    """*failure* as *verb* tells it: runc says which verb failed where a container is made or joined, in these words.

    A failure of exec is exit code 255, by which callers tell it from the program's.
    """
    prefix = _PREFIXES.get(verb, "")
    if failure.message.startswith(prefix):
        prefix = ""
    code = 255 if verb == "exec" and failure.exit_code == 1 else failure.exit_code
    return Failure(prefix + failure.message, code)


class Log:
    """Where the lines of one run go."""

    __slots__ = ("_debug", "_fd", "_json")

    def __init__(self, path: str = "", log_format: str = "text", debug: bool = False) -> None:
        """Open the file *path* for appending, or take standard error for "".

        Raises Failure, in runc's words, for a file that cannot be opened and for an unknown format.
        """
        self._fd = 2
        self._json = log_format == "json"
        self._debug = debug
        if path:
            try:
                self._fd = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_SYNC | os.O_CLOEXEC, 0o644
                )
            except OSError as error:
                raise Failure(f"open {path}: {reason(error)}") from None
        if log_format not in ("text", "json"):
            raise Failure(f"invalid log-format: {log_format}")

    def write(self, level: str, message: str) -> None:
        """Log one line; one of level debug only where that was asked for."""
        if level == "debug" and not self._debug:
            return
        if self._json:
            line = json_line(level, message)
        elif os.isatty(self._fd):
            line = terminal_line(level, message)
        else:
            line = text_line(level, message)
        _write_all(self._fd, line)

    def error(self, message: str) -> None:
        """Log an error, and say it on standard error as well where the log is a file."""
        self.write("error", message)
        if self._fd != 2:
            _write_all(2, message + "\n")


def text_line(level: str, message: str) -> str:
    """One line of the text format; *message* is quoted unless it is a plain word."""
    plain = bool(message) and all((c.isascii() and c.isalnum()) or c in _PLAIN for c in message)
    return f'time="{_now()}" level={level} msg={message if plain else quote(message)}\n'


def terminal_line(level: str, message: str) -> str:
    """One line of the text format for a terminal. What a control character of *message* would do there, it does not."""
    shown = "".join(c if c.isprintable() else quote(c)[1:-1] for c in message.removesuffix("\n"))
    # Behind the level runc counts the seconds that it has run so far, which are none where it only fails.
    return f"\x1b[{_COLOURS[level]}m{level.upper()[:4]}\x1b[0m[0000] {shown:<44} \n"


def json_line(level: str, message: str) -> str:
    """One line of the json format."""
    return f'{{"level":"{level}","msg":{go_json.text(message)},"time":"{_now()}"}}\n'


def reason(error: OSError) -> str:
    """The words that Go has for a failed system call: strerror's, in lower case."""
    return _lower(error.strerror or str(error))


def reason_of(number: int) -> str:
    """The same for an errno."""
    return _lower(os.strerror(number))


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]


def _now() -> str:
    # Local time as RFC 3339 writes it, with Z for UTC.
    now = time.localtime()
    offset = now.tm_gmtoff // 60
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}" if offset else "Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", now) + zone


def _write_all(descriptor: int, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        # Nobody can be told: standard error is closed, or the disk of the log is full.
        return


def print_out(text: str) -> None:
    """Write *text* to standard output at once. Raises OSError where that is closed or full."""
    sys.stdout.flush()
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(1, data) :]
