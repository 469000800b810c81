"""How the processes of a container are stopped and go on: the freezer of its cgroup."""

from contextlib import suppress

from pyrunc.engine import container_events, container_state, finish
from pyrunc.errors import FailedPrecondition, NotFound, PyruncError
from pyrunc.records import contextmanager
from pyrunc.runtime import cgroup_control, cgroup_layout

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.parts import Parts


def pause(parts: "Parts", container_id: str) -> None:
    """Stop the processes of a container. Raises NotFound, FailedPrecondition in Docker's words."""
    with finish.Locked(parts, container_id) as found:
        record = _there(found, container_id)
        container_state.check("pause", record)
        # The row first: who finds it paused can let it go on, whatever happens to us.
        parts.containers.change(record.id, state="paused")
        try:
            freeze(record)
        except BaseException:
            with suppress(PyruncError, OSError):
                thaw(record)  # some of it may have been stopped
            parts.containers.change(record.id, state="running")
            now = finish.settled(parts, container_id)
            if now is None or not now.running:
                raise FailedPrecondition(f"Container {record.id} is not running") from None
            raise
        container_events.say(parts, record, "pause")


def unpause(parts: "Parts", container_id: str) -> None:
    """Let the processes of a container go on. Raises NotFound, FailedPrecondition in Docker's words."""
    with finish.Locked(parts, container_id) as found:
        record = _there(found, container_id)
        container_state.check("unpause", record)
        thaw(record)
        parts.containers.change(record.id, state="running")
        container_events.say(parts, record, "unpause")


def freeze(record: "ContainerRecord") -> None:
    """Stop the processes of a container. Raises FailedPrecondition where there is no freezer, or one that fails."""
    layout = cgroup_layout.detect()
    try:
        cgroup_control.freeze(layout, finish.cgroup_of(record))
    except FileNotFoundError as exc:
        if layout.of("freezer") is not None or layout.v2 is not None:
            # Its shim has removed the cgroup, and is about to write down how it ended.
            raise FailedPrecondition(f"Container {record.id} is not running") from exc
        raise FailedPrecondition(f"Cannot pause container {record.id}: no freezer here") from exc
    except TimeoutError as exc:
        raise PyruncError(f"Cannot pause container {record.id}: {exc}") from exc


def thaw(record: "ContainerRecord") -> None:
    """Let the processes of a container go on, if it still has any."""
    try:
        cgroup_control.thaw(cgroup_layout.detect(), finish.cgroup_of(record))
    except FileNotFoundError:
        pass  # it has ended
    except TimeoutError as exc:
        raise PyruncError(f"Cannot unpause container {record.id}: {exc}") from exc


@contextmanager
def meanwhile(parts: "Parts", record: "ContainerRecord", wanted: bool) -> "Iterator[None]":
    """Stop a running container inside of the ``with``, if that is *wanted*; one that is paused stays so."""
    if not wanted or record.state != "running":
        yield
        return
    pause(parts, record.id)
    try:
        yield
    finally:
        try:
            unpause(parts, record.id)
        except (FailedPrecondition, NotFound):
            pass  # it was killed, or unpaused, meanwhile


def _there(record: "ContainerRecord | None", container_id: str) -> "ContainerRecord":
    if record is None:
        raise NotFound(f"No such container: {container_id}")
    return record
