"""Why `exec` has failed, in runc's words, from where the front door stopped.

| where                    | what was about to be done                                         |
|--------------------------|-------------------------------------------------------------------|
| a step of the plan       | see `_native/plan.pxd`                                            |
| tty                      | open the terminal that the caller sits at                         |
| console-socket           | send the program's terminal                                       |
| pid-file, pidfd-socket   | say who the program is                                            |
| preserve                 | keep the descriptors that the caller passes on                    |
| died                     | nothing: the process that joins the container was killed          |

Recorded from runc 1.1.5.
"""

import errno

from pyrunc.oci import process_words, state
from pyrunc.oci.flags import quote
from pyrunc.oci.log import Failure, reason_of
from pyrunc.oci.process_words import START

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.plan import Step
    from pyrunc.runtime.plan_read import Reader, Told

STOPPED = "cannot exec in a stopped container"
# What a step says when the container's cgroups or its init are gone.
_GONE = {
    ("process", errno.ESRCH), ("open", errno.ENOENT), ("open", errno.ENODEV), ("join_tasks", errno.ENODEV),
    ("fork", errno.ENOMEM),
}  # fmt: skip


def words(told: "Told", where: str, error: int, status: int, reader: "Reader") -> str:
    """The words for a failure with *error*, an errno or 0, at *where*: a step's number, or a word of the table.

    *status* is the number of the descriptor that is not open, for preserve.
    """
    if not where.isdecimal():
        return _elsewhere(told, where, error, status)
    step = reader.step(int(where))
    # Who exits has no namespaces any more, long before he is a zombie if he has to wait for others of his.
    if (step.op, error) == ("setns", errno.ESRCH) or ((step.op, error) in _GONE and not _alive(told)):
        return STOPPED
    return f"{START}{_at_step(step, error, reader.argument())}"


def _alive(told: "Told") -> bool:
    root, _, name = told.state_dir.rpartition("/")
    try:
        return state.load(root, name).alive()
    except Failure:
        return False


def _elsewhere(told: "Told", where: str, error: int, status: int) -> str:
    if where == "died":
        killed = f"{START}the process that joins the container was killed{process_words.of_agent(told)}"
        return killed if _alive(told) else STOPPED
    why = reason_of(error)
    return process_words.at_place(told, where, why, status) or f"{START}{where}: {why}"


def _at_step(step: "Step", error: int, command: str) -> str:
    reason, path = reason_of(error), step.s0 or ""
    if step.op in ("execve", "lookup"):
        return process_words.of_program(command, error)
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
    return process_words.of(step, reason) or f"{step.op.replace('_', ' ')}: {reason}"
