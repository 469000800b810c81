"""What a document says of a process beyond its ids and limits, in the kernel's terms.

Each function takes one object of the document and gives what a step of the plan holds; it raises InvalidSpec, which
names the field. Only documents that have such an object import this.
Source: OCI runtime-spec config.md "Linux Process", config-linux.md "Personality" and "Memory policy"; sched_setattr(2),
ioprio_set(2), personality(2), set_mempolicy(2), sched_setaffinity(2).
"""

from __future__ import annotations

import struct

from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.runtime.compile_host import checked_number

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_ATTR = struct.Struct("=IIQiIQQQ")  # struct sched_attr as of its first version, 48 bytes
_POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
_SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}
_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
_MODE_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15,
}  # fmt: skip
_MAX_LISTED = (
    1 << 16
)  # far above what any kernel is made for, so that a number cannot make a mask without end
_INT32 = (1 << 31) - 1
_UINT64 = (1 << 64) - 1


def scheduler(values: Mapping[str, Any]) -> bytes:
    """A struct sched_attr of `process.scheduler`, which sched_setattr(2) takes."""
    field = "process.scheduler"
    policy = _one_of(values, "policy", _POLICIES, field)
    name = values["policy"]
    nice = checked_number(values.get("nice") or 0, f"{field}.nice", 19, -20)
    priority = checked_number(values.get("priority") or 0, f"{field}.priority", _INT32, -_INT32)
    if priority and name not in _REAL_TIME:
        raise InvalidSpec(
            f"{field}.priority: can only be specified for {' or '.join(_REAL_TIME)}, not {name}"
        )
    if priority < 0:
        raise InvalidSpec(f"{field}.priority: must be positive, not {priority}")
    flags = _flags(values, _SCHEDULER_FLAGS, field)
    times = [
        checked_number(values.get(key) or 0, f"{field}.{key}", _UINT64)
        for key in ("runtime", "deadline", "period")
    ]
    if any(times) and name != "SCHED_DEADLINE":
        raise InvalidSpec(f"{field}.runtime, deadline and period: can only be specified for SCHED_DEADLINE")
    if name == "SCHED_ISO":
        raise Unsupported(f"{field}.policy: SCHED_ISO is a reserved name, which no kernel implements")
    for clamp in ("SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"):
        if flags & _SCHEDULER_FLAGS[clamp]:
            raise Unsupported(f"{field}.flags: {clamp} needs a value, for which a document has no field")
    return _ATTR.pack(_ATTR.size, policy, flags, nice, priority, *times)


def io_priority(values: Mapping[str, Any]) -> int:
    """Class and priority of `process.ioPriority` as ioprio_set(2) takes them."""
    field = "process.ioPriority"
    kind = _one_of(values, "class", _IO_CLASSES, field)
    return kind << _IO_CLASS_SHIFT | checked_number(values.get("priority") or 0, f"{field}.priority", 7)


def personality(values: Mapping[str, Any]) -> int:
    """The execution domain of `linux.personality`."""
    field = "linux.personality"
    if values.get("flags"):
        raise Unsupported(f"{field}.flags: no flag is defined")
    return _one_of(values, "domain", _DOMAINS, field)


def memory_policy(values: Mapping[str, Any]) -> tuple[int, bytes]:
    """Mode with flags, and the mask of nodes (empty: none), of `linux.memoryPolicy`, as set_mempolicy(2) takes them."""
    field = "linux.memoryPolicy"
    mode = _one_of(values, "mode", _MODES, field)
    name = values["mode"]
    flags = _flags(values, _MODE_FLAGS, field)
    nodes = values.get("nodes") or ""
    mask = numbers_mask(nodes, f"{field}.nodes")
    if name in _WITHOUT_NODES and mask:
        raise InvalidSpec(f"{field}.nodes: must be empty for {name}")
    if name not in _WITHOUT_NODES and name != "MPOL_PREFERRED" and not mask:
        raise InvalidSpec(f"{field}.nodes: {name} needs at least one node")
    if flags & _MODE_FLAGS["MPOL_F_NUMA_BALANCING"] and name not in ("MPOL_BIND", "MPOL_PREFERRED_MANY"):
        raise InvalidSpec(
            f"{field}.flags: MPOL_F_NUMA_BALANCING goes with MPOL_BIND or MPOL_PREFERRED_MANY, not {name}"
        )
    if flags & _MODE_FLAGS["MPOL_F_RELATIVE_NODES"] and flags & _MODE_FLAGS["MPOL_F_STATIC_NODES"]:
        raise InvalidSpec(f"{field}.flags: MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES exclude each other")
    return mode | flags, mask


def exec_affinity(values: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The CPUs of `process.execCPUAffinity` as masks, *initial* and *final*, each empty where it is not given."""
    field = "process.execCPUAffinity"
    initial, final = (numbers_mask(values.get(key) or "", f"{field}.{key}") for key in ("initial", "final"))
    return initial, final


def numbers_mask(listed: object, field: str) -> bytes:
    """A list such as ``0-3,7`` as a mask of whole 64-bit words; nothing for an empty one."""
    if not isinstance(listed, str):
        raise InvalidSpec(f"{field}: must be a list as 0-3,7, not {listed!r}")
    bits = 0
    for part in listed.split(",") if listed.strip() else ():
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not _is_number(first) or (dash and not _is_number(last)):
            raise InvalidSpec(f"{field}: must be a list as 0-3,7, not {listed!r}")
        low, high = int(first), int(last or first)
        if high < low:
            raise InvalidSpec(f"{field}: {part.strip()!r} is a range that ends before it begins")
        if high >= _MAX_LISTED:
            raise InvalidSpec(f"{field}: {high} is more than any kernel has")
        bits |= (1 << (high + 1)) - (1 << low)
    return bits.to_bytes((bits.bit_length() + 63) // 64 * 8, "little")


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10


def _one_of(values: Mapping[str, Any], key: str, known: Mapping[str, int], field: str) -> int:
    name = values.get(key)
    if not name:
        raise InvalidSpec(f"{field}.{key}: is required")
    if not isinstance(name, str) or name not in known:
        raise InvalidSpec(f"{field}.{key}: unknown value {name!r}")
    return known[name]


def _flags(values: Mapping[str, Any], known: Mapping[str, int], field: str) -> int:
    found = 0
    for index, name in enumerate(values.get("flags") or ()):
        if not isinstance(name, str) or name not in known:
            raise InvalidSpec(f"{field}.flags[{index}]: unknown flag {name!r}")
        found |= known[name]
    return found
