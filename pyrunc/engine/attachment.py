"""The streams of a running container, for programs: what it writes, and its input."""

import os
import select
import time
from _thread import allocate_lock

from pyrunc.engine import container_state
from pyrunc.errors import FailedPrecondition, InvalidArgument, TimedOut
from pyrunc.runtime.attach import STDERR, AttachClient
from pyrunc.runtime.option_checks import size
from pyrunc.runtime.sandbox import TIMEOUT

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.container import Container

READY_S = 30.0  # what a shim may take to answer


class Streams:
    """What Attachment and AsyncAttachment have in common: a client, and what it has received."""

    def __init__(self, client: AttachClient, *, stdin: bool, terminal: bool) -> None:
        self._client = client
        self._stdin = stdin
        self._terminal = terminal
        self._received: list[tuple[str, bytes]] = []

    @property
    def exit_code(self) -> int | None:
        """How the container ended; None before all that it wrote was read, or if its shim was killed."""
        status = self._client.exit_status
        return None if status is None or self._received else status.exit_code

    @property
    def closed(self) -> bool:
        """Whether it is over: the container has ended, or this side has closed it."""
        return self._client.closed

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to read; -1 when it is over."""
        return self._client.fileno()

    def _receive(self) -> None:
        self._received += [
            ("stderr" if kind == STDERR else "stdout", data) for kind, data in self._client.receive()
        ]

    def _check_input(self, data: "bytes | bytearray | memoryview") -> memoryview:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidArgument(f"data must be bytes, not {data!r}")
        if not self._stdin:
            raise FailedPrecondition("attached without stdin=True, or to a container that has no input")
        return memoryview(data).cast("B")

    def _check_size(self, rows: int, columns: int) -> None:
        size((rows, columns), "size")
        if not self._terminal:
            raise FailedPrecondition("the container has no terminal")

    def _gone(self) -> FailedPrecondition:
        return FailedPrecondition("the container has ended, or this was closed")


class Attachment(Streams):
    """Attached to a running container: iterate over what it writes, (*stream*, *data*), until it ends.

    *stream* is "stdout" or "stderr", of a terminal always "stdout"; *data* are some bytes, not lines. A slow reader
    stops nobody and misses nothing: what it does not read is kept on disk. One thread may read while another writes.
    Leaving the ``with`` block closes it; the container goes on.
    """

    def __init__(self, client: AttachClient, *, stdin: bool, terminal: bool) -> None:
        super().__init__(client, stdin=stdin, terminal=terminal)
        self._lock = allocate_lock()
        self._pid = os.getpid()

    def read(self, timeout_s: float | None = None) -> "tuple[str, bytes] | None":
        """The next (stream, data); None at the end. Raises TimedOut when nothing comes for *timeout_s* seconds."""
        deadline = _deadline(timeout_s)
        while True:
            with self._lock:
                if not self._received:
                    self._receive()
                if self._received:
                    return self._received.pop(0)
                if self._client.closed:
                    return None
            self._wait(deadline, timeout_s)

    def write(self, data: "bytes | bytearray | memoryview", timeout_s: float | None = None) -> None:
        """Give the program all of *data* as input; what it writes meanwhile is kept for `read`, in memory.

        Raises TimedOut after *timeout_s* seconds, a part of it is then given; FailedPrecondition when the container has
        ended, or without stdin=True; InvalidArgument for what is not bytes.
        """
        left = self._check_input(data)
        deadline = _deadline(timeout_s)
        while True:
            with self._lock:
                if self._client.closed:
                    raise self._gone()
                left = left[self._client.send(left) :]
                if not left and self._client.flush():
                    return
                self._receive()
            if not self._client.closed:
                self._wait(deadline, timeout_s, writes=True)

    def close_stdin(self) -> None:
        """Say that no more input comes, after which the program reads the end of file.

        That is so where its input opens only once (``stdin_open`` of Engine.start; StdinOnce).
        Raises FailedPrecondition without stdin=True.
        """
        self._check_input(b"")
        with self._lock:
            self._client.close_stdin()

    def resize(self, rows: int, columns: int) -> None:
        """Tell the container's terminal how large it is. Raises InvalidArgument, FailedPrecondition without one."""
        self._check_size(rows, columns)
        with self._lock:
            self._client.resize(rows, columns)

    def communicate(self, data: bytes = b"", timeout_s: float | None = None) -> tuple[bytes, bytes]:
        """Write *data*, close the input, and read until the container ends: (stdout, stderr), in memory.

        Raises TimedOut after *timeout_s* seconds, with what has come until then; the container goes on.
        Raises FailedPrecondition for input without stdin=True, InvalidArgument for what is not bytes.
        """
        left = self._check_input(data) if data or self._stdin else memoryview(b"")
        feeding, deadline = self._stdin, _deadline(timeout_s)
        found: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        try:
            while True:
                with self._lock:
                    if left:
                        left = left[self._client.send(left) :]
                    elif feeding:
                        self._client.close_stdin()
                        feeding = False
                    if not self._received:
                        self._receive()
                    got, self._received = self._received, []
                    pending = bool(left) or feeding or not self._client.flush()
                for stream, part in got:
                    found[stream].append(part)
                if self._client.closed:
                    return b"".join(found["stdout"]), b"".join(found["stderr"])
                if not got:
                    self._wait(deadline, timeout_s, writes=pending)
                elif deadline is not None and time.monotonic() > deadline:
                    raise TimedOut(f"the container still runs after {timeout_s} s")
        except TimedOut as exc:
            exc.stdout, exc.stderr = b"".join(found["stdout"]), b"".join(found["stderr"])
            raise

    def detach(self) -> None:
        """Leave, and leave the program's input open for others."""
        with self._lock:
            self._client.detach()

    def close(self) -> None:
        """Hang up; the program's input ends as by `close_stdin`, if it was this one's. A thread that reads stops."""
        with self._lock:
            if self._pid == os.getpid():
                self._client.shut()
            self._client.close()

    def _wait(self, deadline: float | None, timeout_s: float | None, *, writes: bool = False) -> None:
        poller = select.poll()
        with self._lock:
            if self._client.closed:
                return
            # Another thread may close it meanwhile, and its number be another's then.
            ours = os.dup(self._client.fileno())
        try:
            poller.register(ours, select.POLLIN | (select.POLLOUT if writes or self._client.pending else 0))
            ready = poller.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000)
        finally:
            os.close(ours)
        if not ready:
            raise TimedOut(f"the container still runs after {timeout_s} s")
        if self._client.pending:
            with self._lock:
                self._client.flush()

    def __iter__(self) -> "Self":
        return self

    def __next__(self) -> "tuple[str, bytes]":
        found = self.read()
        if found is None:
            raise StopIteration
        return found

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()


