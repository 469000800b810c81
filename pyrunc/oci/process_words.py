"""What a failed step of the process, or a place beside the steps, was about: runc's words, for create, run and exec.

Source: recorded from runc 1.1.5; what it does not have is in the words of its later versions, or their manner.
"""

from __future__ import annotations

import errno

from pyrunc.oci.flags import quote
from pyrunc.oci.log import reason_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.plan import Step
    from pyrunc.runtime.plan_read import Told

_WHAT = {
    "scheduler": "error setting scheduler", "io_priority": "failed to set io priority",
    "personality": "failed to set personality", "memory_policy": "failed to set memory policy",
    "affinity": "failed to set CPU affinity", "session": "unable to join session keyring",
    "bounding": "unable to apply bounding set", "capabilities": "unable to apply caps",
    "ambient": "unable to apply caps", "user": "unable to setup user",
    "no_new_privs": "unable to set no_new_privs", "seccomp": "unable to init seccomp",
}  # fmt: skip
_NEW_LISTENER = 1 << 3
START = "unable to start container process: "
_UNREACHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EISDIR)


def of_program(command: str, error: int) -> str:
    """Why a program that is called *command* cannot be executed, as Go's search for one says it.

    What is wrong in one directory of PATH does not matter to a search in all of them.
    """
    if error not in _UNREACHED and error not in _FORBIDDEN:
        return f"exec {command}: {reason_of(error)}"
    if "/" not in command:
        return f"exec: {quote(command)}: executable file not found in $PATH"
    if error in _FORBIDDEN:
        return f"exec: {quote(command)}: permission denied"
    return f"exec: {quote(command)}: stat {command}: {reason_of(error)}"


def at_place(told: Told, where: str, why: str, status: int) -> str:
    """The words for what failed at a place that is no step of the plan, or "" for one of which only one verb knows.

    *status* is the number of the descriptor that is not open, for preserve.
    """
    if where == "pid-file":
        directory, _, name = told.pid_file.rpartition("/")
        return f"open {directory}/.{name}: {why}"
    if where in ("console-socket", "pidfd-socket"):
        path = told.console_socket if where == "console-socket" else told.pidfd_socket
        return f"dial unix {path}: connect: {why}"
    if where == "preserve":
        return f"unable to stat preserved-fd {status} (of {told.preserve_fds} fds): no such file or directory"
    return f"open /dev/tty: {why}" if where == "tty" else ""


def of_agent(told: Told) -> str:
    """What may be behind a death of whom an agent was to answer, "" where there is none."""
    agent = told.seccomp_listener
    return f" (the seccomp agent at {agent} may have given up before it had answered)" if agent else ""


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
