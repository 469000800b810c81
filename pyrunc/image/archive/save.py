"""Images go out into an archive, as a stream, the same bytes for the same images.

    oci-layout, index.json, blobs/sha256/…     an OCI layout, with one entry of the index for each name
    manifest.json, repositories                the same images in Docker's words; not in format "oci"

So dockerd, podman, skopeo and what reads OCI layouts take the format "docker". Blobs are
written as they are in the store, so that manifests keep their digests; only in "docker" are zstd layers uncompressed
(and those images get another manifest), which Docker reads since 23 only.
"""

from typing import NamedTuple

from pyrunc.errors import DataLoss, InvalidArgument
from pyrunc.image import compression, reference
from pyrunc.image.archive.docker_archive import MANIFEST
from pyrunc.image.archive.oci_archive import FULL_NAME, INDEX, LAYOUT
from pyrunc.image.archive.tar import CHUNK, Writer
from pyrunc.image.reference import Reference
from pyrunc.spec import image as documents
from pyrunc.spec.image import Descriptor, Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Literal

    from typing_extensions import Buffer

    from pyrunc.image.archive.contents import Progress
    from pyrunc.image.images import ImageStore
    from pyrunc.store.metadata import ImageRow


class _Layer(NamedTuple):
    """A layer as it is written; *packed* is the blob of which it is the uncompressed content, if it is."""

    descriptor: Descriptor
    packed: Descriptor | None = None


class _Image(NamedTuple):
    """An image on its way out, with the names that were asked for."""

    row: "ImageRow"
    config: bytes
    manifest: bytes
    media_type: str
    layers: tuple[_Layer, ...]
    references: list[Reference]


def save(
    images: "ImageStore",
    names: "Sequence[str]",
    sink: "Callable[[Buffer], object]",
    *,
    format: "Literal['docker', 'oci']" = "docker",  # noqa: A002 - what it is called everywhere
    progress: "Progress | None" = None,
) -> None:
    """Write the images *names* to *sink*; a name without a tag means all its tags, an id an image without names.

    A layer that several images share is written once. *progress* is called with a blob's name, the bytes written of
    it, and its size. Raises NotFound before the first byte is written, DataLoss where content is damaged.
    """
    if format not in ("docker", "oci"):
        raise InvalidArgument(f"no such format: {format}: docker or oci")
    if not names:
        raise InvalidArgument("no image to save")
    with images.lease() as lease:
        chosen = _choose(images, names)
        for row, _ in chosen.values():
            lease.protect(*(digest for digest, _ in images.metadata.blobs(row.id)))
        found = [_image(images, row, references, format) for row, references in chosen.values()]
        _write(images, found, Writer(sink), format, progress)


def _choose(images: "ImageStore", names: "Sequence[str]") -> "dict[str, tuple[ImageRow, list[Reference]]]":
    chosen: dict[str, tuple[ImageRow, list[Reference]]] = {}

    def add(row: "ImageRow", name: Reference | None = None) -> None:
        references = chosen.setdefault(row.id, (row, []))[1]
        if name is not None and name not in references:
            references.append(name)

    for text in names:
        if not reference.is_id(text.removeprefix("sha256:")):
            named = reference.parse(text)
            if named.tag is None and named.digest is None and named.familiar_name != "sha256":
                tags = images.named(named)
                for name, image_id in tags:
                    add(images.get(image_id), name)
                if tags:
                    continue
            row = images.get(text)
            by_name = images.metadata.resolve(named.canonical) == row.id
            add(row, named if by_name and named.tag and not named.digest else None)
        else:
            add(images.get(text))
    return chosen


def _image(images: "ImageStore", row: "ImageRow", references: list[Reference], form: str) -> _Image:
    config = images.content.read(row.id)
    data = images.content.read(row.manifest)
    manifest = documents.read_manifest(data, row.manifest)
    diff_ids = documents.diff_ids(documents.read_config(config, row.id))
    layers = tuple(_Layer(layer) for layer in manifest.layers)
    if form == "docker" and any(documents.LAYERS[layer.media_type] == "zstd" for layer in manifest.layers):
        layers = tuple(
            _unpacked(images, layer, diff_id)
            for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
        )
        data = documents.manifest_document(manifest.config, (layer.descriptor for layer in layers))
        manifest = Manifest(documents.OCI_MANIFEST, manifest.config, manifest.layers)
    return _Image(row, config, data, manifest.media_type, layers, references)


