"""`pause` and `resume`: the freezer of cgroup v1 or of v2."""

from __future__ import annotations

from pyrunc.oci.container_cgroups import freezer_place
from pyrunc.oci.log import Failure
from pyrunc.oci.state import load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Freeze or thaw every process of the container, and return when it is done."""
    from pyrunc.runtime import cgroup_control

    container = load(root_of(command.options), command.arguments[0])
    status = container.status()
    if command.verb == "resume":
        if status != "paused":
            raise Failure("container not paused")
        cgroup_control.thaw(*freezer_place(container))
    else:
        if status not in ("running", "created"):
            raise Failure("container not running")
        cgroup_control.freeze(*freezer_place(container))
    return 0
