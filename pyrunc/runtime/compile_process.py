"""The process's part of a plan: what init does to itself between pivot_root and the program."""

from __future__ import annotations

import os

from pyrunc._native.plan import ABSENT, FLAGS
from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.runtime.compile_host import MAX_ID, checked_number
from pyrunc.runtime.front_door import FrontDoorPart
from pyrunc.runtime.plan import INIT
from pyrunc.spec import capabilities, rlimits

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_MAX_GROUPS = 256


class ProcessPart(FrontDoorPart):
    """What a plan says of the process itself, all of it in init.

    Source: OCI runtime-spec config.md "Process", config-linux.md "Seccomp".
    """

    peer: int  # the slot of the program's side of its terminal
    stdio: list[int]  # the slots of descriptors 0, 1 and 2 of the request

    def _process(self) -> None:
        plan = self.plan
        process: Mapping[str, Any] = self.spec.get("process") or {}
        if self.peer == ABSENT:
            plan.add("session", INIT, "process")
            for number, slot in enumerate(self.stdio):
                plan.add("stdio", INIT, "process", a=slot, n0=number)
        else:
            for number in range(3):
                plan.add("stdio", INIT, "process", a=self.peer, n0=number)
            plan.add("session", INIT, "process", flags=FLAGS["tty"])
        for i, limit in enumerate(process.get("rlimits") or ()):
            if limit.get("type") not in rlimits.NAMES:
                raise InvalidSpec(f"process.rlimits[{i}].type: unknown limit {limit.get('type')!r}")
            soft, hard = (
                checked_number(limit.get(key), f"process.rlimits[{i}].{key}", (1 << 64) - 1)
                for key in ("soft", "hard")
            )
            plan.add("rlimit", INIT, "process", n0=rlimits.NAMES.index(limit["type"]), n1=soft, n2=hard)
        plan.add("chdir", INIT, "process", s0=self.cwd)
        user: Mapping[str, Any] = process.get("user") or {}
        uid, gid = (
            checked_number(user.get(key) or 0, f"process.user.{key}", MAX_ID) for key in ("uid", "gid")
        )
        listed = user.get("additionalGids") or ()
        if len(listed) > _MAX_GROUPS:
            raise Unsupported(f"process.user.additionalGids: at most {_MAX_GROUPS} groups are supported")
        groups = ",".join(
            str(checked_number(group, "process.user.additionalGids", MAX_ID)) for group in listed
        )
        self._wait_start(uid, gid, groups)
        seccomp = self._seccomp()
        privileges = process.get("noNewPrivileges")
        # None at all is what runc and crun make of a document that does not mention them.
        caps: Mapping[str, Sequence[str]] = process.get("capabilities") or {}
        if privileges:
            plan.add("no_new_privs", INIT, "process")
        elif seccomp:
            # Without no_new_privs the filter needs CAP_SYS_ADMIN, which is about to go.
            plan.add("seccomp", INIT, "process", n0=seccomp[0], n1=seccomp[1], n2=seccomp[2])
        plan.add("bounding", INIT, "process", n0=self._caps(caps, "bounding"))
        plan.add("user", INIT, "process", n0=uid, n1=gid, s0=groups)
        plan.add(
            "capabilities", INIT, "process", n0=self._caps(caps, "effective"),
            n1=self._caps(caps, "permitted"), n2=self._caps(caps, "inheritable"),
        )  # fmt: skip
        # The kernel raises an ambient capability only if it is inheritable and permitted too; the
        # documents that `runc spec` writes ask for more, and runc and crun pass over it in silence.
        ambient = (
            self._caps(caps, "ambient") & self._caps(caps, "inheritable") & self._caps(caps, "permitted")
        )
        if ambient:
            plan.add("ambient", INIT, "process", n0=ambient)
        plan.add(
            "umask",
            INIT,
            "process",
            n0=checked_number(user.get("umask", 0o022), "process.user.umask", 0o7777),
        )
        self._run_hooks("startContainer", "process")
        if privileges and seccomp:
            plan.add("seccomp", INIT, "process", n0=seccomp[0], n1=seccomp[1], n2=seccomp[2])
        plan.add("execve", INIT, "program", s0="")

    def _caps(self, caps: Mapping[str, Sequence[str]], which: str) -> int:
        return capabilities.mask(caps.get(which) or (), f"process.capabilities.{which}")

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
        return self.plan.blob(program.bpf), len(program.bpf) // 8, program.flags