def _unpacked(images: "ImageStore", layer: Descriptor, diff_id: str) -> _Layer:
    """The layer as Docker can read it; its size has to be known before it is written."""
    if documents.LAYERS[layer.media_type] != "zstd":
        return _Layer(layer)
    size = sum(len(piece) for piece in _pieces(images, layer, unpack=True))
    return _Layer(Descriptor(documents.layer_type("plain"), diff_id, size), layer)


def _pieces(images: "ImageStore", layer: Descriptor, *, unpack: bool) -> "Iterator[bytes]":
    with images.content.open(layer.digest) as file:
        source = compression.open_reader(file) if unpack else file
        while piece := source.read(CHUNK):
            yield piece
        file.finish()


def _write(
    images: "ImageStore",
    found: list[_Image],
    tar: Writer,
    form: str,
    progress: "Progress | None",
) -> None:
    tar.add(LAYOUT, documents.encode({"imageLayoutVersion": "1.0.0"}))
    tar.add(INDEX, documents.encode(_index(found)))
    if form == "docker":
        tar.add(MANIFEST, documents.encode([_entry(image) for image in found]))
        repositories = _repositories(found)
        if repositories:
            tar.add("repositories", documents.encode(repositories))
    tar.directory("blobs")
    tar.directory("blobs/sha256")
    written = set()
    for image in found:
        for digest, data in (
            (documents.digest_of(image.manifest), image.manifest),
            (image.row.id, image.config),
        ):
            if digest not in written:
                written.add(digest)
                tar.add(_path(digest), data)
        for layer in image.layers:
            if layer.descriptor.digest not in written:
                written.add(layer.descriptor.digest)
                _write_layer(images, layer, tar, progress)
    tar.finish()


def _write_layer(images: "ImageStore", layer: _Layer, tar: Writer, progress: "Progress | None") -> None:
    digest, size = layer.descriptor.digest, layer.descriptor.size
    stored = layer.packed or layer.descriptor
    there = images.content.stat(stored.digest)
    if there.size != stored.size:
        raise DataLoss(f"{stored.digest}: {there.size} bytes, not {stored.size}")
    tar.file(_path(digest), size)
    done = 0
    for piece in _pieces(images, stored, unpack=layer.packed is not None):
        tar.write(piece)
        done += len(piece)
        if progress:
            progress(_path(digest), done, size)


def _index(found: list[_Image]) -> "dict[str, Any]":
    """The index; readers take the full name from one of both annotations, skopeo and podman from the second."""
    manifests = []
    for image in found:
        descriptor = Descriptor(
            image.media_type,
            documents.digest_of(image.manifest),
            len(image.manifest),
            documents.platform_of(documents.read_config(image.config, image.row.id)),
        )
        names = [{FULL_NAME: name.canonical, documents.REF_NAME: name.canonical} for name in image.references]
        manifests += [
            documents.descriptor_object(descriptor._replace(annotations=name)) for name in names or [{}]
        ]
    return {"schemaVersion": 2, "mediaType": documents.OCI_INDEX, "manifests": manifests}


def _entry(image: _Image) -> "dict[str, Any]":
    return {
        "Config": _path(image.row.id),
        "RepoTags": [name.familiar for name in image.references] or None,
        "Layers": [_path(layer.descriptor.digest) for layer in image.layers],
    }


def _repositories(found: list[_Image]) -> dict[str, dict[str, str]]:
    """What readers before Docker 1.10 want: repository, tag, and the highest layer."""
    repositories: dict[str, dict[str, str]] = {}
    for image in found:
        for name in image.references:
            if name.tag and image.layers:
                tags = repositories.setdefault(name.familiar_name, {})
                tags[name.tag] = image.layers[-1].descriptor.digest[7:]
    return repositories


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest[7:]}"
