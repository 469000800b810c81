"""From an OCI spec to a plan: what a start does, decided in Python before any privilege is used.

The order is the order of a start: cgroups and detached mounts on the host; then, in init,
cgroups, namespaces, root, mounts, devices, masks, pivot_root, and the process itself.
"""

from __future__ import annotations

import errno
import os
import stat

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.records import NamedTuple
from pyrunc.runtime import cgroup_layout, cgroups
from pyrunc.runtime import mount_options as mo
from pyrunc.runtime.plan import HOST, ID, INIT, SHORT_ID, SYNC, PlanTemplate
from pyrunc.spec import capabilities, defaults, rlimits

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Spec = Mapping[str, Any]


CLONE_NEW = {
    "mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "network": 0x40000000,
}  # fmt: skip
DEFAULT_PATH = defaults.PATH
_FLAG = native.FLAGS
_RECURSIVE, _CREATE, _FILE, _REAL = _FLAG["recursive"], _FLAG["create"], _FLAG["file"], _FLAG["real"]
_CHARDEV = _FLAG["chardev"]
# cgroup_resources' FAIL, SKIP, NEXT
_ON_MISSING = (0, _FLAG["missing"], _FLAG["alternative"])
_MAX_ID = 0xFFFF_FFFE
_MAX_GROUPS = 256
# Until pivot_root the host's /sys is visible in init and of no use to it: a place to attach the scratch tmpfs.
_SCRATCH = "/sys"
_DEVICES = (
    ("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7),
    ("/dev/random", 1, 8), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0),
)  # fmt: skip
_LINKS = (
    ("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0"), ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"), ("/dev/ptmx", "pts/ptmx"),
)  # fmt: skip


class Rootfs(NamedTuple):
    """Where the root comes from.

    *layers* are directories, the lowest first; *scratch* keeps writes in a tmpfs of
    *scratch_bytes* (0: the kernel's default) that dies with the container; otherwise the single layer is used itself.
    *idmap* shows the layers' owners through the container's own id maps, where it has a user namespace.
    """

    layers: tuple[str, ...]
    scratch: bool = False
    scratch_bytes: int = 0
    idmap: bool = False


def compile_spec(spec: Spec, rootfs: Rootfs, files: Mapping[str, str] | None = None) -> PlanTemplate:
    """Compile *spec* (an OCI runtime document) with the root *rootfs* into a plan template.

    *files* (path in the container -> content) are made in memory and mounted read-write over their paths.
    Raises InvalidSpec or Unsupported, naming the field.
    Source: OCI runtime-spec config.md and config-linux.md.
    """
    return _Compiler(spec, rootfs, files or {}).compile()


