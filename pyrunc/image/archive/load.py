"""Images come in from an archive: all of it, or nothing."""

import json
import os
from typing import NamedTuple

from pyrunc.errors import InvalidArgument, NotFound, Unsupported
from pyrunc.image.archive import docker_archive, oci_archive
from pyrunc.image.archive.contents import Directory, Intake, Tar, Unpacking
from pyrunc.image.reference import Reference
from pyrunc.spec.image import Platform, host_platform
from pyrunc.store.metadata import ImageRow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.image.archive.contents import Contents, Progress
    from pyrunc.image.archive.found import Found
    from pyrunc.image.archive.tar import Readable
    from pyrunc.image.images import ImageStore
    from pyrunc.store.leases import Lease


class Loaded(NamedTuple):
    """An image that came in: its row, what it is called now, and (reference, id) of whom that meant before."""

    row: ImageRow
    references: tuple[Reference, ...]
    replaced: tuple[tuple[Reference, str], ...] = ()


def load(
    source: "Readable",
    images: "ImageStore",
    *,
    progress: "Progress | None" = None,
    platform: Platform | None = None,
    what: str = "archive",
) -> list[Loaded]:
    """Read a docker-archive or an OCI archive, plain or compressed, from a file or a pipe.

    *progress* is called with a member's name, the bytes read of it, and its size; *platform* is what is taken of an
    image for several (None: this machine's); *what* is how errors call the archive. Layers are verified against
    their digests and diffIDs as they pass. Raises InvalidSpec, Unsupported, NotFound, DataLoss, StorageFull; then
    no image and no reference has changed, and what came is left to the next collection.
    """
    with images.lease() as lease:
        intake = Intake(images.content, lease, progress)
        contents = Tar(Unpacking(source), intake, what)
        return _add(images, lease, _read(contents, platform))


def load_directory(
    path: str,
    images: "ImageStore",
    *,
    progress: "Progress | None" = None,
    platform: Platform | None = None,
) -> list[Loaded]:
    """Read the OCI layout in the directory *path*; as `load`."""
    if not os.path.isdir(path):
        raise InvalidArgument(f"{path} is not a directory")
    with images.lease() as lease:
        contents = Directory(path, Intake(images.content, lease, progress))
        return _add(images, lease, _read(contents, platform))


def _read(contents: "Contents", platform: Platform | None) -> "list[Found]":
    if contents.has(docker_archive.MANIFEST):
        found = docker_archive.read(contents)
        if platform is not None:
            _check(found, platform, contents.what)
        return found
    if contents.has(oci_archive.INDEX):
        return oci_archive.read(contents, platform or host_platform())
    if contents.has("repositories"):
        raise Unsupported(f"{contents.what}: images saved by Docker before 1.10 are not supported")
    raise NotFound(
        f"{contents.what}: no image: it has neither {docker_archive.MANIFEST} nor {oci_archive.INDEX}"
    )


def _check(found: "list[Found]", platform: Platform, what: str) -> None:
    """See that the images of an archive that has no choice are for what was asked for. Raises NotFound."""
    for each in found:
        config = json.loads(each.config)
        own = Platform(*(str(config.get(key) or "") for key in ("os", "architecture", "variant")))
        if own[:2] != platform[:2] or platform.variant not in ("", own.variant):
            raise NotFound(f"{what}: its image is for {own}, and {platform} was asked for")


def _add(images: "ImageStore", lease: "Lease", found: "list[Found]") -> list[Loaded]:
    loaded = []
    for each in found:
        names = dict.fromkeys(each.references)
        before = [(name, images.metadata.resolve(name.canonical)) for name in names]
        row = images.add(
            each.config,
            each.layers,
            lease=lease,
            manifest=each.manifest,
            references=tuple(names),
            size=each.size,
        )
        replaced = tuple((name, old) for name, old in before if old is not None and old != row.id)
        loaded.append(Loaded(row, tuple(names), replaced))
    return loaded
