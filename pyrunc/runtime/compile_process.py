"""The process's part of a plan: what init does to itself between pivot_root and the program."""

from __future__ import annotations

import os
from sys import byteorder

from pyrunc._native.plan import ABSENT, FLAGS
from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.runtime.compile_host import MAX_ID, checked_number
from pyrunc.runtime.front_door import LISTED_GROUPS, FrontDoorPart
from pyrunc.runtime.plan import HOST, INIT, SYNC
from pyrunc.spec import capabilities, rlimits

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_MAX_GROUPS = 65536  # NGROUPS_MAX
_NEW_LISTENER = 1 << 3  # seccomp(2), here so that a start need not import what compiles filters
_NOTHING = (None, None, None, None, None)
_OOM_SCORE = "self/oom_score_adj"


class ProcessPart(FrontDoorPart):
    """What a plan says of the process itself, all of it in init.

    Source: OCI runtime-spec config.md "Process", config-linux.md "Seccomp".
    """

    peer: int  # the slot of the program's side of its terminal
    procfs: int  # the slot of the container's procfs, or -1
    stdio: list[int]  # the slots of descriptors 0, 1 and 2 of the request
    to_agent = False  # whether the supervisor hands the listener of a filter on
    keyring: str | None  # the name of its session keyring; None: without one, "": it keeps its starter's

    def _oom_score(self) -> None:
        """How much the kernel prefers the container when memory is out; before init becomes anybody else.

        Lowering it takes CAP_SYS_RESOURCE on the host, which nobody in a user namespace has.
        """
        score = (self.spec.get("process") or {}).get("oomScoreAdj")
        if score is None:
            return
        text = str(checked_number(score, "process.oomScoreAdj", 1000, -1000))
        if "user" in self.new:
            self.plan.add("write_proc", SYNC, "host", s0="oom_score_adj", s1=text)
        else:
            self.plan.add("write_procfs", INIT, "masks", a=self._own_proc(), s0=_OOM_SCORE, s1=text)

    def _own_proc(self) -> int:
        """A procfs in which init is `self`: the container's, or the host's where it has none."""
        if self.procfs >= 0:
            return self.procfs
        slot = self.plan.slot()
        self.plan.add("open", HOST, "host", a=slot, s0="/proc", n0=os.O_PATH | os.O_DIRECTORY)
        self.procfs = slot
        return slot

    def _process(self) -> None:
        plan = self.plan
        process: Mapping[str, Any] = self.spec.get("process") or {}
        if self.peer == ABSENT:
            self._session(0)
            for number, slot in enumerate(self.stdio):
                plan.add("stdio", INIT, "process", a=slot, n0=number)
        else:
            for number in range(3):
                plan.add("stdio", INIT, "process", a=self.peer, n0=number)
            self._session(FLAGS["tty"])
        self._rlimits(process.get("rlimits") or ())
        self._attributes_of(process)
        plan.add("chdir", INIT, "process", s0=self.cwd)
        user: Mapping[str, Any] = process.get("user") or {}
        uid, gid, groups = _who(user)
        self._lookup(uid, gid, groups)
        privileges = process.get("noNewPrivileges")
        seccomp = self._seccomp()
        # The front door hands a listener on, and is gone once the container is created.
        notifies = seccomp is not None and bool(seccomp[2] & _NEW_LISTENER)
        if not notifies:
            self._wait_start()
        if privileges:
            plan.add("no_new_privs", INIT, "process")
        elif seccomp:
            # Without no_new_privs the filter needs CAP_SYS_ADMIN, which is about to go.
            plan.add("seccomp", INIT, "process", n0=seccomp[0], n1=seccomp[1], n2=seccomp[2])
            if notifies:
                self._wait_start()
        caps = self._capabilities(process)
        plan.add("bounding", INIT, "process", n0=caps["bounding"])
        self._user(uid, gid, groups)
        plan.add(
            "capabilities", INIT, "process", n0=caps["effective"], n1=caps["permitted"], n2=caps["inheritable"],
        )  # fmt: skip
        # The kernel raises an ambient capability only if it is inheritable and permitted too; the
        # documents that `runc spec` writes ask for more, and runc and crun pass over it in silence.
        ambient = caps["ambient"] & caps["inheritable"] & caps["permitted"]
        if ambient:
            plan.add("ambient", INIT, "process", n0=ambient)
        mask = user.get("umask")
        mask = checked_number(0o022 if mask is None else mask, "process.user.umask", 0o7777)
        plan.add("umask", INIT, "process", n0=mask)
        if not (privileges and notifies):
            self._run_hooks("startContainer", "process")
        if privileges and seccomp:
            plan.add("seccomp", INIT, "process", n0=seccomp[0], n1=seccomp[1], n2=seccomp[2])
            if notifies:
                self._wait_start()
                self._run_hooks("startContainer", "process")
        plan.add("execve", INIT, "program", s0="")

    def _session(self, flags: int) -> None:
        if self.keyring is None:
            self.plan.add("session", INIT, "process", flags=flags)
        else:
            kept = not self.keyring
            self.plan.add("session", INIT, "process", flags=flags, s0=self.keyring or None, n0=kept)

    def _rlimits(self, limits: Sequence[Mapping[str, Any]]) -> None:
        seen = set()
        for i, limit in enumerate(limits):
            field = f"process.rlimits[{i}]"
            name = limit.get("type")
            if name not in rlimits.NAMES:
                raise InvalidSpec(f"{field}.type: unknown limit {name!r}")
            if name in seen:
                raise InvalidSpec(f"{field}.type: {name} is listed twice")
            seen.add(name)
            soft, hard = (
                checked_number(limit.get(key), f"{field}.{key}", (1 << 64) - 1) for key in ("soft", "hard")
            )
            self.plan.add("rlimit", INIT, "process", n0=rlimits.NAMES.index(name), n1=soft, n2=hard)

    def _attributes_of(self, process: Mapping[str, Any]) -> None:
        """What few documents have: scheduling, memory policy, execution domain, labels of a security module."""
        plan = self.plan
        scheduler, io_priority, affinity = map(process.get, ("scheduler", "ioPriority", "execCPUAffinity"))
        personality, memory_policy = map(self.linux.get, ("personality", "memoryPolicy"))
        given = (scheduler, io_priority, affinity, personality, memory_policy)
        if given != _NOTHING:
            from pyrunc.runtime import process_settings as settings

            if affinity is not None:
                # For the programs that join the container, and not for its first.
                settings.exec_affinity(affinity)
            if scheduler is not None:
                attr = settings.scheduler(scheduler)
                plan.add("scheduler", INIT, "process", n0=plan.blob(attr), n1=len(attr) // 8)
            if io_priority is not None:
                plan.add("io_priority", INIT, "process", n0=settings.io_priority(io_priority))
            if personality is not None:
                plan.add("personality", INIT, "process", n0=settings.personality(personality))
            if memory_policy is not None:
                mode, nodes = settings.memory_policy(memory_policy)
                place = plan.blob(nodes) if nodes else 0
                plan.add("memory_policy", INIT, "process", n0=mode, n1=place, n2=len(nodes) // 8)
        if process.get("apparmorProfile") or process.get("selinuxLabel") or self.linux.get("mountLabel"):
            from pyrunc.runtime import process_labels as labels

            labels.check_mount_label(self.linux.get("mountLabel"))
            for file, value in labels.exec_writes(process):
                plan.add("write_procfs", INIT, "process", a=self._own_proc(), s0=file, s1=value)

    def _user(self, uid: int, gid: int, groups: list[int]) -> None:
        if len(groups) <= LISTED_GROUPS:  # more are numbers among the plan's blobs
            self.plan.add("user", INIT, "process", n0=uid, n1=gid, s0=",".join(map(str, groups)))
        else:
            place = self.plan.blob(b"".join(group.to_bytes(4, byteorder) for group in groups))
            self.plan.add("user", INIT, "process", n0=uid, n1=gid, s0="", n2=len(groups) << 32 | place)

    def _capabilities(self, process: Mapping[str, Any]) -> dict[str, int]:
        """The five sets as bits: none at all, as runc and crun have it, where a document does not mention them."""
        named: Mapping[str, Sequence[str]] = process.get("capabilities") or {}
        unknown: list[str] = []
        sets = {key: capabilities.known(named.get(key) or (), unknown) for key in capabilities.SETS}
        if unknown:
            names = " ".join(sorted(unknown))
            self.plan.warnings.append(f"ignoring unknown or unavailable capabilities: [{names}]")
        return sets

    def _seccomp(self) -> tuple[int, int, int] | None:
        profile = self.linux.get("seccomp")
        if profile is None:
            return None
        from pyrunc.runtime import seccomp
        from pyrunc.spec.seccomp import InvalidProfile

        # Compiling costs 10 ms, reading what an earlier process compiled 0.2.
        state = os.environ.get("PYRUNC_STATE", "/run/pyrunc")
        if os.geteuid() == 0 and not os.path.isdir(state):
            from pyrunc.store.files import make_directory

            make_directory(state, 0o711)
        try:
            program = seccomp.compile_profile(profile, f"{state}/seccomp")
        except InvalidProfile as exc:
            text = str(exc)
            raise InvalidSpec(text if text.startswith("linux.seccomp") else f"linux.seccomp: {text}") from exc
        if program.flags & _NEW_LISTENER and not self.to_agent:
            raise Unsupported("linux.seccomp: SCMP_ACT_NOTIFY: only pyrunc-oci hands a listener to an agent")
        return self.plan.blob(program.bpf), len(program.bpf) // 8, program.flags


def _who(user: Mapping[str, Any]) -> tuple[int, int, list[int]]:
    """User, group and supplementary groups of `process.user`."""
    uid, gid = (checked_number(user.get(key) or 0, f"process.user.{key}", MAX_ID) for key in ("uid", "gid"))
    field = "process.user.additionalGids"
    groups = [checked_number(group, field, MAX_ID) for group in user.get("additionalGids") or ()]
    if len(groups) > _MAX_GROUPS:
        raise InvalidSpec(f"{field}: a process is in at most {_MAX_GROUPS} groups")
    return uid, gid, groups
