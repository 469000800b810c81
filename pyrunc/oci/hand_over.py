"""From Python back to the front door, which does what a plan says: this process becomes it."""

import os

from pyrunc._native import plan as native
from pyrunc.oci.planner import ensure


def hand_over(front_door: str, plan: bytes) -> int:
    """Execute *front_door* with *plan*, sealed in memory; it never returns. Raises OSError."""
    ensure(front_door)
    native.hand_over(os.fsencode(front_door), plan)
