"""Cgroups that systemd makes: the unit that `linux.cgroupsPath` names, its properties, and what is said to systemd.

The properties are what the files of the unit's cgroups get anyway (`cgroup_resources`), for systemd's own record: it
writes them again whenever it likes. Where it rounds, or knows no property, the file has the document's value, which
is written after it.

| file of cgroup v2, v1                                | property                                            |
|------------------------------------------------------|-----------------------------------------------------|
| memory.max, memory.limit_in_bytes                    | MemoryMax, MemoryLimit                              |
| memory.high, memory.low, memory.min, memory.swap.max | MemoryHigh, MemoryLow, MemoryMin, MemorySwapMax     |
| cpu.max, cpu.cfs_quota_us and cpu.cfs_period_us      | CPUQuotaPerSecUSec (whole percents), …PeriodUSec    |
| cpu.weight, cpu.shares                               | CPUWeight, CPUShares                                |
| cpuset.cpus, cpuset.mems                             | AllowedCPUs, AllowedMemoryNodes                     |
| io.weight, blkio.bfq.weight                          | IOWeight, BlockIOWeight                             |
| pids.max                                             | TasksMax                                            |

systemd 244 or newer is taken for granted: it is older than every kernel that is served.

Source: runc docs/systemd.md; systemd.resource-control(5); systemd.slice(5); org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import struct

from pyrunc.errors import InvalidSpec
from pyrunc.records import NamedTuple
from pyrunc.runtime import dbus
from pyrunc.runtime.cgroup_devices import (
    DEFAULT_DEVICE_RULES,
    DENY_ALL,
    LETTERS,
    DeviceRule,
    parse_device_rules,
)

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from pyrunc.runtime.cgroups import CgroupDir

    # Its name, the signature of its value, and that.
    Property = tuple[str, str, Any]

SOCKET = "/run/systemd/private"
"""Where systemd listens for root, without a bus in between; see systemd's src/core/dbus.c."""

_NAME, _PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_INFINITY = (1 << 64) - 1
ANNOTATION = "org.systemd.property."
_PERIOD_US = 100_000  # the kernel's default
_SIZES = {
    "memory.max": "MemoryMax", "memory.limit_in_bytes": "MemoryLimit", "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow", "memory.min": "MemoryMin", "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight", "cpu.shares": "CPUShares", "io.weight": "IOWeight", "blkio.bfq.weight": "BlockIOWeight",
}  # fmt: skip
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
_QUOTA = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")


class Manager(NamedTuple):
    """A systemd: the host's, or a user's own."""

    socket: str = SOCKET
    """Where it listens."""
    cgroup: str = ""
    """The cgroup below which all of its own are; "" for the root."""
    is_users: bool = False
    """Whether it has no more rights than a user."""


class Unit(NamedTuple):
    """A unit of systemd that holds a container."""

    slice: str
    """The slice that it is in."""
    name: str
    """The scope that is made, or itself a slice."""
    own: str
    """What the last part of cgroupsPath calls it."""
    annotations: tuple[Property, ...] = ()
    """Properties that the document names itself."""
    manager: Manager = Manager()
    """Who makes it."""

    @property
    def path(self) -> str:
        """Where its cgroup is in each hierarchy, absolute."""
        return f"{self.manager.cgroup}{expand_slice(self.slice)}/{self.name}"

    @property
    def is_slice(self) -> bool:
        """Whether it is a slice, which systemd makes without any process."""
        return self.name.endswith(".slice")


def parse(
    cgroups_path: str, container_id: str, annotations: Mapping[str, str], manager: Manager | None = None
) -> Unit:
    """Read ``slice:prefix:name``, "" being ``system.slice:runc:ID``, and the properties among *annotations*.

    With a user's *manager* it is ``user.slice`` where none is named. Raises InvalidSpec in runc's words.
    """
    parts = cgroups_path.split(":") if cgroups_path else ["", "runc", container_id]
    if len(parts) != 3:
        raise InvalidSpec(
            'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f'got "{cgroups_path}" instead'
        )
    place, prefix, own = parts
    manager = manager or Manager()
    place = place or ("user.slice" if manager.is_users else "system.slice")
    name = own if own.endswith(".slice") else f"{prefix}-{own}.scope"
    expand_slice(place)
    if "/" in name or "\0" in name:
        # Whatever else a name may not be systemd says itself; this would be a path.
        raise InvalidSpec(
            "unable to start container process: unable to apply cgroup configuration: "
            f'unable to start unit "{name}": Invalid unit name or type.'
        )
    if own.endswith(".slice"):
        expand_slice(own)
    return Unit(place, name, own, tuple(_annotated(annotations)), manager)


