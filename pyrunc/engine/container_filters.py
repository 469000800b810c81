"""Which containers a list has: Docker's filters, as its daemon understands them."""

from pyrunc.engine.argument_checks import pairs
from pyrunc.engine.image_filters import flag, group, labelled, moment_ns
from pyrunc.errors import InvalidArgument, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.parts import Parts

    Passes = Callable[[ContainerRecord], bool]

KNOWN = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network", "publish", "since",
    "status", "volume",
)  # fmt: skip
HEALTH = ("starting", "healthy", "unhealthy", "none")
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


def for_list(parts: "Parts", filters: "Iterable[tuple[str, str]]") -> "tuple[Passes, bool]":
    """What `docker ps` shows with *filters*, and whether they ask for such as do not run.

    Raises InvalidArgument, in Docker's words, for an unknown filter or value, NotFound for the container of before and
    since.
    """
    by = group(pairs(filters), KNOWN)
    for value in by.get("status", ()):
        if value not in STATES:
            raise InvalidArgument(f"Invalid filter 'status={value}'")
    for value in by.get("health", ()):
        if value not in HEALTH:
            raise InvalidArgument(f"Unrecognised filter value for health: {value}")
    is_task = flag(by, "is-task")
    exited = [_code(value) for value in by.get("exited", ())]
    before = [parts.containers.get(value).created_ns for value in by.get("before", ())]
    since = [parts.containers.get(value).created_ns for value in by.get("since", ())]
    ancestors = {_image_id(parts, value) for value in by.get("ancestor", ())}
    names = [_pattern(value) for value in by.get("name", ())]

    def passes(record: "ContainerRecord") -> bool:
        return (
            ("id" not in by or any(record.id.startswith(value) for value in by["id"]))
            and (not names or any(matches(record.name) or matches(f"/{record.name}") for matches in names))
            and ("status" not in by or record.state in by["status"])
            and (not exited or (record.exit_code in exited and record.state == "exited"))
            and (not before or record.created_ns < min(before))
            and (not since or record.created_ns > max(since))
            and (not ancestors or record.image_id in ancestors)
            and ("network" not in by or record.host_config.get("NetworkMode") in by["network"])
            and not is_task
            and ("health" not in by or "none" in by["health"])
            and not by.keys() & {"publish", "expose"}  # nothing is, without networks
            and ("volume" not in by or bool(_places(record).intersection(by["volume"])))
            and labelled(record.config.get("Labels") or {}, by)
        )

    return passes, "status" in by


def for_prune(filters: "Iterable[tuple[str, str]]") -> "Passes":
    """What `docker container prune` removes with *filters*. Raises InvalidArgument."""
    by = group(filters, ("label", "label!", "until"))
    until = [moment_ns(text) for text in by.get("until", ())]

    def passes(record: "ContainerRecord") -> bool:
        return (not until or record.created_ns < min(until)) and labelled(
            record.config.get("Labels") or {}, by
        )

    return passes


def _code(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"Invalid filter 'exited={text}'") from None


def _image_id(parts: "Parts", name: str) -> str:
    try:
        return parts.images.get(name).id
    except (NotFound, InvalidArgument):
        return "none"


def _pattern(text: str) -> "Callable[[str], object]":
    if all(char.isalnum() or char in "_-" for char in text):
        return lambda name: text in name
    import re

    try:
        return re.compile(text).search
    except re.error:
        return lambda name: text == name


def _places(record: "ContainerRecord") -> set[str]:
    """Volumes and directories of a container, by what is mounted and where."""
    host: Mapping[str, object] = record.host_config
    binds: Sequence[str] = host.get("Binds") or ()  # type: ignore[assignment]
    mounts: Sequence[Mapping[str, str]] = host.get("Mounts") or ()  # type: ignore[assignment]
    found = {part for bind in binds for part in bind.split(":")[:2]}
    found |= {part for mount in mounts for part in (mount.get("Source", ""), mount.get("Target", ""))}
    return (found | set(record.config.get("Volumes") or ())) - {""}
