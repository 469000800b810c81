"""Opening cgroups so that no path and nothing inside a cgroup can lead out of its hierarchy.

Every step is taken from the descriptor of the step before, follows no symlink, and must stay in the file
system of the hierarchy: what is mounted over a cgroup is not that cgroup.
"""

from __future__ import annotations

import errno
import os

from pyrunc.runtime.cgroup_errors import InvalidResources
from pyrunc.runtime.cgroup_layout import Hierarchy

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clean_path(cgroups_path: str) -> str:
    """Check `linux.cgroupsPath` and give it relative to the root of each hierarchy, without slashes around
    it.

    OCI: an absolute path is relative to the mount point of the hierarchy; a relative one may be placed as the
    runtime likes, and is placed there too.
    Raises InvalidResources for the root itself, `.` and `..`, and names that the kernel refuses.
    """
    names = [name for name in cgroups_path.split("/") if name]
    if not names:
        raise InvalidResources("linux.cgroupsPath: must name a cgroup below the root")
    for name in names:
        # A line break would make /proc/PID/cgroup ambiguous, and cgroup_mkdir() refuses it.
        if name in (".", "..") or "\n" in name or "\0" in name or len(os.fsencode(name)) > 255:
            raise InvalidResources(f"linux.cgroupsPath: {cgroups_path!r} must not contain {name!r}")
    return "/".join(names)


def open_below(directory: int, names: Iterable[str]) -> int:
    """Open the cgroup that *names* lead to from the descriptor *directory*; the caller closes the result.

    Raises OSError: ENOENT where it is missing, ELOOP or ENOTDIR for a symlink, EXDEV for another file system.
    """
    device = os.fstat(directory).st_dev
    current = os.dup(directory)
    try:
        for name in names:
            below = os.open(name, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
            if os.fstat(current).st_dev != device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    except BaseException:
        os.close(current)
        raise
    return current


def open_cgroup(hierarchy: Hierarchy, path: str) -> int:
    """Open the cgroup *path*, one that `clean_path` has returned, in *hierarchy*; the caller closes it.

    Raises OSError as `open_below` does.
    """
    root = os.open(hierarchy.mountpoint, _DIRECTORY)
    try:
        return open_below(root, path.split("/"))
    finally:
        os.close(root)


def read_at(directory: int, file: str) -> str:
    """Read a whole *file* of the cgroup *directory*."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(descriptor)


def write_at(directory: int, file: str, value: str) -> None:
    """Write *value* to a *file* of the cgroup *directory*, in one write(2), as the kernel wants it."""
    descriptor = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
