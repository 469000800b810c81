"""One start: the request, the supervisor's records, and what they mean."""

from __future__ import annotations

import os

from pyrunc import errors
from pyrunc._native.requester import Channel
from pyrunc.records import NamedTuple
from pyrunc.runtime import held, spawner
from pyrunc.runtime.mount_options import IDMAP
from pyrunc.runtime.plan import ID, STAGES, PlanTemplate, Step
from pyrunc.spec.rlimits import NAMES as RLIMITS

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyrunc.runtime.launcher import Launcher

ATTEMPTS = 3  # of a request that no supervisor took, because the spawner was killed
_STAGES = tuple(map(STAGES.get, range(16)))
STARTED, FAILED, EXITED = 1, 2, 3
_FAILED_PLAN, _FAILED_FORK, _FAILED_CLONE, _FAILED_CHROOT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFC
_FAILED_SHIM = 0xFFFFFFFB
_ENOENT, _EACCES, _ENOTDIR, _ENOEXEC, _EPERM, _EINVAL, _ENAMETOOLONG = 2, 13, 20, 8, 1, 22, 36
_EXDEV, _ENODEV, _ENOSPC = 18, 19, 28
_SIGKILL, _SIGSYS = 9, 31
_GIVEN_UP_MS = 1000
_INFINITY = (1 << 64) - 1
_ATTRIBUTES = {
    "scheduler": "scheduler", "io_priority": "I/O priority", "personality": "personality",
    "memory_policy": "memory policy", "affinity": "CPU affinity",
}  # fmt: skip
_NONE = PlanTemplate()


class Exit(NamedTuple):
    """How a container ended.

    *exit_code* is the program's, or 128 + the signal that killed it; *stages_ns* maps
    each stage to the monotonic time at which it began.
    """

    exit_code: int
    signal: int
    oom_kills: int
    utime_us: int
    stime_us: int
    maxrss_bytes: int
    overhead_us: int
    stages_ns: dict[str, int]


class NotTaken(errors.Unavailable):
    """Nothing of the request has happened; it may be made again."""


