"""Documents of images, of OCI and of Docker's schema 2: read and checked, chosen from, and written.

    index ─┬─> index …           several images, or one image for several platforms
           └─> manifest ─┬─> config    what the image is, and the diffIDs of its layers
                         └─> layers    the lowest first

What comes in has been written by strangers: it is bounded in size and depth, no key may be there twice, and an
error begins with the path of the field. Source: OCI image-spec (descriptor.md, image-index.md, manifest.md,
config.md); Docker's image manifest, version 2, schema 2.
"""

from pyrunc.errors import InvalidSpec, NotFound, Unsupported
from pyrunc.records import NamedTuple, Reader
from pyrunc.spec import shape
from pyrunc.spec.shape import flag, integer, list_of, map_of, record, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

MAX_DOCUMENT_BYTES = 4 << 20
MAX_DEPTH = 100
MAX_LAYERS = 4096

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEXES = frozenset((OCI_INDEX, DOCKER_INDEX))
MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
CONFIGS = frozenset((OCI_CONFIG, DOCKER_CONFIG))
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
# How each type of layer is compressed; the second of OCI's was for what may not be given away.
LAYERS = {
    _OCI_LAYER: "plain",
    f"{_OCI_LAYER}+gzip": "gzip",
    f"{_OCI_LAYER}+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "plain",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "plain",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "plain",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
REF_NAME = "org.opencontainers.image.ref.name"
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "armv6l": "arm", "s390x": "s390x",
    "ppc64le": "ppc64le", "riscv64": "riscv64",
}  # fmt: skip
# From the one that every machine of the architecture runs to the more demanding ones.
_VARIANTS = {"amd64": ("", "v1"), "arm64": ("", "v8"), "arm": ("v7", "", "v6", "v5")}
_HEX = frozenset("0123456789abcdef")
_DIGITS = frozenset("0123456789")
_NONE: "Mapping[str, str]" = {}


class Platform(NamedTuple):
    """What an image runs on, in Go's words: ``linux``, ``amd64``, and perhaps a variant of it."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Descriptor(NamedTuple):
    """What points at a blob: media type, digest (``sha256:`` and 64 hex digits), size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: "Mapping[str, str]" = _NONE


class Manifest(NamedTuple):
    """One image: its *config* and its *layers*, the lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


class Index(NamedTuple):
    """Several manifests, or indexes."""

    media_type: str
    manifests: tuple[Descriptor, ...]


# ---- what all documents have in common


def digest_of(data: bytes) -> str:
    """Return ``sha256:`` and the digest of *data*."""
    import hashlib  # milliseconds that a start, which digests nothing here, does not pay

    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(value: object) -> bool:
    """Whether *value* is ``sha256:`` and 64 hexadecimal digits in lower case."""
    return (
        isinstance(value, str) and value[:7] == "sha256:" and len(value) == 71 and _HEX.issuperset(value[7:])
    )


def text(value: object, field: str) -> None:
    """Text that can be written as UTF-8: halves of UTF-16 pairs, which JSON can say alone, cannot."""
    shape.text(value, field)
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise refuse(field, "text", value) from None


def digest(value: object, field: str) -> None:
    """A digest; a check as those of pyrunc.spec.shape."""
    if isinstance(value, str) and value.startswith("sha512:") and len(value) == 7 + 128:
        raise Unsupported(f"{field}: only sha256 is supported, not sha512")
    if not is_digest(value):
        raise refuse(field, "sha256: and 64 hex digits", value)


def decode(data: bytes, what: str) -> "dict[str, Any]":
    """Read the JSON object *data*, which is called *what* in errors.

    Raises InvalidSpec; for keys that are there twice too, of which every reader may take another one.
    """
    document = decode_any(data, what)
    if not isinstance(document, dict):
        raise refuse(what, "an object", document)
    return document


def decode_any(data: bytes, what: str) -> "Any":
    """Read the JSON document *data* of any type; as `decode`."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidSpec(f"{what}: {len(data)} bytes, and at most {MAX_DOCUMENT_BYTES} are read")
    try:
        document = _read(data.decode("utf-8"))
    except RecursionError:
        raise InvalidSpec(f"{what}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as exc:
        raise InvalidSpec(f"{what}: not JSON: {exc}") from exc
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _members(outer)]
        if not level:
            return document
    raise InvalidSpec(f"{what}: nested deeper than {MAX_DEPTH} levels")


def _members(value: "Any") -> "Iterable[Any]":
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def encode(document: "Mapping[str, Any] | Sequence[Any]") -> bytes:
    """Write a document: the same bytes for the same content in the same order."""
    import json

    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _object(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:100]!r} is there twice")
            seen.add(key)
    return found


def _no_constant(name: str) -> "Any":
    raise ValueError(f"{name} is no number")


_read = Reader(_object, _no_constant)


# ---- manifests and indexes

_INT64 = integer(-(1 << 63), (1 << 63) - 1)
_SIZE = integer(0, (1 << 63) - 1)
_TEXTS = list_of(text)
_ANNOTATIONS = map_of(text, text)
_PLATFORM = record(os=text, architecture=text, variant=text)
_DESCRIPTOR = record(mediaType=text, digest=digest, size=_SIZE, platform=_PLATFORM, annotations=_ANNOTATIONS)


