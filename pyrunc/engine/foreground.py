"""A container whose output is collected, from its first byte to its end."""

import os
import select
import time

from pyrunc.api import ContainerResult
from pyrunc.engine import container_events, finish, removal, starting
from pyrunc.engine.mounts_wanted import wanted
from pyrunc.errors import InvalidArgument, PyruncError, TimedOut
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.sandbox import RunResult

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.afterwards import Afterwards
    from pyrunc.engine.parts import Parts
    from pyrunc.engine.recipes import Fresh
    from pyrunc.runtime.shim import ShimProcess

    Make = Callable[[], tuple[ContainerRecord, Fresh]]

_STDOUT, _STDERR, _SIGKILL = 1, 2, 9


class Foreground:
    """One that runs and ends with this process: `feed` and `receive` never wait, and `finish` takes note of its end."""

    def __init__(
        self, parts: "Parts", record: "ContainerRecord", process: "ShimProcess", client: AttachClient, stdin: bytes,
        asked: int, before: dict[str, int],
    ) -> None:  # fmt: skip
        self.client = client
        self.record = record
        self._parts = parts
        self._process = process
        self._left = memoryview(stdin)
        self._open = bool(stdin)
        self._output: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}
        self._asked = asked
        self._before = before

    @property
    def feeding(self) -> bool:
        """Whether `feed` has something to do when the client is writable."""
        return self._open or self.client.pending

    def feed(self) -> None:
        """Give the program what it takes of its input, and then the end of it."""
        if self._left:
            self._left = self._left[self.client.send(self._left) :]
        elif self._open:
            self.client.close_stdin()
            self._open = False
        else:
            self.client.flush()

    def receive(self) -> None:
        """Keep what has come."""
        for kind, data in self.client.receive():
            if kind in self._output:
                self._output[kind].append(data)

    def kill(self) -> None:
        """End it; what it has written still comes."""
        self._left, self._open = memoryview(b""), False
        self._process.kill(_SIGKILL)

    def finish(self, afterwards: "Afterwards | None" = None) -> ContainerResult:
        """Take note of its end, for which this waits; or leave that to *afterwards*, unless it has volumes."""
        self.client.close()
        try:
            end = self._process.wait()
            if afterwards is not None and not wanted(self.record.config, self.record.host_config):
                afterwards.take(self.record.id, self._process)
            else:
                finish.settle(self._parts, self.record.id)
                self._process.finished()
        except PyruncError:
            self._process.release()
            finish.settle(self._parts, self.record.id)
            raise
        done = RunResult.of(end, self.output(), self._asked)
        timings = {**self._before, **done.timings_ns}
        return ContainerResult(*done._replace(timings_ns=timings), self.record.id, self.record.name)

    def output(self) -> tuple[bytes, bytes]:
        """What it has written to stdout and stderr."""
        return b"".join(self._output[_STDOUT]), b"".join(self._output[_STDERR])

    def late(self, timeout_s: float | None) -> TimedOut:
        """What to raise for one that was killed when its time was over."""
        return TimedOut(f"{self.record.argv[0]}: killed after {timeout_s} s", *self.output(), stage="run")


def begin(
    parts: "Parts", make: "Make", container_id: str, stdin: bytes, *, begun: int, until: float | None = None
) -> Foreground:
    """Start the container that *make* makes, whose row says that it is being started.

    *begun* is when its image was asked for (monotonic nanoseconds), *until* when it is too late (seconds).
    Raises what a start does; of what was interrupted or too late, nothing is left.
    """
    if not isinstance(stdin, bytes | bytearray | memoryview):
        raise InvalidArgument(f"stdin must be bytes, not {stdin!r}")
    client, theirs = AttachClient.pair(stdin=bool(stdin), stdout=True, stderr=True)
    found = time.monotonic_ns()
    record: ContainerRecord | None = None
    process: ShimProcess | None = None
    try:
        with parts.lock(container_id):
            record, fresh = make()
            asked = time.monotonic_ns()
            process = starting.launch(parts, record, fresh, theirs, False, until=until)
            container_events.say(parts, record, "create")
            container_events.say(parts, record, "start")
        before = {"image": found - begun, "create": asked - found}
        return Foreground(parts, record, process, client, stdin, asked, before)
    except BaseException as exc:
        client.close()
        if record is not None and (not isinstance(exc, PyruncError) or isinstance(exc, TimedOut)):
            _undo(parts, record, process)
        raise
    finally:
        os.close(theirs)


def run(
    running: Foreground, timeout_s: float | None, afterwards: "Afterwards | None" = None
) -> ContainerResult:
    """See a container to its end, of which note may be taken *afterwards*.

    Raises TimedOut after *timeout_s* seconds, when it was killed.
    """
    try:
        in_time = _talk(running, None if timeout_s is None else time.monotonic() + timeout_s)
        if not in_time:
            running.kill()
            _talk(running, None)
    except BaseException:
        running.kill()
        running.finish()
        raise
    if not in_time:
        running.finish()
        raise running.late(timeout_s)
    return running.finish(afterwards)


def _undo(parts: "Parts", record: "ContainerRecord", process: "ShimProcess | None") -> None:
    if process is not None:
        process.release()
        finish.end_cgroups(record)
    with parts.lock(record.id):
        if parts.containers.by_id(record.id) is not None:
            removal.forget(parts, record, volumes=True)


def _talk(running: Foreground, deadline: float | None) -> bool:
    """Feed and read until the container has ended; False if *deadline* (monotonic seconds) comes first."""
    client = running.client
    poller = select.poll()
    poller.register(client.fileno(), select.POLLIN | select.POLLOUT)
    while not client.closed:
        poller.modify(client.fileno(), select.POLLIN | (select.POLLOUT if running.feeding else 0))
        left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = poller.poll(left_ms)
        if not ready or left_ms == 0.0:
            return False
        if ready[0][1] & ~select.POLLOUT:
            running.receive()
        else:
            running.feed()
    return True
