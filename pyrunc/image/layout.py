"""An image in an OCI layout: its documents, checked, and its layers as one root directory.

    index.json -> manifest -> config
                           -> layers, the lowest first, each a tar, plain or compressed by gzip or zstd

Every blob's size and digest, and the digest of every uncompressed layer (its diffID), are verified
as the bytes arrive.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from pyrunc.errors import AlreadyExists, DataLoss, InvalidSpec, NotFound, Unsupported
from pyrunc.image import layer
from pyrunc.spec.image import (
    MANIFESTS,
    MAX_DOCUMENT_BYTES,
    REF_NAME,
    Descriptor,
    diff_ids,
    read_config,
    read_index,
    read_manifest,
)

# Of one image, unpacked: bounds for whatever a small archive can blow up to.
MAX_BYTES = 8 << 30
MAX_MEMBERS = 500_000


class Image(NamedTuple):
    """An image in the directory *layout*; *diff_ids* are the digests of its *layers* uncompressed."""

    layout: str
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]


def shipped(name: str) -> str:
    """Return the path of the layout of the image *name* that ships with pyrunc.

    Raises NotFound.
    """
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "images", name)
    if "/" in name or not os.path.exists(os.path.join(path, "index.json")):
        raise NotFound(f"no image {name!r} ships with pyrunc")
    return path


def read(layout: str, name: str | None = None) -> Image:
    """Read the documents of the image *name* (None: the only one) in the directory *layout*.

    Raises NotFound, Unsupported, or InvalidSpec for what is not as the documents say.
    Source: OCI image-spec, image-layout.md, manifest.md, config.md.
    """
    index = read_index(_read_file(os.path.join(layout, "index.json"), "index.json"), "index.json")
    found = [each for each in index.manifests if name is None or each.annotations.get(REF_NAME) == name]
    if not found:
        raise NotFound(f"{layout}: no image {name!r}" if name else f"{layout}: no image")
    if len(found) > 1:
        raise InvalidSpec(
            f"index.json.manifests: {len(found)} images are called {name!r}; one has to be chosen"
        )
    target = found[0]
    if target.media_type not in MANIFESTS:
        raise Unsupported(f"index.json.manifests: {target.media_type} is not supported yet")
    manifest = read_manifest(_read_blob(layout, target), "manifest", target.media_type)
    config = read_config(_read_blob(layout, manifest.config), "config")
    layers, diffs = manifest.layers, diff_ids(config)
    if len(diffs) != len(layers):
        raise InvalidSpec(f"config.rootfs.diff_ids: {len(diffs)} for {len(layers)} layers")
    return Image(layout, config, layers, diffs)


def unpack(image: Image, target: str) -> None:
    """Unpack the layers of *image*, the lowest first, into the empty directory *target*.

    Owners are set when the caller is root. Raises InvalidSpec for content that does not match its
    digest, leads outside or is beyond MAX_BYTES and MAX_MEMBERS, AlreadyExists when *target* is not
    empty, and OSError where the file system refuses something. After an error *target* holds a part.
    Source: OCI image-spec, layer.md.
    """
    if os.listdir(target):
        raise AlreadyExists(f"{target} is not empty")
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    left = layer.DEFAULT_LIMITS._replace(max_bytes=MAX_BYTES, max_members=MAX_MEMBERS)
    try:
        for blob, diff_id in zip(image.layers, image.diff_ids, strict=True):
            with _open(_blob_path(image.layout, blob), blob.digest) as file:
                done = layer.apply(
                    file,
                    root,
                    layer.REMOVE,
                    digest=blob.digest,
                    size=blob.size,
                    diff_id=diff_id,
                    limits=left,
                    set_owner=os.geteuid() == 0,
                    what=f"layer {blob.digest[:19]}",
                )
            left = left._replace(
                max_bytes=left.max_bytes - done.content_bytes, max_members=left.max_members - done.members
            )
    except DataLoss as exc:
        raise InvalidSpec(str(exc)) from exc
    finally:
        os.close(root)


def _open(path: str, what: str) -> IO[bytes]:
    try:
        return open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0)
    except FileNotFoundError as exc:
        raise NotFound(f"{what} does not exist") from exc


def _read_file(path: str, what: str) -> bytes:
    with _open(path, what) as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidSpec(f"{what}: more than {MAX_DOCUMENT_BYTES} bytes")
    return data


def _blob_path(layout: str, blob: Descriptor) -> str:
    return os.path.join(layout, "blobs", "sha256", blob.digest[7:])


def _read_blob(layout: str, blob: Descriptor) -> bytes:
    data = _read_file(_blob_path(layout, blob), blob.digest)
    if len(data) != blob.size:
        raise InvalidSpec(f"{blob.digest}: {len(data)} bytes, not {blob.size}")
    if hashlib.sha256(data).hexdigest() != blob.digest[7:]:
        raise InvalidSpec(f"{blob.digest}: the content has another digest")
    return data
