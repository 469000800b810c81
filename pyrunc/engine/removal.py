"""How containers are removed, and what removal means: all that one has, its row last, whoever is killed meanwhile."""

import os

from pyrunc.engine import container_events, finish
from pyrunc.engine.mounts_wanted import wanted
from pyrunc.errors import FailedPrecondition, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyrunc.api import ContainerRecord, Pruned
    from pyrunc.engine.owners import Owners
    from pyrunc.engine.parts import Parts

_BEGUN_S = 1.0  # what a start may still take that is to be killed
_ATTEMPTS = 10  # to remove one that a restart policy starts again and again


def remove(parts: "Parts", owners: "Owners", container_id: str, *, force: bool, volumes: bool) -> None:
    """Remove a container; *force* kills it first. Raises NotFound, FailedPrecondition in Docker's words."""
    from pyrunc.engine import container_state, stopping

    row = parts.containers.by_id(container_id)
    record = None if row is None else row.record
    for attempt in range(_ATTEMPTS):
        with finish.Locked(parts, container_id, patience_s=_BEGUN_S if force else finish.BEGUN_S) as found:
            if found is None:
                if record is None:
                    raise NotFound(f"No such container: {container_id}")
                break  # it went with its end
            record = found
            try:
                container_state.check("remove", record)
            except FailedPrecondition:
                if not force or attempt == _ATTEMPTS - 1:
                    raise
            else:
                parts.containers.change(record.id, frees=True, state="removing")
                forget(parts, record, volumes=volumes)
                break
        try:
            stopping.kill(parts, owners, container_id, 9)
        except (FailedPrecondition, NotFound):
            pass  # it has just ended
    owners.forget(container_id)
    if record is not None:
        collect_for(parts, record)


def forget(parts: "Parts", record: "ContainerRecord", *, volumes: bool) -> None:
    """Remove all that a container has, with its lock held; what is gone already is no error."""
    from pyrunc.drivers.graph import trees

    if wanted(record.config, record.host_config):
        from pyrunc.engine import mount_specs

        mount_specs.release(parts, record.id, anonymous=volumes)
    if record.driver:
        try:
            parts.snapshotter.remove(record.id)
        except NotFound:
            pass
        parts.metadata.unuse(record.id, durable=not record.auto_remove)
    try:
        with trees.opened(os.path.join(parts.root, "containers")) as home:
            trees.remove(home, record.id)
    except FileNotFoundError:
        pass
    finish.drop_state(record.state_dir, must=True)  # nobody sweeps it without a row
    parts.containers.remove(record.id)
    container_events.say(parts, record, "destroy")


def collect_for(parts: "Parts", record: "ContainerRecord") -> None:
    """Collect what only a removed container kept: the layers of an image that was removed before it."""
    if record.image_id and parts.metadata.get_image(record.image_id) is None:
        parts.collect()


def prune(parts: "Parts", owners: "Owners", filters: "Iterable[tuple[str, str]]") -> "Pruned":
    """Remove the containers that do not run. Raises InvalidArgument for a filter that there is not."""
    from pyrunc.api import Pruned, Removed
    from pyrunc.engine import container_filters
    from pyrunc.engine.container_sizes import written

    passes = container_filters.for_prune(filters)
    removed, freed = [], 0
    for row in parts.containers.all():
        record = row.record
        if record.state not in ("created", "exited", "dead") or not passes(record):
            continue
        try:
            size = written(parts, record)
            remove(parts, owners, record.id, force=False, volumes=False)
        except (FailedPrecondition, NotFound):
            continue  # it was started, or removed, meanwhile
        removed.append(Removed("deleted", record.id))
        freed += size
    return Pruned(tuple(removed), freed)
