"""Why `exec` has failed, in runc's words, from where the front door stopped.

| where                    | what was about to be done                                         |
|--------------------------|-------------------------------------------------------------------|
| a step of the plan       | see `_native/plan.pxd`                                            |
| tty                      | open the terminal that the caller sits at                         |
| console-socket           | send the program's terminal                                       |
| pid-file, pidfd-socket   | say who the program is                                            |
| preserve-fds             | keep the descriptors that the caller passes on                    |
| died                     | nothing: the process that joins the container was killed          |

Recorded from runc 1.1.5.
"""

import errno
import os

from pyrunc.oci.flags import quote

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.plan import Oci, Step

EXIT_CODE = 255
STOPPED = "cannot exec in a stopped container"
_START = "unable to start container process: "
# What a step says when the container's cgroups or its init are gone.
_GONE = {
    ("process", errno.ESRCH), ("open", errno.ENOENT), ("open", errno.ENODEV), ("join_tasks", errno.ENODEV),
    ("setns", errno.ESRCH), ("fork", errno.ENOMEM),
}  # fmt: skip


def words(oci: "Oci", step: "Step | None", where: str, error: int, command: str, alive: bool) -> str:
    """The words for a failure with *error* (an errno, or 0) at *step*, or else at *where*.

    *command* is what the program was called by; *alive* says whether the container's init still is.
    """
    if step is None:
        return f"exec failed: {_elsewhere(oci, where, error, alive)}"
    if (step.op, error) in _GONE and not alive:
        return f"exec failed: {STOPPED}"
    return f"exec failed: {_START}{_at_step(step, error, command)}"


def of_program(command: str, error: int, path: str = "") -> str:
    """Why a program that is called *command* cannot be executed, as Go's search for one says it."""
    reason = _reason(error)
    if error in (errno.ENOENT, errno.ENOTDIR):
        if "/" in command:
            return f"exec: {quote(command)}: stat {command}: {reason}"
        return f"exec: {quote(command)}: executable file not found in $PATH"
    if error in (errno.EACCES, errno.EPERM, errno.EISDIR):
        if "/" not in command:
            return f"exec: {quote(command)}: executable file not found in $PATH"
        return f"exec: {quote(command)}: permission denied"
    return f"exec {path or command}: {reason}"


def _elsewhere(oci: "Oci", where: str, error: int, alive: bool) -> str:
    if where == "tty":
        return f"open /dev/tty: {_reason(error)}"
    if where in ("console-socket", "pidfd-socket"):
        path = oci.console_socket if where == "console-socket" else oci.pidfd_socket
        return f"dial unix {path}: connect: {_reason(error)}"
    if where == "preserve-fds":
        return f"cannot pass on {oci.preserve_fds} descriptors: {_reason(error)}"
    if where == "pid-file":
        directory, _, name = oci.pid_file.rpartition("/")
        return f"open {directory}/.{name}: {_reason(error)}"
    if where == "died":
        return f"{_START}the process that joins the container was killed" if alive else STOPPED
    return f"{_START}{where}: {_reason(error)}"


def _at_step(step: "Step", error: int, command: str) -> str:
    reason, path = _reason(error), step.s0 or ""
    if step.op in ("execve", "lookup"):
        return of_program(command, error)
    if step.op == "chdir":
        if error == errno.EXDEV:
            return (
                "current working directory is outside of container mount namespace root"
                " -- possible container breakout detected"
            )
        return f"chdir to cwd ({quote(path)}) set in config.json failed: {reason}"
    if step.op == "open":
        return f"error adding the process to cgroups: open {path}: {reason}"
    if step.op in ("join_tasks", "process"):
        return f"error adding the process to cgroups: {reason}"
    if step.op == "setns":
        return f"error joining the container's namespaces: {reason}"
    if step.op == "terminal":
        return f"error creating a terminal in {path}: {reason}"
    if step.op == "fork":
        return f"error making a process in the container: {reason}"
    return f"{step.op.replace('_', ' ')}: {reason}"


def _reason(error: int) -> str:
    text = os.strerror(error)
    return text[:1].lower() + text[1:]
