"""The containers of an engine."""

from pyrunc.engine import finish, observing
from pyrunc.engine.container import Container
from pyrunc.errors import AlreadyExists, NotFound, TimedOut
from pyrunc.records import dumps

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, TypeVar, Unpack

    from pyrunc.api import ContainerRecord, Pruned
    from pyrunc.engine.bases import Base
    from pyrunc.engine.container_rows import Row
    from pyrunc.engine.creating import Wanted
    from pyrunc.engine.engine import Engine
    from pyrunc.runtime.options import SandboxOptions

    _Made = TypeVar("_Made")


class Containers:
    """Those of *engine*."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._parts = engine._parts  # noqa: SLF001 - the other half of it

    def create(
        self, image: str, argv: "Sequence[str] | None" = None, *, name: str | None = None,
        entrypoint: "Sequence[str] | None" = None, config: "Mapping[str, Any] | None" = None,
        host_config: "Mapping[str, Any] | None" = None, exist_ok: bool = False, allow_host: bool = False,
        **options: "Unpack[SandboxOptions]",
    ) -> Container:  # fmt: skip
        """Make a container of *image*, and do not start it.

        *argv* takes the place of the image's command, *entrypoint* that of its entrypoint; *config* and *host_config*
        are Docker's Config and HostConfig, added to the image's and to what the *options* (those of a Sandbox) mean.
        With *exist_ok* a container of that *name*, and with the same wishes, is as good as a new one.
        Raises NotFound for an image that is not there, InvalidArgument, Unsupported, AlreadyExists for the name.
        """
        from pyrunc.engine.creating import Wanted

        wanted = Wanted(image, argv, name, entrypoint, config or {}, host_config or {}, options)
        base = self._engine._base(image, allow_host)  # noqa: SLF001
        record = self._on(base, lambda base: self._create(base, wanted, exist_ok))
        return Container(self._engine, record.id, record.name)

    def start(
        self,
        wanted: "Wanted",
        *,
        exist_ok: bool,
        allow_host: bool,
        client: int | None,
        keep_running: bool,
    ) -> Container:
        """Make and start one in as few steps as possible; see Engine.start."""
        base = self._engine._base(wanted.image, allow_host)  # noqa: SLF001
        return self._on(base, lambda base: self._start(base, wanted, exist_ok, client, keep_running))

    def _on(self, base: "Base", make: "Callable[[Base], _Made]") -> "_Made":
        """What *make* makes of *base*; of one that nobody holds, and that is gone by then, of the same again."""
        try:
            return make(base)
        except NotFound:
            again = self._engine._bases.again(base)  # noqa: SLF001
            if again is None:
                raise
        return make(again)

    def _start(
        self, base: "Base", wanted: "Wanted", exist_ok: bool, client: int | None, keep_running: bool
    ) -> Container:
        from pyrunc.engine import container_events, creating, starting

        container_id = creating.new_id()
        with self._parts.lock(container_id):
            try:
                record, fresh = creating.create(self._parts, base, container_id, wanted, starts=True)
            except AlreadyExists:
                if not exist_ok:
                    raise
                record = self._same(base, wanted)
            else:
                process = starting.launch(self._parts, record, fresh, client, keep_running)
                container_events.say(self._parts, record, "start")
                self._engine._owners.add(record.id, process)  # noqa: SLF001
        container = Container(self._engine, record.id, record.name)
        if record.id != container_id:
            container.start(client=client, keep_running=keep_running)
        return container

    def get(self, text: str) -> Container:
        """The container of that id, name, or beginning of an id. Raises NotFound, InvalidArgument for several."""
        record = self._parts.containers.get(text)
        return Container(self._engine, record.id, record.name)

    def list(
        self,
        *,
        all: bool = False,  # noqa: A002 - what `docker ps` calls it
        filters: "Iterable[tuple[str, str]]" = (),
        limit: int = 0,
    ) -> "list[ContainerRecord]":
        """Those that run, or *all*, the latest first; of the *limit* (0: no limit) that were created last.

        *filters* are Docker's: ("status", "exited"), ("label", "key=value"), ("name", …), …
        What was ended by the death of who was to look after it is taken note of here, and what they have left goes.
        Raises InvalidArgument for a filter that there is not, NotFound for a container that one names.
        """
        from pyrunc.engine import container_filters

        passes, wide = container_filters.for_list(self._parts, filters)
        rows = self._parts.containers
        everything = all or wide or limit > 0
        found = []
        looked_at = rows.all() if everything else rows.live()
        finish.sweep(self._parts, {row.record.id for row in looked_at if row.record.running})
        for row in looked_at:
            record = self._look(row)
            if record is None or not (everything or record.state in ("running", "paused", "restarting")):
                continue
            if passes(record):
                found.append(record)
                if limit > 0 and len(found) == limit:
                    break
        return found

    def prune(self, filters: "Iterable[tuple[str, str]]" = ()) -> "Pruned":
        """Remove those that do not run. Raises InvalidArgument for a filter that there is not."""
        from pyrunc.engine import removal

        self.list(all=True)  # which ends what has ended
        return removal.prune(self._parts, self._engine._owners, filters)  # noqa: SLF001

    def _look(self, row: "Row") -> "ContainerRecord | None":
        record, settled = observing.look(row)
        if not settled:
            try:
                return finish.settle(self._parts, record.id, timeout_s=0)
            except (TimedOut, OSError):
                # Somebody is at it; or it cannot be done, which is no reason to show none of the others.
                return record if record.state != "removing" else None
        return record

    def _create(self, base: "Base", wanted: "Wanted", exist_ok: bool) -> "ContainerRecord":
        from pyrunc.engine import creating

        container_id = creating.new_id()
        try:
            with self._parts.lock(container_id):
                return creating.create(self._parts, base, container_id, wanted)[0]
        except AlreadyExists:
            if not exist_ok:
                raise
            return self._same(base, wanted)

    def _same(self, base: "Base", wanted: "Wanted") -> "ContainerRecord":
        """The container of the wanted name, if it is what is wanted. Raises AlreadyExists, saying what differs."""
        from pyrunc.engine import creating

        assert wanted.name is not None
        found = self._parts.containers.get(wanted.name.removeprefix("/"))
        fresh = creating.described(self._parts, base, found.id, wanted)
        for what in ("image_id", "config", "host_config", "options"):
            if dumps(getattr(found, what)) != dumps(getattr(fresh, what)):
                raise AlreadyExists(f"container {found.name} exists, and its {what} is another")
        return found
