"""The devices of a plan: the default ones, the document's, and how a user namespace gets them."""

from __future__ import annotations

import os
import stat

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec
from pyrunc.runtime import mount_options as mo
from pyrunc.runtime.compile_host import MAX_ID, checked_number
from pyrunc.runtime.compile_special import SpecialPart, destination_of
from pyrunc.runtime.plan import HOST, INIT

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FLAG = native.FLAGS
_DEVICES = (
    ("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7),
    ("/dev/random", 1, 8), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0),
)  # fmt: skip
_LINKS = (
    ("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0"), ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"), ("/dev/ptmx", "pts/ptmx"),
)  # fmt: skip
BELOW_DEV = ("/dev/pts", "/dev/shm", "/dev/mqueue")
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class DevicePart(SpecialPart):
    """What a plan says of /dev and of devices elsewhere."""

    def _fill_dev(self, slot: int) -> None:
        """The default nodes and links, made in the tmpfs before it is attached: nobody else has seen it."""
        plan = self.plan
        # In a user namespace mknod(2) is refused; there the host's nodes are bound, see _devices.
        for path, major, minor in self._default_devices() if not self.binds_devices else ():
            plan.add(
                "mknod",
                INIT,
                "mounts",
                s0=path[5:],
                a=slot,
                n0=stat.S_IFCHR | 0o666,
                n1=os.makedev(major, minor),
            )
        for path, target in _LINKS:
            plan.add("symlink", INIT, "mounts", s0=path[5:], a=slot, s1=target)
        for place in dict.fromkeys(destination_of(entry) for entry in self.spec.get("mounts") or ()):
            if place in BELOW_DEV:
                plan.add("mkdir", INIT, "mounts", s0=place[5:], a=slot, n0=0o755)

    def _default_devices(self) -> list[tuple[str, int, int]]:
        """The default nodes, but for those that the document wants to be something else."""
        listed = {_path_of(device) for device in self.linux.get("devices") or () if not _is_default(device)}
        return [row for row in _DEVICES if row[0] not in listed]

    def _devices(self) -> None:
        defaults = self._default_devices()
        # As runc has it, what an image has at their paths stays there, whatever it is.
        loose = _FLAG["existing"] | _FLAG["optional"]
        makes = not any(destination_of(entry) == "/dev" for entry in self.spec.get("mounts") or ())
        if self.binds_devices and (self.dev_is_ours or makes):
            for path, major, minor in defaults:
                self._bind_device(path, path, stat.S_IFCHR, os.makedev(major, minor), loose if makes else 0)
        elif makes:
            # A document without a mount at /dev: in the root itself, where an image may have them.
            for path, major, minor in defaults:
                self.plan.add(
                    "mknod", INIT, "devices", s0=path, n0=stat.S_IFCHR | 0o666, n1=os.makedev(major, minor),
                    flags=loose,
                )  # fmt: skip
        if makes:
            for path, target in _LINKS:
                self.plan.add("symlink", INIT, "devices", s0=path, s1=target, flags=loose)
        made = {path for path, _, _ in defaults} if self.dev_is_ours or makes else set()
        # Whoever lists all of the host's devices lists its /dev/ptmx too, which makes terminals of the host.
        made.add("/dev/ptmx")
        for i, device in enumerate(self.linux.get("devices") or ()):
            self._device(device, f"linux.devices[{i}]", made)

    def _bind_device(self, source: str, path: str, kind: int, rdev: int, flags: int = 0) -> None:
        slot = self.plan.slot()
        self.plan.add(
            "open_tree", HOST, "host", a=slot, s0=source, n0=rdev, n1=kind if kind != stat.S_IFCHR else 0,
            flags=_FLAG["chardev"],
        )  # fmt: skip
        # Writing to a device does not mind; chmod(2) by a user that is mapped to its owner changed the host's node.
        self.plan.add("mount_attr", HOST, "host", a=slot, n0=mo.RDONLY | mo.NOSUID | mo.NOEXEC)
        self.plan.add(
            "attach", INIT, "devices", a=slot, s0=path, flags=flags | _FLAG["file"] | _FLAG["create"]
        )

    def _device(self, device: Mapping[str, Any], field: str, made: set[str]) -> None:
        """One node; a fifo belongs to nobody, so that a user namespace's root can make it too.

        Source: OCI runtime-spec config-linux.md "Devices": what is there already must be the same.
        """
        kind = _KINDS.get(device.get("type", ""))
        path = _path_of(device)
        if kind is None:
            raise InvalidSpec(f"{field}.type: unknown device type {device.get('type')!r}")
        if not path.startswith("/") or path == "/":
            raise InvalidSpec(f"{field}.path: must be absolute, not {device.get('path')!r}")
        major, minor = (
            checked_number(device.get(key) or 0, f"{field}.{key}", high)
            for key, high in (("major", 0xFFF), ("minor", 0xFFFFF))
        )
        uid, gid = (checked_number(device.get(key) or 0, f"{field}.{key}", MAX_ID) for key in ("uid", "gid"))
        given = device.get("fileMode")
        mode = checked_number(0o666 if given is None else given, f"{field}.fileMode", 0xFFFFFFFF) & 0o7777
        if path in made:
            return
        rdev = 0 if kind == stat.S_IFIFO else os.makedev(major, minor)
        if self.binds_devices and kind != stat.S_IFIFO:
            self._bind_device(path, path, kind, rdev)
            return
        made.add(path)
        self.plan.add(
            "mknod",
            INIT,
            "devices",
            s0=path,
            n0=kind | mode,
            n1=rdev,
            n2=uid << 32 | gid,
            flags=_FLAG["existing"],
        )


def _path_of(device: Mapping[str, Any]) -> str:
    return os.path.normpath(device.get("path") or "")


def _is_default(device: Mapping[str, Any]) -> bool:
    """Whether an entry says what a default device is anyway."""
    mode = device.get("fileMode")
    return (
        (_path_of(device), device.get("major"), device.get("minor")) in _DEVICES
        and device.get("type") in ("c", "u")
        and (mode is None or (isinstance(mode, int) and mode & 0o7777 == 0o666))
        and not device.get("uid")
        and not device.get("gid")
    )
