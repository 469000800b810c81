"""What a plan says otherwise where whoever starts the container is not the host's root.

| who starts it                      | ids are mapped by                | mounts are made by   | cgroups            |
|------------------------------------|----------------------------------|----------------------|--------------------|
| root                               | the supervisor                   | supervisor and init  | all                |
| root of a user namespace           | the supervisor, if at all        | supervisor and init  | those permitted    |
| an unprivileged user               | the supervisor, of their own id; | init, as root of its | those permitted    |
|                                    | else newuidmap and newgidmap     | user namespace       |                    |

Source: user_namespaces(7); runc docs/cgroup-v2.md, "Rootless"; newuidmap(1).
"""

from __future__ import annotations

import os

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec
from pyrunc.records import NamedTuple
from pyrunc.runtime import caller
from pyrunc.runtime.compile_host import HostPart
from pyrunc.runtime.plan import HOST, INIT, STAGE_NUMBER, SYNC

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.cgroup_layout import Layout
    from pyrunc.runtime.cgroups import CgroupDir
    from pyrunc.runtime.plan import Step

_FLAG = native.FLAGS
_MOUNTS = ("open_tree", "new_mount", "mount_attr")
_TOOLS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Rights(NamedTuple):
    """What whoever starts a container lacks."""

    unprivileged: bool = False
    """They are not root, not even of a user namespace."""
    nested: bool = False
    """They are in a user namespace, where no device can be made."""
    loose_cgroups: bool = False
    """Cgroups that they may not make are done without, as long as nothing is limited by them."""
    named_cgroup: bool = True
    """The document says where its cgroups are."""


class RootlessPart(HostPart):
    """Maps, mounts and cgroups of those who lack rights."""

    @property
    def rights(self) -> Rights:
        """What the one who starts this container lacks."""
        door = self.front_door
        found: Rights = Rights() if door is None else door.rights
        return found

    @property
    def binds_devices(self) -> bool:
        """Whether the host's devices are bound, since none can be made."""
        return self.in_userns or self.rights.nested

    def _user_namespace(self) -> None:
        self.unprivileged = self.rights.unprivileged
        if self.unprivileged and not self.in_userns:
            raise InvalidSpec("rootless container requires user namespaces")
        super()._user_namespace()

    def _write_maps(self, uid: str, gid: str) -> None:
        if not self.unprivileged:
            super()._write_maps(uid, gid)
            return
        self.keeps_groups = _is_own(gid, os.getegid())
        if self.keeps_groups:
            # Else the kernel lets nobody without privileges map a group (user_namespaces(7)).
            self.plan.add("write_proc", SYNC, "host", s0="setgroups", s1="deny")
        for name, text, own in (("uid_map", uid, os.geteuid()), ("gid_map", gid, os.getegid())):
            tool = None if _is_own(text, own) else _find(f"new{name.replace('_', '')}")
            self.plan.add("write_proc", SYNC, "host", s0=name, s1=text, s2=tool)

    def _cgroup_place(self, directory: CgroupDir) -> tuple[str, str, tuple[str, ...]]:
        """The directory that is there, what is to be made below, and which controllers that takes."""
        if not self.rights.loose_cgroups:
            return super()._cgroup_place(directory)
        whole = f"{directory.mountpoint}/{directory.path}"
        base = _existing(os.path.dirname(whole))
        enable = _enabled(base, directory.enable) if directory.version == 2 else ()
        return base, whole[len(base) :], enable

    def _is_idle(self, layout: Layout, directory: CgroupDir) -> bool:
        return super()._is_idle(layout, directory) or (
            self.rights.loose_cgroups and self._is_refused(layout, directory)
        )

    def _is_refused(self, layout: Layout, directory: CgroupDir) -> bool:
        """Whether it cannot be made and need not be. Raises InvalidSpec where it is needed."""
        whole = f"{directory.mountpoint}/{directory.path}"
        if directory.version == 1 and self.rights.named_cgroup:
            return False
        if _may_make(whole) and (directory.version == 1 or may_enter(directory)):
            return False
        if any(not write.file.startswith("devices.") for write in directory.writes):
            head = "unable to start container process: unable to apply cgroup configuration: "
            if directory.version == 2:
                raise InvalidSpec(
                    f"{head}rootless needs no limits + no cgrouppath when no permission is granted for cgroups: "
                    f"mkdir {whole}: permission denied"
                )
            names = ",".join(self._controllers(layout, directory))
            raise InvalidSpec(f"{head}cannot set {names} limit: container could not join or create cgroup")
        return True

    def _as_rootless(self) -> None:
        """Let init make what only the root of its user namespace may; the supervisor would not be allowed to."""
        steps = self.plan.steps
        if self.rights.loose_cgroups:
            for index, step in enumerate(steps):
                # Nobody in a user namespace may say which devices are used; what they may open is the host's matter.
                if step.op == "device_bpf" or (
                    step.op == "write_at" and (step.s0 or "").startswith("devices.")
                ):
                    steps[index] = step._replace(flags=step.flags | _FLAG["optional"])
        if self.rights.nested and denies_groups(os.getpid()):
            steps[:] = keeping_groups(steps)
        if not self.unprivileged:
            return
        moved = [
            step._replace(section=INIT, stage=STAGE_NUMBER["root"])
            for step in steps
            if step.section == HOST and step.op in _MOUNTS
        ]
        kept = [step for step in steps if not (step.section == HOST and step.op in _MOUNTS)]
        if self.keeps_groups:
            kept = keeping_groups(kept)
        first = next(index for index, step in enumerate(kept) if step.op == "propagation")
        self.plan.steps[:] = [*kept[: first + 1], *moved, *kept[first + 1 :]]


