"""What is mounted in a container besides its root: the volumes that its image declares."""

import os

from pyrunc.engine import volumes
from pyrunc.engine.request import canonical

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.engine.parts import Parts
    from pyrunc.runtime.options import Mount


def resolve(
    parts: "Parts", container_id: str, config: "Mapping[str, Any]", host_config: "Mapping[str, Any]"
) -> "list[Mount]":
    """The mounts of a container; what it needs for them is made when there is none."""
    del host_config
    paths = list(dict.fromkeys(map(canonical, config.get("Volumes") or ())))
    if not paths:
        return []
    if os.path.isdir(os.path.join(parts.root, "volumes", container_id)):
        return volumes.mounts(parts.root, container_id, paths)
    with parts.snapshotter.mounted(container_id) as tree:
        return volumes.make(parts.root, container_id, paths, tree)


def release(parts: "Parts", container_id: str, *, anonymous: bool) -> None:
    """A container is removed, and its *anonymous* volumes with it."""
    del anonymous
    volumes.remove(parts.root, container_id)