def read_descriptor(value: object, field: str) -> Descriptor:
    """Check the descriptor at *field* and return it. Raises InvalidSpec, Unsupported."""
    found = _checked(value, _DESCRIPTOR, field)
    for name in ("mediaType", "digest", "size"):
        if found.get(name) is None:
            raise InvalidSpec(f"{field}.{name}: missing")
    wanted = found.get("platform")
    platform = None
    if wanted:
        platform = Platform(
            wanted.get("os") or "", wanted.get("architecture") or "", wanted.get("variant") or ""
        )
    return Descriptor(
        found["mediaType"], found["digest"], found["size"], platform, found.get("annotations") or {}
    )


def read_manifest(data: bytes, what: str, media_type: str | None = None) -> Manifest:
    """Read the manifest of an image, of which its descriptor says that it is a *media_type*.

    Raises InvalidSpec, and Unsupported for what is no image that a container can be made of.
    """
    document = decode(data, what)
    kind = _media_type(document, what, media_type, ("manifests", "fsLayers"), OCI_MANIFEST)
    if kind not in MANIFESTS:
        raise Unsupported(f"{what}: {kind} is not supported")
    config = read_descriptor(document.get("config"), f"{what}.config")
    if config.media_type not in CONFIGS:
        raise Unsupported(f"{what}.config.mediaType: {config.media_type} is not an image")
    layers = _descriptors(document, "layers", what)
    if len(layers) > MAX_LAYERS:
        raise InvalidSpec(f"{what}.layers: {len(layers)}, and at most {MAX_LAYERS} are read")
    for i, layer in enumerate(layers):
        if layer.media_type not in LAYERS:
            raise Unsupported(f"{what}.layers[{i}].mediaType: {layer.media_type} is not supported")
    return Manifest(kind, config, layers)


def read_index(data: bytes, what: str, media_type: str | None = None) -> Index:
    """Read an index, of which its descriptor says that it is a *media_type*. Raises InvalidSpec, Unsupported."""
    document = decode(data, what)
    kind = _media_type(document, what, media_type, ("layers", "config", "fsLayers"), OCI_INDEX)
    if kind not in INDEXES:
        raise Unsupported(f"{what}: {kind} is not supported")
    return Index(kind, _descriptors(document, "manifests", what))


def manifest_document(config: Descriptor, layers: "Iterable[Descriptor]") -> bytes:
    """Return an OCI manifest; a layer of Docker's type gets OCI's, since both are the same bytes."""
    return encode({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor_object(config._replace(media_type=OCI_CONFIG)),
        "layers": [
            descriptor_object(layer._replace(media_type=layer_type(LAYERS[layer.media_type]))) for layer in layers
        ],
    })  # fmt: skip


def layer_type(compression: str) -> str:
    """Return OCI's media type of a layer that is ``plain``, ``gzip`` or ``zstd``."""
    return _OCI_LAYER if compression == "plain" else f"{_OCI_LAYER}+{compression}"


def descriptor_object(descriptor: Descriptor) -> "dict[str, Any]":
    """Return *descriptor* as it stands in a document."""
    found: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        found["annotations"] = dict(descriptor.annotations)
    if descriptor.platform:
        found["platform"] = {
            key: value for key, value in descriptor.platform._asdict().items() if value or key != "variant"
        }
    return found


def _media_type(
    document: "Mapping[str, Any]", what: str, announced: str | None, others: "Iterable[str]", default: str
) -> str:
    """What the document is; one that could be two things would be another image for another reader."""
    version = document.get("schemaVersion")
    if version is not None and (version != 2 or isinstance(version, bool)):
        if version == 1:
            raise Unsupported(f"{what}: Docker's schema 1 is not supported")
        raise refuse(f"{what}.schemaVersion", "2", version)
    kind = document.get("mediaType")
    if kind is not None:
        text(kind, f"{what}.mediaType")
    if announced is not None and kind is not None and kind != announced:
        raise InvalidSpec(f"{what}.mediaType: {kind}, but what points at it says {announced}")
    for key in others:
        if document.get(key) is not None:
            raise InvalidSpec(f"{what}: {key} does not belong into {default}")
    found: str = kind or announced or default
    if found.startswith(_SCHEMA_1):
        raise Unsupported(f"{what}: Docker's schema 1 is not supported")
    return found


def _descriptors(document: "Mapping[str, Any]", key: str, what: str) -> tuple[Descriptor, ...]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise refuse(f"{what}.{key}", "a list", entries)
    return tuple(read_descriptor(entry, f"{what}.{key}[{i}]") for i, entry in enumerate(entries))


def _checked(value: object, check: "Any", field: str) -> "dict[str, Any]":
    check(value, field)
    found: Any = value
    return dict(found)


# ---- platforms


def host_platform() -> Platform:
    """Return what images of this machine say that they run on."""
    import os

    machine = os.uname().machine
    return Platform("linux", _ARCHITECTURES.get(machine, machine))


