"""What LXC mounts in a container, made ready for it, and where: paths that lead through no symlink, and exist.

LXC 5 refuses a symlink on the way to a mount point, but follows one while it makes a missing one (`create=`), out of
the root too; and of the options of a bind it honours "ro", and passes over others. So mount points are resolved, and
made, inside of the root by descriptor; and what is bound is a mount of our own that has its options already.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

from pyrunc._native import mount as native
from pyrunc._native import openat2
from pyrunc.errors import StartError, Unsupported
from pyrunc.runtime.mount_words import COVERED

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from pyrunc.runtime.mount_options import MountOptions

_AT_FDCWD = -100
_NODE = 0o666
_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}  # fmt: skip


class Owner:
    """Who a container's ids are on the host: by OCI's *uids* and *gids*, or themselves where those are empty."""

    def __init__(self, uids: Sequence[Mapping[str, int]], gids: Sequence[Mapping[str, int]]) -> None:
        self._uids, self._gids = uids, gids
        self.maps = bool(uids)

    def uid(self, inside: int) -> int:
        """The host's number of a user. Raises Unsupported for one that is not mapped."""
        return _outside(self._uids, inside)

    def gid(self, inside: int) -> int:
        """The host's number of a group. Raises Unsupported for one that is not mapped."""
        return _outside(self._gids, inside)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Make files as the container's root, whom alone its file systems know."""
        if not self.maps:
            yield
            return
        os.setegid(self.gid(0))
        os.seteuid(self.uid(0))
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)


def _outside(maps: Sequence[Mapping[str, int]], inside: int) -> int:
    for row in maps:
        if row["containerID"] <= inside < row["containerID"] + row["size"]:
            return row["hostID"] + inside - row["containerID"]
    if maps:
        raise Unsupported(f"user namespace: no id of the host is that of {inside} inside")
    return inside


class Tree:
    """A directory that is, or will be, a container's *at*; what is in it is resolved as if it were the root.

    What is made there belongs to the container's root, *owner*'s.
    """

    def __init__(self, path: str, at: str, owner: Owner) -> None:
        self._owner = owner
        self.path = os.path.realpath(path)
        self.at = at.rstrip("/")
        self._fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def place(self, path: str, *, make: bool, directory: bool) -> str:
        """The container's *path*, below *at*, without symlinks; *make* it if it is not there. Raises OSError."""
        below = os.fsencode(os.path.relpath(path, self.at or "/"))
        if make:
            with self._owner.acting():
                openat2.make_in_root(self._fd, below, directory=directory)
        found = openat2.open_in_root(self._fd, below, os.O_PATH)
        try:
            real = os.readlink(f"/proc/self/fd/{found}")
        finally:
            os.close(found)
        if real == self.path:
            return self.at or "/"
        if not real.startswith(f"{self.path}/"):
            raise StartError(f"mounts: {path}: leads out of the root")
        return self.at + real[len(self.path) :]

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)


class Places:
    """The mount points of one container, in the order of its mounts."""

    def __init__(self, rootfs: str, owner: Owner) -> None:
        self._owner = owner
        self._trees: dict[str, Tree | None] = {"": Tree(rootfs, "/", owner)}

    def of(self, destination: str, source: str) -> str:
        """Where to mount, relative to the root; *source* is the host's, or "". Raises StartError."""
        target = os.path.normpath(destination)
        tree = self._trees[self._above(target)]
        directory = not source or os.path.isdir(source)
        if tree is None:
            place = target  # what the kernel has made is there, or not
        else:
            try:
                place = tree.place(target, make=True, directory=directory)
            except OSError as exc:
                raise StartError(f"mounts: cannot make {target}: {(exc.strerror or '').lower()}") from exc
        inside = place.startswith("/proc/") and target not in COVERED
        if place == "/" or inside or (not source and place != target):
            # What an image's symlink makes of it; and of /proc, /sys and the like, what is to be covered there.
            where = "inside /proc" if inside else "the root" if place == "/" else f"{place} by a symlink"
            raise StartError(f"mounts: {target}: cannot be mounted because it is {where}")
        if directory:
            self._trees[place] = Tree(source, place, self._owner) if source else None
        return place.lstrip("/")

    def make_directory(self, path: str) -> None:
        """Make the directory *path* of the container's, if it is in its root or in a directory of the host's."""
        tree = self._trees[self._above(path)]
        if tree is not None and os.path.normpath(path) != "/":
            try:
                tree.place(path, make=True, directory=True)
            except OSError:
                pass  # who enters it will say so

    def inside(self, path: str) -> str | None:
        """A *path* of the container's, which is not made, relative to the root; None if it is not there."""
        tree = self._trees[self._above(path)]
        if tree is None:
            return path.lstrip("/") if os.path.exists(path) else None
        try:
            return tree.place(path, make=False, directory=False).lstrip("/")
        except OSError:
            return None

    def _above(self, path: str) -> str:
        return max((at for at in self._trees if not at or path.startswith(f"{at}/")), key=len)

    def close(self) -> None:
        """Close all directories."""
        for tree in self._trees.values():
            if tree is not None:
                tree.close()


