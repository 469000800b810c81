"""Mount options, as OCI and mount(8) write them, in the terms of the mount API."""

from __future__ import annotations

from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

RDONLY, NOSUID, NODEV, NOEXEC = 0x1, 0x2, 0x4, 0x8
NOATIME, STRICTATIME, ATIME_MASK = 0x10, 0x20, 0x70
NODIRATIME, NOSYMFOLLOW = 0x80, 0x200000
IDMAP = 0x100000

MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_REC = 16384
_FSCONFIG_MAX = 255

# option -> (bits set, bits cleared)
_ATTRIBUTES = {
    "ro": (RDONLY, 0), "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0), "suid": (0, NOSUID),
    "nodev": (NODEV, 0), "dev": (0, NODEV),
    "noexec": (NOEXEC, 0), "exec": (0, NOEXEC),
    "noatime": (NOATIME, ATIME_MASK), "atime": (0, ATIME_MASK),
    "strictatime": (STRICTATIME, ATIME_MASK), "nostrictatime": (0, ATIME_MASK),
    "relatime": (0, ATIME_MASK), "norelatime": (STRICTATIME, ATIME_MASK),
    "nodiratime": (NODIRATIME, 0), "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0), "symfollow": (0, NOSYMFOLLOW),
}  # fmt: skip
_PROPAGATION = {
    "private": MS_PRIVATE, "shared": MS_SHARED, "slave": MS_SLAVE, "unbindable": MS_UNBINDABLE,
}  # fmt: skip
# Flags of the superblock, which fsconfig(2) knows by these names, and their opposites, the default.
_SUPERBLOCK = frozenset({"sync", "dirsync", "lazytime", "mand"})
_OPPOSITE = {"async": "sync", "nolazytime": "lazytime", "nomand": "mand"}
# What says nothing to this kernel: how loud it is, and i_version, which each file system now decides itself (5.17);
# and what fstab(5) says to mount(8) alone, for whose own programs and comments the others are.
_NO_EFFECT = frozenset(
    {"acl", "noacl", "loud", "silent", "iversion", "noiversion", "auto", "noauto", "nouser", "_netdev"}
)
_COMMENTS = frozenset({"comment", "helper", "uhelper"})
# mount(8) lets these imply others, unless what follows says otherwise.
_IMPLIED = {
    "user": NOEXEC | NOSUID | NODEV, "users": NOEXEC | NOSUID | NODEV, "owner": NOSUID | NODEV, "group": NOSUID | NODEV,
}  # fmt: skip
# mount(8) acts on these itself, in ways that would be missed if they were passed over like a comment.
_REFUSED = {
    "move": "makes no sense in a document: the entry that mounts it can name the destination",
    "loop": "is not supported: it needs a loop device, which the container would leave behind",
} | dict.fromkeys(("offset", "sizelimit", "encryption"), "is not supported: it is about a loop device")
_LAYERS = ("recursive", "vfs", "fs")
_SELINUX = frozenset({"context", "fscontext", "defcontext", "rootcontext", "seclabel"})


class MountOptions(NamedTuple):
    """What the options of one mount say.

    *attr_set* and *attr_clear* go to the mount itself, *rec_set* and *rec_clear* to all below
    it too; *propagation* is an MS_ flag or 0, *rec_propagation* whether it is recursive;
    *data* are the file system's own options; *idmap* is "", "idmap" or "ridmap"; *no_fail* passes over a
    source that does not exist. *remount* changes what is mounted there already. The others are mount(8)'s X-mount.*:
    *mkdir* is the mode of a missing mount point, *owner*, *group* (a name or number, or "") and *mode* (-1: as it
    is) are given to the mount's root, *subdir* is shown in place of that root, and *maps* (of users, of groups) or
    the user namespace *userns* say how owners are shown; and one that mount(8) lacks: the source is a *detached* mount,
    of whatever namespace, which is itself attached and not bound.
    """

    bind: bool
    recursive: bool
    attr_set: int
    attr_clear: int
    rec_set: int
    rec_clear: int
    propagation: int
    rec_propagation: bool
    data: tuple[tuple[str, str], ...]
    idmap: str
    copy_up: bool
    no_fail: bool
    remount: bool = False
    mkdir: int = 0o755
    owner: str = ""
    group: str = ""
    mode: int = -1
    subdir: str = ""
    maps: tuple[str, str] = ("", "")
    userns: str = ""
    detached: bool = False

    @property
    def owned(self) -> bool:
        """Whether the mount's root gets an owner or a mode."""
        return bool(self.owner or self.group or self.mode >= 0)

    @property
    def mapped(self) -> bool:
        """Whether owners are shown in a way that the options themselves say."""
        return bool(self.maps[0] or self.userns)


