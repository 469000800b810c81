"""The events of a container: Docker's words, with its name, image and labels."""

from pyrunc.engine import events

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.api import ContainerRecord
    from pyrunc.engine.parts import Parts


def say(parts: "Parts", record: "ContainerRecord", action: str, **more: object) -> None:
    """Write the event *action* of a container; *more* are further attributes, such as signal."""
    labels = record.config.get("Labels") or {}
    events.write(
        parts.root, "container", action, record.id,
        {**labels, "image": record.image, "name": record.name, **more},
    )  # fmt: skip
