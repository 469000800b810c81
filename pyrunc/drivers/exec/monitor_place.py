"""Where the monitor of an OCI runtime's container is, and what it leaves."""

from __future__ import annotations

import os

from pyrunc.drivers.exec import lxc_run
from pyrunc.runtime import cgroup_control, cgroup_layout

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.cgroup_layout import Layout

OOM_KILLED = "oom_killed"  # a file in the state directory, where the limit of memory has killed a process
PARENT = "/pyrunc"  # that of a container's cgroup, unless it has another
_MONITORS = f"{PARENT}/monitors"


def cgroup(container_id: str) -> str:
    """The path of a monitor's cgroup."""
    return f"{_MONITORS}/{container_id}"


def begin(layout: Layout, container_id: str) -> None:
    """Make a monitor's directory in each hierarchy that has only a name. Raises OSError."""
    for hierarchy in layout.named:
        while True:
            try:
                for path in (PARENT, _MONITORS, cgroup(container_id)):
                    _make(f"{hierarchy.mountpoint}{path}")
                break
            except FileNotFoundError:
                continue  # others remove those above when they are empty


def _make(path: str) -> None:
    """Make a directory, marked as what a start has made: the last one to leave removes it."""
    try:
        os.mkdir(path, 0o755)
        os.setxattr(path, cgroup_control.MADE_BY_A_START, b"1")
    except FileExistsError:
        pass


def end(layout: Layout, container_id: str) -> Layout:
    """Kill a container's monitor, and remove its cgroups: the hierarchies in which a runtime makes a container's.

    Beside those of *layout* that a container of pyrunc's own is in, these are the ones that have only a name. There
    `begin` has made a directory, so that nobody removes what is above while the runtime is at it.
    """
    layout = layout._replace(hierarchies=(*layout.named, *layout.hierarchies))
    path = cgroup(container_id)
    cgroup_control.kill(layout, path)
    lxc_run.forget(container_id)
    cgroup_control.remove(layout, path)
    cgroup_control.prune(layout, path)
    for hierarchy in layout.named:
        for above in (_MONITORS, PARENT):
            try:
                os.rmdir(f"{hierarchy.mountpoint}{above}")
            except OSError:
                break  # others are in it
    return layout


def was_oom_killed(state_dir: str) -> bool:
    """Whether a container's limit of memory has killed a process of its."""
    return os.path.exists(f"{state_dir}/{OOM_KILLED}")


def memory_counter(cgroup: str) -> str:
    """The file that counts whom the limit of memory of a *cgroup* kills, "" where there is none."""
    hierarchy = cgroup_layout.detect().of("memory")
    if hierarchy is None:
        return ""
    name = "memory.events" if hierarchy.version == 2 else "memory.oom_control"
    return f"{hierarchy.mountpoint}{cgroup}/{name}"
