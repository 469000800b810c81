"""What the plan of pyrunc-oci has that no other has: waiting for the start, and hooks."""

from __future__ import annotations

from pyrunc._native.plan import ABSENT, FLAGS, NAMESPACES
from pyrunc.errors import InvalidSpec
from pyrunc.records import NamedTuple
from pyrunc.runtime.compile_rootless import Rights, RootlessPart, may_enter, own_cgroup
from pyrunc.runtime.plan import HOOK_KINDS, HOST, INIT

_READONLY = 0x1 | 0x2 | 0x4 | 0x8  # with nosuid, nodev, noexec: linux/mount.h, MOUNT_ATTR_*

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.runtime.cgroup_layout import Layout
    from pyrunc.runtime.cgroup_systemd import Unit
    from pyrunc.runtime.cgroups import CgroupDir, CgroupPlan

LISTED_GROUPS = 256  # as many as a step has room for


class FrontDoor(NamedTuple):
    """How a container of pyrunc-oci starts: by another command if *waits*; *hooks* are the kinds of its table.

    With *no_pivot* its root is moved over the old one, for a host whose root pivot_root(2) cannot leave. *notify* is
    the directory on the host that it sees as /run/notify, or "". A terminal that is *relayed* to the caller's own
    leaves the ends of lines as they are, since that one shows them. *rights* are what the caller lacks.
    *unit* is what systemd makes its cgroups for, or None.
    """

    waits: bool = False
    hooks: tuple[int, ...] = ()
    no_pivot: bool = False
    notify: str = ""
    relayed: bool = False
    rights: Rights = Rights()
    unit: Unit | None = None


class FrontDoorPart(RootlessPart):
    """The pauses and hooks of such a container; none of another's.

    Source: OCI runtime-spec runtime.md "Lifecycle", config.md "POSIX-platform Hooks".
    """

    front_door: FrontDoor | None = None
    joins = False  # whether the program is one of `exec`, in a container that runs

    def _make_unit(self, layout: Layout, resources: Mapping[str, Any], wanted: CgroupPlan) -> None:
        unit = self._unit()
        if unit is None:
            return
        from struct import error as unpackable

        from pyrunc.runtime import cgroup_systemd as systemd

        version = 2 if layout.mode == "v2" else 1
        found = systemd.properties(unit, version, resources.get("devices"), wanted.dirs)
        try:
            calls = systemd.calls(unit, found)
        except (ValueError, TypeError, unpackable) as error:
            raise InvalidSpec(f"systemd cannot be told of unit {unit.name}: {error}") from None
        for directory in wanted.dirs if unit.manager.is_users else ():
            if not may_enter(directory):
                raise InvalidSpec(
                    f"--systemd-cgroup: who is in the cgroup {own_cgroup() or '/'} may not go to {unit.path}: "
                    "systemd-run --user --scope begins where that is allowed"
                )
        self.plan.add(
            "unit", HOST, "host", s0=unit.manager.socket, s1=unit.name, s2=systemd.told(found),
            n0=self.plan.blob(calls), n1=len(calls) // 8,
        )  # fmt: skip

    def _unit(self) -> Unit | None:
        return None if self.front_door is None else self.front_door.unit

    def _is_idle(self, layout: Layout, directory: CgroupDir) -> bool:
        # systemd takes a unit for finished when nobody is in its cgroup of the hierarchy that it looks at.
        return self._unit() is None and super()._is_idle(layout, directory)

    def _cgroup_place(self, directory: CgroupDir) -> tuple[str, str, tuple[str, ...]]:
        unit = self._unit()
        if unit is not None and unit.manager.is_users:
            # It is there by then, with the controllers that there are for this user.
            return directory.mountpoint, f"/{directory.path}", ()
        return super()._cgroup_place(directory)

    def _place(self, usual: str) -> str:
        """Over itself, where hooks that enter the mount namespace look for it by the path that the state has.

        Not in a user namespace, whose root may be unable to walk there.
        """
        if self.front_door is None or "user" in self.namespaces:
            return usual
        early = any(HOOK_KINDS[kind] in HOOK_KINDS[:3] for kind in self.front_door.hooks)
        return self.rootfs.layers[0] if early else usual

    def _last_mounts(self) -> None:
        if self.front_door is None:
            return
        if self.front_door.notify:
            slot, source = self.plan.slot(), self.front_door.notify
            self.plan.add("open_tree", HOST, "host", a=slot, s0=source)
            self.plan.add("mount_attr", HOST, "host", a=slot, s0=source, n0=_READONLY)
            self.plan.add("attach", INIT, "devices", a=slot, s0="/run/notify", flags=FLAGS["create"])

    def _before_pivot(self) -> None:
        """Hooks that see the container's mounts and the runtime's file system."""
        if self.front_door is None:
            return
        if any(HOOK_KINDS[kind] in ("prestart", "createRuntime") for kind in self.front_door.hooks):
            self.plan.add("sync", INIT, "pivot", n0=NAMESPACES)
        self._run_hooks("createContainer", "pivot")

    def _lookup(self, uid: int, gid: int, groups: Sequence[int]) -> None:
        """See that the program can be executed by who it is executed as: what fails later is its own failure."""
        if self.front_door is not None or self.joins:
            listed = ",".join(map(str, groups[:LISTED_GROUPS]))
            self.plan.add("lookup", INIT, "process", s0="", s1=listed, n0=uid << 32 | gid)

    def _wait_start(self) -> None:
        """Wait until the program shall be executed."""
        if self.front_door is None:
            return
        self.plan.add("wait_start", INIT, "process", a=self.plan.slot() if self.front_door.waits else ABSENT)

    def _run_hooks(self, name: str, stage: str) -> None:
        """Those of one kind that init runs itself."""
        if self.front_door is not None:
            for index, kind in enumerate(self.front_door.hooks):
                if HOOK_KINDS[kind] == name:
                    self.plan.add("hook", INIT, stage, n0=index)

    def _as_runc_has_it(self) -> None:
        """What is another way here: whose the streams are, how a terminal shows lines, the root's place."""
        if self.front_door is None:
            return
        self._as_rootless()
        owner = ((self.spec.get("process") or {}).get("user") or {}).get("uid") or 0
        for index, step in enumerate(self.plan.steps):
            if step.op == "stdio":
                self.plan.steps[index] = step._replace(n1=owner + 1)
            elif step.op == "terminal" and self.front_door.relayed:
                self.plan.steps[index] = step._replace(flags=step.flags | FLAGS["tty"])
            elif step.op == "pivot_root" and self.front_door.no_pivot:
                self.plan.steps[index] = step._replace(n0=1)
