"""The images of a store: content and rows together, and documents that have been checked; no snapshots.

An image's id is the digest of its config. Every image has a manifest too: the one that it came with, or one that is
made here. What it is called is in Docker's terms: references with a tag, and ``name@sha256:…`` for a manifest.
"""

import time

from pyrunc.errors import InvalidArgument, InvalidSpec, NotFound
from pyrunc.image import reference
from pyrunc.image.reference import Reference
from pyrunc.spec import image as documents
from pyrunc.spec.image import Descriptor, Manifest
from pyrunc.store.content import ContentStore
from pyrunc.store.metadata import ImageRow, Metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.store.leases import Lease

_HEX = frozenset("0123456789abcdef")


class ImageStore:
    """The images below the directory *root*; for all threads, and after a fork."""

    __slots__ = ("content", "metadata")

    def __init__(self, root: str) -> None:
        self.content = ContentStore(root)
        self.metadata = Metadata(root)

    def close(self) -> None:
        """Close the database."""
        self.metadata.close()

    def lease(self) -> "Lease":
        """Return a lease that protects what is ingested until `add` has named it."""
        return self.metadata.lease()

    def add(
        self,
        config: bytes,
        layers: "Sequence[Descriptor]",
        *,
        lease: "Lease",
        manifest: bytes | None = None,
        references: "Sequence[Reference]" = (),
        size: int | None = None,
        parent: str | None = None,
    ) -> ImageRow:
        """Add the image of *config*, whose *layers*, the lowest first, are in the content already.

        *manifest* is the one that it came with, if it did; *references* name it from now on, and no other image.
        *size* is how many bytes it unpacks to (None: what its layers are in the store), *parent* the image that it
        was made from. Raises InvalidSpec for documents that do not fit each other, NotFound for a missing layer.
        """
        document = documents.read_config(config, "config")
        diff_ids = documents.diff_ids(document)
        check_count(document, layers, "config")
        image_id = documents.digest_of(config)
        for layer in layers:
            lease.protect(layer.digest)
            there = self.content.stat(layer.digest)
            if there.size != layer.size:
                raise InvalidSpec(f"{layer.digest}: {there.size} bytes, and its descriptor says {layer.size}")
        if manifest is None:
            manifest = documents.manifest_document(
                Descriptor(documents.OCI_CONFIG, image_id, len(config)), layers
            )
        else:
            _check_manifest(documents.read_manifest(manifest, "manifest"), image_id, layers)
        self.content.add(config, image_id, lease=lease)
        manifest_id = self.content.add(manifest, lease=lease).digest
        platform = documents.platform_of(document)
        row = ImageRow(
            id=image_id,
            manifest=manifest_id,
            created_ns=created_ns(document),
            size=sum(layer.size for layer in layers) if size is None else size,
            os=platform.os,
            architecture=platform.architecture,
            parent=parent,
            added_ns=time.time_ns(),
        )
        blobs = [
            (manifest_id, "manifest"),
            (image_id, "config"),
            *((each.digest, "layer") for each in layers),
        ]
        self.metadata.put_image(
            row,
            blobs,
            [_tagged(each).canonical for each in references],
            chain_ids=documents.chain_ids(diff_ids),
        )
        return row

    def get(self, text: str) -> ImageRow:
        """Return the image that *text* means: a reference, ``name@sha256:…``, an id or a prefix of one only.

        Raises NotFound, in Docker's words.
        """
        digits = text.removeprefix("sha256:")
        if len(digits) == 64 and _HEX.issuperset(digits):
            row = self.metadata.get_image(f"sha256:{digits}")
            if row is None:
                raise NotFound(f"No such image: sha256:{digits}")
            return row
        named = reference.parse(text).tagged()
        found = self.metadata.resolve(named._replace(tag=None).canonical if named.digest else named.canonical)
        if found is None and digits and _HEX.issuperset(digits):
            ids = self.metadata.find_ids(digits)
            found = ids[0] if len(ids) == 1 else None
        row = self.metadata.get_image(found) if found else None
        if row is None:
            raise NotFound(f"No such image: {named.familiar}")
        return row

    def config(self, row: ImageRow) -> "dict[str, Any]":
        """Return the config of an image, as it came, which `add` has checked. Raises DataLoss where it is damaged."""
        return documents.decode(self.content.read(row.id), row.id)

    def manifest(self, row: ImageRow) -> Manifest:
        """Return the manifest of an image."""
        return documents.read_manifest(self.content.read(row.manifest), row.manifest)

    def named(self, name: Reference) -> "list[tuple[Reference, str]]":
        """Return the references of the repository *name*, whatever its tag, with the ids of their images."""
        rows = self.metadata.references()
        found = [
            (reference.parse(text), image_id) for text, image_id in rows if text.startswith(f"{name.name}:")
        ]
        return [(each, image_id) for each, image_id in found if each.name == name.name]

    def tag(self, source: str, target: str) -> ImageRow:
        """Let the reference *target* (``:latest`` without a tag) mean the image that *source* means.

        Raises NotFound, InvalidArgument.
        """
        named = _tagged(reference.parse(target))
        row = self.get(source)
        self.metadata.set_reference(named.canonical, row.id)
        return row

    def untag(self, name: Reference) -> str | None:
        """Forget a reference or a ``name@sha256:…``; the id of the image that it meant."""
        if name.digest:
            return self.metadata.delete_digest(name._replace(tag=None).canonical)
        return self.metadata.delete_reference(name.tagged().canonical)

    def delete(self, row: ImageRow) -> None:
        """Delete an image and all its names; its content goes with the next collection."""
        self.metadata.delete_image(row.id)


def check_count(config: "Mapping[str, Any]", layers: "Sequence[object]", what: str) -> None:
    """Refuse a checked *config* that says another number of layers than there are. Raises InvalidSpec."""
    expected = len(documents.diff_ids(config))
    if expected != len(layers):
        raise InvalidSpec(
            f"{what}.rootfs.diff_ids: layers length mismatch: expected {expected}, got {len(layers)}"
        )


def created_ns(config: "Mapping[str, Any]") -> int:
    """Return when a checked *config* says that its image was made, in ns since the epoch; 0 if it does not say.

    The year 1, with which Docker says the same, and what else does not fit 64 bits is 0 too.
    """
    when = config.get("created")
    ns = documents.nanoseconds(when, "created") if when else 0
    return ns if -(1 << 63) <= ns < 1 << 63 else 0


def _tagged(name: Reference) -> Reference:
    if name.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    return name.tagged()


def _check_manifest(manifest: Manifest, image_id: str, layers: "Sequence[Descriptor]") -> None:
    if manifest.config.digest != image_id:
        raise InvalidSpec(f"manifest.config.digest: {manifest.config.digest}, and the config is {image_id}")
    if [each.digest for each in manifest.layers] != [each.digest for each in layers]:
        raise InvalidSpec(f"manifest.layers: not the layers of {image_id}")
