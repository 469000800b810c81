"""A container in the foreground: its streams are this process's, and so are the signals that this process gets."""

from __future__ import annotations

import errno
import os

from pyrunc.cli.interactive import Outcome, converse
from pyrunc.cli.session import ERROR, CommandError
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound
from pyrunc.records import contextmanager
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.pumping import AttachStream

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from pyrunc.engine.container import Container
else:
    import _signal as signal  # signal imports enum


_NOT_PASSED_ON = frozenset(
    (signal.SIGCHLD, signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP, signal.SIGURG, signal.SIGTSTP, signal.SIGTTIN,
     signal.SIGTTOU, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP,
     signal.SIGSYS)
)  # fmt: skip
__all__ = ["Outcome", "Signals", "attached", "code_of", "pump"]
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))


def pump(client: AttachClient, *, stdin: bool, tty: bool = False, keys: str = "") -> Outcome:
    """Talk to a container until it has ended, or the user is gone or has detached; as interactive.converse.

    Raises CommandError if the output is on a full disk.
    """
    try:
        return converse(AttachStream(client), stdin=stdin, tty=tty, keys=keys)
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        # The container is none the worse for it: docker's words and exit code.
        raise CommandError(f"write /dev/stdout: {os.strerror(exc.errno).lower()}") from exc


def check_keys(keys: str) -> None:
    """Raise CommandError if nobody can type *keys* to detach."""
    if keys:
        from pyrunc.runtime.terminal import detach_keys

        try:
            detach_keys(keys)
        except InvalidArgument as exc:
            raise CommandError(f"{ERROR}{exc}") from exc


@contextmanager
def attached(
    *, stdin: bool, stdout: bool = True, stderr: bool = True
) -> Iterator[tuple[AttachClient, Passed]]:
    """A client for a container that is about to start, and what to pass to its start; both are closed at the end."""
    client, descriptor = AttachClient.pair(stdin=stdin, stdout=stdout, stderr=stderr)
    passed = Passed(descriptor)
    try:
        yield client, passed
    finally:
        passed.close()
        client.close()


class Passed:
    """The shim's end of a client. As long as this process has it too, the client does not see the shim's end."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Give it up; the shim has its own."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def code_of(container: Container, client: AttachClient) -> int:
    """The exit code, once somebody has taken note of the end; of a container that goes with it, once it is gone."""
    try:
        code = container.wait()  # of one that we have started this is the end of it all
        if client.exit_status is None or not container.record().auto_remove:
            return code
        container.wait(condition="removed")
    except NotFound:
        if client.exit_status is None:
            raise
    return client.exit_status.exit_code


class Signals:
    """Passes signals that this process gets on to a container; what comes before it runs waits for it.

    What asks a program to end ends this one as long as there is none.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._kill: Callable[[int], None] | None = None
        self._waiting: list[int] = []
        self._before: dict[int, Any] = {}

    def go_to(self, kill: Callable[[int], None]) -> None:
        """The container runs, and *kill* sends it a signal."""
        self._kill = kill
        self._take(_ENDING)
        for number in self._waiting:
            self._send(number)

    def __enter__(self) -> Signals:
        self._take(
            {number for number in signal.valid_signals() if number < signal.SIGRTMIN}
            - _NOT_PASSED_ON
            - _ENDING
        )
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None is a handler that C has installed, such as faulthandler's; only C could put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _take(self, numbers: Iterable[int]) -> None:
        for number in numbers if self._wanted else ():
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        if self._kill is None:
            self._waiting.append(number)
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        assert self._kill is not None
        try:
            self._kill(number)
        except (FailedPrecondition, NotFound):
            pass  # it has just ended
