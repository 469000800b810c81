"""An OCI image layout, as a directory or in a tar.

    oci-layout             {"imageLayoutVersion": "1.0.0"}
    index.json             manifests, indexes, and how they are called
    blobs/sha256/<hex>     every document and layer

Source: OCI image-spec, image-layout.md; annotations.md for names; containerd for `io.containerd.image.name`.
"""

from pyrunc.errors import DataLoss, InvalidArgument, InvalidSpec, NotFound, Unsupported
from pyrunc.image import reference
from pyrunc.image.archive.found import Found, check_os
from pyrunc.image.images import check_count
from pyrunc.spec import image as documents
from pyrunc.spec.image import Descriptor, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.image.archive.contents import Contents

INDEX = "index.json"
LAYOUT = "oci-layout"
FULL_NAME = "io.containerd.image.name"
_MAX_NESTING = 4
_MAX_IMAGES = 1000
# Docker's builder puts provenance beside images under a platform that nothing runs on.
_NO_IMAGE = "vnd.docker.reference.type"


def read(contents: "Contents", platform: Platform) -> list[Found]:
    """Return the images of a layout, whose layers are then in the content store.

    Where several manifests have one name, or an index stands for an image, the one for *platform* is taken.
    Raises InvalidSpec, Unsupported, NotFound for a missing blob or platform, DataLoss for wrong content.
    """
    if contents.has(LAYOUT):
        version = documents.decode(contents.document(LAYOUT), LAYOUT).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise Unsupported(f"{LAYOUT}: version {version!r} is not supported")
    index = documents.read_index(contents.document(INDEX), INDEX)
    chosen: dict[str, list[reference.Reference]] = {}
    descriptors: dict[str, Descriptor] = {}
    for name, group in _by_name(index.manifests).items():
        descriptor = group[0] if len(group) == 1 else documents.select(group, platform, f"{INDEX}: {name}")
        descriptor = _resolve(contents, descriptor, platform, INDEX)
        descriptors[descriptor.digest] = descriptor
        references = chosen.setdefault(descriptor.digest, [])
        named = _reference(name)
        if named is not None:
            references.append(named)
    if len(descriptors) > _MAX_IMAGES:
        raise InvalidSpec(f"{INDEX}: {len(descriptors)} images, and at most {_MAX_IMAGES} are read")
    if not descriptors:
        raise NotFound(f"{contents.what}: no image")
    return [
        _image(contents, descriptor, tuple(dict.fromkeys(chosen[digest])))
        for digest, descriptor in descriptors.items()
    ]


def _by_name(manifests: tuple[Descriptor, ...]) -> dict[str, list[Descriptor]]:
    """The manifests that are called the same; one without a name is alone, or among those for other platforms."""
    groups: dict[str, list[Descriptor]] = {}
    for each in manifests:
        if _NO_IMAGE in each.annotations:
            continue
        name = each.annotations.get(FULL_NAME) or each.annotations.get(documents.REF_NAME) or ""
        if not name and (each.platform is None or each.media_type in documents.INDEXES):
            name = f"@{each.digest}"
        group = groups.setdefault(name, [])
        if each.digest not in [other.digest for other in group]:
            group.append(each)
    return groups


def _reference(name: str) -> reference.Reference | None:
    """What an image is called; a bare word is a tag of we do not know what."""
    if not name or name[0] == "@" or not ("/" in name or ":" in name):
        return None
    try:
        named = reference.parse(name)
    except InvalidArgument as exc:
        raise InvalidSpec(f"{INDEX}: {name[:300]!r}: {exc}") from exc
    return None if named.digest else named.tagged()


def _resolve(contents: "Contents", descriptor: Descriptor, platform: Platform, above: str) -> Descriptor:
    """Follow indexes to the manifest for *platform*."""
    for _ in range(_MAX_NESTING):
        if descriptor.media_type in documents.MANIFESTS:
            return descriptor
        if descriptor.media_type not in documents.INDEXES:
            raise Unsupported(f"{above}: {descriptor.media_type} is not supported")
        above = descriptor.digest
        index = documents.read_index(_document(contents, descriptor), above, descriptor.media_type)
        images = [each for each in index.manifests if _NO_IMAGE not in each.annotations]
        descriptor = documents.select(images, platform, above)
    raise InvalidSpec(f"{above}: indexes are nested deeper than {_MAX_NESTING} levels")


def _image(
    contents: "Contents", descriptor: Descriptor, references: tuple[reference.Reference, ...]
) -> Found:
    data = _document(contents, descriptor)
    manifest = documents.read_manifest(data, descriptor.digest, descriptor.media_type)
    config = _document(contents, manifest.config)
    document = documents.read_config(config, manifest.config.digest)
    check_os(document)
    check_count(document, manifest.layers, manifest.config.digest)
    size = 0
    for i, (layer, diff_id) in enumerate(zip(manifest.layers, documents.diff_ids(document), strict=True)):
        stored = contents.blob(_path(layer), layer.digest, layer.size)
        if stored.compression not in documents.LAYERS.values():
            raise Unsupported(f"{layer.digest}: {stored.compression} is not supported in an OCI layout")
        if stored.diff_id != diff_id:
            raise DataLoss(
                f"{contents.what}: {layer.digest}: invalid diffID for layer {i}:"
                f" expected {diff_id}, got {stored.diff_id}"
            )
        size += stored.tar_bytes
    return Found(config, manifest.layers, data, references, size)


def _document(contents: "Contents", descriptor: Descriptor) -> bytes:
    data = contents.document(_path(descriptor), descriptor.digest)
    if len(data) != descriptor.size:
        raise DataLoss(f"{contents.what}: {descriptor.digest}: {len(data)} bytes, not {descriptor.size}")
    return data


def _path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.digest[7:]}"
