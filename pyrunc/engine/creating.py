"""How a container is made: a row with Docker's documents, its use of an image, and a snapshot on disk."""

import os
import time

from pyrunc.api import ContainerRecord
from pyrunc.drivers import registry
from pyrunc.engine import (
    argument_checks,
    container_events,
    host_config,
    host_config_shapes,
    names,
    namespaces,
    observing,
    recipes,
    request,
    starting,
)  # fmt: skip
from pyrunc.engine.container_rows import check_name, log_path
from pyrunc.engine.deadlines import NEVER, Deadline
from pyrunc.engine.mounts_wanted import wanted as wanted_mounts
from pyrunc.engine.recipes import Fresh
from pyrunc.errors import AlreadyExists, InvalidArgument, Unsupported
from pyrunc.records import NamedTuple
from pyrunc.runtime.options import checked

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.engine.bases import Base
    from pyrunc.engine.parts import Parts
    from pyrunc.runtime.options import SandboxOptions

_ATTEMPTS = 20  # to find a name that no container has


class Wanted(NamedTuple):
    """What a container shall be: arguments of Engine.containers.create."""

    image: str
    argv: "Sequence[str] | None"
    name: str | None
    entrypoint: "Sequence[str] | None"
    config: "Mapping[str, Any]"
    host_config: "Mapping[str, Any]"
    options: "SandboxOptions"

    def opened(self, stdin_open: bool) -> "Wanted":
        """The same; if *stdin_open*, with an input that ends with the client that had it, as by `docker run -i`."""
        argument_checks.check_document(self.config)
        return (
            self._replace(config={"OpenStdin": True, "StdinOnce": True, **self.config})
            if stdin_open
            else self
        )


def new_id() -> str:
    """An id that no container has."""
    return os.urandom(32).hex()


def create(
    parts: "Parts", base: "Base", container_id: str, wanted: Wanted, *, starts: bool = False,
    deadline: Deadline = NEVER,
) -> "tuple[ContainerRecord, Fresh]":  # fmt: skip
    """Make a container of the image *base*, with its lock held.

    If it *starts* at once, its row says so already; the event "create" is left to `starting.launch`.

    Raises AlreadyExists for the name, InvalidArgument, NotFound, Unsupported, TimedOut; then nothing is left.
    """
    deadline.check("create")
    if wanted.name is not None:
        argument_checks.check_text("name", wanted.name)
    key = recipes.key_of(base, wanted)
    recipe = parts.recipes.get(key)
    if recipe is None:
        record = described(parts, base, container_id, wanted)
        recipe = recipes.Recipe(record.config, record.host_config, record.options)
        if not namespaces.joined(record.host_config):  # the names of others mean what they mean now
            parts.recipes.put(key, recipe)
    else:
        record = _record(parts, base, container_id, wanted, recipe)
    boot = ""
    if starts:
        place = starting.state_dir(container_id)
        record = record._replace(state="running", started_ns=record.created_ns, state_dir=place)
        boot = observing.boot()
    # Of both kinds of row it is seen that it is half made, and then it is removed, if its maker is killed.
    row = record if starts else record._replace(state="removing")
    name = None if wanted.name is None else check_name(wanted.name)
    record = record._replace(name=_add(parts, row, name, boot, recipe.document))
    rootfs = None
    try:
        if base.driver:
            parts.metadata.use_image(container_id, base.image_id, durable=not record.auto_remove)
            rootfs = parts.snapshotter.prepare(container_id, base.top, volatile=record.auto_remove)
        deadline.check("the preparation of its snapshot")
        if wanted_mounts(record.config, record.host_config):
            from pyrunc.engine import mount_specs

            mount_specs.prepare(parts, container_id, record.config, record.host_config)
            deadline.check("the preparation of its volumes")
        if not starts:
            parts.containers.change(container_id, state="created")
    except BaseException:
        from pyrunc.engine import removal

        removal.forget(parts, record, volumes=True)
        raise
    if not starts:
        container_events.say(parts, record, "create")
    return record, Fresh(rootfs, recipe)


def described(parts: "Parts", base: "Base", container_id: str, wanted: Wanted) -> ContainerRecord:
    """What the row of a container that is *wanted* says. Raises InvalidArgument, NotFound, Unsupported."""
    host_config_shapes.check(wanted.config, host_config_shapes.CONFIG)
    host_config_shapes.check(wanted.host_config, host_config_shapes.HOST_CONFIG)
    argument_checks.check_argv("argv", wanted.argv)
    argument_checks.check_argv("entrypoint", wanted.entrypoint)
    if wanted.name is not None:
        argument_checks.check_text("name", wanted.name)
    config, host, rest = host_config.documents_of(checked(wanted.options))
    given = {**config, **wanted.config}
    given["Env"] = [*(config.get("Env") or ()), *(wanted.config.get("Env") or ())]
    host = namespaces.normal(parts, host_config.filled({**host, **wanted.host_config}))
    host_config.check(host, wanted.config)
    driver = registry.exec_driver(host["Runtime"])
    host["Runtime"] = driver.name
    covered = [mount[0] for mount in rest.get("mounts", ())] + list(host.get("Tmpfs") or ())
    merged = request.configured(base.config, wanted.argv, wanted.entrypoint, given, covered)
    driver.check(merged, host, rest)
    if not base.driver and not driver.takes_plans:
        raise Unsupported(f"a container of the host's root is the native driver's, and not {driver.name}'s")
    if rest.get("writable") == "direct":
        raise InvalidArgument("writable: an image is never written directly; it must be 'scratch' or 'no'")
    if rest.get("scratch_bytes") and base.driver:
        raise InvalidArgument("scratch_bytes bounds a scratch in memory, and this container is on disk")
    if not base.driver and not host.get("AutoRemove"):
        raise InvalidArgument("a container of the host's root is always thrown away: it needs --rm")
    # What cannot be started is refused before anything is made.
    checked(host_config.options_of(merged, {**host, **dict.fromkeys(namespaces.joined(host), "")}, rest=rest))
    return _record(parts, base, container_id, wanted, recipes.Recipe(merged, host, rest))


def _record(
    parts: "Parts", base: "Base", container_id: str, wanted: Wanted, recipe: recipes.Recipe
) -> ContainerRecord:
    return ContainerRecord(
        container_id, "", wanted.image, base.image_id, base.driver, recipe.config, recipe.host_config,
        recipe.options, time.time_ns(), "created", log_path=log_path(parts.root, container_id, recipe.host_config),
    )  # fmt: skip


def _add(parts: "Parts", record: ContainerRecord, name: str | None, boot: str, document: str) -> str:
    """Add the row; its name, which is made up unless there is one."""
    for attempt in range(_ATTEMPTS):
        found = record._replace(name=name or names.make())
        try:
            parts.containers.add(found, boot, document)
        except AlreadyExists:
            if name is not None or attempt == _ATTEMPTS - 1:
                raise
        else:
            return found.name
    raise AssertionError("unreachable")
