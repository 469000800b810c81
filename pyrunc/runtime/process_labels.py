"""The labels that AppArmor and SELinux give a program when it is executed, and refusals where neither is there.

Source: OCI runtime-spec config.md "Linux Process"; kernel Documentation/admin-guide/LSM/apparmor.rst, SELinux.rst;
proc_pid_attr(5).
"""

from __future__ import annotations

import os

from pyrunc.errors import InvalidSpec, Unsupported

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"


def apparmor_enabled() -> bool:
    """Whether AppArmor judges the processes of this kernel."""
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def selinux_enabled() -> bool:
    """Whether SELinux judges the processes of this kernel."""
    return os.path.exists(_SELINUX)


def exec_writes(process: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to write to which files of a procfs, as `self`, so that the next execve(2) gives the labels of *process*.

    Raises Unsupported for a label of what this kernel does not have, and InvalidSpec for one that is no line of text.
    """
    writes = []
    profile, label = (_line(process, key) for key in ("apparmorProfile", "selinuxLabel"))
    if profile:
        if not apparmor_enabled():
            raise Unsupported(
                f"process.apparmorProfile: apparmor failed to apply profile {profile!r}: AppArmor is disabled or not "
                "supported"
            )
        writes.append(("self/attr/apparmor/exec", f"exec {profile}"))
    if label:
        if not selinux_enabled():
            raise Unsupported(
                "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported"
            )
        writes.append(("self/attr/exec", label))
    return writes


def check_mount_label(label: object) -> None:
    """Refuse `linux.mountLabel` where there is no SELinux, or a label that a mount option cannot hold."""
    if not label:
        return
    if not selinux_enabled():
        raise Unsupported(
            "linux.mountLabel: mount label is specified in config, but selinux is disabled or not supported"
        )
    if not isinstance(label, str) or '"' in label or "\0" in label:
        raise InvalidSpec(f"linux.mountLabel: must be a label without quotation marks, not {label!r}")


def _line(process: Mapping[str, Any], key: str) -> str:
    value = process.get(key) or ""
    if not isinstance(value, str) or "\0" in value or "\n" in value:
        raise InvalidSpec(f"process.{key}: must be one line, not {value!r}")
    return value
