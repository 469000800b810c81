"""A container's tree of files, open for copying: the one that its programs see, or, while it has none, one like it.

Every path in it is resolved by the kernel inside of the root that is open here, at the very call that uses it: a
program that exchanges directories for symlinks meanwhile leads nowhere but to what it has itself (CVE-2018-15664), and
nothing of the container's is ever executed or loaded (CVE-2019-14271).

What the kernel shows there (procfs, sysfs, cgroups, devices) is as if it was not there, as with Docker.
"""

import errno
import os
import signal
import stat
import time
from contextlib import contextmanager, nullcontext
from posixpath import normpath

from pyrunc._native import mount as native
from pyrunc._native import openat2
from pyrunc.drivers.graph import detached
from pyrunc.engine import finish, stopping, volume_options
from pyrunc.errors import FailedPrecondition, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.engine.parts import Parts

_KERNELS = frozenset(
    ("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "devtmpfs", "debugfs", "tracefs", "securityfs", "bpf")
)  # fmt: skip
_MOST_LINKS = 255  # as Go's, which Docker resolves paths with
_PATIENCE_S, _PAUSE_S = (
    10.0,
    0.002,
)  # for one that begins or ends just now, until somebody has taken note of it
# Any directory will do: what is there before is hidden from one thread only.
_PLACE = b"/sys"


class Root:
    """The open root directory *fd* of the container that was asked for as *name*; *hidden* are ids of mounts."""

    def __init__(self, fd: int, name: str, hidden: frozenset[int] = frozenset()) -> None:
        self.fd = fd
        self.name = name
        self._hidden = hidden
        self._mount_id = mount_id(fd)

    def open(self, path: str, flags: int) -> int:
        """Open *path*; what is hidden is not there. Raises OSError."""
        fd = openat2.open_in_root(self.fd, os.fsencode(path), flags)
        if self._hidden and self.is_hidden(fd):
            os.close(fd)
            raise FileNotFoundError(2, os.strerror(2), path)
        return fd

    def is_hidden(self, fd: int) -> bool:
        """Whether the open file *fd* is on a mount that shows the kernel's own."""
        return mount_id(fd) in self._hidden

    def is_own(self, fd: int) -> bool:
        """Whether the open file *fd* is on the root's mount, and on no volume."""
        return mount_id(fd) == self._mount_id

    def resolved(self, path: str) -> str:
        """*path* without symlinks, as far as it exists: a text for people, which the next look-up resolves anew."""
        left = [part for part in normpath(path).split("/") if part][::-1]
        found: list[str] = []
        links = 0
        while left:
            part = left.pop()
            if part == "..":
                found = found[:-1]
                continue
            target = self._link("/" + "/".join((*found, part)))
            if target is None:
                found.append(part)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise FailedPrecondition(f"{path}: too many links")
            if target.startswith("/"):
                found = []
            left += [part for part in target.split("/") if part not in ("", ".")][::-1]
        return "/" + "/".join(found)

    def _link(self, path: str) -> str | None:
        try:
            fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)


def mount_id(fd: int) -> int:
    """The id of the mount that the open file *fd* is on. Source: proc(5), /proc/pid/fdinfo."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("mnt_id:"))


@contextmanager
def opened(parts: "Parts", container_id: str, text: str, *, writable: bool = False) -> "Iterator[Root]":
    """The tree of a container, which errors call *text*, open within a ``with`` block; with its volumes.

    Raises NotFound, FailedPrecondition.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        record = stopping.current(parts, container_id)
        if record.running:
            live = _live(record.pid, record.id)
            if live is not None:
                fd, hidden = live
                try:
                    yield Root(fd, text, hidden)
                finally:
                    os.close(fd)
                return
            time.sleep(_PAUSE_S)
            continue
        # Nobody starts it while it is written to: two mounts of one snapshot would not know of each other.
        with finish.Locked(parts, container_id) if writable else nullcontext(record) as settled:
            if settled is None:
                raise NotFound(f"No such container: {text}")
            if settled.running:
                continue
            if not settled.driver:
                raise FailedPrecondition(f"container {text} has no files of its own while it does not run")
            given = False
            try:
                with _at_rest(parts, container_id, writable) as fd:
                    given = True
                    yield Root(fd, text)
            except (NotFound, OSError) as exc:
                # Without its lock it may have been removed meanwhile, and what was looked at with it.
                if not writable and finish.settle(parts, settled.id) is None:
                    raise NotFound(f"No such container: {text}") from exc
                if given or writable or not isinstance(exc, NotFound):
                    raise
                time.sleep(_PAUSE_S)  # it is being made, and has no snapshot yet
                continue
            return
    raise FailedPrecondition(f"container {text} is started and stopped again and again")


def _live(pid: int, container_id: str) -> tuple[int, frozenset[int]] | None:
    """The root of a container's init, and which mounts in it are hidden; None if that has ended.

    What is read of a number is only taken when the process that was meant by it lived before and after.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None  # it has ended, or it has just begun and has no number yet
    fd = -1
    try:
        if not _is_of(pid, container_id):
            return None
        fd = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        hidden = _hidden(pid)
        signal.pidfd_send_signal(pidfd, 0)
        os.stat(f"/proc/{pid}/root/")  # not of one that has ended and was not reaped yet
        taken, fd = fd, -1
        return taken, hidden
    except (FileNotFoundError, ProcessLookupError):
        return None
    finally:
        os.close(pidfd)
        if fd >= 0:
            os.close(fd)


def _is_of(pid: int, container_id: str) -> bool:
    """Whether a process is in the container's cgroups."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return any(container_id in line.rstrip("\n").split("/") for line in file)


