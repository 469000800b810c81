"""The pseudo-image "host": this host's own root under a scratch in memory, for those who asked for it by flag.

What a container of it can read is said in pyrunc/image/host.py.
"""

import os

from pyrunc.image.host import host_root
from pyrunc.runtime.compile import Rootfs
from pyrunc.runtime.options import Mount

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.image.host import HostRoot


def rootfs(root: str) -> Rootfs:
    """The root of a container of the host's root; *root* is what is hidden of pyrunc's own."""
    return Rootfs(_place(root).layers, scratch=True)


def mounts(root: str) -> list[Mount]:
    """What is mounted over it."""
    return [Mount(each.target, each.source, each.kind, each.options) for each in _place(root).mounts]


def _place(root: str) -> "HostRoot":
    return host_root((root, os.environ.get("PYRUNC_STATE") or "/run/pyrunc"))
