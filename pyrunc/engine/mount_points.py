"""The places that every container mounts something at, made between its image and its own snapshot.

So they are no part of what a container changed: diff and commit do not show them. Images share them, one snapshot each.
"""

import os

from pyrunc.errors import AlreadyExists, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.engine.parts import Parts
    from pyrunc.store.leases import Lease

_PLACES = (
    (b"/dev", True), (b"/proc", True), (b"/sys", True), (b"/etc", True), (b"/etc/hostname", False),
    (b"/etc/hosts", False), (b"/etc/resolv.conf", False),
)  # fmt: skip


def ready(parts: "Parts", top: str, lease: "Lease | None" = None) -> str:
    """The snapshot above *top* that `ensure` has made, which implies that *top* is there; "" if it has not.

    *lease* protects it, if there is one.
    """
    name = _name(top)
    if lease is not None:
        lease.protect_snapshot(name)
    return name if is_there(parts, name) else ""


def ensure(parts: "Parts", top: str | None, lease: "Lease") -> str:
    """See that the snapshot of an image, whose layers are *top*, has one above it with these places; its key.

    *lease* protects it.
    """
    name = _name(top)
    lease.protect_snapshot(name)
    if is_there(parts, name):
        return name
    from pyrunc.store.files import Lock

    lock = os.path.join(parts.locks, name.removeprefix("mount-points-sha256:") + ".mount-points")
    with Lock(lock, transient=True):
        if is_there(parts, name):
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
            try:
                parts.snapshotter.remove(key)
            except NotFound:
                pass  # who was interrupted had committed it
            raise
    return name


def _name(top: str | None) -> str:
    return f"mount-points-{top or 'of-nothing'}"


def _make(tree: int, path: bytes, directory: bool) -> None:
    """Make what is missing, whatever this process's umask is."""
    from pyrunc._native import openat2

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


def is_there(parts: "Parts", name: str) -> bool:
    """Whether there is a snapshot *name* to begin with."""
    try:
        return parts.snapshotter.stat(name).kind == "committed"
    except NotFound:
        return False
