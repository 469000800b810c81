"""A container whose output is collected, from its first byte to its end."""

import os
import select
import time

from pyrunc.api import ContainerResult
from pyrunc.engine import container_events, finish, starting
from pyrunc.errors import PyruncError, TimedOut
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.sandbox import TIMEOUT, RunResult

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.parts import Parts
    from pyrunc.engine.recipes import Fresh
    from pyrunc.runtime.shim import ShimProcess
    from pyrunc.runtime.supervised import Exit

_STDOUT, _STDERR, _SIGKILL = 1, 2, 9


def run(
    parts: "Parts", make: "Callable[[], tuple[ContainerRecord, Fresh]]", container_id: str, stdin: bytes,
    timeout_s: float | None,
) -> ContainerResult:  # fmt: skip
    """Start the container that *make* makes, whose row says that it is being started, and run it to its end.

    It ends with this process. Raises what a start does, and TimedOut.
    """
    begun = time.monotonic_ns()
    deadline = None if timeout_s is None else begun / 1e9 + TIMEOUT(timeout_s, "timeout_s")
    client, theirs = AttachClient.pair(stdin=bool(stdin), stdout=True, stderr=True)
    output: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}
    try:
        with parts.lock(container_id):
            record, fresh = make()
            process = starting.launch(parts, record, fresh, theirs, keep_running=False)
            container_events.say(parts, record, "start")
        os.close(theirs)
        theirs = -1
        try:
            timed_out = not _talk(client, stdin, output, deadline)
            if timed_out:
                process.kill(_SIGKILL)
                _talk(client, b"", output, None)
        except BaseException:
            process.kill(_SIGKILL)
            _finish(parts, container_id, process)
            raise
        end = _finish(parts, container_id, process)
    finally:
        if theirs >= 0:
            os.close(theirs)
        client.close()
    streams = b"".join(output[_STDOUT]), b"".join(output[_STDERR])
    if timed_out:
        raise TimedOut(f"{record.argv[0]}: killed after {timeout_s} s", *streams)
    return ContainerResult(*RunResult.of(end, streams, begun), container_id, record.name)


def _finish(parts: "Parts", container_id: str, process: "ShimProcess") -> "Exit":
    try:
        end = process.wait()
        finish.settle(parts, container_id)
        process.finished()
    except PyruncError:
        process.release()
        finish.settle(parts, container_id)
        raise
    return end


def _talk(
    client: AttachClient, stdin: bytes, output: "dict[int, list[bytes]]", deadline: float | None
) -> bool:
    """Feed and read until the container has ended; False if *deadline* (monotonic seconds) comes first."""
    left = memoryview(stdin)
    open_ = bool(stdin)
    poller = select.poll()
    poller.register(client.fileno(), select.POLLIN | (select.POLLOUT if open_ else 0))
    while not client.closed:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = poller.poll(wait)
        if not ready:
            return False
        if ready[0][1] & ~select.POLLOUT:
            for kind, data in client.receive():
                if kind in output:
                    output[kind].append(data)
        elif left:
            left = left[client.send(left) :]
        elif open_:
            client.close_stdin()
            open_ = False
        elif client.flush():
            poller.modify(client.fileno(), select.POLLIN)
    return True