def connect(record: "ContainerRecord", *, stdin: bool, stdout: bool, stderr: bool) -> AttachClient:
    """A client of a running container. Raises FailedPrecondition, in Docker's words for one that does not run."""
    container_state.check("attach", record)
    check_stdin(record, stdin)
    try:
        return AttachClient.connect(record.state_dir, stdin=stdin, stdout=stdout, stderr=stderr)
    except OSError as exc:
        raise FailedPrecondition(f"cannot attach to container {record.name}: {exc.strerror}") from exc


def check_stdin(record: "ContainerRecord", stdin: bool) -> None:
    """Refuse input to a container that has none."""
    if stdin and not record.config.get("OpenStdin"):
        raise FailedPrecondition(f"container {record.name} has no input: it was made without stdin_open")


def attached(record: "ContainerRecord", *, stdin: bool, stdout: bool, stderr: bool) -> Attachment:
    """An Attachment that misses nothing from here on. Raises what `connect` does, TimedOut for a shim that is stuck."""
    client = connect(record, stdin=stdin, stdout=stdout, stderr=stderr)
    made = Attachment(client, stdin=stdin, terminal=bool(record.config.get("Tty")))
    try:
        deadline = time.monotonic() + READY_S
        while not client.is_ready and not client.closed:
            made._wait(deadline, READY_S)  # noqa: SLF001 - of this module
            made._receive()  # noqa: SLF001
        if not client.is_ready and client.exit_status is None:
            raise FailedPrecondition(f"container {record.name} is not running")
    except BaseException:
        client.close()
        raise
    return made


def started(
    container: "Container", *, stdin: bool, stdout: bool, stderr: bool, keep_running: bool
) -> Attachment:
    """Start a container, attached from its first byte on. Raises what `start` does."""
    client, terminal = start(container, stdin=stdin, stdout=stdout, stderr=stderr, keep_running=keep_running)
    return Attachment(client, stdin=stdin, terminal=terminal)


def start(
    container: "Container", *, stdin: bool, stdout: bool, stderr: bool, keep_running: bool
) -> tuple[AttachClient, bool]:
    """The same: its client, and whether it has a terminal. Raises what Container.start does, FailedPrecondition."""
    record = container.record()
    check_stdin(record, stdin)
    client, theirs = AttachClient.pair(stdin=stdin, stdout=stdout, stderr=stderr)
    try:
        if not container.start(client=theirs, keep_running=keep_running):
            raise FailedPrecondition(f"container {record.name} runs already: attach to it")
    except BaseException:
        client.close()
        raise
    finally:
        os.close(theirs)
    return client, bool(record.config.get("Tty"))


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + TIMEOUT(timeout_s, "timeout_s")
