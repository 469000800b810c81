"""Which drivers there are: the built-in ones in a table, others by entry point, and which one to take.

A package offers a driver by an entry point of the group ``pyrunc.graph`` that names a class; it is called with
the root of the durable state.
"""

from __future__ import annotations

import os

from pyrunc.errors import NotFound, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.drivers.graph.snapshotter import Snapshotter

GROUP = "pyrunc.graph"
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
