"""From an OCI spec to a plan: what a start does, decided in Python before any privilege is used.

The order is the order of a start: cgroups and detached mounts on the host; then, in init,
cgroups, namespaces, root, mounts, devices, masks, pivot_root, and the process itself.
"""

from __future__ import annotations

import os

from pyrunc.runtime.compile_host import Rootfs
from pyrunc.runtime.compile_process import ProcessPart
from pyrunc.runtime.compile_root import RootPart
from pyrunc.runtime.plan import PlanTemplate
from pyrunc.spec import defaults

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyrunc.runtime.compile_host import Spec
    from pyrunc.runtime.front_door import FrontDoor

__all__ = ["Compiler", "Rootfs", "candidates", "compile_spec"]

DEFAULT_PATH = defaults.PATH


def compile_spec(
    spec: Spec,
    rootfs: Rootfs,
    files: Mapping[str, str] | None = None,
    *,
    keyring: str | None = None,
    front_door: FrontDoor | None = None,
) -> PlanTemplate:
    """Compile *spec* (an OCI runtime document) with the root *rootfs* into a plan template.

    *files* (path in the container -> content) are made in memory and mounted read-write over their paths.
    *keyring* is the name of its session keyring; without one it has none, and with "" it keeps its starter's.
    *front_door* is for pyrunc-oci, which starts it in two parts.
    Raises InvalidSpec or Unsupported, naming the field.
    Source: OCI runtime-spec config.md and config-linux.md.
    """
    compiler = Compiler(spec, rootfs, files or {})
    compiler.keyring = keyring
    compiler.front_door = front_door
    compiler.to_agent = front_door is not None
    return compiler.compile()


class Compiler(RootPart, ProcessPart):
    """All parts, each of which says more."""

    keyring: str | None = None

    def compile(self) -> PlanTemplate:
        """Do it, once."""
        plan = self.plan
        if self.linux.get("intelRdt"):
            from pyrunc.runtime import intel_rdt

            intel_rdt.refuse(self.linux["intelRdt"])
        self.stdio = [plan.descriptor() for _ in range(3)]
        self._user_namespace()
        self._cgroups()
        self._join_namespaces()
        self._root()
        self._mounts()
        self._oom_score()
        self._masks()
        self._before_pivot()
        self._pivot()
        self._process()
        self._as_runc_has_it()
        return plan


def candidates(command: str, path: str | None) -> list[str]:
    """The paths that execve tries for *command*: itself if it has a slash, else one for each entry of *path*."""
    if "/" in command:
        return [command]
    return [os.path.join(directory or ".", command) for directory in (path or DEFAULT_PATH).split(":")]
