"""The containers of an engine."""

from pyrunc.engine import finish, observing
from pyrunc.engine.container import Container
from pyrunc.errors import TimedOut

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Unpack

    from pyrunc.api import ContainerRecord, Pruned
    from pyrunc.engine.container_rows import Row
    from pyrunc.engine.engine import Engine
    from pyrunc.runtime.options import SandboxOptions


class Containers:
    """Those of *engine*."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._parts = engine._parts  # noqa: SLF001 - the other half of it

    def create(
        self, image: str, argv: "Sequence[str] | None" = None, *, name: str | None = None,
        entrypoint: "Sequence[str] | None" = None, config: "Mapping[str, Any] | None" = None,
        host_config: "Mapping[str, Any] | None" = None, exist_ok: bool = False, allow_host: bool = False,
        stdin_open: bool = False, create_timeout_s: float | None = None, **options: "Unpack[SandboxOptions]",
    ) -> Container:  # fmt: skip
        """Make a container of *image*, and do not start it.

        *argv* takes the place of the image's command, *entrypoint* that of its entrypoint; *config* and *host_config*
        are Docker's Config and HostConfig, added to the image's and to what the *options* (those of a Sandbox) mean.
        With *stdin_open* its program has an input, which `attach` gives and ends. With *exist_ok* a container of that
        *name*, and with the same wishes, is as good as a new one. After *create_timeout_s* seconds TimedOut is raised,
        and nothing of it is left.
        Raises NotFound for an image that is not there, InvalidArgument, Unsupported, AlreadyExists for the name.
        """
        from pyrunc.engine.creating import Wanted

        wanted = Wanted(image, argv, name, entrypoint, config or {}, host_config or {}, options)
        from pyrunc.engine import making
        from pyrunc.engine.deadlines import Deadline

        return making.create(
            self._engine, wanted.opened(stdin_open), exist_ok=exist_ok, allow_host=allow_host,
            deadline=Deadline(create_timeout_s),
        )  # fmt: skip

    def get(self, text: str) -> Container:
        """The container of that id, name, or beginning of an id. Raises NotFound, InvalidArgument for several."""
        self._parts.come_to_rest()
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
        from pyrunc.runtime.option_checks import integer

        integer(-(1 << 31), 1 << 31)(limit, "limit")
        self._parts.come_to_rest()
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
