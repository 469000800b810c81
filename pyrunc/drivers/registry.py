"""Which drivers there are: the built-in ones in a table, others by entry point, and which one to take.

A package offers a driver by an entry point that names a class. One of the group ``pyrunc.graph`` is called with the
root of the durable state; one of ``pyrunc.exec`` with its name and the path of a program of that name, or "".
"""

from __future__ import annotations

import os

from pyrunc.errors import InvalidArgument, NotFound, PyruncError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.drivers.exec.driver import ExecDriver
    from pyrunc.drivers.graph.snapshotter import Snapshotter

GROUP = "pyrunc.graph"
EXEC_GROUP = "pyrunc.exec"
NATIVE, LXC = "pyrunc", "lxc"  # what HostConfig.Runtime calls it
# OCI runtimes that are looked for; another one is named by its path.
OCI_RUNTIMES = ("runc", "crun", "pyrunc-oci")
# The best first: what is asked for none takes the first that works.
GRAPH = {
    "overlay2": "pyrunc.drivers.graph.overlay2:Overlay2",
    "vfs": "pyrunc.drivers.graph.vfs:Vfs",
}


def graph(name: str | None, root: str) -> Snapshotter:
    """The graph driver *name* on *root*, or for None the one that *root* has snapshots of, else the best that works.

    Raises NotFound for an unknown name, Unsupported where this file system or kernel lacks what the driver needs.
    """
    if name is not None:
        return _driver(name)(root)
    for known in GRAPH:
        if os.path.exists(os.path.join(root, "snapshots", known, "metadata.db")):
            return _driver(known)(root)
    refusals: list[str] = []
    for known in GRAPH:
        try:
            return _driver(known)(root)
        except Unsupported as exc:
            refusals.append(str(exc))
    raise Unsupported("; ".join(refusals))


def _driver(name: str) -> Callable[[str], Snapshotter]:
    place = GRAPH.get(name)
    if place is not None:
        module, _, attribute = place.partition(":")
        # The function behind the statement: importlib itself would be imported for its own.
        built_in: Callable[[str], Snapshotter] = getattr(__import__(module, fromlist=[attribute]), attribute)
        return built_in
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP)
    for entry in found.select(name=name):
        foreign: Callable[[str], Snapshotter] = entry.load()
        return foreign
    known = ", ".join([*GRAPH, *sorted(found.names)])
    raise NotFound(f"no graph driver {name!r}; there are {known}")


_exec: dict[str, ExecDriver] = {}


def exec_driver(name: str | None) -> ExecDriver:
    """The exec driver *name*, a runtime's name or the path of an OCI runtime; None, "" and "native" are pyrunc's own.

    Raises InvalidArgument in Docker's words for an unknown one.
    """
    name = name or NATIVE
    found = _exec.get(name)
    if found is None:
        found = _exec[name] = _exec_driver(name)
    return found


def _exec_driver(name: str) -> ExecDriver:
    if name in (NATIVE, "native"):
        from pyrunc.drivers.exec.native import Native

        return Native(NATIVE)
    if name == LXC:
        from pyrunc.drivers.exec import lxc

        path = _program(lxc.PROGRAM)
        if path:
            return lxc.Lxc(name, path)
        raise InvalidArgument(
            f"Unknown runtime specified {name}: {lxc.PROGRAM} is not in PATH; Debian's package is lxc"
        )
    path = name if name.startswith("/") else _program(name)
    if name in OCI_RUNTIMES or name.startswith("/"):
        if os.access(path, os.X_OK) and os.path.isfile(path):
            from pyrunc.drivers.exec.oci import Oci

            return Oci(name, path)
    else:
        from importlib.metadata import entry_points

        for entry in entry_points(group=EXEC_GROUP).select(name=name):
            foreign: Callable[[str, str], ExecDriver] = entry.load()
            return foreign(name, path)
    raise InvalidArgument(f"Unknown runtime specified {name}")


def exec_names() -> dict[str, str]:
    """The runtimes of this host beside pyrunc's own, each with the path of its program, or ""."""
    from importlib.metadata import entry_points

    from pyrunc.drivers.exec import lxc

    found = {name: _program(name) for name in OCI_RUNTIMES} | {LXC: _program(lxc.PROGRAM)}
    found = {name: path for name, path in found.items() if path}
    return found | {entry.name: _program(entry.name) for entry in entry_points(group=EXEC_GROUP)}


def _program(name: str) -> str:
    """Where a program is, "" if it is not there: that of this installation beside its package, others in PATH."""
    if name == "pyrunc-oci":
        from pyrunc.runtime.spawner import init_path

        try:
            beside = os.path.dirname(init_path())
        except (PyruncError, OSError):
            return ""
        # In a checkout that is the package's _native.
        for path in (f"{beside}/{name}", f"{os.path.dirname(os.path.dirname(beside))}/bin/{name}"):
            if os.access(path, os.X_OK):
                return path
        return ""
    if os.path.basename(name) != name:
        return ""
    for directory in (os.environ.get("PATH") or os.defpath).split(":"):
        path = os.path.join(directory, name)
        if directory.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""
