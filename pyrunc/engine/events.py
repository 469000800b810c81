"""What happens to containers, images and volumes: Docker's event messages, one line of JSON each.

    <root>/events.jsonl      the latest
    <root>/events.jsonl.1    those before

Writers are many and any of them may be killed. Each appends one line by one write(2), holding a shared lock on the
file; who finds it full takes that lock alone, renames it, and so knows that nobody will write there any more. A line
that was torn (killed, full disk) is ended by the next writer and skipped by readers.

Source: Docker Engine API v1.51, EventMessage; filters as dockerd understands them.
"""

import fcntl
import os
import time

from pyrunc._native.descriptor import Descriptor
from pyrunc.errors import InvalidArgument
from pyrunc.records import NamedTuple, dumps

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Filters = Iterable[tuple[str, str]]

NAME = "events.jsonl"
FULL_BYTES = 4 << 20
TYPES = ("container", "image", "volume", "network", "daemon")
_LOCK_TRIES = (
    20  # of a millisecond; then a line is written without: better in a file that was renamed than not at all
)
# Actions whose name ends at a colon: "exec_start: sh -c true".
_WITH_DETAILS = ("health_status", "exec_create", "exec_start")
_NAMES = ("container", "volume", "network", "daemon", "plugin", "service", "node", "secret", "config")


class Event(NamedTuple):
    """Something that happened: *type* is "container", "image" or "volume", *id* whose, *time_ns* since 1970.

    *action* is Docker's word. *attributes* are a container's name, image and labels, and what belongs to the action,
    such as exitCode and signal.
    """

    type: str
    action: str
    id: str
    attributes: "Mapping[str, str]"
    time_ns: int
    scope: str = "local"

    def message(self) -> "dict[str, Any]":
        """Docker's document of it (Engine API v1.51, EventMessage)."""
        return _message(*self)


def _message(
    kind: str, action: str, actor_id: str, attributes: "Mapping[str, str]", time_ns: int, scope: str = "local"
) -> "dict[str, Any]":
    found: dict[str, Any] = {}
    if kind in ("container", "image"):
        found["status"], found["id"] = action, actor_id
    if kind == "container" and attributes.get("image"):
        found["from"] = attributes["image"]
    found["Type"], found["Action"] = kind, action
    found["Actor"] = {"ID": actor_id, "Attributes": dict(sorted(attributes.items()))}
    found["scope"], found["time"], found["timeNano"] = scope, time_ns // 10**9, time_ns
    return found


def write(root: str, kind: str, action: str, actor_id: str, attributes: "Mapping[str, object]") -> None:
    """Append an event of the object *actor_id* of *kind* ("container", …) to those below *root*, with this moment.

    Never raises: an event that cannot be written is lost, and not the reason that a command fails.
    """
    try:
        named = {str(key): str(value) for key, value in attributes.items()}
        line = dumps(_message(kind, action, actor_id, named, time.time_ns()))
        _append(f"{root}/{NAME}", line.encode() + b"\n")
    except (OSError, ValueError):
        pass


def _append(path: str, line: bytes) -> None:
    file, size, locked = _opened(path)
    with file as fd:
        try:
            if size and os.pread(fd, 1, size - 1) not in (b"\n", b""):
                line = b"\n" + line
            os.write(fd, line)
            if locked and size >= FULL_BYTES:
                _rotate(path, fd)
        finally:
            if locked:
                fcntl.flock(fd, fcntl.LOCK_UN)  # for a child that was forked meanwhile, too


