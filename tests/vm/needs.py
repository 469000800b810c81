"""Pytest marks that skip a test where this kernel lacks its need, judged by the kernel and by nothing else.

A test of what only the second kernel has carries two marks: `pytest.mark.vm`, by which `./dev vm` selects it,
and one from here. On a host that has the need itself the test simply runs.

    pytestmark = [pytest.mark.vm, needs.cgroup_v2("memory", "pids")]
"""

import functools
import os

import pytest

from .guest import SPARE_DISK

# What to do about it, as the reasons for skipping say it.
_HINT = "run ./dev vm"


@functools.cache
def cgroup_v2_root() -> str | None:
    """Return where cgroup v2 is mounted, None where it is not."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, tail = line.partition(" - ")
            if tail.startswith("cgroup2 "):
                return fields.split()[4]
    return None


@functools.cache
def cgroup_v2_controllers() -> frozenset[str]:
    """Return the controllers that a cgroup right below the v2 root can use."""
    root = cgroup_v2_root()
    if root is None:
        return frozenset()
    with open(f"{root}/cgroup.subtree_control") as file:
        return frozenset(file.read().split())


@functools.cache
def filesystems() -> frozenset[str]:
    """Return the file systems that the kernel knows at the moment, without loading a module."""
    with open("/proc/filesystems") as file:
        return frozenset(line.split()[-1] for line in file)


def root() -> pytest.MarkDecorator:
    """Skip without root."""
    return pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def cgroup_v2(*controllers: str) -> pytest.MarkDecorator:
    """Skip where a cgroup right below the v2 root cannot use all of *controllers* ("memory", "pids", ...)."""
    missing = sorted(set(controllers) - cgroup_v2_controllers())
    reason = f"needs cgroup v2 with controllers: {_HINT} (missing: {', '.join(missing)})"
    return pytest.mark.skipif(bool(missing), reason=reason)


def spare_disk() -> pytest.MarkDecorator:
    """Skip where there is no block device, SPARE_DISK, that a test may overwrite."""
    missing = not os.path.exists(SPARE_DISK)
    return pytest.mark.skipif(missing, reason=f"needs a disk to overwrite: {_HINT}")


def namespace(kind: str) -> pytest.MarkDecorator:
    """Skip where the kernel has no namespaces of *kind*, named as in /proc/self/ns ("time", "user", ...)."""
    missing = not os.path.exists(f"/proc/self/ns/{kind}")
    return pytest.mark.skipif(missing, reason=f"needs {kind} namespaces, which this kernel lacks")


def filesystem(kind: str) -> pytest.MarkDecorator:
    """Skip where the kernel has no file system *kind* at the moment."""
    missing = kind not in filesystems()
    return pytest.mark.skipif(missing, reason=f"needs the {kind} file system: {_HINT}")
