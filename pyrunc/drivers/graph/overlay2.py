"""The graph driver `overlay2`: every snapshot holds only its change, and the kernel's overlay shows the whole.

    <number>/fs      the change: the overlay's upper directory, or one of its lower ones once it is committed
    <number>/work    the overlay's own, while it can be written to

The directories are numbered so that their names are short: all of them have to fit a page of mount options, relative
to the driver's directory, which leaves room for some 300 layers; beyond, they are named one by one (Linux 6.8), and
at 500 the kernel ends. A view has neither: its writes go to a scratch in memory.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from pyrunc.drivers.graph import overlay_mount, trees
from pyrunc.drivers.graph.numbered import NumberedSnapshots, Row, active
from pyrunc.errors import FailedPrecondition, Unsupported
from pyrunc.runtime.compile_host import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_LAYERS = 500  # OVL_MAX_STACK, Linux 4.20


class Overlay2(NumberedSnapshots):
    """Changes below ``<root>/snapshots/overlay2``.

    Raises Unsupported where the file system of *root* cannot hold an overlay's upper layer, PermissionDenied.
    """

    name = "overlay2"

    def check(self) -> None:
        """Try everything that the driver counts on, once a root."""
        with self.temporary() as name:
            overlay_mount.check(self.home, name)

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
            with self.opened(str(row.number)) as directory:
                overlay_mount.clear_volatile(directory)
        return self.root(row)

    def settle(self, directory: int) -> None:
        """What is committed needs no work directory any more."""
        trees.remove(directory, "work")

    def target(self, key: str) -> tuple[int, int]:
        """See Snapshotter."""
        from pyrunc._native import layer_apply  # type: ignore[attr-defined]

        return self.open(f"{active(self.usable(key)).number}/fs"), layer_apply.OVERLAY

    def write_diff(
        self, key: str, sink: Callable[[memoryview], object], *, clamp_mtime_ns: int | None = None
    ) -> None:
        """See Snapshotter."""
        from pyrunc._native import layer_diff  # type: ignore[attr-defined]

        with self.change(self.find(key)) as upper:
            layer_diff.write_overlay_diff(upper, sink, clamp_mtime_ns=clamp_mtime_ns)

    def changes(self, key: str) -> list[tuple[str, str]]:
        """See Snapshotter."""
        row = self.find(key)
        from pyrunc._native import layer_diff  # type: ignore[attr-defined]

        lowers: list[int] = []
        try:
            for number in row.chain[:-1]:
                lowers.append(self.open(f"{number}/fs"))  # noqa: PERF401 - what is open is closed, if the next one fails
            with self.change(row) as upper:
                found: list[tuple[str, str]] = layer_diff.overlay_changes(upper, lowers)
                return found
        finally:
            for fd in lowers:
                os.close(fd)

    @contextmanager
    def mounted(self, key: str, *, writable: bool = False) -> Iterator[int]:
        """See Snapshotter."""
        row = self.find(key)
        if writable and row.kind != "active":
            raise FailedPrecondition(f"snapshot {key} is not active and cannot be written")
        layers = [f"{number}/fs" for number in row.chain]
        if row.kind == "view":
            layers.pop()
        if len(layers) == 1:
            with self.opened(layers[0]) as files:
                yield files
            return
        if writable:
            self.usable(key)
            with self.opened(str(row.number)) as directory:
                overlay_mount.clear_volatile(directory)
            mount = overlay_mount.mount(self.home, layers[:-1], layers[-1], f"{row.number}/work")
        else:
            mount = overlay_mount.mount(self.home, layers)
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
