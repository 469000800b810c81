"""Capabilities of a Sandbox, and what `privileged` adds: Docker's rules."""

from __future__ import annotations

import os
import stat

from pyrunc.errors import InvalidArgument, Unsupported
from pyrunc.spec import capabilities, defaults

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.runtime.options import SandboxOptions

# What of the host's /dev is never given: other file systems, and what each container has of its own.
_NOT_GIVEN = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"))


def capabilities_of(options: SandboxOptions) -> list[str]:
    """Docker's set with --cap-add and --cap-drop applied, in its order of precedence.

    To add ALL wins over everything but single names to drop; to drop ALL leaves what is added; otherwise
    a name that is both dropped and added is held. Privileged is all of them, whatever is dropped.
    """
    if options.get("privileged"):
        own = own_capabilities()
        return [name for name in capabilities.ALL if name in own]
    add = {_capability(name, "cap_add") for name in options.get("cap_add", ())}
    drop = {_capability(name, "cap_drop") for name in options.get("cap_drop", ())}
    if "CAP_ALL" in add:
        held = own_capabilities() - drop
    elif "CAP_ALL" in drop:
        held = add
    else:
        held = set(defaults.CAPABILITIES) - drop | add
    if add - {"CAP_ALL"} - set(defaults.CAPABILITIES):
        for name in sorted(add - {"CAP_ALL"} - own_capabilities()):
            raise Unsupported(f"cap_add: {name} is not among this process's own capabilities")
    return [name for name in capabilities.ALL if name in held]


def own_capabilities() -> set[str]:
    """What this process holds, and so can pass on."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        bits = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
    return {name for name, number in capabilities.NUMBER.items() if bits >> number & 1}


def _capability(name: str, option: str) -> str:
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full != "CAP_ALL" and full not in capabilities.NUMBER:
        raise InvalidArgument(f"{option}: unknown capability {name!r}")
    return full


def host_devices() -> list[dict[str, Any]]:
    """A node for every device of the host's /dev, as Docker gives them to a privileged container."""
    found = []
    for directory, below, names in os.walk("/dev"):
        below[:] = [name for name in below if name not in _NOT_GIVEN]
        for name in names:
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue  # it went meanwhile
            if name not in _NOT_GIVEN and (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                found.append(node(path, status))
    return found


def node(path: str, status: os.stat_result) -> dict[str, Any]:
    """`linux.devices` of the device *status*, to be at *path*."""
    return {
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev), "path": path,
        "fileMode": status.st_mode & 0o777, "uid": status.st_uid, "gid": status.st_gid,
    }  # fmt: skip
