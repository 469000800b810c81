"""How containers are signalled, stopped and waited for, whoever started them."""

import select
import time

from pyrunc.drivers import registry
from pyrunc.engine import container_events, container_state, finish, observing
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound, PyruncError, TimedOut
from pyrunc.runtime import shim

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Literal

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.owners import Owners
    from pyrunc.engine.parts import Parts

    Condition = Literal["not-running", "next-exit", "removed"]

_SIGKILL, _SIGTERM = 9, 15
_STOP_S = 10.0  # Docker's
_KILL_BEGUN_S = 1.0  # what a start may still take that is to be killed
_KILL_S = 10.0  # what SIGKILL may take; then there is a process that cannot be killed
_STEP_S = 0.01
_FOR_EVER_S = 10**6  # an image may ask for more than poll(2) can wait
CONDITIONS = ("not-running", "next-exit", "removed")


def kill(parts: "Parts", owners: "Owners", container_id: str, number: int, *, again: bool = False) -> None:
    """Send a signal to a container's init; after SIGKILL it has ended; *again* as in `stop`.

    Raises FailedPrecondition, NotFound.
    """
    record = send(parts, container_id, number, "kill", again=again)
    if record is not None and number == _SIGKILL:
        try:
            ended(parts, owners, record, _KILL_S)
        except TimedOut:
            finish.end_cgroups(record)
            ended(parts, owners, record, _KILL_S)


def stop(
    parts: "Parts", owners: "Owners", container_id: str, timeout_s: float | None, number: int | None, *,
    again: bool = False,
) -> int | None:  # fmt: skip
    """Stop a container: its stop signal, or *number*, and SIGKILL *timeout_s* seconds later (-1: never).

    If this process starts it *again*, one that goes with its end does not. The exit code; None for one that did not
    run. Raises NotFound.
    """
    record = parts.containers.get(container_id)
    if timeout_s is None:
        given = record.config.get("StopTimeout")
        timeout_s = _STOP_S if given is None else float(given)
    signal = stop_signal(record) if number is None else number
    told = send(parts, container_id, signal, "stop", again=again)
    if told is None:
        return None
    try:
        code = ended(parts, owners, told, timeout_s if 0 <= timeout_s < _FOR_EVER_S else None)
    except TimedOut:
        try:
            # It may be another run by now, of which nobody has said that it shall not be the last.
            kill(parts, owners, container_id, _SIGKILL, again=again)
        except (FailedPrecondition, NotFound):
            pass  # it has just ended
        code = _code_of(parts, container_id)
    container_events.say(parts, record, "stop")
    return code


def send(
    parts: "Parts", container_id: str, number: int, verb: "Literal['kill', 'stop']", *, again: bool = False
) -> "ContainerRecord | None":
    """Send a signal to a container's init, and note that a user ends it, if the signal says so; *again* as in `stop`.

    Its record, None if there was nothing to end.
    """
    patience_s = _KILL_BEGUN_S if number == _SIGKILL else finish.BEGUN_S
    with finish.Locked(parts, container_id, patience_s=patience_s) as record:
        if record is None:
            raise NotFound(f"No such container: {container_id}")
        if not container_state.check(verb, record):
            return None
        if record.state == "restarting":
            from pyrunc.engine import restarting

            row = parts.containers.by_id(container_id)
            assert row is not None  # its lock is held
            restarting.cancel(parts, row)
            return None
        ends = verb == "stop" or number == _SIGKILL or number == stop_signal(record)
        ends = ends or not record.config.get("StopSignal")
        if again and record.auto_remove:
            from pyrunc.engine import restarting

            restarting.promise(parts, record)
        if ends and not record.stopped:
            parts.containers.change(record.id, stopped=True)
        running = observing.who_runs(record)
        if running is not None:
            try:
                driver = registry.exec_driver(record.host_config.get("Runtime"))
            except InvalidArgument:
                shim.signal(running, number)  # its runtime was removed meanwhile
            else:
                driver.signal(record.state_dir, record.id, running, number)
        container_events.say(parts, record, "kill", signal=number)
        if ends and record.state == "paused":
            from pyrunc.engine import pausing

            pausing.thaw(record)
            parts.containers.change(record.id, state="running")  # whatever its program does with the signal
            container_events.say(parts, record, "unpause")
    return record