def select(manifests: "Sequence[Descriptor]", wanted: Platform, what: str) -> Descriptor:
    """Return the one of *manifests* that fits *wanted* best; one that says no platform fits if none says one.

    Raises NotFound, which lists what there is.
    """
    variants = (wanted.variant,) if wanted.variant else _VARIANTS.get(wanted.architecture, ("",))
    ranks = {variant: i for i, variant in enumerate(variants)}
    found: tuple[int, Descriptor] | None = None
    for candidate in manifests:
        platform = candidate.platform
        if platform is None or (platform.os, platform.architecture) != (wanted.os, wanted.architecture):
            continue
        rank = ranks.get(platform.variant)
        if rank is not None and (found is None or rank < found[0]):
            found = rank, candidate
    if found is not None:
        return found[1]
    anywhere = [candidate for candidate in manifests if candidate.platform is None]
    if len(anywhere) == len(manifests) == 1:
        return anywhere[0]
    there = ", ".join(sorted({str(each.platform) for each in manifests if each.platform})) or "no platform"
    raise NotFound(f"{what}: no image for {wanted}; there is {there}")


# ---- configs


def _nothing(value: object, field: str) -> None:
    """The value of a set that is written as an object: an empty object, or null."""
    if value is not None:
        record()(value, field)


def _time(value: object, field: str) -> None:
    text(value, field)
    nanoseconds(str(value), field)


_SET = map_of(_nothing, text)
_RUN = record(
    Hostname=text, Domainname=text, User=text, ExposedPorts=_SET, Env=_TEXTS, Cmd=_TEXTS, Entrypoint=_TEXTS,
    Volumes=_SET, WorkingDir=text, Labels=_ANNOTATIONS, StopSignal=text, StopTimeout=_INT64, OnBuild=_TEXTS,
    Shell=_TEXTS, ArgsEscaped=flag,
    Healthcheck=record(
        Test=_TEXTS, Interval=_INT64, Timeout=_INT64, StartPeriod=_INT64, StartInterval=_INT64, Retries=_INT64,
    ),
)  # fmt: skip
_CONFIG = record(
    created=_time, author=text, comment=text, architecture=text, variant=text, os=text, config=_RUN,
    rootfs=record(type=text, diff_ids=list_of(digest)),
    history=list_of(record(created=_time, author=text, created_by=text, comment=text, empty_layer=flag)),
)  # fmt: skip


def read_config(data: bytes, what: str) -> "dict[str, Any]":
    """Read the config of an image and check all that is used of it. Raises InvalidSpec."""
    document = decode(data, what)
    _CONFIG(document, what)
    rootfs = document.get("rootfs")
    if not rootfs:
        raise InvalidSpec(f"{what}.rootfs: missing")
    if rootfs.get("type") not in (None, "layers"):
        raise refuse(f"{what}.rootfs.type", "'layers'", rootfs["type"])
    return document


def diff_ids(config: "Mapping[str, Any]") -> tuple[str, ...]:
    """Return the digests of the uncompressed layers of a checked *config*, the lowest first."""
    return tuple(config["rootfs"].get("diff_ids") or ())


def platform_of(config: "Mapping[str, Any]") -> Platform:
    """Return what a checked *config* says that the image runs on."""
    return Platform(config.get("os") or "", config.get("architecture") or "", config.get("variant") or "")


def chain_ids(diff_ids: "Iterable[str]") -> tuple[str, ...]:
    """Return, for each layer, the digest of it and of all that is below.

    Source: OCI image-spec, config.md, "Layer ChainID".
    """
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(digest_of(f"{found[-1]} {diff_id}".encode()) if found else diff_id)
    return tuple(found)


def chain_id(diff_ids: "Iterable[str]") -> str | None:
    """Return the chainID of the highest layer, if there is one."""
    return (chain_ids(diff_ids) or (None,))[-1]


# ---- times


def nanoseconds(when: str, field: str) -> int:
    """Return the RFC 3339 time *when* in nanoseconds since the epoch. Raises InvalidSpec."""
    from datetime import UTC, datetime

    whole, dot, rest = when.partition(".")
    end = next((i for i, sign in enumerate(rest) if sign not in _DIGITS), len(rest))
    fraction, whole = rest[:end], whole + rest[end:]
    try:
        if (dot and not fraction) or len(whole) < 20 or whole[10] not in "Tt":
            raise ValueError("not as RFC 3339 wants it")
        since = datetime.fromisoformat(whole.upper()) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, TypeError, OverflowError) as exc:
        raise refuse(field, "a time as in RFC 3339", when) from exc
    return (since.days * 86_400 + since.seconds) * 10**9 + int(f"{fraction[:9]:0<9}")


def timestamp(ns: int) -> str:
    """Return *ns* nanoseconds since the epoch as Go writes a time in UTC: without zeros at the end."""
    from datetime import UTC, datetime, timedelta

    seconds, fraction = divmod(ns, 10**9)
    whole = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    if whole.index("-") < 4:
        whole = whole.zfill(19)
    return f"{whole}.{fraction:09}".rstrip("0").rstrip(".") + "Z"