def keeping_groups(steps: list[Step]) -> list[Step]:
    """The same steps, of which none changes the groups. Raises InvalidSpec where the document names some."""
    if any(step.op == "user" and (step.s0 or step.n2) for step in steps):
        raise InvalidSpec(
            "process.user.additionalGids: cannot set any additional groups in a rootless container"
        )
    return [
        step._replace(flags=step.flags | _FLAG["existing"]) if step.op == "user" else step for step in steps
    ]


def denies_groups(pid: int) -> bool:
    """Whether nobody may change groups in the user namespace of a process; False where it is gone."""
    try:
        with open(f"/proc/{pid}/setgroups", encoding="ascii") as file:
            return file.read().strip() == "deny"
    except OSError:
        return False


def _is_own(text: str, own: int) -> bool:
    """Whether an id map is the one that the kernel takes from anybody: of their own id alone."""
    numbers = text.split()
    return len(numbers) == 3 and numbers[1:] == [str(own), "1"]


def _find(name: str) -> str | None:
    for directory in (*os.environ.get("PATH", "").split(":"), *_TOOLS):
        path = f"{directory}/{name}"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return path
    return None


def _existing(path: str) -> str:
    """The deepest directory on the way to *path* that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _may_make(path: str) -> bool:
    place = _existing(path)
    if place != path:
        return os.access(place, os.W_OK | os.X_OK)
    return os.access(f"{path}/cgroup.procs", os.W_OK)


def may_enter(directory: CgroupDir) -> bool:
    """Whether a process of ours may move there: by what both places have above them (cgroup-v2.rst, "Delegation")."""
    shared = os.path.commonpath([own_cgroup() or "/", f"/{directory.path}"])
    return os.access(f"{directory.mountpoint}{shared}/cgroup.procs", os.W_OK)


def own_cgroup() -> str:
    """The cgroup v2 of whoever makes the container, below the hierarchy's root; "" for the root itself."""
    with open(f"/proc/{caller.pid()}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    return next((line[3:] for line in lines if line.startswith("0::")), "").rstrip("/")


def _enabled(base: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of *wanted* that are to be enabled in *base*: all of them or, where that cannot be, none."""

    def words(name: str) -> list[str]:
        with open(f"{base}/{name}", encoding="ascii") as file:
            return file.read().split()

    try:
        available, enabled = words("cgroup.controllers"), words("cgroup.subtree_control")
        occupied = os.path.exists(f"{base}/cgroup.type") and words("cgroup.procs")
    except OSError:
        return ()
    missing = tuple(name for name in wanted if name in available and name not in enabled)
    return () if occupied or not os.access(f"{base}/cgroup.subtree_control", os.W_OK) else missing