def expand_slice(name: str) -> str:
    """The path of a slice: ``a-b.slice`` is in ``a.slice``; that of ``-.slice``, the root, is "".

    Raises InvalidSpec for what is no name of a slice.
    """
    stem = name.removesuffix(".slice")
    if name == "-.slice":
        return ""
    parts = stem.split("-")
    if stem == name or "/" in name or not all(parts):
        raise InvalidSpec(f"invalid slice name: {name}")
    return "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))


def _annotated(annotations: Mapping[str, str]) -> Iterable[Property]:
    for key in sorted(annotations):
        if not key.startswith(ANNOTATION):
            continue
        from pyrunc.runtime import gvariant

        name, text = key[len(ANNOTATION) :], annotations[key]
        if len(name) < 3:
            raise InvalidSpec(f"annotation {key} name incorrect: too short")
        if not name.isascii() or not name.isalpha():
            raise InvalidSpec(f"annotation {key} name incorrect: contains non-alphabetic character")
        try:
            kind, value = gvariant.parse(text)
            if name.endswith("Sec") and name[-4].islower():
                # As unit files and people call it.
                name, kind, value = f"{name[:-3]}USec", "t", _microseconds(kind, value)
            dbus.Message().put("v", (kind, value))
        except (ValueError, TypeError, OverflowError, struct.error, RecursionError) as error:
            raise InvalidSpec(f"annotation {key}={text} value parse error: {error}") from None
        yield name, kind, value


def _microseconds(kind: str, value: Any) -> int:
    if kind not in "ynqiuxtd":
        raise ValueError("not a number")
    return int(value * 1_000_000) & _INFINITY


def properties(unit: Unit, version: int, devices: object, directories: Sequence[CgroupDir]) -> list[Property]:
    """All that a new *unit* is to be, but for the process that is in it from the start.

    *version* of cgroups is that of most controllers; *devices* are the document's rules; *directories* what is
    written to its cgroups.
    """
    # A slice is in the one that its name says; a scope is where it is put.
    found: list[Property] = [
        ("Description", "s", f"pyrunc container {unit.own}"),
        ("Wants", "as", [unit.slice]) if unit.is_slice else ("Slice", "s", unit.slice),
    ]
    if not unit.is_slice:
        found.append(("Delegate", "b", True))
    found += [
        (name, "b", True)
        for name in (
            "MemoryAccounting",
            "CPUAccounting",
            "IOAccounting" if version == 2 else "BlockIOAccounting",
            "TasksAccounting",
        )
    ]
    found.append(("DefaultDependencies", "b", False))
    found += unit.annotations
    if not unit.manager.is_users:  # which could not have it so
        found += _device_properties(parse_device_rules(devices) + DEFAULT_DEVICE_RULES, version)
    return found + limits(directories)


def limits(directories: Iterable[CgroupDir]) -> list[Property]:
    """The properties that say what is written to the files of *directories*."""
    found: dict[str, Property] = {}
    files = {write.file: write.value for directory in directories for write in directory.writes}
    for file, value in files.items():
        if file in _SIZES and (number := _size(value)) is not None:
            found[file] = (_SIZES[file], "t", number)
        elif file in _SETS and (members := _members(value)):
            found[file] = (_SETS[file], "ay", members)
    return [*found.values(), *_quota(files)]


def _size(value: str) -> int | None:
    """A number, or none where it is one device's or a word."""
    if value in ("max", "-1"):
        return _INFINITY
    return int(value) if value.isdecimal() else None


