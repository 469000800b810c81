"""What is due when a container has ended, whoever notices it first; whoever comes later finds it done.

The owner of a container does it, or the exit command of its shim, or, where both were killed, whoever looks at the
container next: its row, its cgroups, its state directory, the restart policy, and its removal.
"""

import os
import sys
import time

from pyrunc.engine import container_events, observing, restart_policy
from pyrunc.engine.observing import Ending
from pyrunc.errors import TimedOut
from pyrunc.runtime import shim
from pyrunc.store.files import sweep_locks

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.api import ContainerRecord
    from pyrunc.engine.container_rows import Row
    from pyrunc.engine.parts import Parts

_MOUNTS = ("Binds", "Mounts", "VolumesFrom")  # in a HostConfig
_EXIT_COMMAND = os.path.join(os.path.dirname(os.path.abspath(__file__)), "exit_command.py")
_ID_LENGTH = 64
BEGUN_S = 60.0  # how long a start may take whose starter was killed
_STEP_S = 0.005


def settle(parts: "Parts", container_id: str, *, timeout_s: float | None = None) -> "ContainerRecord | None":
    """Take note of the end of a container, if it has come: its record, None if it is gone.

    Raises TimedOut if others hold its lock for *timeout_s* seconds.
    """
    with parts.lock(container_id, timeout_s):
        return settled(parts, container_id)


class Locked:
    """Hold the lock of a container, of whose end note is taken: its record, None if it is gone.

    A start that goes on though its starter was killed is waited for first, without the lock; it comes to nothing if
    it takes *patience_s* seconds more.
    """

    def __init__(self, parts: "Parts", container_id: str, *, patience_s: float = BEGUN_S) -> None:
        self._parts = parts
        self._id = container_id
        self._patience_s = patience_s
        self._lock = parts.lock(container_id)

    def __enter__(self) -> "ContainerRecord | None":
        deadline = time.monotonic() + self._patience_s
        while True:
            self._lock.acquire()
            try:
                row = self._parts.containers.by_id(self._id)
                late = time.monotonic() >= deadline
                record = _settled(self._parts, row, late)
                # "created" is also what a start that came to nothing leaves: its row says so the next time.
                if (
                    late
                    or row is None
                    or not row.record.running
                    or record is None
                    or record.state != "created"
                ):
                    return record
            except BaseException:
                self._lock.release()
                raise
            self._lock.release()
            time.sleep(_STEP_S)

    def __exit__(self, *raised: object) -> None:
        self._lock.release()


def settled(parts: "Parts", container_id: str) -> "ContainerRecord | None":
    """The same as `settle` with the container's lock held."""
    return _settled(parts, parts.containers.by_id(container_id), False)


def _settled(parts: "Parts", row: "Row | None", late: bool) -> "ContainerRecord | None":
    """The same of a container's *row*. Of one whose start goes on it says "created", unless that is too *late*."""
    if row is None:
        return None
    record = row.record
    if record.state == "removing":
        from pyrunc.engine import removal

        removal.forget(parts, record, volumes=False)
        return None
    if record.state == "restarting":
        _see_to_restart(parts, row)
        return record
    if observing.is_over(row):
        from pyrunc.engine import removal

        removal.forget(parts, record, volumes=True)
        return None
    if not record.running:
        return record
    while True:
        ending = _ending(row, late)
        if ending is not None:
            return _note(parts, row, ending)
        found = observing.seen(row)
        if found.running:
            return found  # and not ended since we looked
        if observing.begins(row):
            if time.time_ns() - record.started_ns < BEGUN_S * 10**9:
                return record._replace(state="created")
            late = True


def exit_command(parts: "Parts", container_id: str) -> tuple[str, ...]:
    """The argv that does what is due at a container's end, in a process of its own."""
    return (
        sys.executable or "python3", "-I", _EXIT_COMMAND, parts.root, state_root(), parts.graph or "", container_id,
    )  # fmt: skip


def state_root() -> str:
    """Where the state of what runs is."""
    return os.path.abspath(os.environ.get("PYRUNC_STATE") or "/run/pyrunc")


def drop_state(state_dir: str, *, must: bool = False) -> None:
    """Remove a container's state directory; if it *must* go, raise OSError where it cannot."""
    if not state_dir:
        return
    for name in shim.FILES:
        try:
            os.unlink(f"{state_dir}/{name}")
        except OSError:
            continue
    try:
        os.rmdir(state_dir)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass  # there was more than that
    from pyrunc.drivers.graph import trees

    try:
        with trees.opened(os.path.dirname(state_dir)) as home:
            trees.remove(home, os.path.basename(state_dir))
    except FileNotFoundError:
        pass
    except OSError:
        if must:
            raise


def sweep(parts: "Parts", live: "set[str]") -> None:
    """Remove what killed processes have left: locks, and the state of containers that have ended.

    *live* are the ids of those that may have state. What belongs to another root, which may have the same state
    directory, is left alone.
    """
    sweep_locks(parts.locks)
    try:
        names = os.listdir(state_root())
    except FileNotFoundError:
        return
    for name in names:
        if len(name) != _ID_LENGTH or name in live or parts.containers.by_id(name) is None:
            continue
        try:
            with parts.lock(name, 0):
                row = parts.containers.by_id(name)
                if row is not None and not row.record.running:
                    drop_state(os.path.join(state_root(), name))
        except TimedOut:
            continue  # somebody is at it


