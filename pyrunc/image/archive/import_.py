"""A tar of a root directory becomes an image of one layer."""

import time

from pyrunc.errors import InvalidArgument, InvalidSpec
from pyrunc.image.archive.contents import Unpacking
from pyrunc.image.archive.tar import CHUNK, Readable, Reader
from pyrunc.image.changes import apply_changes
from pyrunc.spec import image as documents
from pyrunc.spec.image import Descriptor, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyrunc.image.images import ImageStore
    from pyrunc.image.reference import Reference
    from pyrunc.store.content import Ingest
    from pyrunc.store.metadata import ImageRow

_MAX_MEMBERS = 10_000_000


class _Passing:
    """*packed*, of which every byte goes into *target* as it is read."""

    def __init__(
        self, packed: Readable, target: "Ingest", progress: "Callable[[int], object] | None"
    ) -> None:
        self._packed = packed
        self._target = target
        self._progress = progress

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes."""
        data = self._packed.read(size)
        self._target.write(data)
        if self._progress:
            self._progress(self._target.size)
        return data


def import_(
    source: Readable,
    images: "ImageStore",
    *,
    reference: "Reference | None" = None,
    changes: "Sequence[str]" = (),
    message: str = "",
    origin: str = "-",
    platform: Platform | None = None,
    created_ns: int | None = None,
    created_by: str = "",
    progress: "Callable[[int], object] | None" = None,
) -> "ImageRow":
    """Make an image of a tar, plain or compressed, which is stored as it is when uncompressed.

    *changes* are instructions as in `apply_changes`; *message* is the image's comment (empty: where it came from,
    *origin*); *created_ns* is since the epoch (None: now), so that the same tar can be the same image; *created_by*
    is what its history says. *progress* is called with the uncompressed bytes read.
    Raises InvalidArgument for a change or a reference, InvalidSpec for what is no tar or grows beyond bounds.
    """
    if reference is not None and reference.digest:
        raise InvalidArgument("cannot import digest reference")
    settings = apply_changes({}, changes)
    with images.lease() as lease:
        with images.content.ingest(lease=lease) as target:
            packed = Unpacking(source)
            reader = Reader(_Passing(packed, target, progress), origin, _MAX_MEMBERS)
            for _ in reader:
                pass  # a member is a header that is right, and as much content as it says
            while reader.rest(CHUNK):
                pass
            if not target.size:
                raise InvalidSpec(f"{origin}: not a tar archive: it is empty")
            layer = target.commit()
        wanted = platform or documents.host_platform()
        when = documents.timestamp(time.time_ns() if created_ns is None else created_ns)
        comment = message or f"Imported from {origin}"
        history: dict[str, Any] = {"created": when, "comment": comment}
        if created_by:
            history["created_by"] = created_by
        config = {
            "architecture": wanted.architecture,
            **({"variant": wanted.variant} if wanted.variant else {}),
            "os": wanted.os,
            "created": when,
            "comment": comment,
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            "history": [history],
        }
        return images.add(
            documents.encode(config),
            [Descriptor(documents.layer_type("plain"), layer.digest, layer.size)],
            lease=lease,
            references=() if reference is None else (reference,),
        )
