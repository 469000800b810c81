"""How much a container has written, and how much that is with its image."""

import os
import stat

from pyrunc.errors import InvalidArgument, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.api import ContainerRecord
    from pyrunc.engine.engine import Engine
    from pyrunc.engine.parts import Parts


def sizes(engine: "Engine", record: "ContainerRecord") -> tuple[int, int]:
    """Bytes of the files that *record* has written, as Docker counts them, and the same with its image."""
    own = written(engine._parts, record)  # noqa: SLF001 - the engine's own
    try:
        return own, own + engine.images.get(record.image_id).size
    except (NotFound, InvalidArgument):
        return own, own


def written(parts: "Parts", record: "ContainerRecord") -> int:
    """Bytes of the files that *record* has written, as Docker counts them."""
    if not record.driver:
        return 0
    try:
        upper = parts.snapshotter.rootfs(record.id).upper
        if not upper:
            return parts.snapshotter.usage(record.id).bytes
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
