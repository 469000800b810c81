"""What a container that a row calls running really does, as its shim's files and processes tell.

state_dir has       and the shim                            then it
(nothing)           listens on `attach`                     is being started, maybe by nobody any more
(nothing)           does not                                never ran: its starter was killed
running             lives                                   runs, or another runtime's monitor is at its start
running             is dead                                 was killed with its shim
running, status     lives: the owner or the exit command    has ended; they are about to take note of it
running, status     is dead                                 has ended; nobody has taken note of it

After a reboot none of that counts: the row names another boot.
"""

import _socket
import os

from pyrunc.records import NamedTuple, lru_cache
from pyrunc.runtime import shim

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.api import ContainerRecord
    from pyrunc.engine.container_rows import Row

REBOOT, KILLED = 255, 137


class Ending(NamedTuple):
    """How a run ended; *ran* is False for a start that came to nothing, *shim* and *shim_started* who noted it."""

    exit_code: int
    oom_killed: bool
    started_ns: int
    finished_ns: int
    ran: bool = True
    shim: int = 0
    shim_started: int = 0


@lru_cache(maxsize=1)
def boot() -> str:
    """The id of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def listens(state_dir: str) -> bool:
    """Whether a shim, or one that is about to be, holds the socket of *state_dir*."""
    try:
        directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    probe = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    )
    try:
        probe.connect(f"/proc/self/fd/{directory}/attach")
    except BlockingIOError:
        return True  # its queue is full
    except OSError:
        return False
    finally:
        probe.close()
        os.close(directory)
    return True


def is_driven(record: "ContainerRecord") -> bool:
    """Whether another runtime makes its container: then its shim does not see to all of its end."""
    return record.host_config.get("Runtime") not in (None, "", "pyrunc")


def who_runs(record: "ContainerRecord") -> "shim.Running | None":
    """Who runs; None if it never ran, and while it is another runtime's monitor, the shim's child, that starts it."""
    found = shim.running(record.state_dir)
    if found is not None and is_driven(record) and shim.is_child(found.pid, found.pid_started, found.shim):
        return None
    return found


def was_oom_killed(record: "ContainerRecord", status: shim.Status) -> bool:
    """Whether its limit of memory has killed a process of a container that has ended so."""
    if not is_driven(record):
        return status.oom_kills > 0
    from pyrunc.drivers.exec import monitor_place

    return monitor_place.was_oom_killed(record.state_dir)


def is_promised(row: "Row") -> bool:
    """Whether a process lives that has said that it will start a container again."""
    return bool(row.restarter) and row.boot == boot() and shim.is_alive(row.restarter, row.restarter_started)


def is_over(row: "Row") -> bool:
    """Whether a container that goes with its end was kept for a process to start it again, which did not do it."""
    record = row.record
    return record.state == "exited" and record.auto_remove and not is_promised(row)


def begins(row: "Row") -> bool:
    """Whether the start of a container goes on, of which its row tells already."""
    record = row.record
    return (
        record.running and row.boot == boot() and who_runs(record) is None
        and shim.status(record.state_dir) is None and listens(record.state_dir)
    )  # fmt: skip


def look(row: "Row") -> "tuple[ContainerRecord, bool]":
    """The record of *row* in its true state, and whether nobody needs to do anything about it now.

    It waits for nobody: what is being started or ends just now may look either way.
    """
    record = row.record
    if record.state == "restarting":
        return record, is_promised(row)
    if not record.running:
        return record, record.state != "removing" and not is_over(row)
    if row.boot != boot():
        return record._replace(state="exited", exit_code=REBOOT), False
    running, status = who_runs(record), shim.status(record.state_dir)
    alive = running is not None and shim.is_alive(running.shim, running.shim_started)
    if status is not None:
        oom = was_oom_killed(record, status)
        found = record._replace(
            state="exited", exit_code=status.exit_code, finished_ns=status.finished_ns, oom_killed=oom
        )
        return found, alive
    if running is None:
        return record._replace(state="created"), listens(record.state_dir)
    return record._replace(
        pid=running.pid, shim_pid=running.shim, started_ns=running.started_ns or record.started_ns
    ), alive


def seen(row: "Row") -> "ContainerRecord":
    """The first of what `look` says."""
    return look(row)[0]