def _opened(path: str) -> "tuple[Descriptor, int, bool]":
    """The file, its size, and whether it is locked against being renamed."""
    for left in range(_LOCK_TRIES, -1, -1):
        file = Descriptor(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            there, status = os.stat(path, follow_symlinks=False), os.fstat(file.fd)
            if there.st_ino == status.st_ino and there.st_dev == status.st_dev:
                return file, status.st_size, True
        except FileNotFoundError:
            pass  # renamed, and the next is not yet made
        except BlockingIOError:
            if left:
                time.sleep(0.001)
        except BaseException:
            file.close()
            raise
        if not left:
            return file, os.fstat(file.fd).st_size, False
        file.close()
    raise AssertionError


def _rotate(path: str, fd: int) -> None:
    """Rename the full file, unless somebody else writes to it just now; the next who finds it full does it then."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd)):
        os.rename(path, f"{path}.1")


def read(
    root: str, *, since_ns: int | None = 0, until_ns: int | None = None, follow: bool = False,
    filters: "Filters" = (), sleep: "Callable[[float], object]" = time.sleep,
) -> "Iterator[Event]":  # fmt: skip
    """The events below *root* from *since_ns* (nanoseconds since 1970; None: from now) to *until_ns*, in their order.

    With *follow* those too that are still to come, for ever or until *until_ns* has come. *filters* are ("type", …),
    ("event", …), ("container", …), ("image", …), ("volume", …), ("label", "key[=value]"), ("scope", …) and the like:
    of one name any must pass, of labels all. *sleep* is what waits. Who follows and lets two whole files (8 MiB) go by
    unread misses what was in between. Raises InvalidArgument for a filter that there is not, at once.
    """
    return _awake(steps(root, since_ns=since_ns, until_ns=until_ns, follow=follow, filters=filters), sleep)


def steps(
    root: str, *, since_ns: int | None = 0, until_ns: int | None = None, follow: bool = False, filters: "Filters" = ()
) -> "Iterator[Event | float]":  # fmt: skip
    """What `read` gives, and how many seconds to wait before the next look. Raises InvalidArgument, at once."""
    from pyrunc.runtime.option_checks import integer

    passes = _filter(filters)
    for what, moment in (("since_ns", since_ns), ("until_ns", until_ns)):
        if moment is not None:
            integer(-(1 << 63))(moment, what)
    begin = time.time_ns() if since_ns is None else since_ns
    return _steps(os.path.join(root, NAME), begin, until_ns, follow, passes)


def _awake(steps: "Iterator[Event | float]", sleep: "Callable[[float], object]") -> "Iterator[Event]":
    for step in steps:
        if isinstance(step, float):
            sleep(step)
        else:
            yield step


def _steps(
    path: str, since_ns: int, until_ns: int | None, follow: bool, passes: "Callable[[Event], bool]"
) -> "Iterator[Event | float]":  # fmt: skip
    from pyrunc.engine.rotated import Pace, RotatedFile

    pace = Pace()
    with RotatedFile(path) as file:
        while True:
            over = not follow or (until_ns is not None and time.time_ns() > until_ns)
            for line in file.lines():
                event = _parse(line)
                if (
                    event is None
                    or event.time_ns < since_ns
                    or (until_ns is not None and event.time_ns > until_ns)
                ):
                    continue
                pace.reset()
                if passes(event):
                    yield event
            if over:
                return
            yield pace.next_s(until_ns)


def _parse(line: bytes) -> Event | None:
    """The event of a line; None for one that is none."""
    import json

    try:
        found = json.loads(line)
        actor = found["Actor"]
        attributes = {str(key): str(value) for key, value in actor["Attributes"].items()}
        return Event(
            str(found["Type"]), str(found["Action"]), str(actor["ID"]), attributes, int(found["timeNano"]),
            str(found["scope"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _filter(filters: "Filters") -> "Callable[[Event], bool]":
    by: dict[str, list[str]] = {}
    from pyrunc.engine.argument_checks import pairs

    for name, value in pairs(filters):
        if name not in ("type", "event", "scope", "label", "image", *_NAMES):
            raise InvalidArgument(f"Invalid filter '{name}'")
        by.setdefault(name, []).append(value)

    def passes(event: Event) -> bool:
        return (
            ("type" not in by or event.type in by["type"])
            and ("event" not in by or _is_action(event.action, by["event"]))
            and ("scope" not in by or event.scope in by["scope"])
            and ("image" not in by or not _image_names(event).isdisjoint(by["image"]))
            and all(_is_named(event, by[kind]) for kind in _NAMES if kind in by)
            and all(_has(event.attributes, label) for label in by.get("label", ()))
        )

    return passes


def _is_action(action: str, wanted: "Sequence[str]") -> bool:
    if any(each in wanted for each in _WITH_DETAILS):
        return any(action.startswith(each) for each in wanted)
    return action in wanted


def _is_named(event: Event, wanted: "Sequence[str]") -> bool:
    name = event.attributes.get("name", "")
    return any(event.id.startswith(each) or name.startswith(each) for each in wanted)


def _image_names(event: Event) -> set[str]:
    """What the image of an event is called: its id and its name, and both without what follows a colon."""
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    return {event.id, _bare(event.id), name, _bare(name)} - {""}


def _bare(name: str) -> str:
    bare, colon, tag = name.rpartition(":")
    return bare if colon and "/" not in tag else name


def _has(labels: "Mapping[str, str]", wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
