"""What a volume may be called, and what the driver "local" is told: Docker's type, o and device."""

from pyrunc.errors import InvalidArgument, Unsupported
from pyrunc.runtime.options import Mount

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_REST = _FIRST | frozenset("_.-")
_KNOWN = ("type", "o", "device", "size")
_NEEDED = {"type": ("device",), "device": ("type",), "o": ("device", "type")}
_NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "fuse.sshfs", "glusterfs"))


def check_name(name: str) -> None:
    """Raise InvalidArgument, in Docker's words, if no volume can be called *name*."""
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not name or name[0] not in _FIRST or not _REST.issuperset(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only'
            ' "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def check(name: str, options: "Mapping[str, str]") -> None:
    """Raise InvalidArgument or Unsupported if the volume *name* cannot have these *options*."""
    for key in options:
        if key not in _KNOWN:
            raise InvalidArgument(f'create {name}: invalid option: "{key}"')
    for key in _KNOWN:
        for needed in _NEEDED.get(key, ()) if key in options else ():
            if needed not in options:
                raise InvalidArgument(f'create {name}: missing required option: "{needed}"')
    if "size" in options:
        raise InvalidArgument(f"create {name}: quota size requested but no quota support")
    if options.get("type") in _NETWORK:
        raise Unsupported(
            f"create {name}: type {options['type']}: file systems of the network are not mounted; mount it on"
            " the host and bind that directory"
        )


def is_bind(options: "Mapping[str, str]") -> bool:
    """Whether the volume is another directory of the host."""
    return "bind" in _words(options) or "rbind" in _words(options)


def is_mounted(options: "Mapping[str, str]") -> bool:
    """Whether the volume is anything else than a directory of its own."""
    return bool(options.get("type"))


def mount_of(options: "Mapping[str, str]", target: str, more: "Sequence[str]") -> Mount:
    """The mount of a volume with *options* at *target*; *more* are what the container wants of it."""
    if is_bind(options):
        words = [word for word in _words(options) if word != "bind"]
        return Mount(target, options["device"], "bind", (*(words or ("rbind",)), *more))
    # What a bind of it would be told is not what a file system is.
    own = [word for word in more if word not in ("rbind", "bind")]
    own = ["ro" if word == "rro" else word for word in own]
    return Mount(target, options.get("device") or "none", options["type"], (*_words(options), *own))


def _words(options: "Mapping[str, str]") -> "list[str]":
    return [word for word in options.get("o", "").split(",") if word]
