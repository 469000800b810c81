"""The namespaces of a plan: what init is born in, joins and makes, and who waits for whom meanwhile."""

from __future__ import annotations

import os

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.runtime import sysctls
from pyrunc.runtime.plan import HOST, INIT, STAGE, SYNC, PlanTemplate

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Spec = Mapping[str, Any]


CLONE_NEW = {
    "mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "network": 0x40000000, "time": 0x00000080,
}  # fmt: skip
MAX_ID = 0xFFFF_FFFE
_SECS = (1 << 63) // 1_000_000_000 // 2  # KTIME_SEC_MAX / 2, as the kernel has it
_DEVICES_MOVE = 2  # the number of a sync point; 0 is that of id maps


class NamespacePart:
    """What a plan says of namespaces, all of it before the root."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.linux: Mapping[str, Any] = spec.get("linux") or {}
        self.plan = PlanTemplate()
        self.userns_slots: dict[tuple[str, str], int] = {}
        self.joined_user = native.ABSENT  # of a user namespace by path
        self.namespaces = self._namespaces()
        self.new = {kind for kind, path in self.namespaces.items() if not path}
        self.in_userns = "user" in self.namespaces
        self.unprivileged = False  # see compile_rootless
        self.keeps_groups = False  # whether nobody may change the groups of a process in there

    def _namespaces(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for i, entry in enumerate(self.linux.get("namespaces") or ()):
            kind = entry.get("type")
            if kind not in CLONE_NEW:
                raise InvalidSpec(f"linux.namespaces[{i}].type: unknown namespace {kind!r}")
            if kind in found:
                raise InvalidSpec(f"linux.namespaces[{i}]: {kind} is listed twice")
            path = for_supervisor(entry.get("path") or "")
            if kind == "time" and not os.path.exists("/proc/self/timens_offsets"):
                raise Unsupported(f"linux.namespaces[{i}]: time namespaces aren't enabled in the kernel")
            if kind == "user" and path and sysctls.is_own("user", path):
                continue  # which nobody can enter again
            found[kind] = path
        if "mount" not in found or (found["mount"] and sysctls.is_own("mount", found["mount"])):
            # Its mounts would be the host's, and stay there.
            raise Unsupported("linux.namespaces: a container needs a mount namespace of its own")
        return found

    def _user_namespace(self) -> None:
        """A new user namespace: init waits until the supervisor has written its maps, then becomes its root."""
        uid, gid = (self._id_map(key) for key in ("uidMappings", "gidMappings"))
        self.id_maps = (uid, gid)
        if not self.in_userns:
            if uid or gid:
                raise InvalidSpec(
                    "linux.uidMappings: user namespace mappings specified, but a user namespace is not"
                )
            return
        plan = self.plan
        if "user" not in self.new:
            self._joined_user_namespace(self.namespaces["user"])
            return
        if not uid or not gid:
            raise InvalidSpec("linux.uidMappings, linux.gidMappings: a new user namespace needs both")
        plan.add("sync", INIT, "namespaces", n0=0, n1=int(self.unprivileged))
        self._write_maps(uid, gid)
        plan.add("user", INIT, "namespaces", s0="")

    def _write_maps(self, uid: str, gid: str) -> None:
        self.plan.add("write_proc", SYNC, "host", s0="uid_map", s1=uid)
        self.plan.add("write_proc", SYNC, "host", s0="gid_map", s1=gid)

    def _joined_user_namespace(self, path: str) -> None:
        """One by its path, whose maps are what they are; init becomes its root in the end."""
        found = _maps_of(path)
        for key, given, real in zip(("uidMappings", "gidMappings"), self.id_maps, found, strict=True):
            if given and sorted(given.splitlines()) != sorted(real.splitlines()):
                raise InvalidSpec(f"linux.{key}: differ from those of the user namespace {path}")
        self.id_maps = found
        self.joined_user = self.userns_slots[found] = self.plan.slot()
        self.plan.add("open", HOST, "host", a=self.joined_user, s0=path, n0=os.O_RDONLY)

    def _id_map(self, key: str) -> str:
        return id_map(self.linux.get(key), f"linux.{key}")

    def _time_offsets(self) -> str:
        """What is written for a new time namespace, before anybody is in it; "" for none."""
        given: Mapping[str, Any] = self.linux.get("timeOffsets") or {}
        if not given:
            return ""
        if "time" not in self.namespaces:
            raise InvalidSpec(
                "linux.timeOffsets: time namespace offsets specified, but a time namespace is not"
            )
        if "time" not in self.new:
            raise InvalidSpec("linux.timeOffsets: a time namespace that is joined by its path has its own")
        lines = []
        for clock, offset in given.items():
            if clock not in ("monotonic", "boottime"):
                raise InvalidSpec(f"linux.timeOffsets: unknown clock {clock!r}")
            secs = checked_number(offset.get("secs") or 0, f"linux.timeOffsets.{clock}.secs", _SECS, -_SECS)
            nanosecs = checked_number(
                offset.get("nanosecs") or 0, f"linux.timeOffsets.{clock}.nanosecs", 999_999_999
            )
            lines.append(f"{clock} {secs} {nanosecs}\n")
        return "".join(lines)

    def _join_namespaces(self) -> None:
        plan = self.plan
        offsets = self._time_offsets()
        for kind in self.new:
            if kind != "cgroup" and not (kind == "time" and offsets):
                plan.clone_flags |= CLONE_NEW[kind]
        joined = [(kind, path) for kind, path in self.namespaces.items() if path and kind != "user"]
        # What is joined may be the host's: that is not for who is in a user namespace already, new or not.
        staged = (
            offsets
            or "mount" not in self.new
            or self.joined_user != native.ABSENT
            or (self.in_userns and joined)
        )
        # From another mount namespace the host's procfs is not to be seen any more.
        joined.sort(key=lambda row: row[0] == "mount")
        if offsets:
            plan.add("unshare", STAGE, "host", n0=CLONE_NEW["time"])
            plan.add("write_proc", STAGE, "host", s0="timens_offsets", s1=offsets)
        for kind, path in joined:
            slot = plan.slot()
            plan.add("open", HOST, "host", a=slot, s0=path, n0=os.O_RDONLY)
            where = STAGE if staged else HOST if kind == "pid" else INIT
            plan.add(
                "setns", where, "namespaces" if where == INIT else "host", a=slot, s0=path, n0=CLONE_NEW[kind]
            )
        if self.joined_user != native.ABSENT:
            path = self.namespaces["user"]
            plan.add("setns", STAGE, "host", a=self.joined_user, s0=path, n0=CLONE_NEW["user"])
            plan.add("user", INIT, "namespaces", s0="")
        if "cgroup" in self.new:
            # After the cgroups were joined: the other order would show the host's path inside.
            plan.add("unshare", INIT, "namespaces", n0=CLONE_NEW["cgroup"])
        if "network" in self.new:
            plan.add("loopback_up", INIT, "namespaces")
        self._network_devices()
        for name in ("hostname", "domainname"):
            if self.spec.get(name):
                if not sysctls.separate("uts", self.namespaces):
                    raise InvalidSpec(f"{name}: unable to set {name} without a private UTS namespace")
                plan.add(name, INIT, "namespaces", s0=self.spec[name])

    def _network_devices(self) -> None:
        """Devices of the host that move into the container's network namespace, before any hook may look for them.

        Source: OCI runtime-spec config-linux.md "Network Devices".
        """
        listed: Mapping[str, Any] = self.linux.get("netDevices") or {}
        if not listed:
            return
        if not sysctls.separate("network", self.namespaces):
            raise InvalidSpec(
                "linux.netDevices: unable to move network devices without a private NET namespace"
            )
        names: dict[str, str] = {}
        for device, entry in listed.items():
            wanted = (entry or {}).get("name") or device
            for name in (device, wanted):
                if not _is_device_name(name):
                    raise InvalidSpec(f"linux.netDevices[{device!r}]: invalid network device name {name!r}")
            if wanted in names:
                raise InvalidSpec(
                    f"linux.netDevices[{device!r}]: {names[wanted]!r} has the name {wanted!r} in the container too"
                )
            names[wanted] = device
            self.plan.add("net_device", SYNC + _DEVICES_MOVE, "host", s0=device, s1=wanted)
        self.plan.add("sync", INIT, "namespaces", n0=_DEVICES_MOVE)


def id_map(listed: Any, field: str) -> str:
    """The mappings of a document as the kernel's uid_map and gid_map want them."""
    lines = []
    for i, row in enumerate(listed or ()):
        numbers = (
            checked_number(row.get(key), f"{field}[{i}].{key}", MAX_ID)
            for key in ("containerID", "hostID", "size")
        )
        lines.append("{} {} {}\n".format(*numbers))
    return "".join(lines)