class Stage:
    """A *directory* of mounts that this mount namespace has, and LXC binds; new ones are the container's root's."""

    def __init__(self, directory: str, owner: Owner) -> None:
        os.mkdir(directory, 0o755)
        self._owner = owner
        self._directory = directory
        self._count = 0
        self._fds: list[int] = []

    def tmpfs(self, data: Iterable[tuple[str, str]], attributes: int) -> str:
        """A new file system in memory with mount attributes (MOUNT_ATTR_*): its directory. Raises OSError."""
        said = {"uid": "0", "gid": "0", **dict(data)} if self._owner.maps else dict(data)
        for key, outside in (("uid", self._owner.uid), ("gid", self._owner.gid)):
            if key in said and said[key].isdigit():
                said[key] = str(outside(int(said[key])))
        pairs = [(key.encode(), os.fsencode(value)) for key, value in said.items()]
        fd = native.new_mount(b"tmpfs", pairs, attributes & ~native.MOUNT_ATTR_RDONLY)
        path = self._attach(fd, True)
        # Read-only when all that is mounted in it has its place there.
        if attributes & native.MOUNT_ATTR_RDONLY:
            self._fds.append(fd)
        else:
            os.close(fd)
        return path

    def bind(self, source: str, options: MountOptions) -> str:
        """What is at *source*, once more, with the attributes that *options* say: its path. Raises OSError."""
        flags = native.OPEN_TREE_CLONE | os.O_CLOEXEC | (native.AT_RECURSIVE if options.recursive else 0)
        fd = native.open_tree(_AT_FDCWD, os.fsencode(source), flags)
        try:
            if options.rec_set or options.rec_clear:
                native.mount_setattr(fd, attr_set=options.rec_set, attr_clr=options.rec_clear, recursive=True)
            if options.attr_set or options.attr_clear:
                native.mount_setattr(fd, attr_set=options.attr_set, attr_clr=options.attr_clear)
            return self._attach(fd, os.path.isdir(source))
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Make read-only what is to be so. Raises OSError."""
        for fd in self._fds:
            native.mount_setattr(fd, attr_set=native.MOUNT_ATTR_RDONLY)
            os.close(fd)
        self._fds = []

    def _attach(self, fd: int, directory: bool) -> str:
        path = f"{self._directory}/{self._count}"
        self._count += 1
        if directory:
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        native.move_mount(fd, place)
        os.close(place)
        return path


def make_null(path: str) -> None:
    """Make a /dev/null to cover files with: the host's node would be the host's for chmod(2) too. Raises OSError."""
    _make_node(path, stat.S_IFCHR | _NODE, os.makedev(*_NODES["null"]), 0, 0)


def make_devices(directory: str, devices: Iterable[Mapping[str, Any]], owner: Owner) -> None:
    """Make what a container's /dev has, in the *directory* that will be it, and *devices* (OCI's). Raises OSError.

    Nodes of the host's, bound there, would be the host's for chmod(2) too.
    """
    for name, numbers in _NODES.items():
        number = os.makedev(*numbers)
        _make_node(f"{directory}/{name}", stat.S_IFCHR | _NODE, number, owner.uid(0), owner.gid(0))
    for name, target in _LINKS.items():
        os.symlink(target, f"{directory}/{name}")
        os.lchown(f"{directory}/{name}", owner.uid(0), owner.gid(0))
    tree = Tree(directory, "/dev", owner)
    try:
        for device in devices:
            path = os.path.normpath(device["path"])
            if not path.startswith("/dev/"):
                raise Unsupported(f"devices: {path}: LXC is given those below /dev, and no others")
            if path.removeprefix("/dev/") in _NODES:
                continue
            parent = os.path.dirname(path)
            if parent != "/dev":
                parent = tree.place(parent, make=True, directory=True)
            real = f"{directory}{parent.removeprefix('/dev')}/{os.path.basename(path)}"
            kind = stat.S_IFBLK if device["type"] == "b" else stat.S_IFCHR
            number = os.makedev(device["major"], device["minor"])
            mode = kind | device.get("fileMode", _NODE)
            _make_node(real, mode, number, owner.uid(device.get("uid", 0)), owner.gid(device.get("gid", 0)))
    finally:
        tree.close()


def _make_node(path: str, mode: int, number: int, uid: int, gid: int) -> None:
    os.mknod(path, mode, number)
    os.chmod(path, stat.S_IMODE(mode))  # whatever the umask is
    os.chown(path, uid, gid)