class Supervised(held.Holder):
    """A container that was asked for; its socket is the supervisor's.

    Closing it while the container runs ends the container. *started* says that it has taken the record of the start,
    *over* that no record comes any more.
    """

    def __init__(
        self, plan: bytes, template: PlanTemplate, container_id: str, descriptors: Sequence[int], command: str,
        wait: bool = True,
    ) -> None:  # fmt: skip
        self.template = template
        self.container_id = container_id
        self._command = command
        self.origin: tuple[Launcher, Mapping[str, str]] | None = None  # and its environment
        self._cgroup_path = ""  # once the template is gone
        self.started = False
        self.over = False
        self.pid = 0
        self.exit: Exit | None = None
        self.stages_ns: dict[str, int] = {}  # of the start, as in Exit
        with held.lock:
            self._channel = channel = Channel(plan)
            held.note(self)
        try:
            spawner.request((channel.plan, channel.theirs, *descriptors), wait)
            channel.sent()
        except BaseException:
            channel.sent()
            self.abandon()  # a signal handler may have raised when it was sent
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is a record to `take`."""
        return self._channel.fileno()

    @property
    def pidfd(self) -> int:
        """The container's init once it is STARTED, or -1."""
        return self._channel.pidfd

    @property
    def terminal(self) -> int:
        """The master of the program's terminal once it is STARTED, or -1."""
        return self._channel.terminal

    def hang_up(self) -> None:
        """Give the terminal up."""
        self._channel.hang_up()

    def take(self) -> int:
        """Receive one record (blocking); returns STARTED or EXITED.

        Raises StartError or one of its kind when the start failed, Unavailable when the
        supervisor died, and NotTaken when there never was one.
        """
        # A signal handler may raise at any call: what was received is kept until it is all here, *over* comes last.
        found = self._channel.receive(_STAGES)
        if found is None:
            failure: errors.PyruncError
            if self._channel.taken():
                self._remove_cgroups()
                failure = errors.Unavailable(
                    "the container's supervisor was killed; so was what it had started"
                )
            else:
                failure = NotTaken("the spawner was killed before it took the request")
            self.over = True
            raise failure
        kind, step, error, pid, status, leftover, ooms, utime, stime, maxrss, overhead, stages = found
        self.pid = pid
        if kind == STARTED:
            self.started = True
            self.stages_ns = stages
            self._channel.handled()
            return STARTED
        if leftover:
            # Cgroups that the container itself made inside its own: a walk is needed, which C leaves to us.
            self._remove_cgroups()
        if kind == FAILED:
            failure = self._failure(step, -error, status)
            self.over = True
            raise failure
        signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = 128 + signal if signal else os.WEXITSTATUS(status)
        self.exit = Exit(code, signal, ooms, utime, stime, maxrss, overhead, stages)
        self.over = True
        return EXITED

    def shed(self) -> None:
        """Let go of the plan, and what it was made of: for a container that runs on, whose end needs neither."""
        self._cgroup_path = self.template.cgroup_path.replace(ID, self.container_id)
        self.template, self.origin = _NONE, None
        self._channel.started()

    def kill(self, signal: int) -> None:
        """Send *signal* to the container's init, by the supervisor; a container that is gone is no error."""
        self._channel.kill(signal)

    def abandon(self) -> None:
        """Kill a container whose requester gives up, and wait until nothing of it is left."""
        try:
            while not self.over and self.fileno() >= 0:
                self.kill(_SIGKILL)
                self.take()
        except errors.PyruncError:
            pass  # such as init killed before its program ran

    def close(self) -> None:
        """Hang up: what still runs is killed."""
        held.forget(self)
        self._channel.close()

    def let_go(self) -> None:
        """Hang up, or, in a process that this one was forked into, let the other one do so."""
        self.close()

    def end(self) -> None:
        """Kill what still runs; a daemon thread that waits for it may see that."""
        self.kill(_SIGKILL)

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self.close()

    def _remove_cgroups(self) -> None:
        """Do what the supervisor could not: end whatever is in the container's cgroups and remove them."""
        from pyrunc.runtime import cgroup_control, cgroup_layout

        path = self._cgroup_path or self.template.cgroup_path.replace(ID, self.container_id)
        layout = cgroup_layout.detect()
        cgroup_control.kill(layout, path)
        cgroup_control.remove(layout, path)
        cgroup_control.prune(layout, path)

    def _failure(self, index: int, error: int, status: int) -> errors.PyruncError:
        words = os.strerror(error).lower() if error else ""
        if index == _FAILED_FORK:
            return errors.StartError(f"cannot fork a supervisor: {words}", step="fork", errno=error)
        if index == _FAILED_CHROOT:
            return errors.StartError(
                f"cannot make the chroot that this process is in the root of a mount namespace: {words}",
                step="chroot", errno=error,
            )  # fmt: skip
        if index == _FAILED_SHIM:
            return errors.StartError(
                f"cannot make the streams, log or state files of the container's shim: {words}",
                step="shim", errno=error,
            )  # fmt: skip
        if index == _FAILED_CLONE:
            return errors.StartError(f"cannot clone the container's init: {words}", step="clone", errno=error)
        if index == _FAILED_PLAN and error:
            return errors.StartError(f"the supervisor refused the plan: {words}", step="plan", errno=error)
        if index == _FAILED_PLAN:
            return self._died(status)
        step = self.template.step(index)
        path = step.s0 or ""
        if step.op == "execve":
            return self._not_executed(error)
        what, kind = self._attempt(step, error)
        return kind(f"{what}: {words}", step=step.op, path=path, errno=error)

    def _attempt(self, step: Step, error: int) -> tuple[str, type[errors.StartError]]:
        """What a failed step was about, in the words of who asked for it, and the error that it is."""
        path = (step.s0 or "").replace(ID, self.container_id)
        if step.op == "write_at":
            return f"cannot set {path} to {step.s1}", errors.LimitRefused
        if step.op == "rlimit":
            name = RLIMITS[step.n0].removeprefix("RLIMIT_").lower()
            soft, hard = ("unlimited" if number == _INFINITY else number for number in (step.n1, step.n2))
            return f"cannot set rlimit {name} to {soft}:{hard}", errors.LimitRefused
        if step.op in ("write_proc", "write_procfs") and path.endswith("oom_score_adj"):
            return f"cannot set oom_score_adj to {step.s1}", errors.LimitRefused
        if step.op == "write_procfs" and path.startswith("self/attr/"):
            return f"cannot set the label {(step.s1 or '').removeprefix('exec ')}", errors.StartError
        if step.op in _ATTRIBUTES:
            return f"cannot set the {_ATTRIBUTES[step.op]} of the process", errors.StartError
        if step.op == "write_procfs":
            return (
                f"cannot set sysctl {path.removeprefix('sys/').replace('/', '.')} to {step.s1}",
                errors.StartError,
            )
        if step.op == "new_mount":
            where = f" at {step.s2}" if step.s2 else ""
            return f"cannot mount {path}{where} with options {_pairs(step.s1) or 'none'}", errors.StartError
        if step.op == "copy_up":
            # ENAMETOOLONG: no name can be, but the walk is bounded.
            deep = ", at most 127 directories deep" if error == _ENAMETOOLONG else ""
            return f"cannot copy what the image has at {path} into the tmpfs there{deep}", errors.StartError
        if step.op in ("overlay", "root_overlay"):
            what = f"of {step.n0} layers for a user namespace" if step.op == "overlay" else f"in {step.s2}"
            return f"cannot mount the overlay {what}", errors.StartError
        if step.op == "open_tree" and step.s1:
            return f"cannot show {step.s1[1:]} of {path}", errors.StartError
        if step.op == "remount":
            there = ", where nothing is mounted" if error == _EINVAL else ""
            return f"cannot remount {path}{there}", errors.StartError
        if step.op == "reconfigure":
            return f"cannot remount {path} with options {_pairs(step.s1)}", errors.StartError
        if step.op == "owner":
            return f"cannot change the owner or mode of what is mounted at {path}", errors.StartError
        if step.op == "mount_attr" and step.n0 == IDMAP:
            return f"cannot show {path} idmapped; can its file system, on this kernel?", errors.StartError
        if step.op == "cgroup_mkdir":
            return (
                f"cannot make cgroup {path}{(step.s1 or '').replace(ID, self.container_id)}",
                errors.StartError,
            )
        if step.op in ("capabilities", "ambient", "bounding"):
            return (
                f"cannot hold the {step.op} set {step.n0:#x}, which this process may lack",
                errors.StartError,
            )
        if step.op == "user":
            return f"cannot become user {step.n0}:{step.n1} with groups {path or 'none'}", errors.StartError
        if step.op == "chdir":
            return f"cannot enter the working directory {path}", errors.StartError
        if step.op == "terminal":
            why = {
                _EXDEV: ": what is at /dev/pts is no devpts", _ENODEV: ": /dev/pts/ptmx is no multiplexer",
                _ENOENT: ": there is no devpts at /dev/pts", _ENOSPC: ": no more are possible",
            }.get(error, "")  # fmt: skip
            return f"cannot make a terminal{why}", errors.StartError
        if step.op == "write_proc":
            from pyrunc.runtime import mount_words

            return f"cannot set {mount_words.FIELDS.get(path, 'it')} by {path}", errors.StartError
        if step.op == "net_device":
            return f"cannot move the network device {path} to {step.s1}", errors.StartError
        if step.op == "attach":
            from pyrunc.runtime import mount_words

            return mount_words.attach(self.template.steps, step, error), errors.StartError
        return f"{step.op} {path.replace(chr(0), ' ')}".strip(), errors.StartError

    def _not_executed(self, error: int) -> errors.StartError:
        command = self._command
        if error in (_ENOENT, _ENOTDIR):
            reason = "no such file or directory" if "/" in command else "executable file not found in $PATH"
            return errors.CommandNotFound(
                f'exec: "{command}": {reason}', step="execve", path=command, errno=error
            )
        if error in (_EACCES, _EPERM, _ENOEXEC):
            reason = os.strerror(error).lower()
            return errors.CommandNotExecutable(
                f'exec: "{command}": {reason}', step="execve", path=command, errno=error
            )
        return errors.StartError(
            f'exec: "{command}": {os.strerror(error).lower()}', step="execve", path=command, errno=error
        )

    def _died(self, status: int) -> errors.StartError:
        signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if signal == _SIGSYS:
            words = "the seccomp filter killed the container before its program ran"
            return errors.KilledBySeccomp(words, step="seccomp")
        if signal == _SIGKILL:
            return errors.OutOfMemory(
                "the container was killed before its program ran; is its memory limit too low?"
            )
        return errors.StartError(f"init died before the program ran (wait status {status:#x})")


def give_up(child: Supervised) -> None:
    """End a start that is too late; one that cannot be ended at once is by our hanging up."""
    from select import POLLIN, poll

    child.kill(_SIGKILL)
    poller = poll()
    poller.register(child, POLLIN)
    if poller.poll(_GIVEN_UP_MS):
        child.abandon()
    child.close()


def _pairs(text: str | None) -> str:
    """The options of a file system, as mount(8) would write them."""
    words = (text or "").split("\0")
    pairs = zip(words[:-1:2], words[1::2], strict=True)
    return ",".join(f"{key}={value}" if value else key for key, value in pairs if key != "source")
