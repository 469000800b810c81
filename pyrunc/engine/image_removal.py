"""How images are removed: Docker's rules for images with several names, in use, or with children.

conflict                                what force does
another image was committed from it     stays
a running container uses it             stays
a stopped container uses it             is removed; the container keeps its layers
several names, asked for by id          is removed, with all its names
"""

from pyrunc.api import Pruned, Removed
from pyrunc.engine import image_events, image_filters, observing
from pyrunc.errors import FailedPrecondition, NotFound
from pyrunc.image import reference as references

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyrunc.engine.parts import Parts
    from pyrunc.image.reference import Reference

_DANGLING = "dangling"


class _Conflict(FailedPrecondition):
    """Why an image stays; *used* by a container."""

    used = False


def remove(parts: "Parts", name: str, force: bool, prune: bool) -> "list[Removed]":
    """Remove a name of an image, or the image; what happened, in its order. Raises NotFound, FailedPrecondition."""
    removal = _Removal(parts)
    removal.by_name(name, force, prune)
    parts.collect()
    return removal.steps


def prune(parts: "Parts", everything: bool, filters: "Iterable[tuple[str, str]]") -> Pruned:
    """Remove images without a name, or *everything* that no container uses. Raises InvalidArgument."""
    by = image_filters.group(filters, (_DANGLING, "label", "label!", "until"))
    dangling = image_filters.flag(by, _DANGLING)
    only_dangling = not everything if dangling is None else dangling
    until = [image_filters.moment_ns(text) for text in by.get("until", ())]
    removal = _Removal(parts)
    for row in parts.metadata.images():
        if parts.metadata.get_image(row.id) is None or (until and row.created_ns > min(until)):
            continue
        labels = (parts.images.config(row).get("config") or {}).get("Labels") or {}
        if not image_filters.labelled(labels, by):
            continue
        names = removal.names(row.id)
        if (only_dangling and names) or (not names and removal.children(row.id)):
            continue
        for each in [name.familiar for name in names] or [row.id]:
            try:
                removal.by_name(each, False, True)
            except (FailedPrecondition, NotFound):
                continue  # in use, or removed by another
    sizes = parts.sizes.get(removal.layers)
    parts.collect()
    pruned = Pruned(tuple(removal.steps), sum(sizes.values()))
    image_events.pruned(parts, pruned.reclaimed_bytes)
    return pruned


class _Removal:
    def __init__(self, parts: "Parts") -> None:
        self._parts = parts
        self._metadata = parts.metadata
        self.steps: list[Removed] = []
        self.layers: list[str] = []

    def names(self, image_id: str) -> "list[Reference]":
        """All that an image is called, digests included."""
        rows = self._metadata.references(image_id) + self._metadata.digests(image_id)
        return [references.parse(name) for name, _ in rows]

    def children(self, image_id: str) -> bool:
        """Whether another image was committed from it."""
        return any(row.parent == image_id for row in self._metadata.images())

    def by_name(self, name: str, force: bool, prune: bool) -> None:
        """What `docker rmi NAME` does."""
        image_id = self._parts.images.get(name).id
        names = self.names(image_id)
        named = not _is_prefix(name, image_id)
        if named:
            user = next(iter(self._users(image_id, running=None)), None)
            if not force and _single(names) and user is not None:
                raise FailedPrecondition(
                    f'conflict: unable to remove repository reference "{name}" (must force) - container {user[:12]}'
                    f" is using its referenced image {_short(image_id)}"
                )
            gone = references.parse(name).tagged()
            self._untag(image_id, gone)
            names = self.names(image_id)
            if names and all(each.digest and each.name == gone.name for each in names):
                for each in names:
                    self._untag(image_id, each)
                names = []
            if names:
                return
        elif _single(names):
            self._check(image_id, force, several_names=False)
            for each in names:
                self._untag(image_id, each)
        self._image(image_id, force, prune, quiet=named)

    def _image(self, image_id: str, force: bool, prune: bool, quiet: bool) -> None:
        try:
            self._check(image_id, force, several_names=True)
        except _Conflict as exc:
            if quiet and (self.names(image_id) or self.children(image_id) or exc.used):
                return  # its name is gone, which is what was asked for
            raise
        row = self._metadata.get_image(image_id)
        if row is None:
            return
        chain_ids = self._metadata.chain_ids(image_id)
        for each in self.names(image_id):
            self._untag(image_id, each)
        self._metadata.delete_image(image_id)
        self._parts.forget(image_id)
        self.steps.append(Removed("deleted", image_id))
        image_events.deleted(self._parts, image_id)
        kept = {chain for other in self._metadata.images() for chain in self._metadata.chain_ids(other.id)}
        if not self._users(image_id, running=None):
            for chain_id in reversed(chain_ids):
                if chain_id in kept or chain_id in self.layers:
                    break
                self.layers.append(chain_id)
                self.steps.append(Removed("deleted", chain_id))
        if prune and row.parent and self._metadata.get_image(row.parent) is not None:
            self._image(row.parent, False, True, quiet=True)

    def _check(self, image_id: str, force: bool, several_names: bool) -> None:
        """Raise _Conflict for what forbids to delete an image."""
        if self.children(image_id):
            raise _conflict(image_id, False, "image has dependent child images")
        for user in self._users(image_id, running=True):
            raise _conflict(
                image_id, False, f"image is being used by running container {user[:12]}", used=True
            )
        if force:
            return
        if several_names and self.names(image_id):
            raise _conflict(image_id, True, "image is referenced in multiple repositories")
        for user in self._users(image_id, running=False):
            raise _conflict(
                image_id, True, f"image is being used by stopped container {user[:12]}", used=True
            )

    def _users(self, image_id: str, running: bool | None) -> "list[str]":
        """The containers of an image, of those that run, that do not, or all."""
        found = []
        for row in self._parts.containers.of_image(image_id):
            record = row.record if row.record.state == "restarting" else observing.seen(row)
            live = record.running or record.state == "restarting"
            if running is None or running == live:
                found.append(record.id)
        return found

    def _untag(self, image_id: str, name: "Reference") -> None:
        if name.digest:
            self._metadata.delete_digest(name.canonical)
        else:
            self._metadata.delete_reference(name.canonical)
        self.steps.append(Removed("untagged", name.familiar))
        image_events.say(self._parts, image_id, "untag")


def _conflict(image_id: str, forcible: bool, why: str, used: bool = False) -> _Conflict:
    force = "must be forced" if forcible else "cannot be forced"
    found = _Conflict(f"conflict: unable to delete {_short(image_id)} ({force}) - {why}")
    found.used = used
    return found


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def _is_prefix(text: str, image_id: str) -> bool:
    """Whether *text* is the beginning of an id, rather than a name."""
    return image_id.startswith(text) or image_id.removeprefix("sha256:").startswith(text)


def _single(names: "Sequence[Reference]") -> bool:
    """Whether an image has one name: none, one, or one tag with digests of the same repository."""
    if len(names) <= 1:
        return True
    tags = [name for name in names if not name.digest]
    return len(tags) <= 1 and len({name.name for name in names}) == 1
