"""The plan of a further program in a running container, from documents alone: for `pyrunc-oci exec`.

pyrunc.runtime.joining does the same for a container that was made by options.
"""

from __future__ import annotations

import os

from pyrunc._native.plan import ABSENT, FLAGS
from pyrunc.records import NamedTuple
from pyrunc.runtime import compile_rootless
from pyrunc.runtime.compile_host import CLONE_NEW
from pyrunc.runtime.compile_process import ProcessPart
from pyrunc.runtime.place_program import place_program
from pyrunc.runtime.plan import HOST, INIT, PlanTemplate

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


# By the host's procfs, which shows this process.
_EARLY = ("write_procfs",)


class Running(NamedTuple):
    """A container that runs, as far as whoever joins it needs it.

    *pid* is its init, started at *started* (field 22 of its stat); *cgroups* are the directories, each with its
    version, that the program shall be in; *freezer* is that of v1 which holds it, or "".
    """

    pid: int
    started: int
    cgroups: Sequence[tuple[str, int]]
    freezer: str


class Terminal(NamedTuple):
    """The program's own terminal; with *plain_newlines* it leaves the ends of lines to the one it is shown on."""

    rows: int = 0
    columns: int = 0
    plain_newlines: bool = False


class _ProgramPart(ProcessPart):
    """The process's part of a plan that makes no container."""

    joins = True

    def __init__(self, spec: Mapping[str, Any], keyring: str | None) -> None:
        super().__init__(spec, None, {})  # type: ignore[arg-type]
        self.peer = ABSENT
        self.procfs = -1
        self.keyring = keyring
        self.new = set()
        self.to_agent = True
        self.stdio = [self.plan.descriptor() for _ in range(3)]
        self._oom_score()
        self._process()


def compile_exec(
    spec: Mapping[str, Any], running: Running, terminal: Terminal | None, keyring: str | None = None
) -> PlanTemplate:
    """Compile the program `process` of *spec*, else the document of the container *running*, into a plan that joins it.

    *keyring* is the name of its session keyring, as compile_spec has it.
    Raises InvalidSpec or Unsupported, naming the field.
    Source: OCI runtime-spec runtime.md, "Operations"; config.md "Process".
    """
    part = _ProgramPart(spec, keyring)
    program = part.plan
    plan = PlanTemplate()
    for _ in range(3):
        plan.descriptor()
    target = plan.slot()
    plan.add("process", HOST, "host", a=target, n0=running.pid, n1=running.started)
    process: Mapping[str, Any] = spec.get("process") or {}
    initial = final = b""
    if process.get("execCPUAffinity"):
        from pyrunc.runtime.process_settings import exec_affinity

        initial, final = exec_affinity(process["execCPUAffinity"])
    if initial:
        plan.add("affinity", INIT, "namespaces", n0=plan.blob(initial), n1=len(initial) // 8)
    _cgroups(plan, running)
    if final:
        plan.add("affinity", INIT, "namespaces", n0=plan.blob(final), n1=len(final) // 8)
    procfs = ABSENT
    for step in program.steps:
        if step.op in _EARLY:
            if step.op == "write_procfs" and procfs == ABSENT:
                procfs = plan.slot()
                plan.add("open", HOST, "host", a=procfs, s0="/proc", n0=os.O_PATH | os.O_DIRECTORY)
            plan.steps.append(step._replace(a=procfs) if step.op == "write_procfs" else step)
    namespaces = CLONE_NEW["mount"]
    for kind in part.namespaces:
        namespaces |= CLONE_NEW[kind]
    plan.add("setns", INIT, "namespaces", a=target, n0=namespaces)
    if namespaces & CLONE_NEW["user"]:
        plan.add("user", INIT, "namespaces", s0="")
    steps = [step for step in program.steps if step.section == INIT and step.op not in _EARLY]
    owner = next(step.n0 for step in steps if step.op == "user")
    flags = FLAGS["tty"] if terminal is not None and terminal.plain_newlines else 0
    size = None if terminal is None else (owner, terminal.rows, terminal.columns)
    # A terminal of its own is its user's already.
    place_program(plan, program, steps, size, flags, owner if terminal is None else None)
    plan.warnings += program.warnings
    if namespaces & CLONE_NEW["user"] and compile_rootless.denies_groups(running.pid):
        plan.steps[:] = compile_rootless.keeping_groups(plan.steps)
    return plan


def _cgroups(plan: PlanTemplate, running: Running) -> None:
    """Open the cgroups on the host and join them, before anything of the container is joined."""
    for directory, version in running.cgroups:
        slot = plan.slot()
        if version == 2:
            plan.cgroup_slot = slot
            plan.add(
                "open", HOST, "host", a=slot, s0=directory, n0=os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            )
        else:
            plan.add("open", HOST, "host", a=slot, s0=f"{directory}/tasks", n0=os.O_WRONLY | os.O_NOFOLLOW)
            plan.add("join_tasks", INIT, "namespaces", a=slot)
    if running.freezer:
        # To be thawed should the program have to be killed.
        plan.add(
            "open", HOST, "host", a=plan.slot(), s0=running.freezer,
            n0=os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, flags=FLAGS["existing"],
        )  # fmt: skip
