"""`features`: what this runtime supports, as the OCI document."""

from __future__ import annotations

from pyrunc.oci import features, go_json
from pyrunc.oci.log import print_out

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Print the document. Source: OCI features.md."""
    print_out(f"{go_json.indented(features.document(), '    ')}\n")
    return 0
