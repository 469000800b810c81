"""The graph driver `vfs`: every snapshot is a whole copy of its parent. It works on every file system.

    <number>/fs

Where the file system shares blocks between files (btrfs, xfs), a copy costs no space; elsewhere it costs all of it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from pyrunc.drivers.graph import trees
from pyrunc.drivers.graph.numbered import NumberedSnapshots, Row, active
from pyrunc.runtime.compile_host import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.image.diff import Written


class Vfs(NumberedSnapshots):
    """Whole copies below ``<root>/snapshots/vfs``.

    Raises PermissionDenied.
    """

    name = "vfs"
    slow = True

    def begin(self, directory: int, row: Row) -> None:  # noqa: ARG002
        """An empty tree, readable by all."""
        os.mkdir("fs", dir_fd=directory)
        os.chmod("fs", 0o755, dir_fd=directory)

    def fill(self, directory: int, row: Row) -> None:
        """Copy the parent."""
        if row.parent is None:
            return
        os.mkdir("links", 0o700, dir_fd=directory)
        with (
            trees.opened("links", directory) as links,
            trees.opened("fs", directory) as target,
            self.opened(f"{row.parent}/fs") as source,
        ):
            trees.Copier(links).copy(source, target)
        os.rmdir("links", dir_fd=directory)

    def root(self, row: Row) -> Rootfs:
        """The copy itself; a view's as well, since what is written to it reaches nobody else."""
        return Rootfs((f"{self.home}/{row.number}/fs",), idmap=True)

    def target(self, key: str) -> tuple[int, int]:
        """See Snapshotter."""
        from pyrunc._native import layer_apply

        return self.open(f"{active(self.usable(key)).number}/fs"), layer_apply.REMOVE

    def write_diff(
        self, key: str, sink: Callable[[memoryview], object], *, clamp_mtime_ns: int | None = None
    ) -> Written:
        """See Snapshotter."""
        from pyrunc.image import diff

        row = self.find(key)
        with self.opened(f"{row.number}/fs") as files, self._below(row) as lower:
            return diff.write_tree_diff(lower, files, sink, clamp_mtime_ns=clamp_mtime_ns)

    def changes(self, key: str) -> list[tuple[str, str]]:
        """See Snapshotter."""
        from pyrunc.image import diff

        row = self.find(key)
        with self.opened(f"{row.number}/fs") as files, self._below(row) as lower:
            return diff.tree_changes(lower, files)

    @contextmanager
    def mounted(self, key: str, *, writable: bool = False) -> Iterator[int]:
        """See Snapshotter."""
        row = self.find(key)
        if writable:
            with self.opened(f"{active(self.usable(key)).number}/fs") as files:
                yield files
            return
        from pyrunc.drivers.graph import detached

        mount = detached.read_only(f"{self.home}/{row.number}/fs")
        try:
            with trees.opened(".", mount) as files:
                yield files
        finally:
            os.close(mount)

    @contextmanager
    def _below(self, row: Row) -> Iterator[int]:
        """The tree of the parent, or an empty one."""
        if row.parent is not None:
            with self.opened(f"{row.parent}/fs") as files:
                yield files
            return
        with self.temporary() as name, self.opened(name) as directory:
            yield directory