def _hidden(pid: int) -> frozenset[int]:
    """The mounts, by id, in which a process sees what the kernel shows, and its /dev.

    Source: proc(5), /proc/pid/mountinfo.
    """
    found = set()
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split()
            kind = fields[fields.index("-") + 1]
            if kind in _KERNELS or (fields[4] == "/dev" and kind == "tmpfs"):
                found.add(int(fields[0]))
    return frozenset(found)


@contextmanager
def _at_rest(parts: "Parts", container_id: str, writable: bool) -> "Iterator[int]":
    """The root of a container that does not run, with its volumes and binds, in a mount that nobody else sees."""
    points = parts.volumes.mount_points(container_id) if _has_points(parts) else []
    points = [point for point in points if _source(parts, point)]
    with parts.snapshotter.mounted(container_id, writable=writable) as tree:
        missing = [point for point in points if not _is_there(tree, point["Destination"])]
        if writable:
            _make_places(parts, tree, missing)
            missing = []
        if not missing:
            with _with_points(parts, tree, points) as fd:
                yield fd
            return
    # As a start would: the places of volumes belong to what is the container's own.
    with finish.Locked(parts, container_id) as settled:
        if settled is None:
            raise NotFound(f"No such container: {container_id}")
        if not settled.running:  # else its start makes them
            with parts.snapshotter.mounted(container_id, writable=True) as tree:
                _make_places(parts, tree, missing)
    with parts.snapshotter.mounted(container_id) as tree, _with_points(parts, tree, points) as fd:
        yield fd


def _is_there(tree: int, path: str) -> bool:
    try:
        os.close(openat2.open_in_root(tree, os.fsencode(path), os.O_PATH))
    except OSError:
        return False
    return True


def _make_places(parts: "Parts", tree: int, points: "list[dict[str, Any]]") -> None:
    for point in points:
        try:
            openat2.make_in_root(
                tree, os.fsencode(point["Destination"]), directory=os.path.isdir(_source(parts, point))
            )
        except OSError:
            pass  # such as below a file: the start says what it cannot do


@contextmanager
def _with_points(parts: "Parts", tree: int, points: "list[dict[str, Any]]") -> "Iterator[int]":
    """The directory *tree* with what *points* say in their places."""
    if not points:
        yield tree
        return
    copy = _detached(tree)
    try:
        fd = detached.in_own_namespace(lambda: _assembled(parts, copy, points))
    finally:
        os.close(copy)
    try:
        yield fd
    finally:
        os.close(fd)


def _has_points(parts: "Parts") -> bool:
    return os.path.exists(os.path.join(parts.root, "volumes.db"))


def _detached(tree: int) -> int:
    """The directory *tree* as a mount that is nowhere attached."""
    try:
        return native.open_tree(tree, b"", native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return os.dup(tree)  # it is one already, of which Linux before 6.15 makes no other


def _assembled(parts: "Parts", tree: int, points: "list[dict[str, Any]]") -> int:
    """The detached mount *tree* with what *points* say in their places, detached again."""
    place = os.open(_PLACE, os.O_PATH | os.O_CLOEXEC)
    try:
        native.move_mount(tree, place)
    finally:
        os.close(place)
    root = os.open(_PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for point in sorted(points, key=lambda point: str(point["Destination"]).count("/")):
            _attach(parts, root, point)
        copy = native.open_tree(
            root, b"", native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH | native.AT_RECURSIVE
        )
    finally:
        os.close(root)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=copy)
    finally:
        os.close(copy)


def _attach(parts: "Parts", root: int, point: "dict[str, Any]") -> None:
    """Mount one of a container's mount points; what cannot be mounted now is as if it was empty."""
    source = _source(parts, point)
    opened: list[int] = []
    try:
        opened.append(openat2.open_in_root(root, os.fsencode(point["Destination"]), os.O_PATH))
        opened.append(os.open(source, os.O_PATH | os.O_CLOEXEC))
        if point.get("Subpath"):
            opened.append(
                openat2.openat2(
                    opened[1],
                    os.fsencode(point["Subpath"]),
                    os.O_PATH,
                    resolve=openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_MAGICLINKS,
                )
            )
        flags = native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH
        if point.get("Recursion") != "disabled":
            flags |= native.AT_RECURSIVE
        opened.append(native.open_tree(opened[-1], b"", flags))
        if not point["RW"]:
            native.mount_setattr(opened[-1], attr_set=native.MOUNT_ATTR_RDONLY, recursive=True)
        native.move_mount(opened[-1], opened[0])
    except OSError:
        pass
    finally:
        for fd in opened:
            os.close(fd)


def _source(parts: "Parts", point: "dict[str, Any]") -> str:
    """The directory or file of the host that a mount point shows; "" for what is only there while it is mounted."""
    if point["Type"] == "bind":
        return str(point["Source"])
    if point["Type"] != "volume":
        return ""
    try:
        volume = parts.volumes.get(point["Name"])
    except NotFound:
        return ""
    if not volume.options:
        return parts.volumes.ensure_data(volume.name)
    return volume.options["device"] if volume_options.is_bind(volume.options) else ""