def cgroup_of(record: "ContainerRecord") -> str:
    """The path of a container's cgroup."""
    parent = record.host_config.get("CgroupParent") or "/pyrunc"
    return f"{parent.rstrip('/')}/{record.id}"


def end_cgroups(record: "ContainerRecord") -> None:
    """Kill what is left in a container's cgroups and remove them; the shims' too, if a killed one was the last."""
    from pyrunc.runtime import cgroup_control, cgroup_layout

    layout, path = cgroup_layout.detect(), cgroup_of(record)
    if observing.is_driven(record):
        from pyrunc.drivers.exec import monitor_place

        layout = monitor_place.end(layout, record.id)
    cgroup_control.kill(layout, path)
    cgroup_control.remove(layout, path)
    cgroup_control.prune(layout, path)
    cgroup_control.prune(layout, f"{shim.CGROUP}/{record.id}")


def _ending(row: "Row", late: bool) -> Ending | None:
    """How the run of a row ended; None if it goes on, or begins and is not *late*.

    What a killed shim has left, and a start that is too late, is ended here.
    """
    record = row.record
    if row.boot != observing.boot():
        return Ending(observing.REBOOT, False, record.started_ns, time.time_ns())
    running = observing.who_runs(record)
    alive = running is not None and shim.is_alive(running.shim, running.shim_started)
    listens = not alive and observing.listens(record.state_dir)
    if running is None:
        running = observing.who_runs(record)  # it may have begun, and ended, since we looked
    status = shim.status(record.state_dir)
    if status is not None:
        if observing.is_driven(record) or status.cgroups_left:
            end_cgroups(record)
        started_ns = running.started_ns if running else record.started_ns
        return Ending(
            status.exit_code, observing.was_oom_killed(record, status), started_ns,
            status.finished_ns, True, *((running.shim, running.shim_started) if running else (0, 0)),
        )  # fmt: skip
    if running is not None and (listens or shim.is_alive(running.shim, running.shim_started)):
        return None
    if running is None and listens and not late:
        return None
    end_cgroups(record)
    if running is None:
        return Ending(128, False, record.started_ns, record.finished_ns, ran=False)
    return Ending(observing.KILLED, False, running.started_ns, time.time_ns())


def _note(parts: "Parts", row: "Row", ending: Ending) -> "ContainerRecord | None":
    record = row.record
    if ending.ran:
        volumes: list[dict[str, object]] = []
        if record.config.get("Volumes") or any(record.host_config.get(key) for key in _MOUNTS):
            from pyrunc.engine import mount_specs

            volumes = mount_specs.mounted(parts, record.id)
        # From here to the row nothing is slow: who is interrupted between leaves it to the next one to say it again.
        if ending.oom_killed:
            container_events.say(parts, record, "oom")
        seconds = max(0, ending.finished_ns - ending.started_ns) // 10**9
        container_events.say(parts, record, "die", execDuration=seconds, exitCode=ending.exit_code)
        if volumes:
            mount_specs.say_unmounted(parts, record.id, volumes)
    unmade = not ending.ran and record.started_ns == record.created_ns  # its maker was killed
    if unmade or (record.auto_remove and not observing.is_promised(row)):
        from pyrunc.engine import removal

        removal.forget(parts, record, volumes=True)
        return None
    pause = restart_policy.pause_ms(
        record.host_config, ending.exit_code, stopped=record.stopped,
        ran_ns=ending.finished_ns - ending.started_ns, count=record.restart_count, before_ms=row.backoff_ms,
    )  # fmt: skip
    never = not ending.ran and not record.finished_ns
    state = "restarting" if pause is not None and ending.ran else "created" if never else "exited"
    fields: dict[str, object] = {
        "state": state, "started_ns": ending.started_ns if ending.ran else 0, "finished_ns": ending.finished_ns,
        "exit_code": ending.exit_code, "oom_killed": ending.oom_killed,
        "error": record.error if ending.ran else "the process that started it was killed",
    }  # fmt: skip
    if state == "restarting":
        fields |= {"backoff_ms": pause, "restarter": ending.shim, "restarter_started": ending.shim_started}
    # It may have filled the disk itself, and is what can be removed.
    parts.containers.change(record.id, frees=True, **fields)
    drop_state(record.state_dir)
    found = parts.containers.by_id(record.id)
    assert found is not None  # its lock is held
    if state == "restarting":
        _see_to_restart(parts, found)
    return found.record


def _see_to_restart(parts: "Parts", row: "Row") -> None:
    """See that a process waits to start a container again; it is the exit command of the shim that was there before."""
    if observing.is_promised(row):
        return
    from pyrunc.engine import restarting

    restarting.delegate(parts, row.record)


def note_failure(parts: "Parts", record: "ContainerRecord", exit_code: int, error: str) -> None:
    """Say that a start came to nothing: a container that never ran stays "created", or goes, as with Docker."""
    if record.auto_remove:
        from pyrunc.engine import removal

        removal.forget(parts, record, volumes=True)
        return
    drop_state(record.state_dir)
    parts.containers.change(
        record.id, frees=True, state="exited" if record.finished_ns else "created", exit_code=exit_code, error=error,
        started_ns=0 if not record.finished_ns else record.started_ns,
    )  # fmt: skip
