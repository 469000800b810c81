"""What becomes of a process that has joined a container, up to its program."""

from __future__ import annotations

from pyrunc._native import plan as native
from pyrunc.runtime.plan import INIT
from pyrunc.spec.rlimits import NAMES as RLIMITS

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.runtime.plan import PlanTemplate, Step

_NPROC = RLIMITS.index("RLIMIT_NPROC")


def place_program(
    plan: PlanTemplate, source: PlanTemplate, process: Sequence[Step],
    terminal: tuple[int, int, int] | None, terminal_flags: int = 0, stream_owner: int | None = None,
) -> None:  # fmt: skip
    """Append to *plan*, after its setns, the process of a program that joins a container.

    *process* are the steps that *source* has for a container's first program; *terminal* is the owner of one of its
    own, and its rows and columns; *stream_owner* gets the streams, where they are the caller's. What needs no
    privilege any more is done by the new process itself.
    """
    session = next((step for step in process if step.op == "session"), None)
    # Now, for the filter may be in the way of its keyring later.
    plan.add("session", INIT, "process", s0=session.s0 if session else None, n0=session.n0 if session else 0)
    streams: Sequence[int] = range(3)
    if terminal is not None:
        # While nobody in the container can see the process that holds both sides.
        peer = plan.slot()
        owner, rows, columns = terminal
        plan.add(
            "terminal", INIT, "process", b=peer, s0="/dev/pts", n0=owner, n1=rows, n2=columns, flags=terminal_flags
        )  # fmt: skip
        streams = [peer] * 3
    for number, slot in enumerate(streams):
        plan.add(
            "stdio", INIT, "process", a=slot, n0=number, n1=0 if stream_owner is None else stream_owner + 1
        )
    # The last of what the new process does, since it asks for no privilege, or would stand in the way of its making.
    late = [step for step in process if step.op == "rlimit" and step.n0 == _NPROC]
    if any(step.op == "no_new_privs" for step in process):
        late += [step for step in process if step.op == "seccomp"]
    for step in process:
        if step.op not in ("session", "stdio", "execve", "write_procfs") and step not in late:
            _copy(plan, source, step)
    plan.add("fork", INIT, "process", flags=0 if terminal is None else native.FLAGS["tty"])
    for step in late:
        _copy(plan, source, step)
    plan.add("execve", INIT, "program", s0="")


def _copy(plan: PlanTemplate, container: PlanTemplate, step: Step) -> None:
    if step.op in ("seccomp", "scheduler"):
        step = step._replace(n0=plan.blob(container.blob_of(step)))
    elif step.op == "user" and step.n2:
        count = step.n2 >> 32
        groups = container.blob_of(step._replace(n0=step.n2 & 0xFFFFFFFF, n1=(count + 1) // 2))
        step = step._replace(n2=count << 32 | plan.blob(groups))
    elif step.op == "memory_policy" and step.n2:
        nodes = container.blob_of(step._replace(n0=step.n1, n1=step.n2))
        step = step._replace(n1=plan.blob(nodes))
    plan.steps.append(step)