class _Compiler:
    def __init__(self, spec: Spec, rootfs: Rootfs, files: Mapping[str, str]) -> None:
        self.spec = spec
        self.linux: Mapping[str, Any] = spec.get("linux") or {}
        self.rootfs = rootfs
        self.files = files
        self.plan = PlanTemplate()
        self.userns_slots: dict[tuple[str, str], int] = {}
        cwd = (spec.get("process") or {}).get("cwd") or "/"
        if not isinstance(cwd, str) or not cwd.startswith("/"):
            raise InvalidSpec(f"process.cwd: must be absolute, not {cwd!r}")
        self.cwd = os.path.normpath("/" + cwd.lstrip("/"))
        self.namespaces = self._namespaces()
        self.new = {kind for kind, path in self.namespaces.items() if not path}

    def compile(self) -> PlanTemplate:
        plan = self.plan
        self.stdio = [plan.descriptor() for _ in range(3)]
        self._user_namespace()
        self._cgroups()
        self._join_namespaces()
        self._root()
        self._mounts()
        self._masks()
        self._pivot()
        self._process()
        return plan

    def _namespaces(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for i, entry in enumerate(self.linux.get("namespaces") or ()):
            kind = entry.get("type")
            if kind == "time":
                raise Unsupported(f"linux.namespaces[{i}]: time namespaces are not supported yet")
            if kind not in CLONE_NEW:
                raise InvalidSpec(f"linux.namespaces[{i}].type: unknown namespace {kind!r}")
            if kind in found:
                raise InvalidSpec(f"linux.namespaces[{i}]: {kind} is listed twice")
            found[kind] = entry.get("path") or ""
        if found.get("mount") != "":
            raise Unsupported("linux.namespaces: a container needs a mount namespace of its own")
        return found

    def _user_namespace(self) -> None:
        """A new user namespace: init waits until the supervisor has written its maps, then becomes its root."""
        uid, gid = (self._id_map(key) for key in ("uidMappings", "gidMappings"))
        self.id_maps = (uid, gid)
        if "user" not in self.namespaces:
            if uid or gid:
                raise InvalidSpec("linux.uidMappings: needs a user namespace of its own")
            return
        if "user" not in self.new:
            raise Unsupported("linux.namespaces: joining a user namespace by path is not supported yet")
        if not uid or not gid:
            raise InvalidSpec("linux.uidMappings, linux.gidMappings: a new user namespace needs both")
        plan = self.plan
        plan.add("sync", INIT, "namespaces", n0=0)
        plan.add("write_proc", SYNC, "host", s0="uid_map", s1=uid)
        plan.add("write_proc", SYNC, "host", s0="gid_map", s1=gid)
        plan.add("user", INIT, "namespaces", s0="")

    def _id_map(self, key: str) -> str:
        rows = self.linux.get(key) or ()
        return "".join(f"{int(m['containerID'])} {int(m['hostID'])} {int(m['size'])}\n" for m in rows)

    def _userns_slot(self, maps: tuple[str, str]) -> int:
        """A user namespace that idmapped mounts with these maps share, made once."""
        if maps not in self.userns_slots:
            slot = self.plan.slot()
            self.plan.add("userns", HOST, "host", a=slot, s0=maps[0], s1=maps[1])
            self.userns_slots[maps] = slot
        return self.userns_slots[maps]

    def _idmap(self, slot: int, source: str, maps: tuple[str, str], recursive: bool) -> None:
        # *source* is there to be named in an error.
        self.plan.add(
            "mount_attr", HOST, "host", a=slot, s0=source, b=self._userns_slot(maps), n0=mo.IDMAP,
            flags=_RECURSIVE if recursive else 0,
        )  # fmt: skip

    def _cgroups(self) -> None:
        """Make the cgroups on the host; init joins them as its first act."""
        plan = self.plan
        layout = cgroup_layout.detect()
        resources: Mapping[str, Any] = self.linux.get("resources") or {}
        wanted = cgroups.plan_cgroup(layout, self.linux.get("cgroupsPath") or f"/pyrunc/{ID}", resources)
        joins: list[tuple[int, str | None]] = []
        self.cgroups: list[cgroups.CgroupDir] = []
        for directory in wanted.dirs:
            controllers = (*directory.enable, *self._controllers(layout, directory))
            counts = bool(resources.get("memory")) and "memory" in controllers
            slot = plan.slot() if directory.version == 2 or directory.writes or counts else native.ABSENT
            self.cgroups.append(directory)
            plan.cgroup_path = f"/{directory.path}"
            plan.add(
                "cgroup_mkdir", HOST, "host", a=slot, s0=directory.mountpoint, s1=plan.cgroup_path,
                s2=" ".join(f"+{name}" for name in directory.enable) or None,
                flags=self._cgroup_flags(directory),
            )  # fmt: skip
            for write in directory.writes:
                flags = _ON_MISSING[write.on_missing]
                plan.add("write_at", HOST, "host", a=slot, s0=write.file, s1=write.value, flags=flags)
            self._join_cgroup(directory, slot, joins)
            if counts:
                plan.memory_slot = slot
        if wanted.device_bpf:
            blob = plan.blob(wanted.device_bpf)
            plan.add("device_bpf", HOST, "host", a=plan.cgroup_slot, n0=blob, n1=len(wanted.device_bpf) // 8)
        for tasks, cpuset in joins:
            plan.add("join_tasks", INIT, "namespaces", a=tasks, s0=cpuset)

    def _cgroup_flags(self, directory: cgroups.CgroupDir) -> int:
        flags = _FLAG["keep_parents"] if os.path.dirname(directory.path) == "pyrunc" else 0
        if directory.seed_cpuset:
            flags |= _FLAG["cpuset"]
            if directory.writes or "user" in self.new:
                # Before its writes, one of which may stand alone; and a user namespace's root could not do it later.
                flags |= _FLAG["seed_cpuset"]
        return flags

    def _join_cgroup(self, directory: cgroups.CgroupDir, slot: int, joins: list[tuple[int, str | None]]) -> None:
        if directory.version == 2:
            self.plan.cgroup_slot = slot
            return
        tasks = self.plan.slot()
        path = f"{directory.mountpoint}/{directory.path}"
        self.plan.add("open", HOST, "host", a=tasks, s0=f"{path}/tasks", n0=os.O_WRONLY | os.O_NOFOLLOW)
        joins.append((tasks, path if directory.seed_cpuset else None))

    @staticmethod
    def _controllers(layout: cgroup_layout.Layout, directory: cgroups.CgroupDir) -> tuple[str, ...]:
        """The v1 controllers of the hierarchy that *directory* is in; none for v2, where they are enabled."""
        found = (h for h in layout.hierarchies if h.mountpoint == directory.mountpoint and h.version == 1)
        return next((h.controllers for h in found), ())

    def _join_namespaces(self) -> None:
        plan = self.plan
        for kind in self.new:
            if kind != "cgroup":
                plan.clone_flags |= CLONE_NEW[kind]
        for kind, path in self.namespaces.items():
            if path:
                slot = plan.slot()
                plan.add("open", HOST, "host", a=slot, s0=path, n0=os.O_RDONLY)
                where = (HOST, "host") if kind == "pid" else (INIT, "namespaces")
                plan.add("setns", *where, a=slot, s0=path, n0=CLONE_NEW[kind])
        if "cgroup" in self.new:
            # After the cgroups were joined: the other order would show the host's path inside.
            plan.add("unshare", INIT, "namespaces", n0=CLONE_NEW["cgroup"])
        if "network" in self.new:
            plan.add("loopback_up", INIT, "namespaces")
        if "uts" in self.new:
            plan.add("hostname", INIT, "namespaces", s0=self.spec.get("hostname") or SHORT_ID)
            if self.spec.get("domainname"):
                plan.add("domainname", INIT, "namespaces", s0=self.spec["domainname"])

    def _root(self) -> None:
        plan = self.plan
        propagation = mo.parse([self.linux.get("rootfsPropagation") or "rprivate"]).propagation
        # Slave keeps what the host mounts later visible; a shared peer group must never reach the host's root.
        plan.add(
            "propagation", INIT, "root", s0="/",
            n0=(mo.MS_SLAVE if propagation in (mo.MS_SLAVE, mo.MS_SHARED) else mo.MS_PRIVATE) | mo.MS_REC,
        )  # fmt: skip
        self.root = plan.slot()
        # Where the root is attached until pivot_root: anywhere, but where a user namespace's root can walk to.
        self.place = _SCRATCH
        layers = self.rootfs.layers
        if not self.rootfs.scratch:
            plan.add("open_tree", HOST, "host", a=self.root, s0=layers[0], flags=_RECURSIVE)
            plan.add("mount_attr", HOST, "host", a=self.root, n2=mo.MS_PRIVATE, flags=_RECURSIVE)
            if self.rootfs.idmap and self.id_maps[0]:
                self._idmap(self.root, layers[0], self.id_maps, False)
            if self.files:
                self._scratch()
            plan.add("root_attach", INIT, "root", a=self.root, s0=self.place)
            return
        self._scratch()
        plan.add("mkdir", INIT, "root", s0="/upper", n0=0o755)
        plan.add("mkdir", INIT, "root", s0="/work", n0=0o755)
        if "user" in self.new:
            # Attached by descriptor, since the namespace's root may not be able to walk to them; and
            # the layers are idmapped, not the overlay, which refuses it.
            base = f"{_SCRATCH}/layers"
            names = [str(number) for number in range(len(layers))]
            for name, layer in zip(names, layers, strict=True):
                slot = plan.slot()
                plan.add("open_tree", HOST, "host", a=slot, s0=layer)
                if self.rootfs.idmap:
                    self._idmap(slot, layer, self.id_maps, False)
                plan.add("attach", INIT, "root", a=slot, s0=f"/layers/{name}", flags=_CREATE)
        else:
            base = os.path.dirname(layers[0]) if len(layers) == 1 else os.path.commonpath(layers)
            names = [_escape(os.path.relpath(layer, base)) for layer in layers]
        lower = ":".join(reversed(names))
        options = f"lowerdir={lower},upperdir={_SCRATCH}/upper,workdir={_SCRATCH}/work,volatile"
        if len(options) >= 4096:
            raise Unsupported(f"{len(layers)} layers need {len(options)} bytes of mount options; 4095 are possible")
        plan.add("root_overlay", INIT, "root", a=self.root, s0=self.place, s1=options, s2=base)

    def _scratch(self) -> None:
        """A tmpfs of this container alone, where upper, work and the made-up files live."""
        plan = self.plan
        slot = plan.slot()
        options = [("mode", "0755")]
        if self.rootfs.scratch_bytes:
            options.append(("size", str(self.rootfs.scratch_bytes)))
        self._new_mount("tmpfs", slot, options, mo.NODEV if not self.rootfs.scratch else 0, "root")
        plan.add("root_attach", INIT, "root", a=slot, s0=_SCRATCH)
        plan.add("mkdir", INIT, "root", s0="/root", n0=0o755)
        self.place = f"{_SCRATCH}/root"
        if self.files:
            plan.add("mkdir", INIT, "root", s0="/files", n0=0o755)
            for number, content in enumerate(self.files.values()):
                plan.add("file", INIT, "root", s0=f"/files/{number}", s1=content, n0=0o644)

    def _new_mount(
        self, kind: str, slot: int, options: Sequence[tuple[str, str]], attributes: int, stage: str,
        destination: str | None = None,
    ) -> None:  # fmt: skip
        """A new file system; *destination* is for the message of a refusal."""
        named = [("source", kind), *options] if all(key != "source" for key, _ in options) else options
        listed = "".join(f"{key}\0{value}\0" for key, value in named)
        self.plan.add(
            "new_mount", INIT, stage, a=slot, s0=kind, s1=listed, s2=destination, n0=len(named), n1=attributes
        )

    def _mounts(self) -> None:
        self.procfs = -1
        self.dev_is_ours = False
        readonly = bool((self.spec.get("root") or {}).get("readonly"))
        for i, entry in enumerate(self.spec.get("mounts") or ()):
            try:
                self._mount(entry, f"mounts[{i}]")
            except (InvalidSpec, Unsupported) as exc:
                raise type(exc)(f"{exc} (mount at {entry.get('destination')})") from exc
        for number, path in enumerate(self.files):
            slot = self.plan.slot()
            self.plan.add("open_tree", INIT, "mounts", a=slot, s0=f"{_SCRATCH}/files/{number}")
            if readonly:
                self.plan.add("mount_attr", INIT, "mounts", a=slot, n0=mo.RDONLY)
            self.plan.add("attach", INIT, "mounts", a=slot, s0=path, flags=_FILE | _CREATE)
        self._devices()
        if self.cwd != "/":
            # As runc and Docker have it; it must come before the root is read-only.
            self.plan.add("mkdir", INIT, "devices", s0=self.cwd, n0=0o755, flags=_CREATE)
        self._proc_writes()
        if readonly:
            self.plan.add("mount_attr", INIT, "masks", a=self.root, n0=mo.RDONLY)

    def _mount(self, entry: Mapping[str, Any], field: str) -> None:
        destination = os.path.normpath("/" + str(entry.get("destination") or "").lstrip("/"))
        if not entry.get("destination") or destination == "/":
            raise InvalidSpec(f"{field}.destination: must be a path below the root, not {entry.get('destination')!r}")
        options = mo.parse(entry.get("options") or (), f"{field}.options")
        kind = entry.get("type") or ("bind" if options.bind else "")
        if options.bind or kind == "bind":
            self._bind(entry, options, destination, field)
        elif kind == "cgroup":
            self._cgroup_mount(options, destination)
        elif not kind or kind == "none":
            raise InvalidSpec(f"{field}.type: missing")
        else:
            self._filesystem(kind, options, destination, field)

    def _bind(self, entry: Mapping[str, Any], options: mo.MountOptions, destination: str, field: str) -> None:
        plan = self.plan
        source = entry.get("source")
        if not source or "\0" in source:
            raise InvalidSpec(f"{field}.source: a bind mount needs a path")
        if options.data:
            raise InvalidSpec(f"{field}.options: a bind mount takes no option {options.data[0][0]!r}")
        try:
            status = os.stat(source)
        except OSError as exc:
            if options.no_fail and exc.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise InvalidSpec(f"{field}.source: {source}: {os.strerror(exc.errno or 0).lower()}") from exc
        slot = plan.slot()
        plan.add("open_tree", HOST, "host", a=slot, s0=source, flags=_RECURSIVE if options.recursive else 0)
        self._attributes(HOST, slot, options, options.propagation or mo.MS_PRIVATE)
        if options.idmap or entry.get("uidMappings"):
            self._idmap(slot, source, self._mount_maps(entry, field), options.idmap == "ridmap")
        file = 0 if stat.S_ISDIR(status.st_mode) else _FILE
        plan.add("attach", INIT, "mounts", a=slot, s0=destination, flags=_CREATE | file)

    def _maps_gid(self, gid: int) -> bool:
        rows = self.linux.get("gidMappings") or ()
        return any(row["containerID"] <= gid < row["containerID"] + row["size"] for row in rows)

    def _mount_maps(self, entry: Mapping[str, Any], field: str) -> tuple[str, str]:
        """The maps of an idmapped mount: its own, else the container's."""
        if entry.get("uidMappings") and entry.get("gidMappings"):
            uid, gid = (
                "".join(f"{int(m['containerID'])} {int(m['hostID'])} {int(m['size'])}\n" for m in entry[key])
                for key in ("uidMappings", "gidMappings")
            )
            return uid, gid
        if not self.id_maps[0]:
            raise InvalidSpec(f"{field}.options: an idmapped mount needs uidMappings and gidMappings")
        return self.id_maps

    def _attributes(self, section: int, slot: int, options: mo.MountOptions, propagation: int) -> None:
        plan = self.plan
        stage = "host" if section == HOST else "mounts"
        if options.rec_set or options.rec_clear:
            plan.add(
                "mount_attr", section, stage, a=slot, n0=options.rec_set, n1=options.rec_clear, flags=_RECURSIVE
            )
        if options.attr_set or options.attr_clear:
            plan.add("mount_attr", section, stage, a=slot, n0=options.attr_set, n1=options.attr_clear)
        if propagation:
            recursive = options.rec_propagation or not options.propagation
            plan.add("mount_attr", section, stage, a=slot, n2=propagation, flags=_RECURSIVE if recursive else 0)

    def _filesystem(self, kind: str, options: mo.MountOptions, destination: str, field: str) -> None:
        plan = self.plan
        if options.copy_up:
            raise Unsupported(f"{field}.options: tmpcopyup is not supported yet")
        slot = plan.slot()
        data = options.data
        if kind == "devpts" and "user" in self.new and not self._maps_gid(5):
            # The group of terminals does not exist in this user namespace; devpts would refuse it.
            data = tuple(pair for pair in data if pair[0] != "gid")
        self._new_mount(kind, slot, data, options.attr_set, "mounts", destination)
        if options.rec_set or options.rec_clear or options.propagation:
            self._attributes(INIT, slot, options._replace(attr_set=0, attr_clear=0), options.propagation)
        flags = _CREATE
        if kind in ("proc", "sysfs"):
            # A symlink here would let an image choose where procfs appears (CVE-2019-19921, CVE-2023-27561).
            flags |= _REAL
        if kind == "proc" and destination == "/proc":
            self.procfs = slot
        if destination == "/dev":
            self.dev_is_ours = kind == "tmpfs"
            if self.dev_is_ours:
                self._fill_dev(slot)
        plan.add("attach", INIT, "mounts", a=slot, s0=destination, flags=flags)

    def _cgroup_mount(self, options: mo.MountOptions, destination: str) -> None:
        """The container's own cgroups and no more: a bind of each directory, on v1 below a tmpfs.

        With a cgroup namespace that is what a fresh mount would show, and three system calls less.
        """
        plan = self.plan
        attributes = options.attr_set
        layout = cgroup_layout.detect()
        own: list[tuple[str, tuple[str, ...], int]] = []
        for directory in self.cgroups:
            if directory.version == 2 and len(self.cgroups) > 1:
                continue  # hybrid: as runc, only the hierarchies that have controllers
            bind = plan.slot()
            plan.add("open_tree", HOST, "host", a=bind, s0=f"{directory.mountpoint}/{directory.path}")
            own.append((os.path.basename(directory.mountpoint), self._controllers(layout, directory), bind))
        if layout.mode == "v2":
            for _, _, bind in own:
                plan.add("mount_attr", HOST, "host", a=bind, n0=attributes, n2=mo.MS_PRIVATE)
                plan.add("attach", INIT, "mounts", a=bind, s0=destination, flags=_CREATE | _REAL)
            return
        base = plan.slot()
        self._new_mount("tmpfs", base, (("mode", "0755"),), attributes & ~mo.RDONLY, "mounts")
        for name, controllers, _ in own:
            plan.add("mkdir", INIT, "mounts", s0=name, a=base, n0=0o755)
            for alias in controllers:
                if alias != name:
                    plan.add("symlink", INIT, "mounts", s0=alias, a=base, s1=name)
        plan.add("attach", INIT, "mounts", a=base, s0=destination, flags=_CREATE | _REAL)
        for name, _, bind in own:
            plan.add("attach", INIT, "mounts", a=bind, s0=f"{destination}/{name}")
        plan.add("mount_attr", INIT, "mounts", a=base, n0=attributes, n2=mo.MS_PRIVATE, flags=_RECURSIVE)

    def _fill_dev(self, slot: int) -> None:
        """The default nodes and links, made in the tmpfs before it is attached: nobody else has seen it."""
        plan = self.plan
        # In a user namespace mknod(2) is refused; there the host's nodes are bound, see _devices.
        for path, major, minor in _DEVICES if "user" not in self.new else ():
            plan.add("mknod", INIT, "mounts", s0=path[5:], a=slot, n0=stat.S_IFCHR | 0o666, n1=os.makedev(major, minor))
        for path, target in _LINKS:
            plan.add("symlink", INIT, "mounts", s0=path[5:], a=slot, s1=target)
        for entry in self.spec.get("mounts") or ():
            place = os.path.normpath(str(entry.get("destination")))
            if place in ("/dev/pts", "/dev/shm", "/dev/mqueue"):
                plan.add("mkdir", INIT, "mounts", s0=place[5:], a=slot, n0=0o755)

    def _devices(self) -> None:
        ours = {path for path, _, _ in _DEVICES}
        if "user" in self.new and self.dev_is_ours:
            for path, major, minor in _DEVICES:
                self._bind_device(path, path, os.makedev(major, minor))
        for i, device in enumerate(self.linux.get("devices") or ()):
            self._device(device, f"linux.devices[{i}]", ours)

    def _bind_device(self, source: str, path: str, rdev: int) -> None:
        slot = self.plan.slot()
        self.plan.add("open_tree", HOST, "host", a=slot, s0=source, n0=rdev, flags=_CHARDEV)
        # Writing to a device does not mind; but chmod(2) by a user that is mapped to the node's owner changed the host's.
        self.plan.add("mount_attr", HOST, "host", a=slot, n0=mo.RDONLY | mo.NOSUID | mo.NOEXEC)
        self.plan.add("attach", INIT, "devices", a=slot, s0=path, flags=_FILE | _CREATE)

    def _device(self, device: Mapping[str, Any], field: str, ours: set[str]) -> None:
        kinds = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
        kind = kinds.get(device.get("type", ""))
        path = os.path.normpath(device.get("path") or "")
        if kind is None:
            raise InvalidSpec(f"{field}.type: unknown device type {device.get('type')!r}")
        if not path.startswith("/") or path == "/":
            raise InvalidSpec(f"{field}.path: must be absolute, not {device.get('path')!r}")
        if self.dev_is_ours and path in ours:
            return
        major, minor = (
            _number(device.get(key) or 0, f"{field}.{key}", high)
            for key, high in (("major", 0xFFF), ("minor", 0xFFFFF))
        )
        rdev = 0 if kind == stat.S_IFIFO else os.makedev(major, minor)
        if "user" in self.new:
            self._bind_device(path, path, rdev)
            return
        uid, gid = (_number(device.get(key) or 0, f"{field}.{key}", _MAX_ID) for key in ("uid", "gid"))
        owner = uid << 32 | gid
        mode = _number(device.get("fileMode", 0o666), f"{field}.fileMode", 0xFFFFFFFF) & 0o7777
        self.plan.add("mknod", INIT, "devices", s0=path, n0=kind | mode, n1=rdev, n2=owner)

    def _proc_writes(self) -> None:
        """Kernel parameters and the OOM score, through the procfs that init itself has made."""
        sysctl: Mapping[str, str] = self.linux.get("sysctl") or {}
        score = (self.spec.get("process") or {}).get("oomScoreAdj")
        if not sysctl and score is None:
            return
        if self.procfs < 0:
            raise InvalidSpec("linux.sysctl: needs a mount of type proc at /proc")
        for key, value in sysctl.items():
            self._check_sysctl(key)
            path = "sys/" + key.replace(".", "/")
            self.plan.add("write_procfs", INIT, "masks", a=self.procfs, s0=path, s1=str(value))
        if score is not None:
            text = str(_number(score, "process.oomScoreAdj", 1000, -1000))
            self.plan.add("write_procfs", INIT, "masks", a=self.procfs, s0="self/oom_score_adj", s1=text)

    def _check_sysctl(self, key: str) -> None:
        """Only what a namespace of the container owns may be set (OCI config-linux.md "Sysctl")."""
        owner = ""
        if key.startswith("net."):
            owner = "network"
        elif key.startswith(("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")):
            owner = "ipc"
        elif key in ("kernel.domainname", "kernel.hostname"):
            owner = "uts"
        if not owner or ".." in key or "/" in key:
            raise InvalidSpec(f"linux.sysctl: {key!r} is not in a separate kernel namespace")
        if owner not in self.namespaces:
            raise InvalidSpec(f"linux.sysctl: {key!r} needs a {owner} namespace of its own")
        path, ours = self.namespaces[owner], "net" if owner == "network" else owner
        try:
            shared = bool(path) and os.path.samefile(path, f"/proc/self/ns/{ours}")
        except OSError as exc:
            raise InvalidSpec(f"linux.namespaces: {path}: {os.strerror(exc.errno or 0).lower()}") from exc
        if shared:
            raise InvalidSpec(f"linux.sysctl: {key!r} would be set for the host, whose {owner} namespace is {path}")

    def _masks(self) -> None:
        plan = self.plan
        tmpfs = plan.slot()
        for path in self.linux.get("readonlyPaths") or ():
            plan.add("readonly", INIT, "masks", s0=path)
        for path in dict.fromkeys(self.linux.get("maskedPaths") or ()):
            plan.add("mask", INIT, "masks", s0=path, a=tmpfs)

    def _pivot(self) -> None:
        self.plan.add("pivot_root", INIT, "pivot", a=self.root)
        propagation = mo.parse([self.linux.get("rootfsPropagation") or "rprivate"])
        if propagation.propagation in (mo.MS_SHARED, mo.MS_UNBINDABLE):
            self.plan.add(
                "propagation", INIT, "pivot", s0="/",
                n0=propagation.propagation | (mo.MS_REC if propagation.rec_propagation else 0),
            )  # fmt: skip

    def _process(self) -> None:
        plan = self.plan
        process: Mapping[str, Any] = self.spec.get("process") or {}
        plan.add("session", INIT, "process")
        for number, slot in enumerate(self.stdio):
            plan.add("stdio", INIT, "process", a=slot, n0=number)
        for i, limit in enumerate(process.get("rlimits") or ()):
            if limit.get("type") not in rlimits.NAMES:
                raise InvalidSpec(f"process.rlimits[{i}].type: unknown limit {limit.get('type')!r}")
            soft, hard = (
                _number(limit.get(key), f"process.rlimits[{i}].{key}", (1 << 64) - 1) for key in ("soft", "hard")
            )
            plan.add("rlimit", INIT, "process", n0=rlimits.NAMES.index(limit["type"]), n1=soft, n2=hard)
        plan.add("chdir", INIT, "process", s0=self.cwd)
        seccomp = self._seccomp()
        privileges = process.get("noNewPrivileges")
        # None at all is what runc and crun make of a document that does not mention them.
        caps: Mapping[str, Sequence[str]] = process.get("capabilities") or {}
        if privileges:
            plan.add("no_new_privs", INIT, "process")
        elif seccomp:
            # Without no_new_privs the filter needs CAP_SYS_ADMIN, which is about to go.
            plan.add("seccomp", INIT, "process", n0=seccomp[0], n1=seccomp[1], n2=seccomp[2])
        plan.add("bounding", INIT, "process", n0=self._caps(caps, "bounding"))
        user: Mapping[str, Any] = process.get("user") or {}
        uid, gid = (_number(user.get(key) or 0, f"process.user.{key}", _MAX_ID) for key in ("uid", "gid"))
        listed = user.get("additionalGids") or ()
        if len(listed) > _MAX_GROUPS:
            raise Unsupported(f"process.user.additionalGids: at most {_MAX_GROUPS} groups are supported")
        groups = ",".join(str(_number(group, "process.user.additionalGids", _MAX_ID)) for group in listed)
        plan.add("user", INIT, "process", n0=uid, n1=gid, s0=groups)
        plan.add(
            "capabilities", INIT, "process", n0=self._caps(caps, "effective"),
            n1=self._caps(caps, "permitted"), n2=self._caps(caps, "inheritable"),
        )  # fmt: skip
        # The kernel raises an ambient capability only if it is inheritable and permitted too; the
        # documents that `runc spec` writes ask for more, and runc and crun pass over it in silence.
        ambient = self._caps(caps, "ambient") & self._caps(caps, "inheritable") & self._caps(caps, "permitted")
        if ambient:
            plan.add("ambient", INIT, "process", n0=ambient)
        plan.add("umask", INIT, "process", n0=_number(user.get("umask", 0o022), "process.user.umask", 0o7777))
        if privileges and seccomp:
            plan.add("seccomp", INIT, "process", n0=seccomp[0], n1=seccomp[1], n2=seccomp[2])
        plan.add("execve", INIT, "program", s0="")

    def _caps(self, caps: Mapping[str, Sequence[str]], which: str) -> int:
        return capabilities.mask(caps.get(which) or (), f"process.capabilities.{which}")

    def _seccomp(self) -> tuple[int, int, int] | None:
        profile = self.linux.get("seccomp")
        if profile is None:
            return None
        from pyrunc.runtime import seccomp
        from pyrunc.spec.seccomp import InvalidProfile

        # Compiling costs 10 ms, reading what an earlier process compiled 0.2.
        state = os.environ.get("PYRUNC_STATE", "/run/pyrunc")
        if os.geteuid() == 0:
            os.makedirs(state, mode=0o711, exist_ok=True)
        try:
            program = seccomp.compile_profile(profile, f"{state}/seccomp")
        except InvalidProfile as exc:
            text = str(exc)
            raise InvalidSpec(text if text.startswith("linux.seccomp") else f"linux.seccomp: {text}") from exc
        return self.plan.blob(program.bpf), len(program.bpf) // 8, program.flags


def _number(value: object, field: str, high: int, low: int = 0) -> int:
    """An integer that fits its place in the plan."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSpec(f"{field}: must be an integer from {low} to {high}, not {value!r}")
    return value


def _escape(path: str) -> str:
    """A path for overlay's option string: ``,`` ends an option, ``:`` a layer."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def candidates(command: str, path: str | None) -> list[str]:
    """The paths that execve tries for *command*: itself if it has a slash, else one for each entry of *path*."""
    if "/" in command:
        return [command]
    return [os.path.join(directory or ".", command) for directory in (path or DEFAULT_PATH).split(":")]
