"""Which kernel parameters a document may set, and where in procfs they are."""

from __future__ import annotations

import os

from pyrunc.errors import InvalidSpec

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping

_LINKS = {"network": "net", "mount": "mnt"}  # whose name in /proc is another
_IPC = frozenset((
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
    "kernel.shm_rmid_forced",
))  # fmt: skip


def place(key: str, namespaces: Mapping[str, str]) -> str:
    """Where in procfs *key* is, if one of the container's *namespaces* (kind -> path, "" for a new one) owns it.

    As in sysctl(8), whichever of "." and "/" comes first separates, and the other is part of a name.
    Raises InvalidSpec, in runc's words, for what would be set for the host.
    Source: OCI runtime-spec config-linux.md "Sysctl"; sysctl(8).
    """
    slash, dot = key.find("/"), key.find(".")
    path = key if 0 <= slash < dot or dot < 0 else key.translate({46: "/", 47: "."})
    name = path.translate({46: "/", 47: "."})
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidSpec(f'linux.sysctl: sysctl "{key}" is not in a separate kernel namespace')
    if name in _IPC or name.startswith("fs.mqueue."):
        if not separate("ipc", namespaces):
            raise InvalidSpec(f'linux.sysctl: sysctl "{key}" is not allowed in the hosts ipc namespace')
    elif name.startswith("net."):
        if not separate("network", namespaces):
            raise InvalidSpec(f'linux.sysctl: sysctl "{key}" not allowed in host network namespace')
    elif name == "kernel.hostname" and "uts" in namespaces:
        raise InvalidSpec(
            f'linux.sysctl: sysctl "{key}" is not allowed as it conflicts with the OCI "hostname" field'
        )
    elif name != "kernel.domainname" or not separate("uts", namespaces):
        raise InvalidSpec(f'linux.sysctl: sysctl "{key}" is not in a separate kernel namespace')
    return f"sys/{path}"


def separate(kind: str, namespaces: Mapping[str, str]) -> bool:
    """Whether the container has another namespace of this kind than this process."""
    if kind not in namespaces:
        return False
    return not namespaces[kind] or not is_own(kind, namespaces[kind])


def is_own(kind: str, path: str) -> bool:
    """Whether *path* is this process's own namespace; raises InvalidSpec if there is none."""
    try:
        return os.path.samefile(path, f"/proc/self/ns/{_LINKS.get(kind, kind)}")
    except OSError as exc:
        raise InvalidSpec(f"linux.namespaces: {path}: {os.strerror(exc.errno or 0).lower()}") from exc