def ended(parts: "Parts", owners: "Owners", record: "ContainerRecord", timeout_s: float | None) -> int:
    """Wait for the end of the run that *record* is about, and until somebody has taken note of it: the exit code.

    Raises TimedOut.
    """
    code = owners.wait(record.id, timeout_s)
    if code is not None:
        return code
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        code = _told(record, deadline)
        found = finish.settle(parts, record.id)
        if found is None or not found.running or found.started_ns != record.started_ns:
            if code is not None:
                return code
            return found.exit_code if found is not None and not found.running else 128 + _SIGKILL
        _sleep(deadline)


def wait(
    parts: "Parts", owners: "Owners", container_id: str, timeout_s: float | None, condition: "Condition"
) -> int:
    """Wait until a container does not run, until its next end, or until it is removed: the exit code.

    Raises TimedOut, NotFound.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    # If it is this process that takes note of the end, it does so now, or is about to.
    code = owners.wait(container_id, timeout_s)
    if code is not None and condition != "removed":
        return code
    try:
        record: ContainerRecord | None = current(parts, container_id)
    except NotFound:
        code = owners.code(container_id) if code is None else code
        if code is None:
            raise
        return code
    while record is not None:
        if record.running:
            code = ended(
                parts, owners, record, None if deadline is None else max(0.0, deadline - time.monotonic())
            )
            if condition != "removed":
                return code
        elif record.state != "restarting" and condition == "not-running":
            return record.exit_code
        else:
            _sleep(deadline)
        try:
            before, record = record, current(parts, container_id)
        except NotFound:
            record = None
        else:
            if condition != "removed" and not record.running and record.finished_ns != before.finished_ns:
                return record.exit_code  # it was started, and ended, between two looks
            code = record.exit_code if not record.running else code
    return 128 + _SIGKILL if code is None else code


def current(parts: "Parts", container_id: str, *, begun: bool = True) -> "ContainerRecord":
    """The record of a container in its true state; "created" while it is being started, which is waited for if *begun*.

    Raises NotFound.
    """
    row = parts.containers.find(container_id)
    record, settled = observing.look(row)
    if settled and record.running == row.record.running:
        return record  # else it has ended, and somebody is at it
    if not begun and record.state == "created":
        try:
            return _there(finish.settle(parts, record.id, timeout_s=0), container_id)
        except TimedOut:
            return record  # its starter is at it
    with finish.Locked(parts, record.id) as found:
        return _there(found, container_id)


def _there(found: "ContainerRecord | None", container_id: str) -> "ContainerRecord":
    if found is None:
        raise NotFound(f"No such container: {container_id}")
    return found


def stop_signal(record: "ContainerRecord") -> int:
    """What asks a container's program to end: the image's signal, or SIGTERM where it has none or no known one."""
    from pyrunc.errors import InvalidArgument
    from pyrunc.image.changes import check_signal

    try:
        return check_signal(record.config["StopSignal"])
    except (KeyError, InvalidArgument):
        return _SIGTERM


def _told(record: "ContainerRecord", deadline: float | None) -> int | None:
    """Wait for the end as the shim tells it: the exit code; None if it does not listen (any more)."""
    from pyrunc.runtime.attach import AttachClient

    try:
        client = AttachClient.connect(record.state_dir, stdin=False, stdout=False, stderr=False)
    except (PyruncError, OSError):
        return None
    try:
        poller = select.poll()
        poller.register(client.fileno(), select.POLLIN)
        while not client.closed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poller.poll(left):
                raise TimedOut("the container still runs")
            client.receive()
        return client.exit_status.exit_code if client.exit_status else None
    finally:
        client.close()


def _sleep(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise TimedOut("the container still runs")
    time.sleep(_STEP_S)


def _code_of(parts: "Parts", container_id: str) -> int:
    row = parts.containers.by_id(container_id)
    return 128 + _SIGKILL if row is None else row.record.exit_code
