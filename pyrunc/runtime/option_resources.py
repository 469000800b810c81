"""Limits and devices of a Sandbox in OCI's terms."""

from __future__ import annotations

import os
import stat

from pyrunc.errors import InvalidArgument
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime import option_privileges

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.runtime.options import SandboxOptions


def resources(options: SandboxOptions) -> dict[str, Any]:
    """`linux.resources` of the limits in *options*.

    Source: OCI config-linux.md "Control groups"; --cpus as Docker converts it.
    """
    memory = _given(
        options, limit="memory_bytes", swap="memory_swap_bytes", reservation="memory_reservation_bytes",
        swappiness="memory_swappiness", disableOOMKiller="oom_kill_disable",
    )  # fmt: skip
    cpu = _given(
        options, shares="cpu_shares", quota="cpu_quota_us", period="cpu_period_us",
        cpus="cpuset_cpus", mems="cpuset_mems", realtimeRuntime="cpu_rt_runtime_us", realtimePeriod="cpu_rt_period_us",
    )  # fmt: skip
    if "cpus" in options:
        if "quota" in cpu or "period" in cpu:
            raise InvalidArgument("cpus cannot be combined with cpu_quota_us or cpu_period_us")
        cpu["period"], cpu["quota"] = 100_000, int(options["cpus"] * 100_000)
    found: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    for text in options.get("device_cgroup_rules", ()):
        found["devices"].append(_device_rule(text))
    if memory:
        found["memory"] = memory
    if cpu:
        found["cpu"] = cpu
    if "pids_limit" in options:
        found["pids"] = {"limit": options["pids_limit"]}
    blkio = _given(options, weight="blkio_weight")
    weights = options.get("blkio_weight_devices", {})
    if weights:
        blkio["weightDevice"] = [
            {**_numbers(path, "blkio_weight_devices"), "weight": weight} for path, weight in weights.items()
        ]
    for key, field in (
        ("read_bps", "throttleReadBpsDevice"), ("write_bps", "throttleWriteBpsDevice"),
        ("read_iops", "throttleReadIOPSDevice"), ("write_iops", "throttleWriteIOPSDevice"),
    ):  # fmt: skip
        rates: Mapping[str, int] = options.get(key, {})  # type: ignore[assignment]
        if rates:
            blkio[field] = [{**_numbers(path, key), "rate": rate} for path, rate in rates.items()]
    if blkio:
        found["blockIO"] = blkio
    return found


def _given(options: SandboxOptions, **names: str) -> dict[str, Any]:
    return {field: options[key] for field, key in names.items() if key in options}  # type: ignore[literal-required]


def _numbers(path: str, option: str) -> dict[str, int]:
    try:
        status = os.stat(path)
    except OSError as exc:
        raise InvalidArgument(f"{option}: {path}: {os.strerror(exc.errno or 0).lower()}") from exc
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"{option}: {path}: not a block device")
    return {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}


def devices(text: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """``host[:container[:rwm]]`` as nodes, each with the rule that lets it be used; of a directory, all that it has."""
    parts = text.split(":")
    host = parts[0]
    access = parts[2] if len(parts) > 2 else "rwm"
    target = parts[1] if len(parts) > 1 and parts[1] else host
    if len(parts) == 2 and set(parts[1]) <= set("rwm"):
        target, access = host, parts[1]
    if len(parts) > 3 or not access or not set(access) <= set("rwm"):
        raise InvalidArgument(f"devices: {text!r} must be host[:container[:rwm]]")
    checks.path(host, "devices")
    checks.path(target, "devices")
    try:
        status = os.stat(host)
        if stat.S_ISDIR(status.st_mode):
            found = sorted(os.path.join(place, name) for place, _, names in os.walk(host) for name in names)
            inside = [(target + path[len(host) :], os.stat(path)) for path in found]
        else:
            inside = [(target, status)]
    except OSError as exc:
        raise InvalidArgument(f"devices: {host}: {os.strerror(exc.errno or 0).lower()}") from exc
    given = [
        (path, each) for path, each in inside if stat.S_ISCHR(each.st_mode) or stat.S_ISBLK(each.st_mode)
    ]
    if not given:
        raise InvalidArgument(f"devices: {host}: not a device node")
    nodes = [option_privileges.node(path, each) for path, each in given]
    return [
        (node, {**{key: node[key] for key in ("type", "major", "minor")}, "allow": True, "access": access})
        for node in nodes
    ]


def _device_rule(text: str) -> dict[str, Any]:
    """Docker's ``TYPE MAJOR:MINOR ACCESS``, with ``*`` for any number."""
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, _, minor = numbers.partition(":")
    if kind not in ("a", "b", "c") or not access or not set(access) <= set("rwm"):
        raise InvalidArgument(f"device_cgroup_rules: {text!r} must be like 'c 13:* rwm'")
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    for key, value in (("major", major), ("minor", minor)):
        if value != "*":
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise InvalidArgument(f"device_cgroup_rules: {text!r}: {key} must be a number or *")
            rule[key] = int(value)
    return rule
