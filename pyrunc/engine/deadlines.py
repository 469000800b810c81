"""Until when a container must be made and started; how long it may run is another matter."""

import time

from pyrunc.errors import TimedOut

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Deadline:
    """*timeout_s* seconds from now, None for never; a TimedOut that leaves its ``with`` block is of the creation.

    *at* is monotonic, in seconds.
    """

    __slots__ = ("at", "timeout_s")

    def __init__(self, timeout_s: float | None = None) -> None:
        self.timeout_s = timeout_s
        self.at = (
            None if timeout_s is None else time.monotonic() + check_timeout(timeout_s, "create_timeout_s")
        )

    def left_s(self) -> float | None:
        """How long there is; None for ever."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def check(self, doing: str) -> None:
        """Raise TimedOut, which says what was being done, if it has come."""
        if self.at is not None and time.monotonic() > self.at:
            raise TimedOut(f"in {doing}")

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if isinstance(value, TimedOut) and self.at is not None and not value.stage:
            words = f"the container was not there after {self.timeout_s} s: {value}"
            raise TimedOut(words, stage="create") from value


NEVER = Deadline()


def check_timeout(timeout_s: float, what: str) -> float:
    """Return *timeout_s*. Raises InvalidArgument for what is no number of seconds that can be waited for."""
    from pyrunc.runtime.sandbox import TIMEOUT

    return float(TIMEOUT(timeout_s, what))
