"""The OCI spec that a container gets unless told otherwise: Docker's defaults.

Source: what `docker run` asks of its runtime (Engine API v1.51, HostConfig), with a private
cgroup namespace and no network, since pyrunc has none yet.
"""

from __future__ import annotations

import os

from pyrunc.records import lru_cache

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
    "CAP_AUDIT_WRITE",
)  # fmt: skip
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TERM = "xterm"  # of a program with a terminal
SHM_BYTES = 64 << 20
_CPUS = "/sys/devices/system/cpu"
NAMESPACES = ("mount", "pid", "network", "ipc", "uts", "cgroup")


@lru_cache(maxsize=None)
def masked_paths() -> tuple[str, ...]:
    """MASKED_PATHS, and the thermal counters of each CPU where the kernel has them: they tell of the host's load."""
    found = []
    if os.path.exists(f"{_CPUS}/cpu0/thermal_throttle"):
        names = (name for name in os.listdir(_CPUS) if name[:3] == "cpu" and name[3:].isdigit())
        found = [f"{_CPUS}/{name}/thermal_throttle" for name in sorted(names)]
    return (*MASKED_PATHS, *found)


def mounts(shm_bytes: int = SHM_BYTES) -> list[dict[str, Any]]:
    """The kernel's own file systems, where Docker mounts them; /dev/shm holds *shm_bytes*."""
    plain = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*plain, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*plain, "ro"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": [*plain, "mode=1777", f"size={shm_bytes}"]},
    ]  # fmt: skip
