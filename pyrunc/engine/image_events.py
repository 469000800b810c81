"""The events of an image: Docker's words, with a name and the image's labels."""

from pyrunc.errors import InvalidArgument, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyrunc.engine.parts import Parts


def say(parts: "Parts", image_id: str, action: str, name: str = "") -> None:
    """Write that *action* was done to an image that there is; *name* is the one concerned, "" its id."""
    row = parts.metadata.get_image(image_id)
    labels = ((parts.images.config(row).get("config") or {}).get("Labels") or {}) if row else {}
    _write(parts, image_id, action, {**labels, "name": name or image_id})


def saved(parts: "Parts", names: "Iterable[str]") -> None:
    """Write that images were saved, each once."""
    seen = set()
    for name in names:
        try:
            image_id = parts.images.get(name).id
        except (NotFound, InvalidArgument):
            continue  # a repository, or removed meanwhile
        if image_id not in seen:
            seen.add(image_id)
            say(parts, image_id, "save")


def deleted(parts: "Parts", image_id: str) -> None:
    """Write that an image is gone."""
    _write(parts, image_id, "delete", {"name": image_id})


def pruned(parts: "Parts", reclaimed_bytes: int) -> None:
    """Write that the images which nobody needs were removed."""
    _write(parts, "", "prune", {"reclaimed": reclaimed_bytes})


def _write(parts: "Parts", image_id: str, action: str, attributes: "Mapping[str, object]") -> None:
    from pyrunc.engine import events

    events.write(parts.root, "image", action, image_id, attributes)
