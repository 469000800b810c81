"""What an engine is made of, each opened when it is first used: content, rows, snapshots."""

import os
from _thread import RLock

from pyrunc.errors import FailedPrecondition, PyruncError
from pyrunc.store import database  # noqa: F401 - what it does at a fork is registered before ours
from pyrunc.store.files import Lock, check_private

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.drivers.graph.snapshotter import Snapshotter
    from pyrunc.engine.container_rows import ContainerRows
    from pyrunc.engine.layer_sizes import LayerSizes
    from pyrunc.engine.recipes import Recipes
    from pyrunc.engine.unpack import Unpacker
    from pyrunc.engine.volumes import Volumes
    from pyrunc.image.images import ImageStore
    from pyrunc.store.content import ContentStore
    from pyrunc.store.metadata import Metadata

# One for all engines, held for moments; a fork waits for it, and for the databases below it only afterwards: what is
# registered last comes first.
lock = RLock()
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)

DEFAULT_ROOT = "/var/lib/pyrunc"


class Parts:
    """The parts of one engine on *root*; *graph* names the snapshot driver, None the best one.

    *forget* is called with the id of an image that is removed; *come_to_rest* waits for what is due after runs.
    """

    def __init__(self, root: str | None, graph: str | None) -> None:
        self.root = os.path.abspath(root or os.environ.get("PYRUNC_ROOT") or DEFAULT_ROOT)
        self.graph = graph
        self._made: dict[str, Any] = {}
        self.forget: Callable[[str], None] = _nothing
        self.come_to_rest: Callable[[], None] = _nobody
        self._recipes: Recipes | None = None
        self._closed = False

    def _part(self, name: str, make: "Callable[[], Any]") -> "Any":
        found = self._made.get(name)
        if found is None:
            with lock:
                if self._closed:
                    raise FailedPrecondition("the engine is closed")
                found = self._made.get(name)
                if found is None:
                    try:
                        if not self._made:
                            check_private(self.root)
                        found = self._made[name] = make()
                    except OSError as exc:
                        if isinstance(exc, PyruncError):
                            raise
                        raise FailedPrecondition(f"cannot use {self.root}: {exc.strerror}") from exc
        return found

    @property
    def images(self) -> "ImageStore":
        """Documents of images."""

        def make() -> "ImageStore":
            from pyrunc.image.images import ImageStore

            return ImageStore(self.root)

        part: ImageStore = self._part("images", make)
        return part

    @property
    def locks(self) -> str:
        """The directory of locks between processes."""

        def make() -> str:
            from pyrunc.store.files import make_directory

            directory = os.path.join(self.root, "locks")
            make_directory(directory)
            return directory

        part: str = self._part("locks", make)
        return part

    @property
    def content(self) -> "ContentStore":
        """Blobs by digest."""
        return self.images.content

    @property
    def metadata(self) -> "Metadata":
        """images.db."""
        return self.images.metadata

    @property
    def snapshotter(self) -> "Snapshotter":
        """The graph driver."""

        def make() -> "Snapshotter":
            from pyrunc.drivers import registry

            return registry.graph(self.graph, self.root)

        part: Snapshotter = self._part("snapshotter", make)
        return part

    @property
    def containers(self) -> "ContainerRows":
        """containers.db."""

        def make() -> "ContainerRows":
            from pyrunc.engine.container_rows import ContainerRows

            return ContainerRows(self.root)

        part: ContainerRows = self._part("containers", make)
        return part

    def lock(self, container_id: str, timeout_s: float | None = None) -> "Lock":
        """The lock of a container, held while it is started, finished or removed, and never while it runs.

        Whoever takes it does so before writing to a database.
        """
        return Lock(
            os.path.join(self.locks, f"{container_id}.container"), transient=True, timeout_s=timeout_s
        )

    @property
    def volumes(self) -> "Volumes":
        """volumes.db, and the data of volumes."""

        def make() -> "Volumes":
            from pyrunc.engine.volumes import Volumes

            return Volumes(self.root, lambda container_id: self.containers.by_id(container_id) is not None)

        part: Volumes = self._part("volumes", make)
        return part

    @property
    def sizes(self) -> "LayerSizes":
        """layers.db."""

        def make() -> "LayerSizes":
            from pyrunc.engine.layer_sizes import LayerSizes

            return LayerSizes(self.root)

        part: LayerSizes = self._part("sizes", make)
        return part

    @property
    def unpacker(self) -> "Unpacker":
        """From layers to snapshots."""

        def make() -> "Unpacker":
            from pyrunc.engine.unpack import Unpacker

            return Unpacker(self.locks, self.content, self.snapshotter, self.sizes)

        part: Unpacker = self._part("unpacker", make)
        return part

    @property
    def closed(self) -> bool:
        """Whether none of it can be used any more."""
        return self._closed

    @property
    def recipes(self) -> "Recipes":
        """What containers have in common that this process makes."""
        if self._recipes is None:
            from pyrunc.engine.recipes import Recipes

            self._recipes = Recipes()
        return self._recipes

    def collect(self) -> int:
        """Remove blobs and snapshots that no row and no lease names, and locks of the dead; the bytes of the blobs."""
        from pyrunc.store.collect import collect
        from pyrunc.store.files import sweep_locks

        sweep_locks(self.locks)
        return collect(self.content, self.metadata, [self.snapshotter]).bytes

    def close(self) -> None:
        """Close what was opened; none of it can be used again."""
        with lock:
            self._closed = True
            for name in ("snapshotter", "volumes", "containers", "sizes", "images"):
                part = self._made.pop(name, None)
                if part is not None:
                    part.close()
            self._made.clear()


def _nobody() -> None:
    """Nothing is due."""


def _nothing(_image_id: str) -> None:
    """Nobody keeps anything of images."""