def map_rows(text: str) -> list[list[int]]:
    """Rows of (inside, outside, size) of an id map."""
    return [[int(number) for number in line.split()] for line in text.splitlines()]


def _maps_of(path: str) -> tuple[str, str]:
    """The id maps of the user namespace at *path*, by the host's ids."""
    from pyrunc._native import namespaces

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            uid, gid = namespaces.id_maps(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise InvalidSpec(f"linux.namespaces: {path}: {os.strerror(exc.errno or 0).lower()}") from exc
    if not uid or not gid:
        raise InvalidSpec(f"linux.namespaces: {path}: a user namespace without id mappings")
    return _squeezed(uid), _squeezed(gid)


def _squeezed(text: str) -> str:
    return "".join(" ".join(line.split()) + "\n" for line in text.splitlines())


def for_supervisor(path: str) -> str:
    """*path* of the host, to be opened by the supervisor, for which /proc/self is not this process."""
    return f"/proc/{os.getpid()}/{path[11:]}" if path.startswith("/proc/self/") else path


def checked_number(value: object, field: str, high: int, low: int = 0) -> int:
    """An integer that fits its place in the plan."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSpec(f"{field}: must be an integer from {low} to {high}, not {value!r}")
    return value


def _is_device_name(name: str) -> bool:
    """Whether the kernel would take *name*, and take it as it is: no pattern that it completes."""
    return (
        0 < len(name.encode()) < 16
        and name not in (".", "..")
        and not set(name) & set("/:%")
        and not name.split()[1:]
        and name == name.strip()
    )
