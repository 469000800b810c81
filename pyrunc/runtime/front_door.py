"""What the plan of pyrunc-oci has that no other has: waiting for the start, and hooks."""

from __future__ import annotations

from pyrunc._native.plan import ABSENT, FLAGS, NAMESPACES
from pyrunc.records import NamedTuple
from pyrunc.runtime.compile_host import HostPart
from pyrunc.runtime.plan import HOOK_KINDS, INIT

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

_LISTED_GROUPS = 256  # as many as a step has room for


class FrontDoor(NamedTuple):
    """How a container of pyrunc-oci starts: by another command if *waits*; *hooks* are the kinds of its table."""

    waits: bool = False
    hooks: tuple[int, ...] = ()


class FrontDoorPart(HostPart):
    """The pauses and hooks of such a container; none of another's.

    Source: OCI runtime-spec runtime.md "Lifecycle", config.md "POSIX-platform Hooks".
    """

    front_door: FrontDoor | None = None

    def _before_pivot(self) -> None:
        """Hooks that see the container's mounts and the runtime's file system."""
        if self.front_door is None:
            return
        # The working directory need not be there, as with runc; nor can it be made once the root is read-only.
        self.plan.add("mkdir", INIT, "pivot", s0=self.cwd, n0=0o755, flags=FLAGS["create"])
        if any(HOOK_KINDS[kind] in ("prestart", "createRuntime") for kind in self.front_door.hooks):
            self.plan.add("sync", INIT, "pivot", n0=NAMESPACES)
        self._run_hooks("createContainer", "pivot")

    def _lookup(self, uid: int, gid: int, groups: Sequence[int]) -> None:
        """See that the program can be executed by who it is executed as."""
        if self.front_door is not None:
            listed = ",".join(map(str, groups[:_LISTED_GROUPS]))
            self.plan.add("lookup", INIT, "process", s0="", s1=listed, n0=uid << 32 | gid)

    def _wait_start(self) -> None:
        """Wait until the program shall be executed."""
        if self.front_door is None:
            return
        self.plan.add("wait_start", INIT, "process", a=self.plan.slot() if self.front_door.waits else ABSENT)

    def _run_hooks(self, name: str, stage: str) -> None:
        """Those of one kind that init runs itself."""
        if self.front_door is not None:
            for index, kind in enumerate(self.front_door.hooks):
                if HOOK_KINDS[kind] == name:
                    self.plan.add("hook", INIT, stage, n0=index)
