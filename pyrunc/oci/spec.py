"""`spec`: write a config.json to start from, the one that `runc spec` writes."""

from __future__ import annotations

import os

from pyrunc.oci import go_json
from pyrunc.oci.log import Failure, reason
from pyrunc.oci.usage import SPEC_VERSION

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log

_FILE = "config.json"
_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_SETS = ("bounding", "effective", "permitted", "ambient")
_FOR_DEVICES = ("nosuid", "strictatime", "mode=755", "size=65536k")
_FOR_TERMINALS = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
_FOR_SHM = ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")
_QUIET = ("nosuid", "noexec", "nodev")
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Write the file into the bundle of --bundle, or into the current directory; an existing one is left alone."""
    bundle = command.text("bundle")
    if bundle:
        try:
            os.chdir(bundle)
        except OSError as error:
            raise Failure(f"chdir {bundle}: {reason(error)}") from None
    text = go_json.indented(document(rootless=command.flag("rootless")), "\t")
    try:
        with open(_FILE, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(f"File {_FILE} exists. Remove it first") from None
    except OSError as error:
        raise Failure(f"open {_FILE}: {reason(error)}") from None
    return 0


def document(*, rootless: bool = False) -> dict[str, Any]:
    """The document; with *rootless* one that an unprivileged user can run, as their own root.

    Source: OCI config.md.
    """
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(_CAPABILITIES) for name in _SETS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": _mounts(rootless),
        "linux": _linux(rootless),
    }


def _mounts(rootless: bool) -> list[dict[str, Any]]:
    # gid 5 is not mapped where only one's own group is.
    terminals = _FOR_TERMINALS if rootless else (*_FOR_TERMINALS, "gid=5")
    sys = _mount("/sys", "sysfs", "sysfs", (*_QUIET, "ro"))
    if rootless:
        # A sysfs of one's own needs a network namespace of one's own.
        sys = _mount("/sys", "none", "/sys", ("rbind", *_QUIET, "ro"))
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        _mount("/dev", "tmpfs", "tmpfs", _FOR_DEVICES),
        _mount("/dev/pts", "devpts", "devpts", terminals),
        _mount("/dev/shm", "tmpfs", "shm", _FOR_SHM),
        _mount("/dev/mqueue", "mqueue", "mqueue", _QUIET),
        sys,
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", (*_QUIET, "relatime", "ro")),
    ]


def _mount(destination: str, kind: str, source: str, options: tuple[str, ...]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _linux(rootless: bool) -> dict[str, Any]:
    names = ("pid", "ipc", "uts", "mount", "user") if rootless else ("pid", "network", "ipc", "uts", "mount")
    found: dict[str, Any]
    if rootless:
        found = {
            "uidMappings": [{"containerID": 0, "hostID": os.geteuid(), "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": os.getegid(), "size": 1}],
        }
    else:
        found = {"resources": {"devices": [{"allow": False, "access": "rwm"}]}}
    found["namespaces"] = [{"type": name} for name in names]
    if _only_v2():
        # As runc 1.2 does: with v1 the namespace was left out for the sake of older kernels.
        found["namespaces"].append({"type": "cgroup"})
    found["maskedPaths"] = list(_MASKED)
    found["readonlyPaths"] = list(_READ_ONLY)
    return found


def _only_v2() -> bool:
    from pyrunc.runtime.cgroup_layout import detect

    return detect().mode == "v2"
