"""The places that every container mounts something at, made between its image and its own snapshot.

So they are no part of what a container changed: diff and commit do not show them. Images share them, one snapshot each.
"""

import os

from pyrunc._native import openat2
from pyrunc.engine.deadlines import NEVER, Deadline
from pyrunc.errors import AlreadyExists, NotFound
from pyrunc.store.files import Lock

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.engine.parts import Parts
    from pyrunc.store.leases import Lease

_PLACES = (
    (b"/dev", True), (b"/proc", True), (b"/sys", True), (b"/etc", True), (b"/etc/hostname", False),
    (b"/etc/hosts", False), (b"/etc/resolv.conf", False),
)  # fmt: skip


def ensure(parts: "Parts", top: str | None, lease: "Lease", deadline: Deadline = NEVER) -> str:
    """See that the snapshot of an image, whose layers are *top*, has one above it with these places; its key.

    *lease* protects it. Raises TimedOut.
    """
    name = f"mount-points-{top or 'of-nothing'}"
    lease.protect_snapshot(name)
    if _is_there(parts, name):
        return name
    lock = os.path.join(parts.locks, name.removeprefix("mount-points-sha256:") + ".mount-points")
    with Lock(lock, transient=True, timeout_s=deadline.left_s()):
        if _is_there(parts, name):
            return name
        key = f"unpack-{os.urandom(16).hex()}"
        lease.protect_snapshot(key)
        parts.snapshotter.prepare(key, top)
        try:
            with parts.snapshotter.mounted(key, writable=True) as tree:
                for path, directory in _PLACES:
                    _make(tree, path, directory)
            parts.snapshotter.commit(name, key)
        except AlreadyExists:
            parts.snapshotter.remove(key)
        except BaseException:
            parts.snapshotter.remove(key)
            raise
    return name


def _make(tree: int, path: bytes, directory: bool) -> None:
    """Make what is missing, whatever this process's umask is."""
    try:
        os.close(openat2.open_in_root(tree, path, os.O_PATH))
        return
    except OSError:
        pass
    try:
        openat2.make_in_root(tree, path, directory=directory)
        made = openat2.open_in_root(tree, path, os.O_RDONLY)
    except OSError:
        return  # such as below a dangling link: the start says what it cannot do
    try:
        os.fchmod(made, 0o755 if directory else 0o644)
    finally:
        os.close(made)


def _is_there(parts: "Parts", name: str) -> bool:
    try:
        return parts.snapshotter.stat(name).kind == "committed"
    except NotFound:
        return False
