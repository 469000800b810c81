"""Limits and devices of a Sandbox in OCI's terms."""

from __future__ import annotations

import os
import stat

from pyrunc.errors import InvalidArgument
from pyrunc.runtime import option_checks as checks

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.runtime.options import SandboxOptions


def resources(options: SandboxOptions) -> dict[str, Any]:
    """`linux.resources` of the limits in *options*.

    Source: OCI config-linux.md "Control groups"; --cpus as Docker converts it.
    """
    memory = _given(
        options, limit="memory_bytes", swap="memory_swap_bytes", reservation="memory_reservation_bytes"
    )
    cpu = _given(
        options, shares="cpu_shares", quota="cpu_quota_us", period="cpu_period_us",
        cpus="cpuset_cpus", mems="cpuset_mems",
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


def device(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """``host[:container[:rwm]]`` as a node and the rule that lets it be used."""
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
    except OSError as exc:
        raise InvalidArgument(f"devices: {host}: {os.strerror(exc.errno or 0).lower()}") from exc
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise InvalidArgument(f"devices: {host}: not a device node")
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    numbers = {"type": kind, "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    node = {
        **numbers,
        "path": target,
        "fileMode": status.st_mode & 0o777,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    return node, {**numbers, "allow": True, "access": access}


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
