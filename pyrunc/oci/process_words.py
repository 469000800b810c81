"""What a failed step of the process was about, in runc's words, for create, run and exec alike.

Source: recorded from runc 1.1.5; what it does not have is in the words of its later versions, or their manner.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.plan import Step

_WHAT = {
    "scheduler": "error setting scheduler", "io_priority": "failed to set io priority",
    "personality": "failed to set personality", "memory_policy": "failed to set memory policy",
    "affinity": "failed to set CPU affinity", "session": "unable to join session keyring",
    "bounding": "unable to apply bounding set", "capabilities": "unable to apply caps",
    "ambient": "unable to apply caps", "user": "unable to setup user",
    "no_new_privs": "unable to set no_new_privs", "seccomp": "unable to init seccomp",
}  # fmt: skip
_NEW_LISTENER = 1 << 3


def of(step: Step, why: str, agent: str = "") -> str:
    """The words for *step* with the reason *why*, or "" for one that is not of the process.

    *agent* is the socket of who answers for notified calls.
    """
    if step.op == "rlimit":
        return f"error setting rlimits for ready process: error setting rlimit type {step.n0}: {why}"
    if step.op in ("write_proc", "write_procfs"):
        path = step.s0 or ""
        if path.endswith("oom_score_adj"):
            return f"failed to update /proc/self/oom_score_adj: {why}"
        if path == "self/attr/apparmor/exec":
            return f"unable to apply apparmor profile: apparmor failed to apply profile: write /proc/{path}: {why}"
        if path.startswith("self/attr/"):
            return f"error setting process label: write /proc/{path}: {why}"
        return ""
    if step.op == "seccomp" and step.n2 & _NEW_LISTENER and agent:
        what = "failed to connect with seccomp agent specified in the seccomp profile"
        return f"{what}: dial unix {agent}: connect: {why}"
    return f"{_WHAT[step.op]}: {why}" if step.op in _WHAT else ""
