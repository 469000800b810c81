"""Garbage collection: what no row and no live lease names goes.

It may run at any time, in several processes at once, beside others that write. What is to go is looked up again
inside of a transaction, in which no name can be added, and taken away inside of it too; the space is freed after it.
So a process that has put a name into its lease either is seen here, or sees that the thing is gone.
"""

from pyrunc.errors import FailedPrecondition, NotFound, StorageFull
from pyrunc.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Protocol

    from pyrunc.store.content import ContentStore
    from pyrunc.store.metadata import Metadata

    class Snapshot(Protocol):
        """What has to be known of a snapshot."""

        @property
        def key(self) -> str:
            """Its name."""

        @property
        def parent(self) -> str | None:
            """The name of the one that it is a change to."""

    class Collectable(Protocol):
        """A snapshotter. One that has a quick ``forget(key)``, whose files `reclaim` removes, is asked for that."""

        def walk(self) -> Iterable[Snapshot]:
            """Yield every snapshot."""

        def remove(self, key: str) -> None:
            """Remove one. Raises NotFound, and FailedPrecondition while another is a change to it."""

        def reclaim(self) -> int:
            """Remove the files that belong to none."""


# How many blobs are looked up and taken away while writers wait.
_AT_ONCE = 64


class Collected(NamedTuple):
    """How many blobs went, how many bytes of content/ were freed, and how many snapshots went."""

    blobs: int
    bytes: int
    snapshots: int


def collect(
    content: "ContentStore", metadata: "Metadata", snapshotters: "Sequence[Collectable]" = ()
) -> Collected:
    """Remove what no row and no live lease names: blobs, snapshots of all *snapshotters*, and unfinished files.

    A snapshot stays while another is a change to it. Works on a full disk. What Database raises is raised; then
    what was removed until there is gone, and nothing else.
    """
    freed = content.sweep()  # first, since it needs no space and may make some
    try:
        metadata.drop_dead_leases()
    except StorageFull:
        pass  # they protect a little longer
    snapshots = sum(_collect_snapshots(metadata, each) for each in snapshotters)
    blobs = 0
    named = set(metadata.named_blobs())
    garbage = {blob.digest: blob.size for blob in content.walk() if blob.digest not in named}
    digests = list(garbage)
    for at in range(0, len(digests), _AT_ONCE):
        with metadata.unnamed("blob", digests[at : at + _AT_ONCE]) as unnamed:
            for digest in unnamed:
                try:
                    content.set_aside(digest)
                except NotFound:
                    continue  # another collector was here first
                blobs += 1
                freed += garbage[digest]
        content.sweep()
    return Collected(blobs, freed, snapshots)


def _collect_snapshots(metadata: "Metadata", snapshotter: "Collectable") -> int:
    """Remove from the leaves on; how many."""
    remove = getattr(snapshotter, "forget", snapshotter.remove)
    parents = {snapshot.key: snapshot.parent for snapshot in snapshotter.walk()}
    children = dict.fromkeys(parents, 0)
    for parent in parents.values():
        if parent in children:
            children[parent] += 1
    leaves = [key for key, count in children.items() if not count]
    removed = 0
    while leaves:
        key = leaves.pop()
        if metadata.is_named("snapshot", key):
            continue
        with metadata.unnamed("snapshot", [key]) as unnamed:
            if not unnamed:
                continue
            try:
                remove(key)
                removed += 1
            except NotFound:
                pass  # another collector was here first
            except FailedPrecondition:
                continue  # it has a child since we looked
        parent = parents[key]
        if parent in children:
            children[parent] -= 1
            if not children[parent]:
                leaves.append(parent)
    snapshotter.reclaim()
    return removed
