"""What containers of an image begin with, kept by this process as long as the image may be wanted again.

It is the image's config and the snapshot that theirs are changes to, which a lease of ours protects.
"""

import os

from pyrunc.engine import mount_points
from pyrunc.engine.deadlines import NEVER, Deadline
from pyrunc.engine.parts import lock
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.engine.images import Images
    from pyrunc.engine.parts import Parts
    from pyrunc.store.leases import Lease


class Base(NamedTuple):
    """An image to make containers of: its *config*, the snapshot *top* and its *driver*; "" for the host's root."""

    image_id: str
    driver: str
    config: "Mapping[str, Any]"
    top: str


OF_HOST = Base("", "", {}, "")


class Bases:
    """Those of *parts*."""

    def __init__(self, parts: "Parts", images: "Images") -> None:
        self._parts = parts
        self._images = images
        self._pid = 0
        self._found: dict[str, tuple[Base, Lease]] = {}

    def get(self, image_id: str, deadline: Deadline = NEVER) -> Base:
        """That of an image. Raises NotFound, TimedOut."""
        with lock:
            if self._pid != os.getpid():
                self._pid, self._found = os.getpid(), {}  # a lease is not inherited by a forked process
            found = self._found.get(image_id)
        if found is not None:
            return found[0]
        row = self._parts.images.get(image_id)
        config = self._parts.images.config(row).get("config") or {}
        lease = self._parts.metadata.lease()
        try:
            top = self._images.unpack(row, lease, deadline)
            top = mount_points.ensure(self._parts, top, lease, deadline)
        except BaseException:
            lease.release()
            raise
        base = Base(row.id, self._parts.snapshotter.name, config, top)
        with lock:
            other = self._found.setdefault(image_id, (base, lease))
        if other[1] is not lease:
            lease.release()
        return other[0]

    def forget(self, image_id: str) -> None:
        """An image is removed; containers that have begun with it keep what they need."""
        with lock:
            found = self._found.pop(image_id, None)
        if found is not None:
            found[1].release()

    def close(self) -> None:
        """Let go of all."""
        for image_id in list(self._found):
            self.forget(image_id)
