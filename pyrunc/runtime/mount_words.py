"""Why a mount could not be attached, in the words by which runc's users know it; and whose the files of /proc are."""

from __future__ import annotations

import errno

from pyrunc._native import plan as native

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.runtime.plan import Step

# Files of procfs that may be covered one by one, as lxcfs does: they tell of the host's load, or of one feature.
COVERED = frozenset("/proc/" + name for name in (
    "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
))  # fmt: skip

# What the supervisor, or its stage, writes for the document.
FIELDS = {
    "uid_map": "linux.uidMappings", "gid_map": "linux.gidMappings", "timens_offsets": "linux.timeOffsets",
}  # fmt: skip


def attach(steps: Sequence[Step], step: Step, error: int) -> str:
    """What the failed *step*, an ``attach`` among *steps*, was about."""
    kind = next((one.s0 for one in steps if one.op == "new_mount" and one.a == step.a), "")
    why = refusal(step, error, kind or "")
    return f"cannot attach a mount at {step.s0}{f': {why}' if why else ''}"


def refusal(step: Step, error: int, kind: str) -> str:
    """Why the runtime itself has refused the ``attach`` *step* of a file system of this *kind*; "" if it has not."""
    if error == errno.EXDEV:
        return f'"{step.s0}" cannot be mounted because it is inside /proc'
    if step.flags & native.FLAGS["real"] and error in (errno.ELOOP, errno.ENOTDIR):
        return f'filesystem "{kind or "cgroup"}" must be mounted on ordinary directory'
    return ""
