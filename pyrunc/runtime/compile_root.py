"""The root's part of a plan: the root itself, mounts, devices, masks, and pivot_root."""

from __future__ import annotations

import errno
import os
import stat

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.runtime import cgroup_layout, mount_words, sysctls
from pyrunc.runtime import mount_options as mo
from pyrunc.runtime.compile_devices import BELOW_DEV, DevicePart
from pyrunc.runtime.compile_host import for_supervisor, map_rows
from pyrunc.runtime.compile_special import destination_of, refuse_special
from pyrunc.runtime.overlay_options import OPTIONS_MAX, option_pairs, option_text, relative, writable
from pyrunc.runtime.plan import HOST, INIT

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_FLAG = native.FLAGS
_RECURSIVE, _CREATE, _FILE, _REAL = _FLAG["recursive"], _FLAG["create"], _FLAG["file"], _FLAG["real"]
_PROC = _FLAG["proc"]
# Until pivot_root the host's /sys is visible in init and of no use to it: a place to attach the scratch tmpfs.
_SCRATCH = "/sys"
_LAYERS = 500  # OVL_MAX_STACK, Linux 4.20
_USER_LAYERS = 128  # each is a descriptor, of which a plan has 2048, and named by it in a page of options


class RootPart(DevicePart):
    """What a plan says between namespaces and process, all of it in init before and with pivot_root."""

    def _root(self) -> None:
        plan = self.plan
        wanted = self.linux.get("rootfsPropagation") or "rprivate"
        propagation = mo.parse([wanted], "linux.rootfsPropagation").propagation
        if not propagation:
            raise InvalidSpec(f"linux.rootfsPropagation: rootfsPropagation={wanted} is not supported")
        # Slave keeps what the host mounts later visible; a shared peer group must never reach the host's root.
        plan.add(
            "propagation", INIT, "root", s0="/",
            n0=(mo.MS_SLAVE if propagation in (mo.MS_SLAVE, mo.MS_SHARED) else mo.MS_PRIVATE) | mo.MS_REC,
        )  # fmt: skip
        self.root = plan.slot()
        # Where the root is attached until pivot_root: anywhere, but where a user namespace's root can walk to.
        self.place = self._place(_SCRATCH)
        layers = self.rootfs.layers
        if self.rootfs.upper or (self.in_userns and len(layers) > 1):
            self._root_of_many()
            return
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
        if self.in_userns:
            # Attached by descriptor, since the namespace's root may not be able to walk to it; and
            # the layer is idmapped, not the overlay, which refuses it.
            slot = plan.slot()
            plan.add("open_tree", HOST, "host", a=slot, s0=layers[0])
            if self.rootfs.idmap:
                self._idmap(slot, layers[0], self.id_maps, False)
            plan.add("attach", INIT, "root", a=slot, s0="/layer", flags=_CREATE)
            base, names = _SCRATCH, ["layer"]
        else:
            base, names = relative(layers)
        self._overlay(
            base, names, writable(f"{_SCRATCH}/upper", f"{_SCRATCH}/work", volatile=True, layer=False)
        )

    def _root_of_many(self) -> None:
        """An overlay whose upper directory is on disk and outlives the container, or that the host has to mount."""
        rootfs = self.rootfs
        if self.files:
            self._scratch()
        if self.in_userns:
            self._overlay_of_host()
            self.plan.add("root_attach", INIT, "root", a=self.root, s0=self.place)
            return
        base, (*layers, upper, work) = relative([*rootfs.layers, rootfs.upper, rootfs.work])
        self._overlay(base, layers, writable(upper, work, volatile=rootfs.volatile, layer=True))

    def _overlay_of_host(self) -> None:
        """For a user namespace, in which the kernel would not see that a layer makes a directory opaque.

        That is a trusted.* attribute, which is the host's. Layers and the directory of upper and work are
        idmapped, not the overlay, which refuses it.
        """
        plan, rootfs = self.plan, self.rootfs
        if rootfs.idmap and _kernel() < (5, 19):
            raise Unsupported("layers in a user namespace need idmapped layers of overlay, Linux 5.19")
        if len(rootfs.layers) > _USER_LAYERS:
            raise Unsupported(f"{len(rootfs.layers)} layers in a user namespace; {_USER_LAYERS} are possible")
        directory = os.path.dirname(rootfs.upper)
        if os.path.dirname(rootfs.work) != directory:
            raise InvalidSpec("rootfs: upper and work must be in one directory")
        slots = [plan.slot() for _ in range(len(rootfs.layers) + 1)]
        for slot, path in zip(slots, (*rootfs.layers, directory), strict=True):
            if path:
                plan.add("open_tree", HOST, "host", a=slot, s0=path)
                if rootfs.idmap:
                    self._idmap(slot, path, self.id_maps, False)
            else:
                self._new_mount("tmpfs", slot, self._scratch_options(), 0, "host")
        plan.add(
            "overlay", HOST, "host", a=self.root, b=slots[0], s0=_SCRATCH,
            s1=os.path.basename(rootfs.upper) or "upper", s2=os.path.basename(rootfs.work) or "work",
            n0=len(rootfs.layers), n1=rootfs.volatile or not directory,
            n2=self._shown_root() if rootfs.idmap or not directory else 0,
        )  # fmt: skip

    def _shown_root(self) -> int:
        """What the host sees the layers' root as: uid << 32 | gid."""
        uid, gid = (
            next((row[1] for row in rows if row[0] == 0), rows[0][1]) for rows in map(map_rows, self.id_maps)
        )
        return uid << 32 | gid

    def _overlay(self, base: str, layers: Sequence[str], more: Sequence[tuple[str, str]]) -> None:
        """Mount it in init; *layers* and what *more* names are relative to *base*, so that many fit."""
        options, count = option_text(layers, more), 0
        size = len(os.fsencode(options))
        if size > OPTIONS_MAX:
            pairs = option_pairs(layers, more)
            if len(layers) > _LAYERS:
                raise Unsupported(f"{len(layers)} layers; {_LAYERS} are possible")
            if _kernel() < (6, 8) or any(len(os.fsencode(value)) > 255 for _, value in pairs):
                raise Unsupported(
                    f"{len(layers)} layers need {size} bytes of mount options; {OPTIONS_MAX} are possible"
                )
            options, count = "".join(f"{key}\0{value}\0" for key, value in pairs), len(pairs)
        self.plan.add("root_overlay", INIT, "root", a=self.root, s0=self.place, s1=options, s2=base, n0=count)

    def _scratch(self) -> None:
        """A tmpfs of this container alone, where upper, work and the made-up files live."""
        plan = self.plan
        slot = plan.slot()
        self._new_mount(
            "tmpfs", slot, self._scratch_options(), mo.NODEV if not self.rootfs.scratch else 0, "root"
        )
        plan.add("root_attach", INIT, "root", a=slot, s0=_SCRATCH)
        plan.add("mkdir", INIT, "root", s0="/root", n0=0o755)
        self.place = f"{_SCRATCH}/root"
        if self.files:
            plan.add("mkdir", INIT, "root", s0="/files", n0=0o755)
            for number, content in enumerate(self.files.values()):
                plan.add("file", INIT, "root", s0=f"/files/{number}", s1=content, n0=0o644)

    def _scratch_options(self) -> list[tuple[str, str]]:
        size = self.rootfs.scratch_bytes
        return [("mode", "0755"), *([("size", str(size))] if size else [])]

    def _new_mount(
        self, kind: str, slot: int, options: Sequence[tuple[str, str]], attributes: int, stage: str,
        destination: str | None = None, source: str = "",
    ) -> None:  # fmt: skip
        """A new file system; *destination* is for the message of a refusal."""
        own = any(key == "source" for key, _ in options)
        named = options if own else [("source", source or kind), *options]
        listed = "".join(f"{key}\0{value}\0" for key, value in named)
        self.plan.add(
            "new_mount", HOST if stage == "host" else INIT, stage, a=slot, s0=kind, s1=listed, s2=destination,
            n0=len(named), n1=attributes,
        )  # fmt: skip

    def _mounts(self) -> None:
        self.procfs = -1
        self.fresh_dev = native.ABSENT
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
        self._terminal()
        if self.cwd != "/":
            # As runc and Docker have it; it must come before the root is read-only.
            self.plan.add("mkdir", INIT, "devices", s0=self.cwd, n0=0o755, flags=_CREATE)
        self._last_mounts()
        self._proc_writes()
        if readonly:
            self.plan.add("mount_attr", INIT, "masks", a=self.root, n0=mo.RDONLY)

    def _mount(self, entry: Mapping[str, Any], field: str) -> None:
        destination = destination_of(entry)
        if not entry.get("destination") or destination == "/":
            raise InvalidSpec(
                f"{field}.destination: must be a path below the root, not {entry.get('destination')!r}"
            )
        options = mo.parse(entry.get("options") or (), f"{field}.options")
        if options.remount:
            self._remount(options, destination, field)
            return
        if destination.startswith("/proc/") and destination not in mount_words.COVERED:
            raise InvalidSpec(
                f'{field}.destination: "{destination}" cannot be mounted because it is inside /proc'
            )
        kind = entry.get("type") or ("bind" if options.bind else "")
        if options.copy_up and (kind != "tmpfs" or options.bind):
            raise InvalidSpec(f"{field}.options: tmpcopyup is an option of a tmpfs")
        if options.bind or kind == "bind":
            self._bind(entry, options, destination, field)
        elif kind == "cgroup":
            refuse_special(options, field)
            self._cgroup_mount(options, destination)
        elif not kind or kind == "none":
            raise InvalidSpec(f"{field}.type: missing")
        elif kind == "auto":
            raise Unsupported(f"{field}.type: 'auto' is not guessed; name the type of the file system")
        else:
            self._filesystem(kind, entry, options, destination, field)

    def _bind(self, entry: Mapping[str, Any], options: mo.MountOptions, destination: str, field: str) -> None:
        plan = self.plan
        source = entry.get("source")
        if not source or "\0" in source:
            raise InvalidSpec(f"{field}.source: a bind mount needs a path")
        if options.data:
            raise InvalidSpec(f"{field}.options: a bind mount takes no option {options.data[0][0]!r}")
        status = None
        try:
            status = os.stat(source)
        except OSError as exc:
            if options.no_fail and exc.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            if self.front_door is None:
                raise InvalidSpec(f"{field}.source: {source}: {os.strerror(exc.errno or 0).lower()}") from exc
            # The step will find it so, as runc does: at a start that poststop hooks follow.
        if status is not None and destination == "/proc" and not _is_procfs(status.st_dev):
            raise InvalidSpec(f'{field}.source: "/proc" cannot be mounted because it is not of type proc')
        slot = plan.slot()
        tree = for_supervisor(source)
        if options.detached:
            plan.add("open", HOST, "host", a=slot, s0=tree, n0=os.O_PATH)
        else:
            plan.add(
                "open_tree", HOST, "host", a=slot, s0=tree, s1=options.subdir or None,
                flags=_RECURSIVE if options.recursive else 0,
            )  # fmt: skip
        late = mo.RDONLY if options.owned else 0  # the owner has to be written first
        self._attributes(
            HOST, slot, options._replace(attr_set=options.attr_set & ~late, rec_set=options.rec_set & ~late),
            options.propagation or mo.MS_PRIVATE,
        )  # fmt: skip
        self._mapped(HOST, slot, source, entry, options, field)
        self._owner(slot, options, destination, field)
        file = 0 if status is None or stat.S_ISDIR(status.st_mode) else _FILE
        if not file:
            self._mount_point(destination, options)
        self.fresh.pop(destination, None)
        self._attach(slot, destination, _CREATE | file)
        if late:
            # Now that it is a mount of init's own namespace.
            readonly = options._replace(attr_set=options.attr_set & late, rec_set=options.rec_set & late)
            self._attributes(INIT, slot, readonly._replace(attr_clear=0, rec_clear=0), 0)

    def _attach(self, slot: int, destination: str, flags: int) -> None:
        if destination in BELOW_DEV and self.fresh_dev != native.ABSENT and not flags & _FILE:
            # In a /dev that nothing but init has seen: no walk.
            self.plan.add(
                "attach", INIT, "mounts", a=slot, s0=destination, b=self.fresh_dev, s1=destination[5:]
            )
            return
        if destination == "/proc" or destination in mount_words.COVERED:
            flags |= _PROC
        if not flags & _REAL:
            # By way of a symlink of the image it may cover /dev.
            self.fresh_dev = native.ABSENT
        self.plan.add("attach", INIT, "mounts", a=slot, s0=destination, flags=flags)

    def _maps_gid(self, gid: int) -> bool:
        return any(inside <= gid < inside + size for inside, _, size in map_rows(self.id_maps[1]))

    def _attributes(self, section: int, slot: int, options: mo.MountOptions, propagation: int) -> None:
        plan = self.plan
        stage = "host" if section == HOST else "mounts"
        if options.rec_set or options.rec_clear:
            plan.add(
                "mount_attr",
                section,
                stage,
                a=slot,
                n0=options.rec_set,
                n1=options.rec_clear,
                flags=_RECURSIVE,
            )
        if options.attr_set or options.attr_clear:
            plan.add("mount_attr", section, stage, a=slot, n0=options.attr_set, n1=options.attr_clear)
        if propagation:
            recursive = options.rec_propagation or not options.propagation
            plan.add(
                "mount_attr", section, stage, a=slot, n2=propagation, flags=_RECURSIVE if recursive else 0
            )

    def _filesystem(
        self, kind: str, entry: Mapping[str, Any], given: mo.MountOptions, destination: str, field: str
    ) -> None:
        plan = self.plan
        source = self._source(entry, kind, field)
        options = self._on_device(kind, source, given, field)
        if options is None:
            return
        slot = plan.slot()
        data = options.data
        if kind == "devpts" and self.in_userns and not self._maps_gid(5):
            # The group of terminals does not exist in this user namespace; devpts would refuse it.
            data = tuple(pair for pair in data if pair[0] != "gid")
        # As runc has it, a tmpfs without a mode has that of the directory that it covers: over /root, 0700.
        inherits = kind == "tmpfs" and all(key != "mode" for key, _ in data)
        fills = options.copy_up or inherits
        late = options.attr_set & mo.RDONLY if fills or options.owned else 0  # it has to be written first
        self._new_mount(kind, slot, data, options.attr_set & ~late, "mounts", destination, source)
        self._subdirectory(slot, kind, options)
        flags = _CREATE
        if kind in ("proc", "sysfs"):
            # A symlink here would let an image choose where procfs appears (CVE-2019-19921, CVE-2023-27561).
            flags |= _REAL
        if kind == "proc" and destination == "/proc" and not options.subdir:
            self.procfs = slot
        if destination == "/dev":
            self.dev_is_ours = kind == "tmpfs"
            if self.dev_is_ours:
                self._fill_dev(slot)
        if fills:
            contents = _RECURSIVE if options.copy_up else 0
            plan.add("copy_up", INIT, "mounts", a=slot, s0=destination, n0=int(inherits), flags=contents)
        self._mapped(INIT, slot, destination, entry, options, field)
        self._owner(slot, options, destination, field)
        if late or options.rec_set or options.rec_clear or options.propagation:
            self._attributes(INIT, slot, options._replace(attr_set=late, attr_clear=0), options.propagation)
        self._mount_point(destination, options)
        self._attach(slot, destination, flags)
        self.fresh[destination] = (kind, slot)
        if destination == "/dev" and self.dev_is_ours and not options.copy_up:
            self.fresh_dev = slot

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
            plan.add("attach", INIT, "mounts", a=bind, s0=f"{destination}/{name}", b=base, s1=name)
        plan.add("mount_attr", INIT, "mounts", a=base, n0=attributes, n2=mo.MS_PRIVATE, flags=_RECURSIVE)

    def _proc_writes(self) -> None:
        """Kernel parameters, through the procfs that init itself has made."""
        sysctl: Mapping[str, str] = self.linux.get("sysctl") or {}
        if not sysctl:
            return
        if self.procfs < 0:
            # A document without one, or with a bind there: one that nothing but init ever sees.
            self.procfs = self.plan.slot()
            self._new_mount("proc", self.procfs, (), mo.NOSUID | mo.NODEV | mo.NOEXEC, "masks")
        for key, value in sysctl.items():
            path = sysctls.place(key, self.namespaces)
            self.plan.add("write_procfs", INIT, "masks", a=self.procfs, s0=path, s1=str(value))

    def _masks(self) -> None:
        plan = self.plan
        tmpfs = plan.slot()
        for path in _paths(self.linux.get("readonlyPaths") or ()):
            if path == "/":
                # What covered it nobody would see; and as with runc, what is mounted below stays as it is.
                plan.add("mount_attr", INIT, "masks", a=self.root, n0=mo.RDONLY)
            else:
                plan.add("readonly", INIT, "masks", s0=path)
        for path in _paths(self.linux.get("maskedPaths") or ()):
            plan.add("mask", INIT, "masks", s0=path, a=tmpfs)

    def _may_be_copied(self) -> bool:
        """Whether the root's mounts are all private, so that a copy of them is the same, and none is locked.

        A terminal is opened before, so that the program's name for it (/proc/self/fd/0) would be that of a mount that
        is gone; and hooks, and whoever writes a user namespace's maps, look into the mount namespace meanwhile.
        """
        if "mount" not in self.new or self.in_userns or self.unprivileged:
            return False
        return all(
            step.op not in ("mount_attr", "remount") or step.n2 in (0, mo.MS_PRIVATE)
            if step.op != "propagation"
            else step.n0 == mo.MS_PRIVATE | mo.MS_REC
            for step in self.plan.steps
        ) and not any(step.op in ("sync", "hook", "terminal") for step in self.plan.steps)

    def _pivot(self) -> None:
        self.plan.add("pivot_root", INIT, "pivot", a=self.root, n1=int(self._may_be_copied()))
        propagation = mo.parse([self.linux.get("rootfsPropagation") or "rprivate"])
        if propagation.propagation in (mo.MS_SHARED, mo.MS_UNBINDABLE):
            self.plan.add(
                "propagation", INIT, "pivot", s0="/",
                n0=propagation.propagation | (mo.MS_REC if propagation.rec_propagation else 0),
            )  # fmt: skip


def _is_procfs(device: int) -> bool:
    """Whether the file system *device* is a procfs; statfs(2) would say, and Python has none."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.split()[2] == number and " - proc " in line for line in file)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split("-")[0].split(".")[:2]
    return int(major), int(minor)


def _paths(listed: Iterable[str]) -> Iterable[str]:
    """Each path once; as with runc, one that is relative is so to the root."""
    return dict.fromkeys("/" + os.path.normpath("/" + path).lstrip("/") for path in listed)
