"""Further programs in a running container: a plan that joins what another one has made, and its requests.

The container is known by a pidfd, the one that its supervisor sent, or one that was opened by number and found to be
of the process that started when the container did; never by a number alone, which may have become another's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select

from pyrunc._native import plan as native
from pyrunc.errors import InvalidArgument, PyruncError, StartError
from pyrunc.records import NamedTuple
from pyrunc.runtime import cgroup_layout, users
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime.compile import candidates
from pyrunc.runtime.compile_host import CLONE_NEW
from pyrunc.runtime.launcher import give
from pyrunc.runtime.option_privileges import capabilities_of
from pyrunc.runtime.place_program import place_program
from pyrunc.runtime.plan import HOST, INIT, STAGE_NUMBER, PlanTemplate, Shim, Step
from pyrunc.runtime.shim_state import not_running
from pyrunc.runtime.supervised import Supervised
from pyrunc.spec import capabilities, defaults

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from pyrunc.runtime.launcher import Launcher

_KEPT = 32  # plans for one sandbox: who ran there, and where
_ENDING_MS = 500  # how long init may take to die, once what it does not explain has failed
# What a step says when the container's cgroups or its init are gone.
_GONE = {("open", errno.ENOENT), ("open", errno.ENODEV), ("join_tasks", errno.ENODEV), ("setns", errno.ESRCH)}

Who = tuple[int, int, tuple[int, ...]]  # user, group, supplementary groups


class Target(NamedTuple):
    """A container that runs: what it was made by, who it is, and its first program's environment.

    *launcher* may have been compiled anew from the same options; *pidfd* is of its init, *pid*, and stays its owner's.
    """

    launcher: Launcher
    container_id: str
    pid: int
    pidfd: int
    variables: Mapping[str, str]

    @property
    def template(self) -> PlanTemplate:
        """The plan that has made it."""
        return self.launcher.template


class Wanted(NamedTuple):
    """What a further program is to be; None stands for what the container's own program has.

    A variable of *env* that is None is taken away. *size* are the rows and columns of its terminal, with *tty*. With
    *privileged* it holds all capabilities.
    """

    argv: Sequence[str]
    env: Mapping[str, str | None] | None = None
    cwd: str | None = None
    user: str | None = None
    groups: Sequence[str] = ()
    tty: bool = False
    size: tuple[int, int] = (0, 0)
    privileged: bool = False


def open_init(container_id: str, pid: int, started: int) -> int:
    """A pidfd of the init *pid* that started at *started* (field 22 of its stat); the caller closes it.

    Raises FailedPrecondition if it has ended, whoever has its number now.
    Source: pidfd_open(2), proc_pid_stat(5).
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise not_running(container_id) from None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            found = int(file.read().rpartition(b")")[2].split()[19])
        # It is the number's owner for as long as it has not ended.
        if found == started and not _ended(pidfd, 0):
            return pidfd
    except (FileNotFoundError, ProcessLookupError):
        pass
    os.close(pidfd)
    raise not_running(container_id)


