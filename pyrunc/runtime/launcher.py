"""What Sandbox and AsyncSandbox share: from a root and its options, or an OCI document, to one request for each start."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pyrunc.errors import FailedPrecondition, InvalidArgument
from pyrunc.runtime.compile import Rootfs, candidates, compile_spec
from pyrunc.runtime.options import Request, SandboxOptions, to_request
from pyrunc.runtime.stdio import Null
from pyrunc.runtime.supervised import Supervised
from pyrunc.spec import defaults

StrPath = str | os.PathLike[str]


class Launcher:
    """A compiled plan, and what each start adds to it."""

    def __init__(self, request: Request, env: Mapping[str, str]) -> None:
        self._template = compile_spec(request.spec, request.rootfs, request.files)
        self._template.freeze()
        self._env = dict(env)
        self._null: Null | None = Null()

    @classmethod
    def of_options(cls, rootfs: StrPath | Sequence[StrPath], options: SandboxOptions) -> Self:
        """For the arguments of Sandbox.

        Raises InvalidArgument, NotFound, InvalidSpec or Unsupported, and names the option.
        """
        paths = [rootfs] if isinstance(rootfs, str | os.PathLike) else list(rootfs)
        if not paths:
            raise InvalidArgument("rootfs: at least one directory is needed")
        request = to_request([os.path.abspath(path) for path in paths], options)
        return cls(request, {"PATH": defaults.PATH, "HOSTNAME": options.get("hostname", ""), **options.get("env", {})})

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any], bundle: StrPath) -> Self:
        """For an OCI runtime document in the directory *bundle*.

        Raises InvalidSpec, InvalidArgument or Unsupported, naming the field.
        """
        root = os.path.abspath(os.path.join(bundle, (spec.get("root") or {}).get("path") or "rootfs"))
        if not os.path.isdir(root):
            raise InvalidArgument(f"root.path: {root}: not a directory")
        listed = (spec.get("process") or {}).get("env") or ()
        return cls(Request(dict(spec), Rootfs((root,)), {}), dict(entry.partition("=")[::2] for entry in listed))

    def null(self) -> Null:
        """An open /dev/null, which outlives `close` as long as it is referred to.

        Raises FailedPrecondition after `close`.
        """
        null = self._null
        if null is None:
            raise FailedPrecondition("the sandbox is closed")
        return null

    def request(
        self, argv: Sequence[str], env: Mapping[str, str] | None, stdio: Sequence[int], flags: int, wait: bool = True
    ) -> Supervised:
        """Ask the spawner for a container that runs *argv* with *env* added and the three descriptors *stdio*.

        *flags* are the plan's. Raises InvalidArgument, Unavailable, Unsupported, PermissionDenied;
        BlockingIOError if *wait* is False and the spawner's queue is full.
        """
        if isinstance(argv, str) or not argv or not argv[0]:
            raise InvalidArgument("argv must be a list of strings that begins with a program")
        container_id = os.urandom(32).hex()
        variables = self._env if not env else {**self._env, **env}
        if variables.get("HOSTNAME") == "":
            variables = {**variables, "HOSTNAME": container_id[:12]}
        listed = [f"{key}={value}" for key, value in variables.items()]
        try:
            plan = self._template.finish(container_id, argv, listed, candidates(argv[0], variables.get("PATH")), flags)
        except ValueError as exc:
            raise InvalidArgument(str(exc)) from exc
        return Supervised(plan, self._template, container_id, stdio, argv[0], wait)

    def plan(self, argv: Sequence[str]) -> str:
        """The plan of *argv* as text, one step a line."""
        return f"{self._template.describe()}\nargv {list(argv)}"

    def close(self) -> None:
        """Start no more."""
        self._null = None
