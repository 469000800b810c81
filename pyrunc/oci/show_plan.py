"""`plan BUNDLE`: what `create` would do, printed; nothing is done. It is this runtime's own verb."""

from __future__ import annotations

from pyrunc.oci import create
from pyrunc.oci.flags import parse
from pyrunc.oci.log import print_out

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Print the plan of the bundle, one step a line. Raises Failure, PyruncError."""
    as_created = parse(["create", "--bundle", command.arguments[0], "ID"])
    found = create.compile_command(as_created._replace(options=command.options), -1, {}, terminal_ok=True)
    lines = [found.template.describe(), f"argv {list(found.argv)}", found.oci.describe()]
    print_out("\n".join(lines) + "\n")
    return 0
