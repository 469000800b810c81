"""What a plan has no step of unless it is asked for: a terminal, and the mount options that mount(8) acts on itself."""

from __future__ import annotations

import errno
import os

from pyrunc._native import plan as native
from pyrunc.errors import InvalidArgument, InvalidSpec, NotFound, Unsupported
from pyrunc.runtime import mount_options as mo
from pyrunc.runtime.compile_host import MAX_ID, checked_number, for_supervisor, id_map
from pyrunc.runtime.compile_rootless import RootlessPart
from pyrunc.runtime.plan import HOST, INIT

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FLAG = native.FLAGS
_RECURSIVE, _CREATE, _FILE = _FLAG["recursive"], _FLAG["create"], _FLAG["file"]
_OPTIONAL = _FLAG["optional"]
_NONE = 0xFFFFFFFF  # an owner or a mode that stays
# Each mount of these in a document has a file system of its own: what changes it changes nobody else's.
_OWN = ("tmpfs", "ramfs", "devpts")


class SpecialPart(RootlessPart):
    """What a plan says of mounts beyond making, configuring and attaching them."""

    dev_is_ours = False
    peer = native.ABSENT  # the program's side of its terminal

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.fresh: dict[
            str, tuple[str, int]
        ] = {}  # destination -> kind and slot of the file system made for it

    def _remount(self, options: mo.MountOptions, destination: str, field: str) -> None:
        """Change what an earlier entry, or a recursive bind, has mounted at *destination*.

        Only what is named changes, as with mount(8), and no protection gets lost that is not named: runc's
        remount resets the others. Attributes are those of the container's own mount; the file system
        behind it changes only if this document has made it.
        """
        plan = self.plan
        unfit = {
            "tmpcopyup": options.copy_up, "X-mount.subdir": options.subdir, "X-mount.idmap": options.mapped,
            "idmap": options.idmap, "X-mount.owner, X-mount.group and X-mount.mode": options.owned,
        }  # fmt: skip
        for name, given in unfit.items():
            if given:
                raise InvalidSpec(f"{field}.options: a remount takes no {name}")
        if options.data:
            kind, slot = self.fresh.get(destination, ("", 0))
            if kind not in _OWN:
                raise InvalidSpec(
                    f"{field}.options: a remount changes {options.data[0][0]!r} only where this document mounts a "
                    f"{', '.join(_OWN[:-1])} or {_OWN[-1]}"
                )
            listed = "".join(f"{key}\0{value}\0" for key, value in options.data)
            plan.add("reconfigure", INIT, "mounts", a=slot, s0=destination, s1=listed, n0=len(options.data))
        changes = (
            (options.rec_set, options.rec_clear, 0, True),
            (options.attr_set, options.attr_clear, 0, False),
            (0, 0, options.propagation, options.rec_propagation),
        )
        for on, off, propagation, recursive in changes:
            if on or off or propagation:
                plan.add(
                    "remount", INIT, "mounts", s0=destination, n0=on, n1=off, n2=propagation,
                    flags=_RECURSIVE if recursive else 0,
                )  # fmt: skip

    def _source(self, entry: Mapping[str, Any], kind: str, field: str) -> str:
        """What mountinfo shows as a new file system's source, and what it is made from if it needs a device."""
        source = entry.get("source") or kind
        if not isinstance(source, str) or "\0" in source or not mo.fits(source):
            raise InvalidSpec(f"{field}.source: {str(source)[:64]!r} cannot be the source of a file system")
        return source

    def _on_device(
        self, kind: str, source: str, options: mo.MountOptions, field: str
    ) -> mo.MountOptions | None:
        """The options of a file system on a device or in a file, which has to know itself that it is read-only."""
        if not source.startswith("/") or not mo.needs_device(kind):
            return options
        try:
            os.stat(source)
        except OSError as exc:
            if options.no_fail and exc.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise InvalidSpec(f"{field}.source: {source}: {os.strerror(exc.errno or 0).lower()}") from exc
        if options.attr_set & mo.RDONLY:
            return options._replace(data=(*options.data, ("ro", "")))
        return options

    def _subdirectory(self, slot: int, kind: str, options: mo.MountOptions) -> None:
        """Show a directory of a new file system in place of all of it."""
        if options.subdir:
            self.plan.add("open_tree", INIT, "mounts", a=slot, b=slot, s0=kind, s1=options.subdir)

    def _mapped(
        self, section: int, slot: int, shown: str, entry: Mapping[str, Any], options: mo.MountOptions, field: str
    ) -> None:  # fmt: skip
        """Show owners through the maps of X-mount.idmap, idmap, ridmap, or the entry's own."""
        listed = bool(entry.get("uidMappings") or entry.get("gidMappings"))
        if not options.mapped and not options.idmap and not listed:
            return
        if options.mapped and listed:
            raise InvalidSpec(f"{field}.options: X-mount.idmap, and uidMappings too")
        if options.userns:
            userns = self.plan.slot()
            path = for_supervisor(options.userns)
            self.plan.add("open", HOST, "host", a=userns, s0=path, n0=os.O_RDONLY)
        else:
            userns = self._userns_slot(options.maps if options.mapped else self._mount_maps(entry, field))
        self.plan.add(
            "mount_attr", section, "host" if section == HOST else "mounts", a=slot, s0=shown, b=userns,
            n0=mo.IDMAP, flags=_RECURSIVE if options.idmap == "ridmap" else 0,
        )  # fmt: skip

    def _mount_maps(self, entry: Mapping[str, Any], field: str) -> tuple[str, str]:
        """The maps of an idmapped mount: its own, else the container's."""
        uid, gid = (id_map(entry.get(key), f"{field}.{key}") for key in ("uidMappings", "gidMappings"))
        if uid and gid:
            return uid, gid
        if uid or gid:
            raise InvalidSpec(f"{field}.uidMappings, {field}.gidMappings: an idmapped mount needs both")
        if not self.id_maps[0]:
            raise InvalidSpec(f"{field}.options: an idmapped mount needs uidMappings and gidMappings")
        return self.id_maps

    def _owner(self, slot: int, options: mo.MountOptions, destination: str, field: str) -> None:
        """Give the mount's root an owner and a mode: of a bind, the source's, if the container's root may do that."""
        if options.owned:
            uid, gid = (
                self._number(name, group, field)
                for name, group in ((options.owner, False), (options.group, True))
            )
            mode = options.mode if options.mode >= 0 else _NONE
            self.plan.add("owner", INIT, "mounts", a=slot, s0=destination, n0=uid, n1=gid, n2=mode)

    def _number(self, name: str, group: bool, field: str) -> int:
        """The id of a user or group by number or by the image's names, as mount(8) looks into the target's."""
        if not name:
            return _NONE
        from pyrunc.runtime import users

        option = "X-mount.group" if group else "X-mount.owner"
        layers = (*self.rootfs.layers, *([self.rootfs.upper] if self.rootfs.upper else ()))
        try:
            found = users.resolve(f"0:{name}" if group else name, (), layers)
        except (NotFound, InvalidArgument) as exc:
            raise InvalidSpec(f"{field}.options: {option}: {exc}") from exc
        return found.gid if group else found.uid

    def _mount_point(self, destination: str, options: mo.MountOptions) -> None:
        """Make what is missing of a directory to mount at, where it is to have another mode than usual."""
        if options.mkdir != 0o755:
            self.plan.add("mkdir", INIT, "mounts", s0=destination, n0=options.mkdir, flags=_CREATE)

    def _terminal(self) -> None:
        """The program's terminal, of the container's own devpts, which is /dev/console too.

        Source: OCI runtime-spec config.md "Process", runtime-linux.md "Dev symbolic links".
        """
        process: Mapping[str, Any] = self.spec.get("process") or {}
        if not process.get("terminal"):
            return
        plan = self.plan
        size: Mapping[str, Any] = process.get("consoleSize") or {}
        rows, columns = (
            checked_number(size.get(key) or 0, f"process.consoleSize.{key}", 0xFFFF)
            for key in ("height", "width")
        )
        owner = checked_number((process.get("user") or {}).get("uid") or 0, "process.user.uid", MAX_ID)
        kind, slot = self.fresh.get("/dev/pts", ("", native.ABSENT))
        self.peer, console = plan.slot(), plan.slot()
        plan.add(
            "terminal", INIT, "devices", a=slot if kind == "devpts" else native.ABSENT, b=self.peer, s0="/dev/pts",
            n0=owner, n1=rows, n2=columns,
        )  # fmt: skip
        plan.add("open_tree", INIT, "devices", a=console, b=self.peer, s0="/dev/console")
        # In a /dev that is not the container's alone nothing is made.
        make = _CREATE if self.dev_is_ours else _OPTIONAL
        plan.add("attach", INIT, "devices", a=console, s0="/dev/console", flags=_FILE | make)


def destination_of(entry: Mapping[str, Any]) -> str:
    """Where a mount goes, as a path from the container's root."""
    return os.path.normpath("/" + str(entry.get("destination") or "").lstrip("/"))


def refuse_special(options: mo.MountOptions, field: str) -> None:
    """Refuse, for a mount that is made of several, what is about one."""
    if options.owned or options.mapped or options.subdir or options.idmap:
        raise Unsupported(f"{field}.options: a mount of type cgroup takes no X-mount option and no idmap")
