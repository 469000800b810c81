"""Which cgroup hierarchies this host has, read from mountinfo.

| mode   | what is mounted                                               | example                   |
|--------|---------------------------------------------------------------|---------------------------|
| v1     | controllers on cgroup v1 only                                 | old distributions         |
| hybrid | controllers on cgroup v1, and a v2 hierarchy beside them      | systemd's hybrid mode     |
| v2     | a v2 hierarchy; of v1 at most named hierarchies               | distributions since 2021  |
| none   | nothing                                                       | a bare chroot             |

Source: cgroups(7); proc_pid_mountinfo(5); kernel Documentation/admin-guide/cgroup-v2.rst, "Mounting".
"""

from __future__ import annotations

from pyrunc.records import NamedTuple, lru_cache

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable


# Everything that cgroup v1 calls a controller. A super block's option that is not here (rw, xattr,
# clone_children, release_agent=…) says something about the mount and not what it controls.
# fmt: off
_V1_CONTROLLERS = frozenset((
    "blkio", "cpu", "cpuacct", "cpuset", "debug", "devices", "freezer", "hugetlb", "memory",
    "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma",
))
# fmt: on
_USUAL_PLACE = "/sys/fs/cgroup"


class Hierarchy(NamedTuple):
    """One tree of cgroups, by the mount through which it is reached."""

    mountpoint: str
    """Where it is mounted, as the reader of mountinfo sees it."""
    root: str
    """Which cgroup the mount point shows; not `/` for a bind mount or a mount from outside our cgroup
    namespace."""
    version: int
    """1 or 2."""
    controllers: tuple[str, ...]
    """v1: those mounted together here; v2: those of `cgroup.controllers`, so those that may be enabled
    below."""
    name: str = ""
    """The name of a v1 hierarchy without controllers (`name=systemd`)."""


class Layout(NamedTuple):
    """All hierarchies of a host, each once."""

    mode: str
    """`v1`, `hybrid`, `v2` or `none`."""
    hierarchies: tuple[Hierarchy, ...]
    """Those that a container joins, in the order of mountinfo, v2 last."""
    named: tuple[Hierarchy, ...] = ()
    """Known, and not joined: a named hierarchy controls nothing. It exists so that its owner, usually
    systemd, can track its own processes, and a cgroup that is made there behind its back is one that it may
    remove."""

    @property
    def v2(self) -> Hierarchy | None:
        """The v2 hierarchy.

        Without any controller it still gives `cgroup.kill`, `cgroup.freeze`, pressure and
        `CLONE_INTO_CGROUP`.
        """
        last = self.hierarchies[-1] if self.hierarchies else None
        return last if last is not None and last.version == 2 else None

    def of(self, *names: str) -> Hierarchy | None:
        """Find the hierarchy of the first of these controllers that is mounted; each is in one at a time."""
        for name in names:
            for hierarchy in self.hierarchies:
                if name in hierarchy.controllers:
                    return hierarchy
        return None


class _Mount(NamedTuple):
    ident: str
    parent: str
    root: str
    mountpoint: str
    options: str
    kind: str
    super_options: str


def _read_controllers(mountpoint: str) -> str:
    try:
        with open(mountpoint + "/cgroup.controllers", encoding="utf-8") as file:
            return file.read()
    except OSError:
        # Not readable means nothing can be enabled, which is also what an empty file says.
        return ""


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    if "\\" not in field:
        return field
    head, *rest = field.encode("utf-8", "surrogateescape").split(b"\\")
    for part in rest:
        head += bytes([int(part[:3], 8)]) + part[3:]
    return head.decode("utf-8", "surrogateescape")


def parse_mounts(text: str) -> list[_Mount]:
    """The mounts that the *text* of a mountinfo file tells of, in its order."""
    mounts = []
    for line in text.splitlines():
        # Any number of optional fields stands before the separator, so the line is split there first.
        left, separator, right = line.partition(" - ")
        if not separator:
            continue
        ident, parent, _, root, mountpoint, options = left.split(" ")[:6]
        kind, _, super_options = [*right.split(" "), "", ""][:3]
        mounts.append(
            _Mount(ident, parent, _unescape(root), _unescape(mountpoint), options, kind, super_options)
        )
    return mounts