def _members(value: str) -> bytes | None:
    """A list such as 0-2,7 as a mask, the lowest first; None where it cannot be read."""
    mask = 0
    try:
        for part in value.split(","):
            first, dash, last = part.strip().partition("-")
            low, high = int(first), int(last if dash else first)
            if not 0 <= low <= high < 65536:
                return None
            mask |= (1 << (high + 1)) - (1 << low)
    except ValueError:
        return None
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _quota(files: Mapping[str, str]) -> list[Property]:
    words = files["cpu.max"].split() if "cpu.max" in files else [
        files.get("cpu.cfs_quota_us", ""), files.get("cpu.cfs_period_us", ""),
    ]  # fmt: skip
    quota = _size(words[0]) if words and words[0] else None
    period = _size(words[1]) if len(words) > 1 and words[1] else None
    found: list[Property] = []
    if period is not None:
        found.append(("CPUQuotaPeriodUSec", "t", period))
    if quota == _INFINITY:
        found.append(("CPUQuotaPerSecUSec", "t", quota))
    elif quota:
        # Of a second, up to the next percent: more than systemd keeps.
        each = quota * 1_000_000 // (period or _PERIOD_US)
        found.append(("CPUQuotaPerSecUSec", "t", -(-each // 10_000) * 10_000))
    return found


def _device_properties(rules: Iterable[DeviceRule], version: int) -> list[Property]:
    """What systemd lets the container use.

    On cgroup v2 its program stands beside the container's own, and both must agree: so it may allow more, and where it
    cannot say what is denied it says nothing. On v1 both write to the same files, so it must never allow more.
    """
    allowed = False
    rest: list[DeviceRule] = []
    for rule in rules:
        if rule[1:] == DENY_ALL[1:]:
            allowed, rest = rule.allow, []
        else:
            rest.append(rule)
    if allowed and (version == 2 or all(rule.allow for rule in rest)):
        return [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]
    granted: dict[tuple[str, int | None, int | None], int] = {}
    for rule in () if allowed else rest:
        if rule.allow:
            for kind in "bc" if rule.type == "a" else rule.type:
                key = (kind, rule.major, rule.minor)
                granted[key] = granted.get(key, 0) | rule.access
            continue
        for key, access in granted.items():
            if rule.covers(DeviceRule(True, *key, access)):
                granted[key] &= ~rule.access
    entries = []
    for (kind, major, minor), access in granted.items():
        letters = "".join(letter for letter, bit in LETTERS if access & bit)
        if not letters or (major is None and minor is not None and version == 1):
            continue  # it has no words for one minor number of all, and the next larger ones would allow more
        group = "block" if kind == "b" else "char"
        if major is None:
            entries.append((f"{group}-*", letters))
        else:
            entries.append(
                (f"{group}-{major}" if minor is None else f"/dev/{group}/{major}:{minor}", letters)
            )
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", entries)]


def told(found: Iterable[Property]) -> str:
    """Properties as runc's errors show them."""
    return " ".join(f"{{Name:{name} Value:{_shown(kind, value)}}}" for name, kind, value in found)


def _shown(kind: str, value: Any) -> str:
    if kind in ("s", "o", "g"):
        text = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'
    if kind == "b":
        return "true" if value else "false"
    if kind == "a(ss)":
        pairs = (f"({_shown('s', place)}, {_shown('s', letters)})" for place, letters in value)
        return f"[{', '.join(pairs)}]"
    if kind[0] == "a" and not isinstance(value, str):
        return f"@{kind} [{', '.join(_shown(kind[1:], member) for member in value)}]"
    return str(value) if kind == "i" else f"@{kind} {value}"


def _call(serial: int, member: str, signature: str, *values: Any) -> dbus.Message:
    return dbus.call(serial, _NAME, _PATH, _MANAGER, member, signature, *values)


def _variants(found: Iterable[Property]) -> list[tuple[str, tuple[str, Any]]]:
    return [(name, (kind, value)) for name, kind, value in found]


def calls(unit: Unit, found: Sequence[Property]) -> bytes:
    """What the front door tells systemd of *unit*, as `_native/oci_unit.pxd` reads it.

    Three calls: one that starts it with the properties *found*, with a blank where the pid of its first process goes;
    one that stops it; and one that has it forgotten where it has failed. Raises ValueError, TypeError, struct.error.
    """
    if not unit.is_slice:
        found = [*found, ("PIDs", "au", [dbus.BLANK])]
    start = _call(1, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit.name, "replace", _variants(found), [])
    others = [stop(unit), reset(unit)]
    out = struct.pack("=4I", len(start.data), start.blank, *map(len, others))
    for data in (bytes(start.data), *others):
        out += data + bytes(-len(data) % 8)
    return out


def stop(unit: Unit) -> bytes:
    """The call that stops *unit*."""
    return bytes(_call(2, "StopUnit", "ss", unit.name, "replace").data)


def reset(unit: Unit) -> bytes:
    """The call that has *unit* forgotten where it has failed."""
    return bytes(_call(3, "ResetFailedUnit", "s", unit.name).data)


def change(unit: Unit, found: Sequence[Property]) -> bytes:
    """The call that changes properties of *unit*, until the host is booted again."""
    return bytes(_call(4, "SetUnitProperties", "sba(sv)", unit.name, True, _variants(found)).data)


def whereabouts() -> bytes:
    """The call that asks a manager for its cgroup."""
    message = dbus.call(
        6, _NAME, _PATH, "org.freedesktop.DBus.Properties", "Get", "ss", _MANAGER, "ControlGroup"
    )
    return bytes(message.data)


def ping() -> bytes:
    """A call that is answered when everything said before has been done."""
    return bytes(dbus.call(5, _NAME, _PATH, "org.freedesktop.DBus.Peer", "Ping").data)
