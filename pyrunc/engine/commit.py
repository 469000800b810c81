"""What becomes of a container's change: an image, a list, a tar of its whole tree."""

import time
from contextlib import contextmanager

from pyrunc.engine import argument_checks, container_events, container_state, pausing, stopping
from pyrunc.errors import FailedPrecondition, NotFound
from pyrunc.image import reference as references
from pyrunc.spec import image as documents

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from pyrunc.api import CommitRequest, ContainerRecord
    from pyrunc.engine.images import Images
    from pyrunc.engine.parts import Parts
    from pyrunc.store.leases import Lease


def commit(parts: "Parts", images: "Images", request: "CommitRequest") -> str:
    """Make an image of a container's change; its id. Raises NotFound, InvalidArgument in Docker's words."""
    from pyrunc.image.changes import apply_changes

    container = stopping.current(parts, request.container)
    container_state.check("commit", container)
    _check_image(container)
    reference = references.parse(request.reference).tagged() if request.reference else None
    parent = parts.metadata.get_image(container.image_id)
    if parent is None:
        raise NotFound(f"No such image: {container.image_id}")
    argument_checks.check_texts("changes", request.changes)
    for what, text in (("author", request.author), ("message", request.message)):
        argument_checks.check_text(what, text)
    config = apply_changes(_carried(container), request.changes)
    layers = [*parts.images.manifest(parent).layers]
    with parts.metadata.lease() as lease:
        with _there(parts, container.id), pausing.meanwhile(parts, container, request.pause):
            made = _layer(parts, container, lease)
        if made is not None:
            layers.append(made)
        document = _document(parts.images.config(parent), container, request, config, made and made.digest)
        row = parts.images.add(
            documents.encode(document),
            layers,
            references=[reference] if reference else [],
            lease=lease,
            parent=parent.id,
        )
        images.unpack(row, lease)
    container_events.say(
        parts, container, "commit", comment=request.message, imageID=row.id, imageRef=request.reference
    )
    return row.id


def _layer(parts: "Parts", container: "ContainerRecord", lease: "Lease") -> "documents.Descriptor | None":
    """The container's change as a plain layer in the content; None if it changed nothing."""
    if not parts.snapshotter.changes(container.id):
        return None
    with parts.content.ingest(lease=lease) as writer:
        parts.snapshotter.write_diff(container.id, writer.write)
        blob = writer.commit()
    return documents.Descriptor(documents.layer_type("plain"), blob.digest, blob.size)


def changes_of(parts: "Parts", container: str) -> "list[tuple[str, str]]":
    """What a container changed: ("A", "C" or "D", path). Raises NotFound."""
    found = parts.containers.get(container)
    _check_image(found)
    with _there(parts, found.id):
        return parts.snapshotter.changes(found.id)


def export(parts: "Parts", container: str, sink: "Callable[[memoryview], object]") -> None:
    """Write the whole tree of a container as a tar. Raises NotFound."""
    from pyrunc.image import diff

    found = stopping.current(parts, container)
    container_state.check("export", found)
    _check_image(found)
    with _there(parts, found.id), parts.snapshotter.mounted(found.id) as tree:
        diff.write_tree(tree, sink)


@contextmanager
def _there(parts: "Parts", container_id: str) -> "Iterator[None]":
    """Say of a container that is removed meanwhile that there is none, and nothing of its snapshot."""
    try:
        yield
    except NotFound:
        parts.containers.find(container_id)
        raise


def _carried(container: "ContainerRecord") -> "dict[str, Any]":
    """What of a container's Config becomes the image's."""
    return {
        key: value
        for key, value in container.config.items()
        if key not in ("Hostname", "Domainname") and value
    }


def _document(
    parent: "Mapping[str, Any]",
    container: "ContainerRecord",
    request: "CommitRequest",
    config: "Mapping[str, Any]",
    diff_id: str | None,
) -> "dict[str, Any]":
    """The new image's config document. Source: OCI image-spec, config.md."""
    created = documents.timestamp(time.time_ns())
    step: dict[str, Any] = {"created": created, "created_by": " ".join(container.config.get("Cmd") or ())}
    if request.author:
        step["author"] = request.author
    if request.message:
        step["comment"] = request.message
    if diff_id is None:
        step["empty_layer"] = True
    diff_ids = [*documents.diff_ids(parent), *([] if diff_id is None else [diff_id])]
    found = {
        key: parent[key]
        for key in ("architecture", "variant", "os", "os.version", "os.features")
        if key in parent
    }
    return {
        **found, "created": created, **({"author": request.author} if request.author else {}), "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [*(parent.get("history") or ()), step],
    }  # fmt: skip


def _check_image(container: "ContainerRecord") -> None:
    if not container.driver:
        raise FailedPrecondition(f"container {container.id} has the host's root: there is no change of it")
