"""What is to be done with cgroups to start or to change a container: the part of the plan that pyrunc-init
carries out.

Here is decided; pyrunc-init acts, for each `CgroupDir` of a plan in its order:

1. open *mountpoint*, then each name of *path* below it by openat with O_NOFOLLOW, made by mkdirat where it is
   missing;
2. v2: before a level is made, `+controller` for each of *enable* that its parent's `cgroup.subtree_control`
   lacks;
3. *seed_cpuset*: a level whose cpuset.cpus or cpuset.mems is empty gets its parent's, parents first (v1 lets
   no process into a cgroup without them); the last level after its *writes*, which may set them;
4. *writes*, each one write(2), a missing file treated as *on_missing* says;
5. v2: `device_bpf`, where it is not empty, is loaded and attached to BPF_CGROUP_DEVICE with
   BPF_F_ALLOW_MULTI;
6. v1: `tasks` is opened for init; v2: the directory is what CLONE_INTO_CGROUP gets.
"""

from __future__ import annotations

import os

from pyrunc.records import NamedTuple
from pyrunc.runtime.cgroup_devices import (
    DEFAULT_DEVICE_RULES,
    device_program,
    parse_device_rules,
    v1_device_writes,
)
from pyrunc.runtime.cgroup_files import clean_path, open_cgroup, read_at, write_at
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout
from pyrunc.runtime.cgroup_resources import resource_writes
from pyrunc.runtime.cgroup_writes import FAIL, NEXT, Write, Writes

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

ACCOUNTED = ("cpu", "io", "memory", "pids")
"""v2 controllers that are enabled without a limit too, since what a container uses is counted only where they
are."""


class CgroupDir(NamedTuple):
    """One cgroup of a container, in one hierarchy."""

    mountpoint: str
    """Where the hierarchy is mounted, absolute."""
    path: str
    """Relative to the mount point, of at least one name, without `.`, `..` and empty names."""
    version: int
    """1 or 2."""
    enable: tuple[str, ...]
    """v2: the controllers that must be in `cgroup.subtree_control` of every level from the mount point to the
    parent."""
    seed_cpuset: bool
    """v1: whether empty cpuset.cpus and cpuset.mems must be filled in from the parent, at each level."""
    writes: tuple[Write, ...]
    """What to write into its files, in this order."""


class CgroupPlan(NamedTuple):
    """Everything that is to be done with the cgroups of one container."""

    dirs: tuple[CgroupDir, ...]
    device_bpf: bytes
    """A BPF_PROG_TYPE_CGROUP_DEVICE program for the v2 cgroup; empty where cgroup v1 controls devices."""
    ignored: tuple[str, ...]
    """Fields that were asked for and that no kernel honours any more, for a warning."""


def plan_cgroup(
    layout: Layout,
    cgroups_path: str,
    resources: Mapping[str, Any],
    account: Iterable[str] = ACCOUNTED,
) -> CgroupPlan:
    """Plan the cgroups of a new container.

    *cgroups_path* is `linux.cgroupsPath`, relative to the root of each hierarchy; *resources* is
    `linux.resources`; *account* names the v2 controllers to enable, where the host has them, besides those
    that the resources need.
    Raises InvalidResources and UnsupportedResource, which name the field.
    Source: OCI runtime-spec config-linux.md, "Control groups".
    """
    path = clean_path(cgroups_path)
    writes = resource_writes(layout, resources)
    # The defaults come last, as in runc: a container without /dev/null does not work, whatever its rules say.
    rules = parse_device_rules(resources.get("devices")) + DEFAULT_DEVICE_RULES
    v1_devices = layout.of("devices")
    dirs = []
    for hierarchy in layout.hierarchies:
        own = writes.by_hierarchy.get(hierarchy, [])
        if hierarchy is v1_devices:
            own = [*own, *(Write(file, value) for file, value in v1_device_writes(rules))]
        dirs.append(_directory(hierarchy, path, writes, own, account))
    bpf = device_program(rules) if v1_devices is None and layout.v2 is not None else b""
    return CgroupPlan(tuple(dirs), bpf, tuple(writes.ignored))


def plan_update(
    layout: Layout,
    cgroups_path: str,
    resources: Mapping[str, Any],
    current: Callable[[Hierarchy, str], str] | None = None,
) -> CgroupPlan:
    """Plan a change of the limits of an existing container; only directories with something to write are in
    it.

    What *resources* does not name stays as it is, and device rules do too, as in `runc update`. *current*
    reads a file of the container's cgroup in a hierarchy; without it the files themselves are read.
    Raises InvalidResources and UnsupportedResource; `checkBeforeUpdate` is among the causes.
    """
    path = clean_path(cgroups_path)

    def read(hierarchy: Hierarchy, file: str) -> str:
        try:
            directory = open_cgroup(hierarchy, path)
        except OSError:
            return ""
        try:
            return read_at(directory, file)
        except OSError:
            return ""
        finally:
            os.close(directory)

    writes = resource_writes(layout, resources, current or read)
    dirs = [
        _directory(hierarchy, path, writes, writes.by_hierarchy[hierarchy], ())
        for hierarchy in layout.hierarchies
        if hierarchy in writes.by_hierarchy
    ]
    return CgroupPlan(tuple(dirs), b"", tuple(writes.ignored))


def _directory(
    hierarchy: Hierarchy, path: str, writes: Writes, own: Iterable[Write], account: Iterable[str]
) -> CgroupDir:
    enable: tuple[str, ...] = ()
    if hierarchy.version == 2:
        wanted = writes.needed.union(account)
        enable = tuple(name for name in hierarchy.controllers if name in wanted)
    seed = hierarchy.version == 1 and "cpuset" in hierarchy.controllers
    return CgroupDir(hierarchy.mountpoint, path, hierarchy.version, enable, seed, tuple(own))


def write_all(directory: int, writes: Iterable[Write]) -> None:
    """Write each value to its file in the cgroup *directory*, a descriptor, as the supervisor does at a start.

    A file that this kernel lacks may be left out, or another be taken in its place. Raises OSError.
    """
    replaced = False
    for write in writes:
        if replaced:
            replaced = False
            continue
        try:
            write_at(directory, write.file, write.value)
            replaced = write.on_missing == NEXT
        except FileNotFoundError:
            if write.on_missing == FAIL:
                raise
