"""What Sandbox and AsyncSandbox share: from a root and its options, or an OCI document, to the requests."""

from __future__ import annotations

import errno
import os
import stat
from _collections_abc import Sequence  # collections.abc would import all of collections

from pyrunc.errors import FailedPrecondition, InvalidArgument, PyruncError
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime import users
from pyrunc.runtime.compile import Rootfs, candidates, compile_spec
from pyrunc.runtime.options import Request, SandboxOptions, in_terms_of_options, to_request
from pyrunc.runtime.plan import SHORT_ID, PlanTemplate, Shim
from pyrunc.runtime.supervised import Supervised

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

StrPath = str | os.PathLike[str]


class Launcher:
    """A compiled plan, and what each start adds to it."""

    def __init__(self, request: Request, compiled: PlanTemplate | None = None) -> None:
        self._template = compiled or compile_spec(request.spec, request.rootfs, request.files)
        self._template.freeze()
        self._env = request.env
        self._listed = _listed(request.env)
        self.home = request.home
        linux = request.spec.get("linux") or {}
        self._maps = linux.get("uidMappings"), linux.get("gidMappings")
        user = (request.spec.get("process") or {}).get("user") or {}
        self.tty = bool((request.spec.get("process") or {}).get("terminal"))
        self._owner = self.outside(user.get("uid") or 0, user.get("gid") or 0)
        self.joins: dict[object, PlanTemplate] = {}  # see pyrunc.runtime.joining
        self._closed = False

    @classmethod
    def of_options(cls, rootfs: StrPath | Sequence[StrPath], options: SandboxOptions) -> Self:
        """For the arguments of Sandbox.

        Raises InvalidArgument, NotFound, InvalidSpec or Unsupported, and names the option.
        """
        single = isinstance(rootfs, str | os.PathLike)
        paths: list[Any] = [rootfs] if single else [*rootfs] if isinstance(rootfs, Sequence) else []
        if not paths or not all(isinstance(path, str | os.PathLike) and os.fspath(path) for path in paths):
            raise checks.refuse("rootfs", "a directory or a list of them", rootfs)
        request = to_request([os.path.abspath(os.fsdecode(path)) for path in paths], options)
        try:
            return cls(request)
        except PyruncError as exc:
            raise in_terms_of_options(exc) from exc

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any], bundle: StrPath) -> Self:
        """For an OCI runtime document in the directory *bundle*.

        Raises InvalidSpec, InvalidArgument or Unsupported, naming the field.
        """
        from pyrunc.spec import document

        document.check(spec)
        root = os.path.abspath(os.path.join(bundle, (spec.get("root") or {}).get("path") or "rootfs"))
        if not os.path.isdir(root):
            raise InvalidArgument(f"root.path: {root}: not a directory")
        process = spec.get("process") or {}
        env = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
        home = ""
        if "HOME" not in env:
            # As runc has it, for programs that stop without one.
            home = users.resolve(str((process.get("user") or {}).get("uid") or 0), (), [root]).home or "/"
            env["HOME"] = home
        mounts = [_below(bundle, entry) for entry in spec.get("mounts") or ()]
        return cls(Request({**spec, "mounts": mounts}, Rootfs((root,)), {}, env, home))

    def request(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        stdio: Sequence[int],
        flags: int,
        wait: bool = True,
        container_id: str = "",
        shim: Shim | None = None,
        kind: type[Supervised] = Supervised,
    ) -> Supervised:
        """Ask the spawner for a container that runs *argv* with *env* added and the three descriptors *stdio*.

        *flags* are the plan's; without a *container_id* (64 hex digits) it gets a new one. With *shim*, whose
        descriptors follow in *stdio*, it outlives its requester; *kind* is then what the answer is.
        Raises FailedPrecondition after `close`, InvalidArgument, Unavailable,
        Unsupported, PermissionDenied; BlockingIOError if *wait* is False and the spawner's queue is full.
        """
        checks.arguments(argv)
        if self._closed:
            raise FailedPrecondition("the sandbox is closed")
        container_id = container_id or os.urandom(32).hex()
        variables = self._env if not env else {**self._env, **checks.environment(env)}
        if variables.get("HOSTNAME") == SHORT_ID:
            variables = {**variables, "HOSTNAME": container_id[:12]}
        listed = self._listed if variables is self._env else _listed(variables)
        try:
            if shim is not None:
                shim = shim._replace(uid=self._owner[0], gid=self._owner[1])
            plan = self._template.finish(
                container_id, argv, listed, candidates(argv[0], variables.get("PATH")), flags, shim
            )
        except ValueError as exc:
            raise InvalidArgument(str(exc)) from exc
        try:
            if self._owner != (0, 0) and shim is None:
                give(stdio, self._owner)
            child = kind(plan, self._template, container_id, stdio, argv[0], wait)
        except OSError as exc:
            if exc.errno == errno.EBADF:
                raise InvalidArgument("stdin, stdout and stderr must be open descriptors") from exc
            raise
        child.origin = self, variables
        return child

    def renamed(self, mark: str, name: str) -> Self:
        """The same with *name* in the place of *mark* in its plan, as PlanTemplate.renamed has it."""
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        found._template = self._template.renamed(mark, name)
        return found

    def environment(self, container_id: str) -> Mapping[str, str]:
        """What the program of the container *container_id* has, unless its start adds to it."""
        if self._env.get("HOSTNAME") != SHORT_ID:
            return self._env
        return {**self._env, "HOSTNAME": container_id[:12]}

    @property
    def template(self) -> PlanTemplate:
        """The compiled plan."""
        return self._template

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """What the host calls a user and a group of the container's."""
        return _outside(uid, self._maps[0]), _outside(gid, self._maps[1])

    def plan(self, argv: Sequence[str], shim: Shim | None = None) -> str:
        """The plan of *argv* as text, one step a line, and what its *shim* does."""
        text = f"{self._template.describe()}\nargv {list(argv)}"
        return text if shim is None else f"{text}\n{shim.describe()}"

    def close(self) -> None:
        """Start no more."""
        self._closed = True


def give(stdio: Sequence[int], owner: tuple[int, int]) -> None:
    """Let another user than root open its pipes once more, as /dev/stdout; what has a name is left alone."""
    for fd in stdio:
        if stat.S_ISFIFO(os.fstat(fd).st_mode) and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            os.fchown(fd, *owner)


def _listed(variables: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in variables.items()]


def _below(bundle: StrPath, mount: Mapping[str, Any]) -> Mapping[str, Any]:
    """*mount*, its source absolute: OCI lets the source of a bind mount be relative to the bundle."""
    source = mount.get("source")
    bound = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options") or ())
    if not bound or not isinstance(source, str) or not source or source.startswith("/"):
        return mount
    return {**mount, "source": os.path.abspath(os.path.join(bundle, source))}


def _outside(inside: int, maps: Sequence[Mapping[str, int]] | None) -> int:
    for row in maps or ():
        if row["containerID"] <= inside < row["containerID"] + row["size"]:
            return row["hostID"] + inside - row["containerID"]
    return 0 if maps else inside
