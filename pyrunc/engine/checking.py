"""All that an engine's root holds, read and judged: what is damaged or missing, and whom it concerns."""

import os

from pyrunc.errors import DataLoss, NotFound, PyruncError
from pyrunc.store.check import Problem
from pyrunc.store.check import check as check_store

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.drivers.graph.snapshotter import Snapshotter
    from pyrunc.engine.parts import Parts
    from pyrunc.store.metadata import Metadata


def check(parts: "Parts", progress: "Callable[[int], None] | None") -> list[Problem]:
    """See Engine.check."""
    from pyrunc.store.content import ContentStore

    problems: list[Problem] = []
    metadata: Metadata | None = None
    snapshotter: Snapshotter | None = None
    try:
        metadata = parts.metadata
    except DataLoss as exc:
        problems.append(Problem("database", os.path.join(parts.root, "images.db"), str(exc)))
    try:
        snapshotter = parts.snapshotter
    except DataLoss as exc:
        problems.append(Problem("database", os.path.join(parts.root, "snapshots"), str(exc)))
    try:
        problems += parts.containers.damage()
    except DataLoss as exc:
        problems.append(Problem("database", os.path.join(parts.root, "containers.db"), str(exc)))
    try:
        if os.path.exists(os.path.join(parts.root, "volumes.db")):
            problems += parts.volumes.damage()
    except DataLoss as exc:
        problems.append(Problem("database", os.path.join(parts.root, "volumes.db"), str(exc)))
    content = ContentStore(parts.root) if metadata is None else parts.content
    try:
        problems += check_store(content, metadata, [snapshotter] if snapshotter else (), progress=progress)
        if snapshotter is not None:
            problems += _unusable(snapshotter, metadata)
    except DataLoss as exc:
        problems.append(Problem("database", parts.root, str(exc)))
    return problems


def _unusable(snapshotter: "Snapshotter", metadata: "Metadata | None") -> list[Problem]:
    """The snapshots whose files are not there any more: each is mounted once, with all below it."""
    problems = []
    for info in snapshotter.walk():
        try:
            with snapshotter.mounted(info.key):
                continue
        except NotFound:
            continue  # removed meanwhile
        except (PyruncError, OSError) as exc:
            text = f"{snapshotter.name} snapshot {info.key} cannot be mounted: {exc}"
        images: list[str] = []
        names: list[str] = []
        containers: list[str] = []
        if metadata is not None:
            images = [row.id for row in metadata.images() if info.key in metadata.chain_ids(row.id)]
            containers = [container for container, _, key in metadata.uses() if key == info.key]
            names = [name for image in images for name, _ in metadata.references(image)]
        problems.append(Problem("missing", info.key, text, tuple(images), tuple(names), tuple(containers)))
    return problems
