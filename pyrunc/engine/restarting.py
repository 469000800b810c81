"""The pause before a restart policy starts a container again, in a process of its own."""

import os
import time
from _thread import start_new_thread

from pyrunc.engine import container_events, finish, observing, starting
from pyrunc.errors import PyruncError
from pyrunc.runtime import shim

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.api import ContainerRecord
    from pyrunc.engine.container_rows import Row
    from pyrunc.engine.parts import Parts


def delegate(parts: "Parts", record: "ContainerRecord") -> None:
    """Let another process wait and start the container again; with its lock held."""
    import subprocess  # slow, and seldom needed

    child = subprocess.Popen(
        finish.exit_command(parts, record.id), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
    )  # fmt: skip
    parts.containers.change(
        record.id, restarter=child.pid, restarter_started=_started(child.pid), boot=observing.boot()
    )
    start_new_thread(child.wait, ())  # no zombie, however long this process lives


def revive(parts: "Parts", container_id: str) -> None:
    """Start a container again after its pause, if this process is who shall do so."""
    row = parts.containers.by_id(container_id)
    if row is None or not _is_ours(row):
        return
    time.sleep(row.backoff_ms / 1000)
    with parts.lock(container_id):
        row = parts.containers.by_id(container_id)
        if row is None or not _is_ours(row):
            return  # it was stopped, started or removed meanwhile
        try:
            process = starting.start(parts, row.record, again=True)
        except PyruncError:
            return  # the row says why
        container_events.say(parts, row.record, "start")
        process.release()


def cancel(parts: "Parts", row: "Row") -> None:
    """Start a container that is about to be restarted no more; with its lock held."""
    parts.containers.change(row.record.id, state="exited", stopped=True, restarter=0)
    if row.restarter and row.boot == observing.boot():
        shim.signal(shim.Running(row.restarter, row.restarter_started, 0, 0, 0), 15)


def promise(parts: "Parts", record: "ContainerRecord") -> None:
    """Say that this process will start a container, which it ends, again; with its lock held.

    So it does not go with its end, unless this process does.
    """
    pid = os.getpid()
    parts.containers.change(record.id, restarter=pid, restarter_started=_started(pid))


def give_up(parts: "Parts", container_id: str) -> None:
    """Take back what was promised: if the container has ended, it goes now."""
    with parts.lock(container_id):
        row = parts.containers.by_id(container_id)
        if row is not None and row.record.auto_remove and row.restarter == os.getpid():
            parts.containers.change(container_id, restarter=0)
            finish.settled(parts, container_id)


def _is_ours(row: "Row") -> bool:
    pid = os.getpid()
    return row.record.state == "restarting" and (row.restarter, row.restarter_started) == (pid, _started(pid))


def _started(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0
