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
    from collections.abc import Callable, Mapping
    from typing import Any

    from pyrunc.engine.images import Images
    from pyrunc.engine.parts import Parts
    from pyrunc.store.leases import Lease


class Base(NamedTuple):
    """An image to make containers of: its *config*, the snapshot *top* and its *driver*; "" for the host's root.

    Unless it is *held* the snapshot may be gone by the time that one is made.
    """

    image_id: str
    driver: str
    config: "Mapping[str, Any]"
    top: str
    held: bool = True


OF_HOST = Base("", "", {}, "")


class Bases:
    """Those of *parts*."""

    def __init__(self, parts: "Parts", images: "Callable[[], Images]") -> None:
        self._parts = parts
        self._images = images
        self._pid = 0
        self._found: dict[str, tuple[Base, Lease]] = {}

    def get(self, image_id: str, deadline: Deadline = NEVER, *, hold: bool = True) -> Base:
        """That of an image; if it need not *hold*, nothing protects it, where it is ready.

        Raises NotFound, TimedOut.
        """
        with lock:
            if self._pid != os.getpid():
                self._pid, self._found = os.getpid(), {}  # a lease is not inherited by a forked process
            found = self._found.get(image_id)
        if found is not None:
            return found[0]
        row = self._parts.images.get(image_id)
        document = self._parts.images.config(row)
        chain_ids = self._parts.metadata.chain_ids(row.id)
        top = ""
        if chain_ids and not hold:
            top = mount_points.ready(self._parts, chain_ids[-1])
            if top:
                return Base(row.id, self._parts.snapshotter.name, document.get("config") or {}, top, False)
        lease = self._parts.metadata.lease()
        try:
            if chain_ids:
                top = mount_points.ready(self._parts, chain_ids[-1], lease)
            if not top:
                below = self._images().unpack(row, lease, deadline)
                top = mount_points.ensure(self._parts, below, lease, deadline)
        except BaseException:
            lease.release()
            raise
        base = Base(row.id, self._parts.snapshotter.name, document.get("config") or {}, top)
        with lock:
            other = self._found.setdefault(image_id, (base, lease))
        if other[1] is not lease:
            lease.release()
        return other[0]

    def again(self, base: Base) -> Base | None:
        """The same, held, if what was not was collected in the meantime."""
        if base.held or mount_points.is_there(self._parts, base.top):
            return None
        return self.get(base.image_id)

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
