"""A plan as bytes, read back: for who has to say which step of it failed."""

from __future__ import annotations

import sys

from pyrunc._native import plan as native
from pyrunc.records import NamedTuple
from pyrunc.runtime.plan import Step

# Offsets of header fields, as `_native/plan.pxd` has them.
_STEPS_OFF, _ARGV_OFF, _STRINGS_OFF, _OCI_OFF = 20, 24, 48, 80
# And of the numbers at the beginning of the oci block, in their order.
_OCI_FIELDS = (
    "flags", "state_dir", "id", "pid_file", "pidfd_socket", "console_socket", "log", "seccomp_listener",
    "seccomp_metadata", "log_format", "preserve_fds",
)  # fmt: skip


class Told(NamedTuple):
    """What the oci block says to who words a failure."""

    flags: int
    state_dir: str
    id: str
    pid_file: str
    pidfd_socket: str
    console_socket: str
    log: str
    seccomp_listener: str
    log_format: str
    preserve_fds: int


class Reader:
    """Reads single things of a plan that was found valid."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._strings = self._number(_STRINGS_OFF)

    def _number(self, at: int, size: int = 4) -> int:
        return int.from_bytes(self._data[at : at + size], sys.byteorder)

    def _text(self, offset: int) -> str:
        if offset == native.ABSENT:
            return ""
        start = self._strings + offset
        return self._data[start : self._data.index(b"\0", start)].decode("utf-8", "surrogateescape")

    def argument(self) -> str:
        """The program's name, as it is called."""
        return self._text(self._number(self._number(_ARGV_OFF)))

    def count(self) -> int:
        """How many steps there are."""
        return self._number(16)

    def step(self, index: int) -> Step:
        """A step; of a list of texts only the first."""
        at = self._number(_STEPS_OFF) + index * native.STEP_SIZE
        first, second, third = (self._text_or_none(at + place) for place in (8, 12, 16))
        op, section = native.STEP_NAMES[self._number(at, 2)], self._number(at + 20)
        return Step(
            op, section, self._number(at + 2, 2), self._number(at + 4), first, second, third, self._number(at + 24),
            self._number(at + 28), *(self._number(at + place, 8) for place in (32, 40, 48)),
        )  # fmt: skip

    def _text_or_none(self, at: int) -> str | None:
        offset = self._number(at)
        return None if offset == native.ABSENT else self._text(offset)

    def option(self, index: int, name: str) -> str:
        """The value of an option of the file system that the step at *index* makes, or ""."""
        at = self._number(_STEPS_OFF) + index * native.STEP_SIZE
        start = self._strings + self._number(at + 12)
        pairs = self._data[start:].split(b"\0", 2 * self._number(at + 32))
        for key, value in zip(pairs[::2], pairs[1::2], strict=False):
            if key == name.encode():
                return value.decode("utf-8", "surrogateescape")
        return ""

    def told(self) -> Told:
        """The oci block."""
        at = self._number(_OCI_OFF)
        found = {name: self._number(at + 4 * place) for place, name in enumerate(_OCI_FIELDS)}
        texts = {
            name: self._text(found[name]) for name in Told._fields if name not in ("flags", "preserve_fds")
        }
        return Told(flags=found["flags"], preserve_fds=found["preserve_fds"], **texts)