def parse(options: Sequence[Any], field: str = "options") -> MountOptions:
    """Sort the options of one OCI mount; the later of two that contradict each other wins.

    Raises InvalidSpec for what is no option and Unsupported for one that mount(8) knows and this does not; both
    begin with *field*.
    Source: OCI runtime-spec config.md "Mounts" (Linux mount options), mount(8) "FILESYSTEM-INDEPENDENT MOUNT
    OPTIONS", mount_setattr(2).
    """
    bind = recursive = rec_propagation = copy_up = no_fail = remount = False
    attr_set = attr_clear = rec_set = rec_clear = propagation = 0
    data: list[tuple[str, str]] = []
    idmap = ""
    special: dict[str, Any] = {}
    if not isinstance(options, list | tuple):
        raise InvalidSpec(f"{field}: must be a list, not {options!r}")
    for option in options:
        if not isinstance(option, str) or not option or "\0" in option:
            raise InvalidSpec(f"{field}: {option!r} is no mount option")
        if option in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option]
            attr_set, attr_clear = attr_set & ~off | on, attr_clear & ~on | off
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option[1:]]
            rec_set, rec_clear = rec_set & ~off | on, rec_clear & ~on | off
        elif option in _PROPAGATION:
            propagation, rec_propagation = _PROPAGATION[option], False
        elif option[:1] == "r" and option[1:] in _PROPAGATION:
            propagation, rec_propagation = _PROPAGATION[option[1:]], True
        elif option in ("bind", "rbind"):
            bind, recursive = True, option == "rbind"
        elif option in ("idmap", "ridmap"):
            idmap = option
        elif option == "tmpcopyup":
            copy_up = True
        elif option == "defaults":
            # rw, suid, dev, exec: what a new mount has, and a bind's source may have or not
            attr_set &= ~(RDONLY | NOSUID | NODEV | NOEXEC)
        elif option in _IMPLIED:
            attr_set |= _IMPLIED[option]
            attr_clear &= ~_IMPLIED[option]
        elif option == "nofail":
            no_fail = True
        elif option == "remount":
            remount = True
        elif option[1:].startswith("-mount.") and option[0] in "xX":
            special |= _special(option[8:], f"{field}: {option[:64]!r}")
        elif _layer(option) in _LAYERS:
            # mount(8) since 2.39: which of the layers that could have it
            name, _, layer = option.partition("=")
            on, off = _ATTRIBUTES[name]
            if layer == "recursive":
                rec_set, rec_clear = rec_set & ~off | on, rec_clear & ~on | off
            elif layer == "vfs":
                attr_set, attr_clear = attr_set & ~off | on, attr_clear & ~on | off
            else:
                data.append((name, ""))
        elif option in _OPPOSITE:
            data = [pair for pair in data if pair[0] != _OPPOSITE[option]]
        elif option.partition("=")[0] in _REFUSED or option.startswith("verity."):
            reason = _REFUSED.get(
                option.partition("=")[0], "is not supported: it needs a device of dm-verity"
            )
            raise Unsupported(f"{field}: {option[:64]!r} {reason}")
        elif option in _SUPERBLOCK:
            data.append((option, ""))
        elif option not in _NO_EFFECT and option[:2] not in ("x-", "X-"):
            key, _, value = option.partition("=")
            if not fits(value) or not key:
                raise InvalidSpec(
                    f"{field}: {option[:64]!r} is no mount option of at most {_FSCONFIG_MAX} bytes"
                )
            if key in _SELINUX and "selinuxfs" not in _file_systems():
                raise Unsupported(f"{field}: {option[:64]!r} needs SELinux, which is off on this host")
            if key not in _COMMENTS:
                data.append((key, value))
    return MountOptions(
        bind, recursive, attr_set, attr_clear, rec_set, rec_clear, propagation, rec_propagation, tuple(data),
        idmap, copy_up, no_fail, remount, **special,
    )  # fmt: skip


