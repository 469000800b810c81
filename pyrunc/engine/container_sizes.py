"""How much a container has written, and how much that is with its image."""

import os
import stat

from pyrunc.errors import InvalidArgument, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.api import ContainerRecord
    from pyrunc.engine.engine import Engine


def sizes(engine: "Engine", record: "ContainerRecord") -> tuple[int, int]:
    """Bytes of the files that *record* has written, as Docker counts them, and the same with its image."""
    written = _written(engine, record) if record.driver else 0
    try:
        return written, written + engine.images.get(record.image_id).size
    except (NotFound, InvalidArgument):
        return written, written


def _written(engine: "Engine", record: "ContainerRecord") -> int:
    snapshotter = engine._parts.snapshotter  # noqa: SLF001 - the engine's own
    try:
        upper = snapshotter.rootfs(record.id).upper
        if not upper:
            return snapshotter.usage(record.id).bytes
    except NotFound:
        return 0
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, _, names in os.walk(upper):
        for name in names:
            try:
                found = os.lstat(os.path.join(directory, name))
            except OSError:
                continue  # it went meanwhile
            if not stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return total
