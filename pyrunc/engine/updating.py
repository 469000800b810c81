"""How the limits of a container are changed: in its HostConfig, and in its cgroups while it runs."""

import os

from pyrunc.engine import (
    container_events,
    container_state,
    finish,
    host_config,
    host_config_shapes,
    restart_policy,
)
from pyrunc.errors import InvalidArgument, NotFound, PyruncError
from pyrunc.runtime import cgroup_layout, cgroups, option_resources
from pyrunc.runtime.cgroup_errors import InvalidResources, UnsupportedResource
from pyrunc.runtime.cgroup_files import open_cgroup
from pyrunc.runtime.options import checked

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.parts import Parts

KEYS = frozenset((
    "BlkioWeight", "CpuPeriod", "CpuQuota", "CpuShares", "CpusetCpus", "CpusetMems", "Memory", "MemoryReservation",
    "MemorySwap", "NanoCpus", "PidsLimit", "RestartPolicy",
))  # fmt: skip


# What the kernel, or Docker's rules, see as one.
_TOGETHER = ({"Memory", "MemorySwap"}, {"CpuPeriod", "CpuQuota"})


def update(parts: "Parts", container_id: str, changes: "Mapping[str, Any]") -> None:
    """Change limits and the restart policy of a container; what *changes* does not name stays.

    Raises NotFound, FailedPrecondition, InvalidArgument in Docker's words.
    """
    host_config_shapes.check(changes)
    alone = {
        key: value for key, value in changes.items() if key != "MemorySwap"
    }  # its limit may be set already
    host_config.check(alone)
    unknown = sorted(set(changes) - KEYS)
    if unknown:
        raise InvalidArgument(f"{unknown[0]} cannot be updated")
    with finish.Locked(parts, container_id) as record:
        if record is None:
            raise NotFound(f"No such container: {container_id}")
        container_state.check("update", record)
        wanted = _merged(record, changes)
        limits = {key: value for key, value in changes.items() if key != "RestartPolicy"}
        if record.running and limits:
            with_theirs = {
                key for group in _TOGETHER if group & limits.keys() for key in group
            } | limits.keys()
            _apply(record, {key: wanted[key] for key in with_theirs if key in wanted})
        parts.containers.write_documents(record._replace(host_config=wanted))
        container_events.say(parts, record, "update")


def _merged(record: "ContainerRecord", changes: "Mapping[str, Any]") -> "dict[str, Any]":
    """The HostConfig that the changes lead to. Raises FailedPrecondition, InvalidArgument in Docker's words."""
    before = record.host_config
    wanted = {**before, **changes}
    if (wanted.get("PidsLimit") or 0) < 0:
        wanted["PidsLimit"] = 0  # as Docker keeps it
    if "RestartPolicy" in changes and record.auto_remove and restart_policy.is_set(changes):
        raise _refused(
            record, "Restart policy cannot be updated because AutoRemove is enabled for the container"
        )
    for key, called in (("CpuPeriod", "CPU Period"), ("CpuQuota", "CPU Quota")):
        words = ""
        if changes.get("NanoCpus") and before.get(key):
            words = f"Nano CPUs cannot be updated as {called} has already been set"
        elif changes.get(key) and before.get("NanoCpus"):
            words = f"{called} cannot be updated as NanoCPUs has already been set"
        if words:
            raise _refused(record, f"Conflicting options: {words}")
    memory, swap = wanted.get("Memory") or 0, wanted.get("MemorySwap") or 0
    if changes.get("Memory") and "MemorySwap" not in changes and 0 < swap < memory:
        raise _refused(
            record, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the"
            " same time",
        )  # fmt: skip
    host_config.check(wanted)
    checked(host_config.options_of({}, {key: wanted[key] for key in KEYS if key in wanted}))
    return wanted


def _apply(record: "ContainerRecord", limits: "Mapping[str, Any]") -> None:
    """Write the limits to the cgroups of a running container."""
    options = checked(host_config.options_of({}, {key: value for key, value in limits.items() if value}))
    options.pop("env", None)
    if limits.get("PidsLimit") == 0:
        options["pids_limit"] = -1  # lifted
    resources = option_resources.resources(options)
    resources.pop("devices", None)
    layout = cgroup_layout.detect()
    try:
        plan = cgroups.plan_update(layout, finish.cgroup_of(record), resources)
        for directory in plan.dirs:
            hierarchy = next(each for each in layout.hierarchies if each.mountpoint == directory.mountpoint)
            try:
                opened = open_cgroup(hierarchy, directory.path)
            except FileNotFoundError:
                return  # it has just ended
            try:
                cgroups.write_all(opened, directory.writes)
            except OSError:
                if os.path.isdir(f"{directory.mountpoint}/{directory.path}"):
                    raise
                return  # it ended between two writes
            finally:
                os.close(opened)
    except (InvalidResources, UnsupportedResource) as exc:
        raise _refused(record, str(exc)) from exc
    except OSError as exc:
        raise PyruncError(f"Cannot update container {record.id}: {exc.strerror or exc}") from exc


def _refused(record: "ContainerRecord", why: str) -> InvalidArgument:
    return InvalidArgument(f"Cannot update container {record.id}: {why}")
