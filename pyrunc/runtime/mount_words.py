"""Why a mount could not be attached, in the words by which runc's users know it."""

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


def attach(steps: Sequence[Step], step: Step, error: int) -> str:
    """What the failed *step*, an ``attach`` among *steps*, was about."""
    path = step.s0 or ""
    if error == errno.EXDEV:
        return f'cannot attach a mount at {path}: "{path}" cannot be mounted because it is inside /proc'
    if step.flags & native.FLAGS["real"] and error in (errno.ELOOP, errno.ENOTDIR):
        kind = next((one.s0 for one in steps if one.op == "new_mount" and one.a == step.a), "cgroup")
        return f'cannot attach a mount at {path}: filesystem "{kind}" must be mounted on ordinary directory'
    return f"cannot attach a mount at {path}"