def names() -> list[str]:
    """The options that need no file system to know them, but for those with a value."""
    both = (*_ATTRIBUTES, *_PROPAGATION)
    special = ("bind", "rbind", "idmap", "ridmap", "tmpcopyup", "defaults", "nofail", "remount")
    return [
        *both, *(f"r{name}" for name in both), *special, *_SUPERBLOCK, *_OPPOSITE, *_NO_EFFECT, *_IMPLIED,
    ]  # fmt: skip


def fits(value: str) -> bool:
    """Whether fsconfig(2) takes *value*."""
    return len(value.encode("utf-8", "surrogateescape")) <= _FSCONFIG_MAX


def needs_device(kind: str) -> bool:
    """Whether file systems of this *kind* are on a device or in a file; False for one that the kernel does not know."""
    return _file_systems().get(kind, False)


def _file_systems() -> dict[str, bool]:
    """Those that the kernel knows; source: proc(5), /proc/filesystems."""
    with open("/proc/filesystems", encoding="ascii") as file:
        return {name.strip(): not nodev for nodev, _, name in (line.partition("\t") for line in file)}


def _layer(option: str) -> str:
    """The argument of ``ro=recursive``; "" for what has no such argument."""
    name, _, layer = option.partition("=")
    if layer in ("vfs", "fs") and name not in ("ro", "rw"):
        return ""
    return layer if name in _ATTRIBUTES else ""


def _special(option: str, shown: str) -> dict[str, Any]:
    """What an option of mount(8)'s own, without its "X-mount.", says; nothing for those that need no act here.

    These are auto-fstypes, since a type is never guessed; noloop, since no loop device is ever made; and
    nocanonicalize, since no path is rewritten.
    """
    name, _, value = option.partition("=")
    if name in ("mkdir", "mode"):
        if name == "mkdir" and not value:
            return {}
        if not 0 < len(value) < 6 or value.strip("01234567") or int(value, 8) > 0o7777:
            raise InvalidSpec(f"{shown} needs a mode in octal digits")
        return {name: int(value, 8)}
    if name in ("owner", "group"):
        if not value:
            raise InvalidSpec(f"{shown} needs a name or a number")
        return {name: value}
    if name == "detached":
        return {name: True}
    if name == "subdir":
        parts = [part for part in value.split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            raise InvalidSpec(f"{shown} needs a path without '..'")
        return {name: "/" + "/".join(parts)}
    if name == "idmap":
        if value.startswith("/"):
            return {"userns": value, "maps": ("", "")}
        return {"maps": _id_maps(value, shown), "userns": ""}
    return {}


def _id_maps(value: str, shown: str) -> tuple[str, str]:
    """``[u:|g:|b:]id-mount:id-host:id-range ...`` as the kernel wants it; mount(8) writes the numbers in this order."""
    maps = {"u": "", "g": ""}
    for row in value.split():
        kind, _, numbers = row.partition(":")
        if kind not in ("u", "g", "b"):
            kind, numbers = "b", row
        fields = numbers.split(":")
        if len(fields) != 3 or not all(
            part.isascii() and part.isdigit() and len(part) < 11 for part in fields
        ):
            raise InvalidSpec(f"{shown} needs mappings such as 0:100000:65536, not {row!r}")
        if any(int(part) > 0xFFFFFFFF for part in fields) or int(fields[2]) == 0:
            raise InvalidSpec(f"{shown}: {row!r} is out of range")
        for one in kind.replace("b", "ug"):
            maps[one] += " ".join(str(int(part)) for part in fields) + "\n"
    if not maps["u"] or not maps["g"]:
        raise InvalidSpec(f"{shown} needs a mapping of users and one of groups")
    return maps["u"], maps["g"]
