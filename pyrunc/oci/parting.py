"""What a planner parts with, since it is its starter's: descriptors, keyring, priorities, and cgroups."""

from __future__ import annotations

import os
import signal

from pyrunc._native import standing
from pyrunc.oci.planner import let_go

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyrunc.runtime.cgroup_layout import Hierarchy

_CGROUP = "pyrunc-planner"


def leave() -> None:
    """Part with everything of the starter's; its descriptors first, of which others wait for the end."""
    let_go()
    os.chdir("/")
    os.umask(0o077)
    for part in (_leave_keyring, _leave_priorities):
        try:
            part()
        except OSError:
            pass  # what a user may not do is theirs all the same
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _leave_keyring() -> None:
    standing.leave_keyring()  # what is read by keys of the starter's session is not others' to read


def _leave_priorities() -> None:
    """A daemon's starter may be spared by the OOM killer, or preferred by the scheduler; this is there to save time."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    _write("/proc/self/oom_score_adj", b"0")


def _end(*_: object) -> None:
    """End as if nobody had asked for long, and leave nothing."""
    raise SystemExit


def move_to_own_cgroups() -> list[str]:
    """Leave the cgroups of the starter, whose owner may want to remove them; the directories of our own."""
    from pyrunc.runtime import cgroup_layout

    layout = cgroup_layout.detect()
    made = []
    for hierarchy in (*layout.hierarchies, *layout.named):
        for above in _above(hierarchy):
            path = f"{above}/{_CGROUP}"
            if _move(hierarchy, path):
                made.append(f"{hierarchy.mountpoint}{path}")
                break
    return made


def _above(hierarchy: Hierarchy) -> Iterator[str]:
    """The cgroups above our own, from the top: a user may have been given the lower ones."""
    yield ""
    if os.geteuid() == 0 and os.access(f"{hierarchy.mountpoint}/cgroup.procs", os.W_OK):
        return
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.rstrip("\n").split(":", 2) for line in file]
    own = next((path for _, names, path in rows if _is_of(hierarchy, names)), "/")
    parts = own.split("/")[1:-1]
    for count in range(1, len(parts) + 1):
        yield "/" + "/".join(parts[:count])


def _is_of(hierarchy: Hierarchy, names: str) -> bool:
    if hierarchy.version == 2:
        return names == ""
    return bool({*names.split(",")} & {f"name={hierarchy.name}", *hierarchy.controllers})


def _move(hierarchy: Hierarchy, path: str) -> bool:
    """Move to the cgroup *path* of a hierarchy, made if it is not there; whether that went well."""
    from pyrunc._native import cgroup

    cpuset = "cpuset" in hierarchy.controllers and hierarchy.version == 1
    try:
        cgroup.make(
            os.fsencode(hierarchy.mountpoint), os.fsencode(path), cpuset=cpuset, seed=cpuset, existing=True
        )
        # One thread is all there is; by `tasks` it moves in a fraction of the time.
        _write(f"{hierarchy.mountpoint}{path}/{'tasks' if hierarchy.version == 1 else 'cgroup.procs'}", b"0")
    except OSError:
        return False
    return True


def leave_cgroups(directories: Sequence[str]) -> None:
    """Remove the cgroups *directories*, from within; one stays where that cannot be, or where another planner is."""
    for path in directories:
        try:
            version_1 = os.path.exists(f"{path}/tasks")
            _write(f"{os.path.dirname(path)}/{'tasks' if version_1 else 'cgroup.procs'}", b"0")
            os.rmdir(path)
        except OSError:
            continue


def _write(path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)
