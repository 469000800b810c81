"""From Python back to the front door, which does what a plan says: this process becomes it."""

import fcntl
import os

from pyrunc.oci.planner import ensure

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def hand_over(front_door: str, plan: bytes) -> int:
    """Execute *front_door* with *plan*, sealed in memory; it never returns. Raises OSError."""
    ensure(front_door)
    fd = os.memfd_create("pyrunc-plan", os.MFD_ALLOW_SEALING)
    os.write(fd, plan)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    os.set_inheritable(fd, True)
    os.execve(front_door, ["pyrunc-oci", ":plan", str(fd)], os.environ)
