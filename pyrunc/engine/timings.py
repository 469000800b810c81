"""How long each stage of a container's way took, in the order in which they happened, in nanoseconds.

"image" is resolving it and, the first time, unpacking; "create" the row, snapshot and volumes; "request" making the
plan and asking for the start; then come the stages of the start (see `pyrunc run --plan`), and of a run, "program" and
its end.
"""

import time
from _operator import itemgetter

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyrunc.runtime.shim import ShimProcess


def of_start(process: "ShimProcess", asked: int, before: "Mapping[str, int] | None" = None) -> dict[str, int]:
    """Those of a start that was *asked* for then (monotonic), after *before*; "reply" is the way back of the news."""
    found, name, since = dict(before or {}), "request", asked
    for stage, at in sorted(process.stages_ns.items(), key=itemgetter(1)):
        found[name] = at - since
        name, since = stage, at
    found["reply"] = time.monotonic_ns() - since
    return found
