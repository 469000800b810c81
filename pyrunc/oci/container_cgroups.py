"""The cgroups of a container that exists: where they are, and which processes are in them."""

from __future__ import annotations

import os

from pyrunc.oci.log import Failure
from pyrunc.oci.state import ids, load
from pyrunc.runtime.cgroup_layout import detect

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.state import Container
    from pyrunc.runtime.cgroup_layout import Layout


def relative_paths(container: Container, layout: Layout) -> list[str]:
    """The paths of its cgroups below the roots of the hierarchies of *layout*, each once; usually there is one."""
    found = {
        entry["path"][len(hierarchy.mountpoint) + 1 :]: None
        for entry in container.own.get("cgroups") or ()
        for hierarchy in layout.hierarchies
        if entry["path"].startswith(f"{hierarchy.mountpoint}/")
    }
    return list(found)


def relative_path(container: Container, layout: Layout) -> str:
    """The first of them; "" where it has none."""
    return next(iter(relative_paths(container, layout)), "")


def place(container: Container) -> tuple[Layout, str]:
    """The hierarchies of this host, and the path of a container's cgroups below each.

    Raises Failure where it has none.
    """
    layout = detect()
    path = relative_path(container, layout)
    if not path:
        raise Failure(f"cgroups not configured for container {container.id}")
    return layout, path


def freezer_place(container: Container) -> tuple[Layout, str]:
    """As `place`, but with the one hierarchy by which the container is frozen and seen to be: of two that could.

    Raises Failure where it has none.
    """
    layout, path = place(container)
    directory = container.own.get("freezer") or ""
    for hierarchy in layout.hierarchies:
        if directory == f"{hierarchy.mountpoint}/{path}":
            return layout._replace(hierarchies=(hierarchy,)), path
    raise Failure(f"container {container.id} has no freezer")


def controller_directory(container: Container, controller: str) -> str:
    """The directory of its cgroup v1 that has *controller*, "" where there is none."""
    for entry in container.own.get("cgroups") or ():
        if entry["version"] == 1 and controller in entry["controllers"]:
            return str(entry["path"])
    return ""


def unified_directory(container: Container) -> str:
    """The directory of its cgroup v2, "" where there is none."""
    for entry in container.own.get("cgroups") or ():
        if entry["version"] == 2:
            return str(entry["path"])
    return ""


def processes(container: Container) -> list[int]:
    """The pids of all processes in its cgroups, those of the cgroups below included, in no order."""
    top = container.own.get("kill") or ""
    found: list[int] = []
    if top:
        # Links are not followed: a cgroup has none, and none is taken for one.
        for directory, _, _ in os.walk(top):
            found += _of(directory)
    return [pid for pid in found if pid]


def _of(directory: str) -> list[int]:
    try:
        with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []  # gone meanwhile, or a threaded cgroup, whose processes are listed above it


def may_keep_some(container: Container) -> bool:
    """Whether what is in its cgroups after the end of its first process can be its own.

    A pid namespace ends with its first process, and takes all along: whoever is there then came in later. Else the
    processes are those of the container that was created there last, since nobody may be in a cgroup that a container
    is created in; and below it, those of who was created there.
    """
    own = container.own
    if own.get("own_pids") and container.pid and own["start_time"] >= 0 and not container.unfinished:
        return False
    paths = {entry["path"] for entry in own.get("cgroups") or ()}
    root = os.path.dirname(container.directory)
    for name in ids(root):
        if name == container.id:
            continue
        try:
            other = load(root, name)
        except Failure:
            continue
        for entry in other.own["cgroups"]:
            path = entry["path"]
            if path in paths and _age(container) < _age(other):
                return False
            if any(path.startswith(f"{above}/") for above in paths):
                return False
    return True


def _age(container: Container) -> str:
    return str(container.document.get("created") or "").rstrip("Z")
