"""From Docker's Binds, Mounts, Tmpfs and VolumesFrom to mount points, with its rules and in its words.

A mount point is a document with the keys of Docker's MountPoint (Type, Name, Source, Destination, Driver, Mode, RW,
Propagation) and those that say what it takes to mount it:

    Anonymous   it is a volume that nobody gave a name: it goes with its container, if that is asked for
    Copy        an empty volume gets what the image has at its place
    Create      a missing directory of the host is made
    Recursion   of a bind: "" (what is mounted below comes too), "disabled"; of a read-only one also "writable" (what
                is mounted below stays writable) and "readonly" (it must not)
    Subpath     the directory of the volume that is shown
    Tmpfs       the options of a tmpfs

Source: Docker Engine API v1.51, HostConfig and MountPoint; dockerd's answers, tests/fixtures/docker/mounts.txt.
"""

from pyrunc.engine.request import canonical
from pyrunc.errors import InvalidArgument, NotFound, Unsupported

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Point = dict[str, Any]

_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
# Of each kind one word at most. The labels of SELinux and the words about consistency are taken and mean nothing.
_MODES = (("rw", "ro"), ("z", "Z"), _PROPAGATION, ("nocopy",), ("consistent", "cached", "delegated"))
_TMPFS_KEYS = frozenset(("", "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))
_TMPFS_FLAGS = frozenset(
    ("defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "mand",
     "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
     "remount", "bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable",
     "runbindable")
)  # fmt: skip


def bind(spec: str, driver: str = "") -> "Point":
    """The mount point of one of Binds: ``source:target[:mode]``. Raises InvalidArgument, NotFound for the *driver*."""
    fields = spec.split(":", 2)
    if spec.count(":") > 2 or len(fields) < 2 or not fields[0]:
        raise InvalidArgument(f"invalid volume specification: '{spec}'")
    if len(fields) == 2 and _is_mode(fields[1]):
        raise InvalidArgument(f"invalid volume specification: '{spec}'")
    source, target, mode = [*fields, ""][:3]
    if not _is_mode(mode):
        raise InvalidArgument(f"invalid mode: {mode}")
    words = mode.split(",")
    mount: dict[str, Any] = {
        "Type": "bind" if source.startswith("/") else "volume", "Source": source, "Target": target,
        "ReadOnly": "ro" in words,
    }  # fmt: skip
    propagation = [word for word in words if word in _PROPAGATION]
    if propagation:
        mount["BindOptions"] = {"Propagation": propagation[0]}
    if "nocopy" in words:
        mount["VolumeOptions"] = {"NoCopy": True}
    try:
        found = mounted(mount)
    except InvalidArgument as exc:
        raise InvalidArgument(f"invalid volume specification: '{spec}': {exc}") from exc
    found["Mode"] = mode
    if found["Type"] == "bind":
        found["Create"] = True
    else:
        found["Mode"] = mode or "z"
        check_driver(found["Name"], driver)
    return found


def mounted(mount: "Mapping[str, Any]") -> "Point":
    """The mount point of one of Mounts. Raises InvalidArgument, NotFound, Unsupported."""
    kind = mount.get("Type") or ""
    target, source = mount.get("Target") or "", mount.get("Source") or ""

    def wrong(words: str) -> InvalidArgument:
        return InvalidArgument(f'invalid mount config for type "{kind}": {words}')

    if kind == "image":
        raise Unsupported(
            f'invalid mount config for type "image": an image is not mounted in another; {source}'
        )
    if kind not in ("bind", "volume", "tmpfs"):
        raise wrong("mount type unknown")
    if not target:
        raise wrong("field Target must not be empty")
    try:
        check_target(target)
    except InvalidArgument as exc:
        raise wrong(str(exc)) from exc
    for field, of in (("BindOptions", "bind"), ("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs")):
        if mount.get(field) is not None and kind != of:
            raise wrong(f"field {field} must not be specified")
    found: Point = {
        "Type": kind, "Destination": canonical(target), "Mode": "", "RW": not mount.get("ReadOnly"), "Propagation": "",
        "Source": "",
    }  # fmt: skip
    if kind == "bind":
        found |= _bind_options(mount, source, wrong)
    elif kind == "volume":
        found |= _volume_options(mount, source, wrong)
    else:
        if source:
            raise wrong("field Source must not be specified")
        found["Tmpfs"] = _tmpfs_options(mount.get("TmpfsOptions") or {}, wrong)
    return found


def _bind_options(mount: "Mapping[str, Any]", source: str, wrong: "Any") -> "Point":
    options = mount.get("BindOptions") or {}
    propagation = options.get("Propagation") or ""
    if not source:
        raise wrong("field Source must not be empty")
    if propagation not in ("", *_PROPAGATION):
        raise wrong(f"invalid propagation mode: {propagation}")
    if not source.startswith("/"):
        raise wrong(f"invalid mount path: '{source}' mount path must be absolute")
    recursion = ""
    for key, word in (
        ("NonRecursive", "disabled"), ("ReadOnlyNonRecursive", "writable"), ("ReadOnlyForceRecursive", "readonly")
    ):  # fmt: skip
        if options.get(key):
            if recursion:
                raise wrong(
                    "only one of NonRecursive, ReadOnlyNonRecursive and ReadOnlyForceRecursive is possible"
                )
            recursion = word
    return {
        "Source": canonical(source), "Propagation": propagation or "rprivate", "Recursion": recursion,
        "Create": bool(options.get("CreateMountpoint")),
    }  # fmt: skip


def _volume_options(mount: "Mapping[str, Any]", source: str, wrong: "Any") -> "Point":
    options = mount.get("VolumeOptions") or {}
    subpath = options.get("Subpath") or ""
    if not source and mount.get("ReadOnly"):
        raise wrong("must not set ReadOnly mode when using anonymous volumes")
    if subpath:
        if not source:
            raise wrong("must not set Subpath when using anonymous volumes")
        if subpath.startswith("/") or canonical(subpath).startswith(".."):
            raise wrong("subpath must be a relative path within the volume")
    driver = options.get("DriverConfig") or {}
    check_driver(source, driver.get("Name") or "")
    return {
        "Name": source, "Driver": "local", "Mode": "z", "Anonymous": not source, "Subpath": subpath,
        "Copy": not options.get("NoCopy"), "Labels": dict(options.get("Labels") or {}),
        "Options": dict(driver.get("Options") or {}),
    }  # fmt: skip


def _tmpfs_options(options: "Mapping[str, Any]", wrong: "Any") -> str:
    size, mode = options.get("SizeBytes") or 0, options.get("Mode") or 0
    if size < 0:
        raise wrong("size must not be negative")
    found = [f"size={size}"] * bool(size) + [f"mode={mode:o}"] * bool(mode)
    for option in options.get("Options") or ():
        found.append("=".join(option))
        check_tmpfs(found[-1])
    return ",".join(found)


def anonymous(path: str) -> "Point":
    """The mount point of one of a config's Volumes. Raises InvalidArgument where there can be none."""
    target = canonical(path if path.startswith("/") else f"/{path}")
    words = ""
    if target == "/":
        words = "destination can't be '/'"
    elif target == "/proc" or target.startswith("/proc/"):
        words = "it is inside /proc"  # the image would decide what its programs take for the kernel's word
    if words:
        raise InvalidArgument(f"invalid volume specification: '{path}': invalid mount path: {words}")
    return {
        "Type": "volume", "Name": "", "Source": "", "Driver": "local", "Destination": target, "Mode": "", "RW": True,
        "Propagation": "", "Anonymous": True, "Copy": True,
    }  # fmt: skip


def volumes_from(spec: str) -> tuple[str, bool]:
    """The container of ``container[:mode]``, and whether it may be written to what it has. Raises InvalidArgument."""
    if not spec:
        raise InvalidArgument("volumes-from specification cannot be an empty string")
    container, colon, mode = spec.partition(":")
    words = mode.split(",")
    if colon and (not _is_mode(mode) or any(word in ("nocopy", *_PROPAGATION) for word in words)):
        raise InvalidArgument(f"invalid mode: {mode}")
    return container, "ro" not in words


def tmpfs(path: str, options: str) -> str:
    """Where one of Tmpfs is mounted. Raises InvalidArgument."""
    check_target(path)
    for option in options.split(","):
        check_tmpfs(option)
    return canonical(path)


def check_target(target: str) -> None:
    """Raise InvalidArgument for what is no place below the root."""
    if canonical(target) == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")


def check_tmpfs(option: str) -> None:
    """Raise InvalidArgument for what is no option of a tmpfs."""
    key, equals, value = option.partition("=")
    if option in _TMPFS_FLAGS or key in _TMPFS_KEYS:
        return
    words = f'"{key}" "{value}"' if equals else f'"{key}"'
    raise InvalidArgument(f"invalid tmpfs option [{words}]")


def check_driver(name: str, driver: str) -> None:
    """Raise NotFound for a driver of volumes that does not exist."""
    if driver not in ("", "local"):
        raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')


def _is_mode(mode: str) -> bool:
    if not mode:
        return True
    words = mode.split(",")
    known = [word for kind in _MODES for word in kind]
    return all(word in known for word in words) and all(
        sum(word in kind for word in words) <= 1 for kind in _MODES
    )
