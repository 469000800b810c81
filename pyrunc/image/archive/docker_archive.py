"""What `docker save` writes, since Docker 1.10, and podman and skopeo as docker-archive.

    manifest.json          [{"Config": a name, "RepoTags": [references], "Layers": [names, the lowest first]}]
    <id>.json              a config                          since Docker 25: blobs/sha256/<id>
    <id>/layer.tar         a layer, or a link to another's   since Docker 25: blobs/sha256/<diffID>
    repositories, <id>/json, <id>/VERSION    for readers before Docker 1.10; not read here

Since Docker 25 it is an OCI layout too; then the manifest that an image has there stays its manifest.
"""

from pyrunc.errors import DataLoss, InvalidArgument, InvalidSpec, PyruncError
from pyrunc.image import reference
from pyrunc.image.archive.contents import shown
from pyrunc.image.archive.found import Found, check_os
from pyrunc.image.images import check_count
from pyrunc.spec import image as documents
from pyrunc.spec.image import Descriptor, text
from pyrunc.spec.shape import list_of, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.image.archive.contents import Contents, Stored

MANIFEST = "manifest.json"
_TEXTS = list_of(text)
_ENTRIES = list_of(record(Config=text, RepoTags=_TEXTS, Layers=_TEXTS))


def read(contents: "Contents") -> list[Found]:
    """Return the images of an archive, whose layers are then in the content store.

    Raises InvalidSpec, NotFound for a missing file, DataLoss for a layer that is not its config's.
    """
    entries = documents.decode_any(contents.document(MANIFEST), MANIFEST)
    _ENTRIES(entries, MANIFEST)
    found = []
    for i, entry in enumerate(entries):
        field = f"{MANIFEST}[{i}]"
        if not entry.get("Config"):
            raise InvalidSpec(f"{field}.Config: missing")
        found.append(
            _image(contents, entry["Config"], entry.get("Layers") or (), entry.get("RepoTags") or (), field)
        )
    return found


def _image(
    contents: "Contents", config_name: str, layer_names: "Sequence[str]", tags: "Sequence[str]", field: str
) -> Found:
    config = contents.document(config_name)
    document = documents.read_config(config, shown(config_name))
    check_os(document)
    check_count(document, layer_names, shown(config_name))
    references = tuple(_reference(tag, f"{field}.RepoTags[{i}]") for i, tag in enumerate(tags))
    layers = []
    for i, (name, diff_id) in enumerate(zip(layer_names, documents.diff_ids(document), strict=True)):
        layer = contents.layer(name)
        if layer.diff_id != diff_id:
            raise DataLoss(
                f"{contents.what}: {shown(name)}: invalid diffID for layer {i}: expected {diff_id}, got {layer.diff_id}"
            )
        layers.append(layer)
    descriptors = tuple(
        Descriptor(documents.layer_type(layer.compression), layer.digest, layer.size) for layer in layers
    )
    manifest = _manifest(contents, documents.digest_of(config), layers)
    return Found(config, descriptors, manifest, references, sum(layer.tar_bytes for layer in layers))


def _reference(tag: str, field: str) -> reference.Reference:
    try:
        named = reference.parse(tag)
    except InvalidArgument as exc:
        raise InvalidSpec(f"{field}: {shown(tag)}: {exc}") from exc
    if named.tag is None or named.digest is not None:
        raise InvalidSpec(f"{field}: invalid tag {shown(tag)}")
    return named


def _manifest(contents: "Contents", image_id: str, layers: "Sequence[Stored]") -> bytes | None:
    """The manifest that the OCI layout in the archive has for the image; some writers' have no layers in it."""
    if not contents.has("index.json"):
        return None
    try:
        index = documents.read_index(contents.document("index.json"), "index.json")
        for each in index.manifests:
            name = f"blobs/sha256/{each.digest[7:]}"
            if each.media_type not in documents.MANIFESTS or not contents.has(name):
                continue
            data = contents.document(name, each.digest)
            manifest = documents.read_manifest(data, name, each.media_type)
            if manifest.config.digest == image_id and [layer.digest for layer in manifest.layers] == [
                layer.digest for layer in layers
            ]:
                return data
    except PyruncError:
        return None  # manifest.json is what counts here
    return None
