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
# and what fstab(5) says to mount(8) alone.
_NO_EFFECT = frozenset({"loud", "silent", "iversion", "noiversion", "auto", "noauto", "nouser", "_netdev"})
# mount(8) lets these imply others, unless what follows says otherwise.
_IMPLIED = {
    "user": NOEXEC | NOSUID | NODEV, "users": NOEXEC | NOSUID | NODEV, "owner": NOSUID | NODEV, "group": NOSUID | NODEV,
}  # fmt: skip
# mount(8) acts on these itself, in ways that would be missed if they were passed over like a comment.
_REFUSED = (
    "remount",
    "move",
    "X-mount.subdir",
    "X-mount.owner",
    "X-mount.group",
    "X-mount.mode",
    "X-mount.idmap",
)


class MountOptions(NamedTuple):
    """What the options of one mount say.

    *attr_set* and *attr_clear* go to the mount itself, *rec_set* and *rec_clear* to all below
    it too; *propagation* is an MS_ flag or 0, *rec_propagation* whether it is recursive;
    *data* are the file system's own options; *idmap* is "", "idmap" or "ridmap"; *no_fail* passes over a
    source that does not exist.
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


def parse(options: Sequence[Any], field: str = "options") -> MountOptions:
    """Sort the options of one OCI mount; the later of two that contradict each other wins.

    Raises InvalidSpec for what is no option and Unsupported for one that mount(8) knows and this does not; both
    begin with *field*.
    Source: OCI runtime-spec config.md "Mounts" (Linux mount options), mount(8) "FILESYSTEM-INDEPENDENT MOUNT
    OPTIONS", mount_setattr(2).
    """
    bind = recursive = rec_propagation = copy_up = no_fail = False
    attr_set = attr_clear = rec_set = rec_clear = propagation = 0
    data: list[tuple[str, str]] = []
    idmap = ""
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
        elif option in _OPPOSITE:
            data = [pair for pair in data if pair[0] != _OPPOSITE[option]]
        elif option.partition("=")[0] in _REFUSED:
            raise Unsupported(f"{field}: {option!r} is not supported")
        elif option in _SUPERBLOCK:
            data.append((option, ""))
        elif option not in _NO_EFFECT and option[:2] not in ("x-", "X-"):
            key, _, value = option.partition("=")
            if len(value.encode("utf-8", "surrogateescape")) > _FSCONFIG_MAX or not key:
                raise InvalidSpec(
                    f"{field}: {option[:64]!r} is no mount option of at most {_FSCONFIG_MAX} bytes"
                )
            data.append((key, value))
    return MountOptions(
        bind, recursive, attr_set, attr_clear, rec_set, rec_clear, propagation, rec_propagation, tuple(data),
        idmap, copy_up, no_fail,
    )  # fmt: skip
