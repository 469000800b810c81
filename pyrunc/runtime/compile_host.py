"""The host's part of a plan: namespaces, id maps, and the cgroups that the supervisor makes and init joins."""

from __future__ import annotations

import os

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.records import NamedTuple
from pyrunc.runtime import cgroup_layout, cgroups, sysctls
from pyrunc.runtime import mount_options as mo
from pyrunc.runtime.plan import HOST, ID, INIT, STAGE, SYNC, PlanTemplate

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
_FLAG = native.FLAGS
_MOUNTING = frozenset(("mount", "fsmount"))  # without one of them there is no new mount of a file system
# cgroup_resources' FAIL, SKIP, NEXT
_ON_MISSING = (0, _FLAG["missing"], _FLAG["alternative"])


class Rootfs(NamedTuple):
    """Where the root comes from.

    *layers* are directories, the lowest first; *scratch* keeps writes in a tmpfs of
    *scratch_bytes* (0: the kernel's default) that dies with the container; otherwise the single layer is used itself.
    *idmap* shows the layers' owners through the container's own id maps, where it has a user namespace.
    *upper*, with the directory *work* on the same file system, keeps writes on disk instead; *volatile* spares their
    flushes, for what is thrown away with the container.
    """

    layers: tuple[str, ...]
    scratch: bool = False
    scratch_bytes: int = 0
    idmap: bool = False
    upper: str = ""
    work: str = ""
    volatile: bool = False


