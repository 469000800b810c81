"""The pseudo-image ``host``: this host's own root under a throw-away layer, to run the host's own tools isolated.

**What it exposes.** A container of it reads, with the rights of the user that it runs as, everything that lies on the
host's root file system: programs and libraries, all of /etc with its keys and password hashes, home directories,
databases and other services' data under /var, sockets' files (without what listens there, /run being empty). Root in
it (Docker's capabilities) reads every such file whatever its mode. It is for work that may see the host and must not
change it, not for programs that nobody trusts; so it is used only where it was asked for by name and by flag.

What is not there: the host's /proc, /sys and /dev (the container has its own), /run and /tmp (empty, in memory), the
durable state of pyrunc (an empty directory in its place), and file systems mounted anywhere else than those below.

What is there beside the root file system, read-only: file systems mounted at /usr, /var, /opt and /etc, one level
below these, and at /bin, /sbin and /lib*, but no memory, network or pseudo file systems.

What is written goes to the upper layer and dies with the container; on the read-only ones nothing can be written. What
the host itself changes meanwhile, a container may see at once, later or not at all: overlayfs leaves that open.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_STATE = "/var/lib/pyrunc"
_WITH_CHILDREN = ("/usr", "/var", "/opt", "/etc")
_ALONE = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# What is mounted there is no part of a root, or has no business in a container.
_OTHER_KINDS = frozenset({
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "cifs", "configfs", "debugfs", "devpts", "devtmpfs",
    "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfs", "nfs4", "nsfs", "overlay", "proc", "pstore", "ramfs",
    "rpc_pipefs", "securityfs", "smb3", "sysfs", "tmpfs", "tracefs",
})  # fmt: skip


class HostMount(NamedTuple):
    """One mount of the container: *kind* is "bind" or "tmpfs", *options* are those of an OCI mount."""

    target: str
    source: str
    kind: str
    options: tuple[str, ...]


class HostRoot(NamedTuple):
    """What a container of the host's root is made of: *layers* for its overlay, *mounts* in their order."""

    layers: tuple[str, ...]
    mounts: tuple[HostMount, ...]


def host_root(state: Sequence[str] = (_STATE,), mountinfo: str = "/proc/self/mountinfo") -> HostRoot:
    """Return how the host's root becomes a container's; *state* are pyrunc's own directories, which are hidden.

    Nothing is mounted here, and the layer is to be used under a scratch layer only. Raises OSError.
    Source: proc(5), mountinfo; the module says what is exposed.
    """
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        mounted = dict.fromkeys(_needed(file.read()))
    mounts = [HostMount(path, path, "bind", ("bind", "ro")) for path in mounted]
    mounts.append(HostMount("/run", "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=0755")))
    mounts.append(HostMount("/tmp", "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=1777")))
    hidden = dict.fromkeys(
        path for name in state for path in (os.path.normpath(name), os.path.realpath(name))
    )
    mounts += [
        HostMount(path, "tmpfs", "tmpfs", ("ro", "nosuid", "nodev", "noexec", "mode=0700"))
        for path in hidden
        # Below /run and /tmp there is nothing to hide.
        if os.path.isdir(path) and not os.path.islink(path) and not path.startswith(("/run/", "/tmp/"))
    ]
    return HostRoot(("/",), tuple(mounts))


def _needed(mountinfo: str) -> Iterator[str]:
    """Return the mount points that belong to the root, those above before those below."""
    points = []
    for line in mountinfo.splitlines():
        place, _, kind = line.partition(" - ")
        point = place.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        point = point.encode("latin-1").decode("utf-8", "surrogateescape")
        parent = os.path.dirname(point)
        if (point in (*_WITH_CHILDREN, *_ALONE) or parent in _WITH_CHILDREN) and kind.split(" ")[
            0
        ] not in _OTHER_KINDS:
            points.append(point)
    return iter(sorted(points, key=lambda point: point.count("/")))
