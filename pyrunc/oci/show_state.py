"""`state`: what is true of a container, as the OCI document."""

from __future__ import annotations

from pyrunc.oci import go_json
from pyrunc.oci.log import print_out
from pyrunc.oci.state import load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container

_MEMBERS = ("ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner")


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Print the state of one container, without a line break behind it, as runc does."""
    container = load(root_of(command.options), command.arguments[0])
    print_out(go_json.indented(document(container)))
    return 0


def document(container: Container) -> dict[str, Any]:
    """The state in runc's order of members; annotations only where there are some.

    Source: OCI runtime.md, "State"; `rootfs`, `created` and `owner` are runc's own.
    """
    status = container.status()
    true_now = {"status": status, "pid": 0 if status == "stopped" else container.pid}
    found = {key: true_now.get(key, container.document.get(key, "")) for key in _MEMBERS}
    if not found["annotations"]:
        del found["annotations"]
    return found