def _inside(path: str, directory: str) -> bool:
    return path == directory or directory == "/" or path.startswith(directory + "/")


def _visible(mount: _Mount, by_ident: dict[str, _Mount], children: dict[str, list[_Mount]]) -> bool:
    """Whether walking to the mount point of *mount* arrives at it and not at something mounted over it."""
    if any(other.mountpoint == mount.mountpoint for other in children.get(mount.ident, ())):
        return False
    child = mount
    seen = {mount.ident}
    while (parent := by_ident.get(child.parent)) is not None and parent.ident not in seen:
        for other in children.get(parent.ident, ()):
            if other.ident != child.ident and _inside(child.mountpoint, other.mountpoint):
                return False
        seen.add(parent.ident)
        child = parent
    return True


def _rank(mount: _Mount) -> tuple[bool, bool, bool]:
    """Lower is better: of several mounts of one hierarchy, a writable one, of the whole tree, in the usual
    place.
    """
    read_only = "ro" in mount.options.split(",") or "ro" in mount.super_options.split(",")
    return read_only, mount.root != "/", not _inside(mount.mountpoint, _USUAL_PLACE)


def parse_layout(text: str, controllers_of: Callable[[str], str] = _read_controllers) -> Layout:
    """Find the hierarchies in the *text* of a mountinfo file.

    *controllers_of* gives the content of `cgroup.controllers` of the v2 mount point that it is called with.
    Never raises for what the kernel writes; a host without cgroups has the mode `none`.
    Source: proc_pid_mountinfo(5); cgroup_namespaces(7) for roots other than `/`.
    """
    mounts = parse_mounts(text)
    by_ident = {mount.ident: mount for mount in mounts}
    children: dict[str, list[_Mount]] = {}
    for mount in mounts:
        children.setdefault(mount.parent, []).append(mount)

    # A hierarchy is known by what it controls: its device number differs between the mounts of two cgroup
    # namespaces.
    best: dict[tuple[str, ...], _Mount] = {}
    for mount in mounts:
        if mount.kind not in ("cgroup", "cgroup2") or not _visible(mount, by_ident, children):
            continue
        key: tuple[str, ...] = ("2",)
        if mount.kind == "cgroup":
            options = mount.super_options.split(",")
            names = [option for option in options if option.startswith("name=")]
            key = ("1", *sorted(_V1_CONTROLLERS.intersection(options)), *names)
        if key not in best or _rank(mount) < _rank(best[key]):
            best[key] = mount

    v1: list[Hierarchy] = []
    v2: list[Hierarchy] = []
    named: list[Hierarchy] = []
    for (version, *keys), mount in best.items():
        if version == "2":
            available = tuple(controllers_of(mount.mountpoint).split())
            v2.append(Hierarchy(mount.mountpoint, mount.root, 2, available))
            continue
        controllers = tuple(key for key in keys if key in _V1_CONTROLLERS)
        name = "".join(key[5:] for key in keys if key.startswith("name="))
        (v1 if controllers else named).append(Hierarchy(mount.mountpoint, mount.root, 1, controllers, name))
    mode = ("hybrid" if v2 else "v1") if v1 else ("v2" if v2 else "none")
    return Layout(mode, (*v1, *v2), tuple(named))


@lru_cache(maxsize=4)
def detect(mountinfo_path: str = "/proc/self/mountinfo") -> Layout:
    """Read the layout of this host once per process; `detect.cache_clear()` forgets it after a change of
    mounts.

    Raises OSError where *mountinfo_path* cannot be read.
    """
    with open(mountinfo_path, encoding="utf-8", errors="surrogateescape") as file:
        return parse_layout(file.read())
