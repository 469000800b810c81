"""From layers in the content store to snapshots: each once, whoever needs it first.

A snapshot is known by its chainID, which stands for a layer and all below it; images share them. One process
unpacks a layer, under a lock of that chainID, and others wait for it.
Source: OCI image-spec, config.md, "Layer ChainID".
"""

import os

from pyrunc.api import Progress
from pyrunc.errors import AlreadyExists, NotFound
from pyrunc.image import layer as layers
from pyrunc.store.files import Lock

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.api import OnProgress
    from pyrunc.drivers.graph.snapshotter import Snapshotter
    from pyrunc.engine.layer_sizes import LayerSizes
    from pyrunc.spec.image import Descriptor
    from pyrunc.store.content import ContentStore
    from pyrunc.store.leases import Lease


class Unpacker:
    """Unpacks into *snapshotter* what is in *content*; *locks* is a directory, *sizes* keeps what was counted."""

    def __init__(
        self, locks: str, content: "ContentStore", snapshotter: "Snapshotter", sizes: "LayerSizes"
    ) -> None:
        self._locks = locks
        self._content = content
        self._snapshotter = snapshotter
        self._sizes = sizes

    def ensure(
        self, wanted: "Sequence[Descriptor]", diff_ids: "Sequence[str]", chain_ids: "Sequence[str]", lease: "Lease",
        progress: "OnProgress | None" = None,
    ) -> str | None:  # fmt: skip
        """See that every layer is unpacked; the key of the uppermost snapshot, None for an image without layers.

        The lowest layer is the first of *wanted*, *diff_ids* and *chain_ids*. *lease* protects the snapshots.
        Raises DataLoss for content that is not its digest's, InvalidSpec for a bad archive, StorageFull, OSError.
        """
        lease.protect_snapshot(*chain_ids)
        missing = len(chain_ids)
        while missing and not self._is_there(chain_ids[missing - 1]):
            missing -= 1
        for number in range(missing, len(chain_ids)):
            parent = chain_ids[number - 1] if number else None
            self._one(wanted[number], diff_ids[number], chain_ids[number], parent, lease, progress)
        return chain_ids[-1] if chain_ids else None

    def _one(
        self, layer: "Descriptor", diff_id: str, chain_id: str, parent: str | None, lease: "Lease",
        progress: "OnProgress | None",
    ) -> None:  # fmt: skip
        with Lock(os.path.join(self._locks, chain_id.removeprefix("sha256:")), transient=True):
            if self._is_there(chain_id):
                return
            key = f"unpack-{os.urandom(16).hex()}"
            lease.protect_snapshot(key)
            self._snapshotter.prepare(key, parent)
            try:
                applied = self._apply(key, layer, diff_id, progress)
                self._sizes.put(chain_id, applied.content_bytes)
                self._snapshotter.commit(chain_id, key)
            except AlreadyExists:
                self._snapshotter.remove(key)
            except BaseException:
                try:
                    self._snapshotter.remove(key)
                except NotFound:
                    pass  # who was interrupted had committed it
                raise

    def _apply(
        self, key: str, layer: "Descriptor", diff_id: str, progress: "OnProgress | None"
    ) -> "layers.Applied":
        root, whiteouts = self._snapshotter.target(key)
        try:
            with self._content.open_unverified(layer.digest) as source:
                tell = None
                if progress is not None:
                    report, item, total = progress, layer.digest, layer.size

                    def tell(done: int) -> None:
                        report(Progress("unpack", item, done, total))

                return layers.apply(
                    source,
                    root,
                    whiteouts,
                    digest=layer.digest,
                    size=layer.size,
                    diff_id=diff_id,
                    progress=tell,
                    what=f"layer {layer.digest}",
                )
        finally:
            os.close(root)

    def _is_there(self, chain_id: str) -> bool:
        try:
            return self._snapshotter.stat(chain_id).kind == "committed"
        except NotFound:
            return False
