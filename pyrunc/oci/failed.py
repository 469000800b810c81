"""Why a container could not be made, in runc's words; the front door has undone all of it before it comes here.

| arguments                                            | who                                                        |
|------------------------------------------------------|------------------------------------------------------------|
| PLAN WHERE ERRNO STATUS HOOK REPORT                  | create, run, exec: descriptor of the plan; the number of a |
|                                                      | step or a word of `_WORDS`; init's wait status; the place  |
|                                                      | of a hook in its kind, and the descriptor of its report    |
|                                                      | + 1 (0: none)                                              |
| start STEP ERRNO OP LOG FORMAT                       | start: what init has said; the plan is gone by then        |
"""

from __future__ import annotations

import errno
import os

from pyrunc._native import plan as native
from pyrunc.oci import process_words
from pyrunc.oci.log import Failure, Log, of_verb, reason_of
from pyrunc.oci.process_words import START
from pyrunc.runtime.plan import HOST
from pyrunc.runtime.plan_read import Reader

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.plan import Step
    from pyrunc.runtime.plan_read import Told

_INIT = "error during container init: "
_MAX_PLAN = native.MAX_SIZE
_LATE = ("bounding", "capabilities", "ambient", "user")
# That a file below /proc could not be opened; all else is said of what was written to it.
_OF_OPEN = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EROFS)
# What the host makes for a mount before init attaches it.
_SOURCES = ("open_tree", "new_mount", "mount_attr", "attach", "remount", "reconfigure", "owner", "copy_up")


def run(front_door: str, arguments: list[str]) -> int:  # noqa: ARG001
    """Log why it failed; the exit code. *arguments* are those behind `:failed`."""
    if arguments[0] == "start":
        _, step, error, op, path, log_format = arguments
        Log(path, log_format).error(start_words(int(step), int(error), int(op)))
        return 1
    plan, where, number, status, hook, report = arguments
    reader = Reader(_contents(int(plan)))
    told = reader.told()
    log = Log(told.log, told.log_format, bool(told.flags & native.FLAG_DEBUG))
    if told.flags & native.FLAG_OCI_EXEC:
        from pyrunc.oci import exec_words

        failure = of_verb("exec", Failure(exec_words.words(told, where, int(number), int(status), reader)))
        log.error(failure.message)
        return failure.exit_code
    ending = _contents(int(report) - 1) if int(report) else b""
    text = words(reader, told, where, int(number), int(status))
    if where.isdecimal() and reader.step(int(where)).op == "unit":
        text = _unit_words(reader.step(int(where)), int(number), ending.decode("utf-8", "replace"))
    elif where == "poststop":
        log.error(_hook_words(ending, int(hook)))
        ended = int(status)
        return 128 + os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else os.waitstatus_to_exitcode(ended)
    if where == "poststart":
        text = _hook_words(ending, int(hook))
    elif where == "hook" or (where.isdecimal() and reader.step(int(where)).op == "hook"):
        text = START + _INIT + _hook_words(ending, int(hook))
    verb = "run" if told.flags & native.FLAG_RUN else "create"
    failure = of_verb(verb, Failure(text))
    log.error(failure.message)
    return failure.exit_code


def _contents(fd: int) -> bytes:
    return os.pread(fd, _MAX_PLAN, 0)


def words(reader: Reader, told: Told, where: str, number: int, status: int) -> str:
    """What failed, *number* being the errno."""
    if where.isdecimal():
        index = int(where)
        return _step_words(reader, index, reader.step(index), number)
    why = reason_of(number)
    if where == "exists":
        return "container with given ID already exists"
    if where == "state":
        return f"mkdir {told.state_dir}: {why}"
    if found := process_words.at_place(told, where, why, status):
        return found
    if where == "oom":
        return f"{START}container init was OOM-killed (memory limit too low?)"
    if where == "interrupted":
        return f"{START}interrupted by a signal"
    if where == "died":
        return f"{START}{_INIT}{_ending(status)}{process_words.of_agent(told)}"
    return f"{START}{where}: {why}"


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"container init was killed by signal {os.WTERMSIG(status)}"
    return f"container init exited with status {os.waitstatus_to_exitcode(status)} and without a word"


