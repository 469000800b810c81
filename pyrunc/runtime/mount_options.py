"""Mount options, as OCI and mount(8) write them, in the terms of the mount API."""

from typing import NamedTuple

RDONLY, NOSUID, NODEV, NOEXEC = 0x1, 0x2, 0x4, 0x8
NOATIME, STRICTATIME, ATIME_MASK = 0x10, 0x20, 0x70
NODIRATIME, NOSYMFOLLOW = 0x80, 0x200000
IDMAP = 0x100000

MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_REC = 16384

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
    "defaults": (0, RDONLY | NOSUID | NODEV | NOEXEC),
}  # fmt: skip
_PROPAGATION = {
    "private": MS_PRIVATE, "shared": MS_SHARED, "slave": MS_SLAVE, "unbindable": MS_UNBINDABLE,
}  # fmt: skip
# Flags of the superblock: what fsconfig(2) knows by these names, and their opposites, which are the default.
_SUPERBLOCK = frozenset({"sync", "dirsync", "lazytime", "mand"})
_SUPERBLOCK_OFF = frozenset({"async", "nolazytime", "nomand", "loud", "silent", "iversion", "noiversion"})


class MountOptions(NamedTuple):
    """What the options of one mount say.

    *attr_set* and *attr_clear* go to the mount itself, *rec_set* and *rec_clear* to all below
    it too; *propagation* is an MS_ flag or 0, *rec_propagation* whether it is recursive;
    *data* are the file system's own options; *idmap* is "", "idmap" or "ridmap".
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


def parse(options: list[str]) -> MountOptions:
    """Sort the options of one OCI mount; the later of two that contradict each other wins.

    Source: OCI runtime-spec config.md "Mounts" (Linux mount options), mount_setattr(2).
    """
    bind = recursive = rec_propagation = copy_up = False
    attr_set = attr_clear = rec_set = rec_clear = propagation = 0
    data: list[tuple[str, str]] = []
    idmap = ""
    for option in options:
        if option in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option]
            attr_set, attr_clear = attr_set & ~off | on, attr_clear & ~on | off
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES and option[1:] != "defaults":
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
        elif option in _SUPERBLOCK:
            data.append((option, ""))
        elif option not in _SUPERBLOCK_OFF:
            key, _, value = option.partition("=")
            data.append((key, value))
    return MountOptions(
        bind, recursive, attr_set, attr_clear, rec_set, rec_clear, propagation, rec_propagation, tuple(data),
        idmap, copy_up,
    )  # fmt: skip
