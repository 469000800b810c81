"""Anonymous volumes: the directories that an image declares as VOLUME, each container's own, below <root>/volumes.

    volumes/<container>/<number>    one directory for each path, which begins as the image has it

They go with their container. What is written there is no part of the container's change: commit and diff do not see it.
"""

import os

from pyrunc._native import openat2
from pyrunc.drivers.graph import trees
from pyrunc.runtime.options import Mount
from pyrunc.store.files import make_directory

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable


def make(root: str, container_id: str, paths: "Iterable[str]", tree: int) -> list[Mount]:
    """Make a volume for each of *paths*, with what the directory descriptor *tree* (the image's root) has there.

    Raises OSError.
    """
    found = mounts(root, container_id, paths)
    for mount in found:
        make_directory(os.path.dirname(mount.source))  # none but root's way to what may be set-user-ID there
        os.mkdir(mount.source, 0o755)
        _fill(mount.source, tree, mount.target)
    return found


def mounts(root: str, container_id: str, paths: "Iterable[str]") -> list[Mount]:
    """Where the volumes of a container are."""
    home = os.path.join(root, "volumes", container_id)
    return [Mount(path, os.path.join(home, str(n)), "bind", ("rbind", "rw")) for n, path in enumerate(paths)]


def remove(root: str, container_id: str) -> None:
    """Remove a container's volumes, if it has any, however deep its programs made them."""
    try:
        with trees.opened(os.path.join(root, "volumes")) as home:
            trees.remove(home, container_id)
    except OSError:
        pass  # such as an immutable file: the container goes all the same


def _fill(place: str, tree: int, path: str) -> None:
    """Copy what *tree* has at *path* into the new directory *place*, as a tar that never touches the disk."""
    from pyrunc._native import layer_apply, layer_diff
    from pyrunc.image.layer import DEFAULT_LIMITS

    try:
        source = openat2.open_in_root(tree, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # the image has no such directory: the volume is empty, and root's
    target = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        applier = layer_apply.LayerApplier(
            target, layer_apply.REMOVE, max_bytes=DEFAULT_LIMITS.max_bytes, max_members=DEFAULT_LIMITS.max_members,
            max_path_bytes=DEFAULT_LIMITS.max_path_bytes,
        )  # fmt: skip
        try:
            layer_diff.write_tree(source, applier.feed)
            applier.finish()
        finally:
            applier.close()
        status = os.fstat(source)
        os.fchown(target, status.st_uid, status.st_gid)
        os.fchmod(target, status.st_mode & 0o7777)
    finally:
        os.close(target)
        os.close(source)
