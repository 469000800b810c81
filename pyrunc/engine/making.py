"""How Engine.start and Containers.create make a container, or find the one of that name: whole, or nothing of it."""

import time

from pyrunc.engine import container_events, creating, finish, removal, starting, timings
from pyrunc.engine.container import Container
from pyrunc.engine.deadlines import NEVER
from pyrunc.errors import AlreadyExists, NotFound, PyruncError, TimedOut

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.bases import Base
    from pyrunc.engine.creating import Wanted
    from pyrunc.engine.deadlines import Deadline
    from pyrunc.engine.engine import Engine
    from pyrunc.engine.parts import Parts
    from pyrunc.runtime.shim import ShimProcess

_ATTEMPTS = 20  # to make or find a container that others remove again and again


def create(
    engine: "Engine", wanted: "Wanted", *, exist_ok: bool, allow_host: bool, deadline: "Deadline" = NEVER
) -> Container:
    """Make a container, and do not start it; see Containers.create."""
    with deadline:
        base = engine._base(wanted.image, allow_host, deadline)  # noqa: SLF001 - the other half of it

        def fresh(base: "Base") -> Container:
            container_id = creating.new_id()
            with engine._parts.lock(container_id):  # noqa: SLF001
                record, _ = creating.create(engine._parts, base, container_id, wanted, deadline=deadline)  # noqa: SLF001
            return Container(engine, record.id, record.name, made=True)

        return _made_or_found(engine, base, wanted, exist_ok, fresh)


def start(
    engine: "Engine", wanted: "Wanted", *, exist_ok: bool, allow_host: bool, client: int | None, keep_running: bool,
    deadline: "Deadline" = NEVER,
) -> Container:  # fmt: skip
    """Make a container and start it in as few steps as possible, or start the one there is; see Engine.start."""
    begun = time.monotonic_ns()
    made: list[Container] = []

    def fresh(base: "Base") -> Container:
        return _started(engine, base, wanted, client, keep_running, deadline, begun, made)

    def again(found: Container) -> None:
        found.start(client=client, keep_running=keep_running)

    try:
        with deadline:
            base = engine._base(wanted.image, allow_host, deadline)  # noqa: SLF001
            return _made_or_found(engine, base, wanted, exist_ok, fresh, again)
    except BaseException:
        for each in made:  # Ctrl-C while its lock was given back: nobody would know of it
            each.__exit__(None, None, None)
        raise


def _made_or_found(
    engine: "Engine", base: "Base", wanted: "Wanted", exist_ok: bool, fresh: "Callable[[Base], Container]",
    again: "Callable[[Container], None] | None" = None,
) -> Container:  # fmt: skip
    """What *fresh* makes; if there is one of that name, and *exist_ok*, that one, after *again*."""
    for attempt in range(_ATTEMPTS):
        try:
            return _on(engine, base, fresh)
        except AlreadyExists:
            if not exist_ok or wanted.name is None:
                raise
            try:
                record = _same(engine._parts, base, wanted)  # noqa: SLF001
                found = Container(engine, record.id, record.name)
                if again is not None:
                    again(found)
            except NotFound:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue  # it was removed meanwhile
            return found
    raise AssertionError("unreachable")


def _on(engine: "Engine", base: "Base", make: "Callable[[Base], Container]") -> Container:
    """What *make* makes of *base*; of one that nobody holds, and that is gone by then, of the same again."""
    try:
        return make(base)
    except NotFound:
        again = engine._bases.again(base)  # noqa: SLF001
        if again is None:
            raise
    return make(again)


def _started(
    engine: "Engine", base: "Base", wanted: "Wanted", client: int | None, keep_running: bool, deadline: "Deadline",
    begun: int, complete: list[Container],
) -> Container:  # fmt: skip
    """Make it, start it, and add it to what is *complete*; what is not when it is interrupted is undone here."""
    parts = engine._parts  # noqa: SLF001
    found = time.monotonic_ns()
    container_id = creating.new_id()
    with parts.lock(container_id):
        record, fresh = creating.create(parts, base, container_id, wanted, starts=True, deadline=deadline)
        made = time.monotonic_ns()
        process: ShimProcess | None = None
        try:
            process = starting.launch(parts, record, fresh, client, keep_running, until=deadline.at)
            container_events.say(parts, record, "create")
            container_events.say(parts, record, "start")
            engine._owners.add(record.id, process)  # noqa: SLF001
            container = Container(engine, record.id, record.name, made=True)
            before = {"image": found - begun, "create": made - found}
            container.timings_ns = timings.of_start(process, made, before)
            complete.append(container)
        except BaseException as exc:
            # What cannot start stays, and its row says why; nobody would know of what was interrupted, or too late.
            if not isinstance(exc, PyruncError) or isinstance(exc, TimedOut):
                _undo(engine, record, process)
            raise
    return container


def _undo(engine: "Engine", record: "ContainerRecord", process: "ShimProcess | None") -> None:
    parts = engine._parts  # noqa: SLF001
    if process is not None:
        engine._owners.forget(record.id)  # noqa: SLF001
        process.release()
        finish.end_cgroups(record)
    if parts.containers.by_id(record.id) is not None:
        removal.forget(parts, record, volumes=True)


def _same(parts: "Parts", base: "Base", wanted: "Wanted") -> "ContainerRecord":
    """The container of the wanted name, if it is what is wanted. Raises AlreadyExists, saying what differs."""
    assert wanted.name is not None
    found = parts.containers.get(wanted.name.removeprefix("/"))
    fresh = creating.described(parts, base, found.id, wanted)
    for what in ("image_id", "config", "host_config", "options"):
        mine, its = _comparable(getattr(fresh, what)), _comparable(getattr(found, what))
        if mine != its:
            keys = {*mine, *its} if isinstance(mine, dict) else ()
            named = ", ".join(sorted(key for key in keys if mine.get(key) != its.get(key)))
            words = f"{what} ({named})" if named else what
            raise AlreadyExists(f"container {found.name} exists, and its {words} is another")
    return found


def _comparable(value: "Any") -> "Any":
    """As it is read from a row, with what has no order sorted."""
    if not isinstance(value, str):
        import json  # only where there is something to compare

        value = json.loads(json.dumps(value))
        if isinstance(value.get("Env"), list):
            value["Env"].sort()
    return value
