"""What every graph driver offers: snapshots, each a change to its parent.

A snapshot is *active* (written by one container, or by whoever applies a layer), a *view* (what is written to it is
thrown away with it) or *committed* (never changed again; the only kind that can be a parent). A committed
snapshot is known by its chainID, the others by any key that their maker chose; both are names in one space.
"""

from __future__ import annotations

from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Literal, Protocol

    from pyrunc.image.diff import Written
    from pyrunc.runtime.compile_host import Rootfs

    Kind = Literal["active", "view", "committed"]
else:
    Protocol = object


class Info(NamedTuple):
    """What a driver knows of a snapshot; *created_ns* is wall time since 1970."""

    key: str
    parent: str | None
    kind: Kind
    created_ns: int


class Usage(NamedTuple):
    """What a snapshot takes on disk beyond its parent: *bytes* as the file system counts them, and files."""

    bytes: int
    inodes: int


class Snapshotter(Protocol):
    """A graph driver. Safe to use from several threads and processes on one root, whoever of them is killed when."""

    name: str

    def prepare(self, key: str, parent: str | None, *, volatile: bool = False) -> Rootfs:
        """Make an active snapshot over the committed *parent* (None: empty), and mount nothing.

        *volatile* spares flushes: what was written is lost if the host, not only the container, dies.
        Raises AlreadyExists, NotFound for the parent, FailedPrecondition for one that is not committed,
        StorageFull, OSError.
        """

    def view(self, key: str, parent: str) -> Rootfs:
        """Make a view of the committed *parent*: to be run read-only, or written to and thrown away.

        Raises as `prepare`.
        """

    def rootfs(self, key: str) -> Rootfs:
        """What the runtime needs to start a container on the active snapshot or view *key*.

        Raises NotFound, FailedPrecondition for a committed one, DataLoss for a volatile one of before a reboot.
        """

    def commit(self, name: str, key: str) -> None:
        """Make the active snapshot *key* the committed *name*, after its files are safe on the disk.

        Raises AlreadyExists for *name*, NotFound, FailedPrecondition if *key* is not active, DataLoss as `rootfs`.
        """

    def remove(self, key: str) -> None:
        """Remove a snapshot with its files.

        Raises NotFound, and FailedPrecondition while it is another's parent.
        """

    def forget(self, key: str) -> None:
        """The same at once: the files stay until `reclaim`.

        Raises as `remove`.
        """

    def stat(self, key: str) -> Info:
        """What is known of *key*.

        Raises NotFound.
        """

    def usage(self, key: str) -> Usage:
        """What *key* takes on disk; a committed snapshot is measured once.

        Raises NotFound.
        """

    def walk(self) -> Iterator[Info]:
        """Every snapshot, parents before children."""

    def target(self, key: str) -> tuple[int, int]:
        """Where a layer of the active snapshot *key* is applied: an open directory, which the caller closes.

        The second is what a whiteout becomes there, layer_apply.REMOVE or OVERLAY. Raises as `rootfs`.
        """

    def write_diff(
        self, key: str, sink: Callable[[memoryview], object], *, clamp_mtime_ns: int | None = None
    ) -> Written:
        """Write the change of *key* against its parent as a plain layer tar; its digest and size.

        *sink* and *clamp_mtime_ns* are as in `image.diff`, and so is what is raised; and NotFound.
        """

    def changes(self, key: str) -> list[tuple[str, str]]:
        """The same as a list, as `docker diff` has it: ("A", "C" or "D", path).

        Raises NotFound.
        """

    def mounted(self, key: str, *, writable: bool = False) -> AbstractContextManager[int]:
        """The whole tree of *key* as a directory descriptor, for export and cp; no one else can see the mount.

        It is read-only unless *writable*, which is for active snapshots that no container runs on.
        Raises NotFound, FailedPrecondition.
        """

    def reclaim(self) -> int:
        """Remove what killed processes have left; the number of directories."""

    def close(self) -> None:
        """Let go of the root; the snapshots stay."""
