"""Clients of a shim."""

from typing import Self

from pyrunc.errors import FailedPrecondition
from pyrunc.runtime.shim import Status


class AttachClient:
    """To come."""

    exit_status: Status | None = None
    closed = True

    @classmethod
    def connect(
        cls, state_dir: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> Self:
        """No."""
        raise FailedPrecondition("no")

    @classmethod
    def pair(cls, *, stdin: bool, stdout: bool, stderr: bool) -> tuple[Self, int]:
        """No."""
        raise FailedPrecondition("no")

    def fileno(self) -> int:
        """No."""
        return -1

    def receive(self) -> list[tuple[int, bytes]]:
        """No."""
        return []

    def send(self, data: bytes) -> int:
        """No."""
        return len(data)

    def close_stdin(self) -> None:
        """No."""

    def close(self) -> None:
        """No."""