class HostPart:
    """What a plan says before the root: the steps of the supervisor, and init's way into cgroups and namespaces."""

    def __init__(self, spec: Spec, rootfs: Rootfs, files: Mapping[str, str]) -> None:
        self.spec = spec
        self.linux: Mapping[str, Any] = spec.get("linux") or {}
        self.rootfs = rootfs
        self.files = files
        self.plan = PlanTemplate()
        self.userns_slots: dict[tuple[str, str], int] = {}
        self.joined_user = native.ABSENT  # of a user namespace by path
        cwd = (spec.get("process") or {}).get("cwd") or "/"
        if not isinstance(cwd, str) or not cwd.startswith("/"):
            raise InvalidSpec(f"process.cwd: must be absolute, not {cwd!r}")
        self.cwd = os.path.normpath("/" + cwd.lstrip("/"))
        self.namespaces = self._namespaces()
        self.new = {kind for kind, path in self.namespaces.items() if not path}
        self.in_userns = "user" in self.namespaces

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
        if found.get("mount") != "":
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
        plan.add("sync", INIT, "namespaces", n0=0)
        plan.add("write_proc", SYNC, "host", s0="uid_map", s1=uid)
        plan.add("write_proc", SYNC, "host", s0="gid_map", s1=gid)
        plan.add("user", INIT, "namespaces", s0="")

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

    def _userns_slot(self, maps: tuple[str, str]) -> int:
        """A user namespace that idmapped mounts with these maps share, made once."""
        if maps not in self.userns_slots:
            slot = self.plan.slot()
            self.plan.add("userns", HOST, "host", a=slot, s0=maps[0], s1=maps[1])
            self.userns_slots[maps] = slot
        return self.userns_slots[maps]

    def _idmap(self, slot: int, source: str, maps: tuple[str, str], recursive: bool) -> None:
        # *source* is there to be named in an error.
        self.plan.add(
            "mount_attr", HOST, "host", a=slot, s0=source, b=self._userns_slot(maps), n0=mo.IDMAP,
            flags=_FLAG["recursive"] if recursive else 0,
        )  # fmt: skip

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

    def _cgroups(self) -> None:
        """Make the cgroups on the host; init joins them as its first act."""
        plan = self.plan
        layout = cgroup_layout.detect()
        resources: Mapping[str, Any] = self.linux.get("resources") or {}
        wanted = cgroups.plan_cgroup(layout, self.linux.get("cgroupsPath") or f"/pyrunc/{ID}", resources)
        joins: list[tuple[int, str | None]] = []
        self.cgroups: list[cgroups.CgroupDir] = []
        for directory in wanted.dirs:
            if self._is_idle(layout, directory):
                continue
            controllers = (*directory.enable, *self._controllers(layout, directory))
            counts = bool(resources.get("memory")) and "memory" in controllers
            slot = plan.slot() if directory.version == 2 or directory.writes or counts else native.ABSENT
            self.cgroups.append(directory)
            plan.cgroup_path = f"/{directory.path}"
            plan.add(
                "cgroup_mkdir", HOST, "host", a=slot, s0=directory.mountpoint, s1=plan.cgroup_path,
                s2=" ".join(f"+{name}" for name in directory.enable) or None,
                flags=self._cgroup_flags(directory),
            )  # fmt: skip
            for write in directory.writes:
                flags = _ON_MISSING[write.on_missing]
                plan.add("write_at", HOST, "host", a=slot, s0=write.file, s1=write.value, flags=flags)
            self._join_cgroup(directory, slot, joins)
            if counts:
                plan.memory_slot = slot
        if wanted.device_bpf:
            blob = plan.blob(wanted.device_bpf)
            plan.add("device_bpf", HOST, "host", a=plan.cgroup_slot, n0=blob, n1=len(wanted.device_bpf) // 8)
        for tasks, cpuset in joins:
            plan.add("join_tasks", INIT, "namespaces", a=tasks, s0=cpuset)

    def _is_idle(self, layout: cgroup_layout.Layout, directory: cgroups.CgroupDir) -> bool:
        """Whether a cgroup of a hybrid host's v2 would have nothing to do for this container.

        It has no controllers there; the end of the container's own pid namespace kills all that is in it; v1
        freezes; and nobody inside can get to see the cgroup that it then shares with others, to kill or freeze
        those. It would be a ninth of what cgroups cost.
        """
        return (
            layout.mode == "hybrid"
            and directory.version == 2
            and not directory.enable
            and not directory.writes
            and "pid" in self.new
            and layout.of("freezer") is not None
            and layout.of("devices") is not None
            and not self._may_mount()
        )

    def _may_mount(self) -> bool:
        """Whether the seccomp filter lets a program mount: without one, a new user namespace is all it needs."""
        profile: Mapping[str, Any] = self.linux.get("seccomp") or {}
        if not _refuses(profile.get("defaultAction")):
            return True
        return any(
            not _refuses(rule.get("action")) and not _MOUNTING.isdisjoint(rule.get("names") or ())
            for rule in profile.get("syscalls") or ()
        )

    def _cgroup_flags(self, directory: cgroups.CgroupDir) -> int:
        flags = _FLAG["keep_parents"] if os.path.dirname(directory.path) == "pyrunc" else 0
        if directory.seed_cpuset:
            flags |= _FLAG["cpuset"]
            if directory.writes or self.in_userns:
                # Before its writes, one of which may stand alone; and a user namespace's root could not do it later.
                flags |= _FLAG["seed_cpuset"]
        return flags

    def _join_cgroup(
        self, directory: cgroups.CgroupDir, slot: int, joins: list[tuple[int, str | None]]
    ) -> None:
        if directory.version == 2:
            self.plan.cgroup_slot = slot
            return
        tasks = self.plan.slot()
        path = f"{directory.mountpoint}/{directory.path}"
        self.plan.add("open", HOST, "host", a=tasks, s0=f"{path}/tasks", n0=os.O_WRONLY | os.O_NOFOLLOW)
        joins.append((tasks, path if directory.seed_cpuset else None))

    @staticmethod
    def _controllers(layout: cgroup_layout.Layout, directory: cgroups.CgroupDir) -> tuple[str, ...]:
        """The v1 controllers of the hierarchy that *directory* is in; none for v2, where they are enabled."""
        found = (h for h in layout.hierarchies if h.mountpoint == directory.mountpoint and h.version == 1)
        return next((h.controllers for h in found), ())

    def _join_namespaces(self) -> None:
        plan = self.plan
        offsets = self._time_offsets()
        for kind in self.new:
            if kind != "cgroup" and not (kind == "time" and offsets):
                plan.clone_flags |= CLONE_NEW[kind]
        joined = [(kind, path) for kind, path in self.namespaces.items() if path and kind != "user"]
        # What is joined may be the host's: that is not for who is in a user namespace already, new or not.
        staged = offsets or self.joined_user != native.ABSENT or (self.in_userns and joined)
        for kind, path in joined:
            slot = plan.slot()
            plan.add("open", HOST, "host", a=slot, s0=path, n0=os.O_RDONLY)
            where = STAGE if staged else HOST if kind == "pid" else INIT
            plan.add(
                "setns", where, "namespaces" if where == INIT else "host", a=slot, s0=path, n0=CLONE_NEW[kind]
            )
        if offsets:
            plan.add("unshare", STAGE, "host", n0=CLONE_NEW["time"])
            plan.add("write_proc", STAGE, "host", s0="timens_offsets", s1=offsets)
        if self.joined_user != native.ABSENT:
            path = self.namespaces["user"]
            plan.add("setns", STAGE, "host", a=self.joined_user, s0=path, n0=CLONE_NEW["user"])
            plan.add("user", INIT, "namespaces", s0="")
        if "cgroup" in self.new:
            # After the cgroups were joined: the other order would show the host's path inside.
            plan.add("unshare", INIT, "namespaces", n0=CLONE_NEW["cgroup"])
        if "network" in self.new:
            plan.add("loopback_up", INIT, "namespaces")
        for name in ("hostname", "domainname"):
            if self.spec.get(name):
                if not sysctls.separate("uts", self.namespaces):
                    raise InvalidSpec(f"{name}: unable to set {name} without a private UTS namespace")
                plan.add(name, INIT, "namespaces", s0=self.spec[name])


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


def _refuses(action: object) -> bool:
    return isinstance(action, str) and action.startswith(("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"))


def checked_number(value: object, field: str, high: int, low: int = 0) -> int:
    """An integer that fits its place in the plan."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSpec(f"{field}: must be an integer from {low} to {high}, not {value!r}")
    return value
