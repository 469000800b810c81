"""The graph driver `overlay2`: every snapshot holds only its change, and the kernel's overlay shows the whole.

    <number>/fs      the change: the overlay's upper directory, or one of its lower ones once it is committed
    <number>/work    the overlay's own, while it can be written to

The directories are numbered so that their names are short: all of them have to fit a page of mount options, relative
to the driver's directory, which leaves room for some 300 layers; beyond, they are named one by one (Linux 6.8), and
at 500 the kernel ends. A view has neither: its writes go to a scratch in memory.
"""

from __future__ import annotations

import os

from pyrunc.drivers.graph import trees
from pyrunc.drivers.graph.numbered import NumberedSnapshots, Row, active
from pyrunc.errors import FailedPrecondition, Unsupported
from pyrunc.records import contextmanager
from pyrunc.runtime.compile_host import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.image.diff import Written

MAX_LAYERS = 500  # OVL_MAX_STACK, Linux 4.20


class Overlay2(NumberedSnapshots):
    """Changes below ``<root>/snapshots/overlay2``.

    Raises Unsupported where the file system of *root* cannot hold an overlay's upper layer, PermissionDenied.
    """

    name = "overlay2"

    def check(self) -> None:
        """Try everything that the driver counts on, once a root."""
        from pyrunc.drivers.graph import detached  # with what threads need, which a start does not

        with self.temporary() as name:
            detached.check_overlay(self.home, name)

    def begin(self, directory: int, row: Row) -> None:
        """An empty change; its root directory looks as the parent's, which it hides."""
        if len(row.chain) > MAX_LAYERS:
            raise Unsupported(f"snapshot {row.key} would be an overlay of more than {MAX_LAYERS} layers")
        if row.kind == "view":
            return
        os.mkdir("fs", dir_fd=directory)
        os.chmod("fs", 0o755, dir_fd=directory)
        if row.parent is not None:
            os.mkdir("work", 0o700, dir_fd=directory)
            with self.opened(f"{row.parent}/fs") as source, self.opened(f"{row.number}/fs") as target:
                trees.copy_attributes(source, target)

    def root(self, row: Row) -> Rootfs:
        """Layers, the directories above them, and nothing mounted."""
        layers = tuple(f"{self.home}/{number}/fs" for number in row.chain)
        if row.kind == "view":
            return Rootfs(layers[:-1], scratch=True, idmap=True)
        if len(layers) == 1:
            return Rootfs(layers, idmap=True)  # an overlay needs something below
        work = f"{self.home}/{row.number}/work"
        return Rootfs(layers[:-1], idmap=True, upper=layers[-1], work=work, volatile=row.boot is not None)

    def rootfs(self, key: str) -> Rootfs:
        """See Snapshotter."""
        row = self.usable(key)
        if row.boot is not None:
            self._allow_again(row)
        return self.root(row)

    def settle(self, directory: int) -> None:
        """What is committed needs no work directory any more."""
        trees.remove(directory, "work")

    def discard(self, number: str) -> None:
        """Where a container wrote nothing there is only what the kernel has made: no directory has to be read."""
        work = f"{number}/work"
        mark = f"{work}/work/incompat/volatile"  # see _allow_again
        ours = (f"{number}/fs", mark, f"{work}/work/incompat", f"{work}/work", work, number)
        if not self.remove_empty((f"{mark}/dirty",), ours):
            super().discard(number)

    def target(self, key: str) -> tuple[int, int]:
        """See Snapshotter."""
        from pyrunc._native import layer_apply

        return self.open(f"{active(self.usable(key)).number}/fs"), layer_apply.OVERLAY

    def write_diff(
        self, key: str, sink: Callable[[memoryview], object], *, clamp_mtime_ns: int | None = None
    ) -> Written:
        """See Snapshotter."""
        from pyrunc.image import diff

        with self.change(self.find(key)) as upper:
            return diff.write_overlay_diff(upper, sink, clamp_mtime_ns=clamp_mtime_ns)

    def changes(self, key: str) -> list[tuple[str, str]]:
        """See Snapshotter."""
        from pyrunc.image import diff

        row = self.find(key)
        lowers: list[int] = []
        try:
            for number in reversed(row.chain[:-1]):
                lowers.append(self.open(f"{number}/fs"))  # noqa: PERF401 - what is open is closed, if the next one fails
            with self.change(row) as upper:
                return diff.overlay_changes(upper, lowers)
        finally:
            for fd in lowers:
                os.close(fd)

    @contextmanager
    def mounted(self, key: str, *, writable: bool = False) -> Iterator[int]:
        """See Snapshotter."""
        row = self.find(key)
        if writable and row.kind != "active":
            raise FailedPrecondition(f"snapshot {key} is not active and cannot be written")
        from pyrunc.drivers.graph import detached

        layers = [f"{number}/fs" for number in (row.chain[:-1] if row.kind == "view" else row.chain)]
        if len(layers) == 1 and writable:
            with self.opened(layers[0]) as files:
                yield files
            return
        if len(layers) == 1:
            mount = detached.read_only(f"{self.home}/{layers[0]}")
        elif writable:
            self._allow_again(self.usable(key))
            mount = detached.overlay(self.home, layers[:-1], layers[-1], f"{row.number}/work")
        else:
            mount = detached.overlay(self.home, layers)
        try:
            with trees.opened(".", mount) as files:
                yield files
        finally:
            os.close(mount)

    @contextmanager
    def change(self, row: Row) -> Iterator[int]:
        """Its own files; a view has none, since its writes go elsewhere."""
        if row.kind == "view":
            with self.temporary() as name, self.opened(name) as directory:
                yield directory
        else:
            with self.opened(f"{row.number}/fs") as directory:
                yield directory

    def _allow_again(self, row: Row) -> None:
        """Remove the mark that keeps a volatile overlay from being mounted twice.

        The kernel sets it, since it cannot know whether the host died meanwhile; the row knows.
        Source: kernel Documentation/filesystems/overlayfs.rst, "Volatile mount".
        """
        try:
            with self.opened(f"{row.number}/work/work") as work:
                trees.remove(work, "incompat")
        except FileNotFoundError:
            pass  # never mounted
