"""The host's part of a plan: idmapped mounts' maps, and the cgroups that the supervisor makes and init joins."""

from __future__ import annotations

import os

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec
from pyrunc.records import NamedTuple
from pyrunc.runtime import cgroup_layout, cgroups
from pyrunc.runtime import mount_options as mo
from pyrunc.runtime.compile_namespaces import (
    CLONE_NEW,
    MAX_ID,
    NamespacePart,
    checked_number,
    for_supervisor,
    id_map,
    map_rows,
)
from pyrunc.runtime.plan import HOST, ID, INIT

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.runtime.compile_namespaces import Spec

__all__ = [
    "CLONE_NEW", "MAX_ID", "HostPart", "Rootfs", "Spec", "checked_number", "for_supervisor", "id_map", "map_rows",
]  # fmt: skip

_FLAG = native.FLAGS
_MOUNTING = frozenset(("mount", "fsmount"))  # without one of them there is no new mount of a file system
# cgroup_writes' FAIL, SKIP, NEXT
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


class HostPart(NamespacePart):
    """What a plan says before the root: the steps of the supervisor, and init's way into cgroups and namespaces."""

    front_door: Any = None  # of a container of pyrunc-oci, see there

    def __init__(self, spec: Spec, rootfs: Rootfs, files: Mapping[str, str]) -> None:
        super().__init__(spec)
        self.rootfs = rootfs
        self.files = files
        cwd = (spec.get("process") or {}).get("cwd") or "/"
        if not isinstance(cwd, str) or not cwd.startswith("/"):
            raise InvalidSpec(f"process.cwd: must be absolute, not {cwd!r}")
        self.cwd = os.path.normpath("/" + cwd.lstrip("/"))

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

    def _place(self, usual: str) -> str:
        """Where the root is attached until pivot_root."""
        return usual

    def _last_mounts(self) -> None:
        """What else is made in the root, before that may become read-only."""

    def _cgroups(self) -> None:
        """Make the cgroups on the host; init joins them as its first act."""
        plan = self.plan
        layout = cgroup_layout.detect()
        resources: Mapping[str, Any] = self.linux.get("resources") or {}
        wanted = cgroups.plan_cgroup(layout, self.linux.get("cgroupsPath") or f"/pyrunc/{ID}", resources)
        plan.warnings += [f"{field}: is ignored, as no kernel has it any more" for field in wanted.ignored]
        self._make_unit(layout, resources, wanted)
        joins: list[tuple[int, str | None]] = []
        self.cgroups: list[cgroups.CgroupDir] = []
        for directory in (*wanted.dirs, *self._named_cgroups(layout, wanted)):
            if self._is_idle(layout, directory):
                continue
            controllers = (*directory.enable, *self._controllers(layout, directory))
            counts = bool(resources.get("memory")) and "memory" in controllers
            base, below, enable = self._cgroup_place(directory)
            slot = plan.slot() if directory.version == 2 or directory.writes or counts else native.ABSENT
            self.cgroups.append(directory)
            plan.cgroup_path = f"/{directory.path}"
            plan.add(
                "cgroup_mkdir", HOST, "host", a=slot, s0=base, s1=below,
                s2=" ".join(f"+{name}" for name in enable) or None,
                flags=self._cgroup_flags(directory),
            )  # fmt: skip
            for write in directory.writes:
                flags = _ON_MISSING[write.on_missing]
                plan.add("write_at", HOST, "host", a=slot, s0=write.file, s1=write.value, flags=flags)
            self._join_cgroup(directory, slot, joins)
            if counts:
                plan.memory_slot = slot
        if wanted.device_bpf and plan.cgroup_slot != native.ABSENT:
            blob = plan.blob(wanted.device_bpf)
            plan.add("device_bpf", HOST, "host", a=plan.cgroup_slot, n0=blob, n1=len(wanted.device_bpf) // 8)
        for tasks, cpuset in joins:
            plan.add("join_tasks", INIT, "namespaces", a=tasks, s0=cpuset)

    def _make_unit(
        self, layout: cgroup_layout.Layout, resources: Mapping[str, Any], wanted: cgroups.CgroupPlan
    ) -> None:
        """Have another make them first, if one is to."""

    def _named_cgroups(
        self, layout: cgroup_layout.Layout, wanted: cgroups.CgroupPlan
    ) -> list[cgroups.CgroupDir]:
        """In hierarchies that only have a name, such as systemd's: for who looks there, as other OCI runtimes do."""
        if self.front_door is None or not wanted.dirs:
            return []
        path = wanted.dirs[0].path
        return [cgroups.CgroupDir(one.mountpoint, path, 1, (), False, ()) for one in layout.named]

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

    def _cgroup_place(self, directory: cgroups.CgroupDir) -> tuple[str, str, tuple[str, ...]]:
        """Where a cgroup is made: a directory that is there, the path below, and the controllers to enable on it."""
        return directory.mountpoint, f"/{directory.path}", directory.enable

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


def _refuses(action: object) -> bool:
    return isinstance(action, str) and action.startswith(("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"))