class Joining:
    """One program that shall run in a container, of which nothing has been asked yet.

    *cwd* and *user* are the container's own unless they are given; *groups* are added. Both are looked up in the
    container as it is now. Raises InvalidArgument, NotFound, and FailedPrecondition for a container that has ended.
    """

    @classmethod
    def of_child(cls, child: Supervised, lock: LockType, wanted: Wanted) -> Self:
        """For a container that this process has started; *lock* is held by whoever closes *child*."""
        assert child.origin is not None
        launcher, variables = child.origin
        with lock:
            if child.over or child.pidfd < 0:
                raise not_running(child.container_id)
            # A copy, which no other thread closes: its number would become another's.
            pidfd = fcntl.fcntl(child.pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            return cls(Target(launcher, child.container_id, child.pid, pidfd, variables), wanted)
        finally:
            os.close(pidfd)

    def __init__(self, target: Target, wanted: Wanted) -> None:
        argv, env, cwd, user, groups, tty, size, privileged = wanted
        checks.arguments(argv)
        checks.flag(tty, "tty")
        checks.flag(privileged, "privileged")
        terminal = checks.size(size, "size") if tty else None
        where = "" if cwd is None else os.path.normpath(checks.path(cwd, "cwd"))
        name = "" if user is None else checks.text(user, "user")
        further = checks.listed(checks.text)(groups, "groups")
        if user == "":
            raise checks.refuse("user", "a name or number, optionally with :group", user)
        added = {} if env is None else checks.changes(env)
        self._target = target
        launcher, variables = target.launcher, target.variables
        if tty and "TERM" not in variables:
            variables = {**variables, "TERM": defaults.TERM}
        self._pidfd = fcntl.fcntl(target.pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            if _ended(self._pidfd, 0):
                raise not_running(target.container_id)
            who = None
            if name or further:
                who, home = self._look_up(name, further)
                if name and variables.get("HOME") == launcher.home:
                    variables = {**variables, "HOME": home}
            self._argv = argv
            self._env = {name: value for name, value in {**variables, **added}.items() if value is not None}
            self._owner = launcher.outside(*(_own(target.template) if who is None else who)[:2])
            self._template = _template(launcher, Join(who, bool(name), where, terminal, privileged))
        except BaseException:
            os.close(self._pidfd)
            raise

    def request(
        self, stdio: Sequence[int], flags: int, wait: bool = True, shim: Shim | None = None,
        kind: type[Joined] | None = None,
    ) -> Joined:  # fmt: skip
        """Ask the spawner for it, with the three descriptors *stdio* and those of *shim*; as Launcher.request."""
        listed = [f"{key}={value}" for key, value in self._env.items()]
        paths = candidates(self._argv[0], self._env.get("PATH"))
        try:
            plan = self._template.finish(
                self._target.container_id, self._argv, listed, paths, flags | native.FLAG_EXEC,
                None if shim is None else shim._replace(uid=self._owner[0], gid=self._owner[1]),
            )  # fmt: skip
        except ValueError as exc:
            raise InvalidArgument(str(exc)) from exc
        try:
            if self._owner != (0, 0) and shim is None:
                give(stdio, self._owner)
            container = self._target.container_id
            return (kind or Joined)(plan, self._template, container, self._pidfd, stdio, self._argv[0], wait)
        except OSError as exc:
            if exc.errno == errno.EBADF:
                raise InvalidArgument("stdin, stdout and stderr must be open descriptors") from exc
            raise

    def _look_up(self, user: str, groups: Sequence[str]) -> tuple[Who, str]:
        """Who *user* with *groups* is in the container's root, and their home directory."""
        own = _own(self._target.template)
        gone = not_running(self._target.container_id)
        try:
            root = os.open(f"/proc/{self._target.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as exc:
            raise gone from exc
        try:
            if _ended(self._pidfd, 0):  # else the number was its own when the root was opened
                raise gone
            found = users.resolve(user or f"{own[0]}:{own[1]}", groups, [f"/proc/self/fd/{root}"])
        finally:
            os.close(root)
        added = found.groups if user else tuple(sorted({*own[2], *found.groups}))
        return (found.uid, found.gid, added), found.home or "/"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more will be asked for."""
        os.close(self._pidfd)


class Joined(Supervised):
    """A program in a running container that was asked for. Its end is not the container's."""

    _target = -1

    def __init__(
        self, plan: bytes, template: PlanTemplate, container_id: str, pidfd: int, stdio: Sequence[int],
        command: str, wait: bool,
    ) -> None:  # fmt: skip
        """*pidfd* is the init of the container *container_id*."""
        self._target = fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
        super().__init__(plan, template, container_id, (*stdio[:3], self._target, *stdio[3:]), command, wait)

    def close(self) -> None:
        """Hang up: what still runs is killed, but not what it has started itself."""
        super().close()
        target, self._target = self._target, -1
        if target >= 0:
            os.close(target)

    def _remove_cgroups(self) -> None:
        """They are the container's."""

    def _failure(self, index: int, error: int, status: int) -> PyruncError:
        op = self.template.steps[index].op if index < len(self.template.steps) else ""
        killed = not error and os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9
        no_more = op == "fork" and error == errno.ENOMEM  # a pid namespace whose init dies
        if (op, error) in _GONE or ((killed or no_more or not op) and _ended(self._target, _ENDING_MS)):
            return not_running(self.container_id)
        if op == "setns":
            words = os.strerror(error).lower()
            return StartError(f"cannot join the container's namespaces: {words}", step=op, errno=error)
        if op == "fork":
            words = os.strerror(error).lower()
            return StartError(f"cannot make another process in the container: {words}", step=op, errno=error)
        return super()._failure(index, error, status)


def _ended(pidfd: int, patience_ms: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(patience_ms))


def _own(template: PlanTemplate) -> Who:
    """Who the container's program was started as."""
    step = next(
        step for step in template.steps if step.op == "user" and step.stage == STAGE_NUMBER["process"]
    )
    return step.n0, step.n1, tuple(map(int, (step.s0 or "").split(","))) if step.s0 else ()


class Join(NamedTuple):
    """What the plan of a program that joins a container differs by.

    It gets limits, capabilities, filter, umask and working directory of the container's first program, but *cwd*
    unless that is "", and *who* unless that is None; *as_user* says that the latter was named, so that root gets what
    the container's programs may have at most, and nobody else anything. *terminal* are the rows and columns of one.
    With *privileged* it gets all capabilities that this process has, and the container's filter.
    """

    who: Who | None = None
    as_user: bool = False
    cwd: str = ""
    terminal: tuple[int, int] | None = None
    privileged: bool = False


def _template(launcher: Launcher, join: Join) -> PlanTemplate:
    found = launcher.joins.get(join)
    if found is None:
        found = compile_join(launcher.template, join)
        found.freeze()
        if len(launcher.joins) >= _KEPT:
            launcher.joins.clear()
        launcher.joins[join] = found
    return found


def compile_join(container: PlanTemplate, join: Join) -> PlanTemplate:
    """The plan of *join* in a container that *container* has made.

    After the descriptors of the streams the request carries the container's pidfd.
    Source: OCI runtime-spec "Process"; Docker Engine API, "Create an exec instance".
    """
    who, as_user, cwd, terminal, privileged = join
    plan = PlanTemplate()
    for _ in range(3):
        plan.descriptor()
    target = plan.descriptor()
    _cgroups(plan, container)
    namespaces = CLONE_NEW["mount"] | container.clone_flags
    for step in container.steps:
        if step.op in ("unshare", "setns"):
            namespaces |= step.n0
    own = {_of_itself(step): step.s1 for step in container.steps if _of_itself(step)}
    if own:
        proc = plan.slot()
        plan.add("open", HOST, "host", a=proc, s0="/proc", n0=os.O_PATH | os.O_DIRECTORY)
        for file, value in own.items():
            plan.add("write_procfs", INIT, "namespaces", a=proc, s0=file, s1=value)
    plan.add("setns", INIT, "namespaces", a=target, n0=namespaces)
    if namespaces & CLONE_NEW["user"]:
        plan.add("user", INIT, "namespaces", s0="")
    process = [step for step in container.steps if step.stage == STAGE_NUMBER["process"]]
    bounding = next(step.n0 for step in process if step.op == "bounding")
    every = capabilities.mask(capabilities_of({"privileged": True}), "privileged") if privileged else 0
    changed = []
    for step in process:
        if step.op == "chdir" and cwd:
            step = step._replace(s0=cwd)  # noqa: PLW2901
        elif step.op == "user" and who is not None:
            step = step._replace(n0=who[0], n1=who[1], n2=0, s0=",".join(map(str, who[2])))  # noqa: PLW2901
        elif step.op == "bounding" and privileged:
            step = step._replace(n0=every)  # noqa: PLW2901
        elif step.op == "capabilities" and privileged:
            step = step._replace(n0=every, n1=every)  # noqa: PLW2901
        elif step.op == "capabilities" and who is not None and as_user:
            held = bounding if who[0] == 0 else 0
            step = step._replace(n0=held, n1=held)  # noqa: PLW2901
        elif step.op == "ambient" and as_user:
            continue
        changed.append(step)
    owner = (_own(container) if who is None else who)[0]
    place_program(plan, container, changed, None if terminal is None else (owner, *terminal))
    return plan


def _of_itself(step: Step) -> str:
    """The file of /proc that a step writes of the process itself, its OOM score and labels, or ""."""
    path = step.s0 or ""
    if step.op == "write_proc" and path == "oom_score_adj":
        return f"self/{path}"
    return path if step.op == "write_procfs" and path.startswith("self/") else ""


def _cgroups(plan: PlanTemplate, container: PlanTemplate) -> None:
    """Open the container's cgroups on the host and join them, before anything of the container is joined."""
    opened = {step.a: step.s0 or "" for step in container.steps if step.op == "open"}
    freezer = cgroup_layout.detect().of("freezer")
    for step in list(container.steps):
        if step.op == "cgroup_mkdir" and step.a == container.cgroup_slot != native.ABSENT:
            plan.cgroup_slot = plan.slot()
            plan.add(
                "open", HOST, "host", a=plan.cgroup_slot, s0=f"{step.s0}{step.s1}",
                n0=os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
            )  # fmt: skip
        elif step.op == "join_tasks":
            slot, path = plan.slot(), opened[step.a]
            plan.add("open", HOST, "host", a=slot, s0=path, n0=os.O_WRONLY | os.O_NOFOLLOW)
            plan.add("join_tasks", INIT, "namespaces", a=slot)
            if freezer is not None and path.startswith(f"{freezer.mountpoint}/"):
                # To be thawed should the program have to be killed.
                plan.add(
                    "open", HOST, "host", a=plan.slot(), s0=os.path.dirname(path),
                    n0=os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, flags=native.FLAGS["existing"],
                )  # fmt: skip