def _step_words(reader: Reader, index: int, step: Step, number: int) -> str:
    why = reason_of(number)
    if step.op == "lookup":
        return START + process_words.of_program(reader.argument(), number)
    if step.op == "cgroup_mkdir" and number == errno.ENOTEMPTY:
        return f"container's cgroup is not empty: {step.s0}{step.s1} has processes of others"
    if step.op in ("cgroup_mkdir", "open_at", "join_tasks") or (
        step.op == "open" and "/cgroup/" in (step.s0 or "")
    ):
        return f"{START}unable to apply cgroup configuration: mkdir {step.s0 or ''}{step.s1 or ''}: {why}"
    if step.op == "write_at":
        what = f'failed to write "{step.s1}": write {step.s0}: {why}'
        return f"{START}{_INIT}error setting cgroup config for procHooks process: {what}"
    if step.op == "chdir":
        return f'{START}{_INIT}chdir to cwd ("{step.s0}") set in config.json failed: {why}'
    if step.op in _SOURCES:
        return START + _INIT + _mount_words(reader, index, step, number)
    if step.op == "open" and step.section == HOST:
        return f"{START}namespace path: lstat {step.s0}: {why}"
    found = process_words.of(step, why, reader.told().seccomp_listener)
    if found:
        # Its parent has heard by then that runc's init is ready.
        return f"{START}{'' if step.op in _LATE else _INIT}{found}"
    if step.op == "write_procfs":
        return f"{START}{_INIT}{'open' if number in _OF_OPEN else 'write'} /proc/{step.s0}: {why}"
    if step.op == "write_proc":
        from pyrunc.runtime import mount_words

        field = mount_words.FIELDS.get(step.s0 or "", "it")
        return f"{START}{_INIT}{field}: failed to write {step.s0}: {why}"
    if step.op == "net_device":
        return f"{START}{_INIT}linux.netDevices: unable to move network device {step.s0} to {step.s1}: {why}"
    if step.op == "mkdir":
        return f"{START}{_INIT}mkdir {step.s0}: {why}"
    return f"{START}{_INIT}{' '.join(filter(None, (step.op, step.s0)))}: {why}"


def _unit_words(step: Step, number: int, text: str) -> str:
    """*text* is what systemd has said, or how its job has ended."""
    head = f"{START}unable to apply cgroup configuration: "
    if number == errno.ETIMEDOUT:
        return f"{head}timeout waiting for systemd to create {step.s1}"
    if number == errno.ECANCELED:
        return f"{head}error creating systemd unit `{step.s1}`: got `{text}`"
    from pyrunc.oci import systemd

    return f'{head}unable to start unit "{step.s1}" (properties [{step.s2}]): {systemd.why(-number, text)}'


def _mount_words(reader: Reader, index: int, step: Step, number: int) -> str:
    """A mount is several steps: what it is of, and where it goes, stand in others than the one that failed."""
    from pyrunc.runtime import mount_words

    source, place, kind = "", step.s0 or "", ""
    why = reason_of(number)
    if step.op in ("open_tree", "new_mount", "mount_attr"):
        if step.op == "new_mount":
            source, kind = reader.option(index, "source"), place
        else:
            source = place
        place = next(
            (
                later.s0 or ""
                for later in map(reader.step, range(index + 1, reader.count()))
                if later.op == "attach" and later.a == step.a
            ),
            step.s2 or "",
        )
    else:
        for before in range(index - 1, -1, -1):
            earlier = reader.step(before)
            if earlier.a == step.a and earlier.op in ("open_tree", "new_mount"):
                source = earlier.s0 or "" if earlier.op == "open_tree" else reader.option(before, "source")
                made = earlier.s0 or "" if earlier.op == "new_mount" else ""
                if step.op == "attach" and (refusal := mount_words.refusal(step, number, made)):
                    return f'error mounting "{source}" to rootfs at "{place}": {refusal}'
                break
    if not place:
        return f"error preparing rootfs {source}: {why}"
    head = f'error mounting "{source}" to rootfs at "{place}": '
    if step.op == "open_tree":
        return f"{head}stat {source}: {why}"
    return f"{head}mount {source}:{place}{f' ({kind})' if kind else ''}: {why}"


def _hook_words(report: bytes, index: int) -> str:
    """From a hook_end, as `_native/hook_run.pxd` has it."""
    import struct

    from pyrunc.oci import hooks

    head = struct.Struct("=IIIiiIII")
    if len(report) < head.size:
        return f"error running hook #{index}"
    _, index, timeout_s, error, status, timed_out, out_size, err_size = head.unpack_from(report)
    out = report[head.size :][:out_size]
    err = report[head.size + _HOOK_OUT :][:err_size]
    path = report[head.size + _HOOK_OUT + _HOOK_ERR :].split(b"\0", 1)[0].decode("utf-8", "replace")
    return hooks.words(
        index, hooks.Hook(0, path, (), None, timeout_s), -error, status, bool(timed_out), out, err
    )


_HOOK_OUT, _HOOK_ERR = 512, 1024
_HOOK_EXITED, _HOOK_SIGNALED = 3072, 3328  # of hook_error in `_native/oci_hooks.pxd`


def start_words(step: int, number: int, op: int) -> str:
    """Why a container that waited did not become its program."""
    if step == native.ABSENT:
        return "container init died before it could start the program"
    if number >= _HOOK_EXITED:
        how = (
            f"signal {number - _HOOK_SIGNALED}"
            if number >= _HOOK_SIGNALED
            else f"exit status {number - _HOOK_EXITED}"
        )
        return f"{START}{_INIT}error running startContainer hook: {how}"
    name = native.STEP_NAMES[op] if op < len(native.STEP_NAMES) else str(op)
    return f"{START}{_INIT}{name}: {reason_of(number)}"
