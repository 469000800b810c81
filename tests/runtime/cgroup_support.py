"""What the cgroup tests share: own cgroups, a child inside them, and a plan carried out in Python."""

import contextlib
import errno
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_files import open_cgroup, read_at, write_at
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout
from pyrunc.runtime.cgroups import CgroupDir, CgroupPlan, write_all

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make cgroups")
_counter = itertools.count()


def unique_name() -> str:
    return f"pyrunc-test-{os.getpid()}-{next(_counter)}"


def leftovers(layout: Layout) -> list[str]:
    """Every cgroup of this test process that still exists."""
    return [
        str(path)
        for hierarchy in (*layout.hierarchies, *layout.named)
        for path in Path(hierarchy.mountpoint).glob(f"pyrunc-test-{os.getpid()}-*")
    ]


@contextmanager
def own_cgroup(hierarchy: Hierarchy) -> Iterator[tuple[str, int]]:
    """Make a cgroup in one hierarchy; gives its path and a descriptor, and removes it at the end."""
    name = unique_name()
    directory = Path(hierarchy.mountpoint) / name
    directory.mkdir()
    descriptor = open_cgroup(hierarchy, name)
    try:
        yield name, descriptor
    finally:
        os.close(descriptor)
        remove_busy(directory)


def remove_busy(directory: Path) -> None:
    """rmdir, for up to a minute: a cgroup is busy until the kernel has done with its last process."""
    deadline = time.monotonic() + 60
    while True:
        try:
            directory.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def kill_members(directory: Path) -> None:
    """SIGKILL to every process of a cgroup; one that ends meanwhile, and a cgroup that does, are none."""
    with contextlib.suppress(OSError):
        for pid in (directory / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def as_member_of(
    directories: list[int], file: str, function: Callable[[], dict[str, bool]]
) -> dict[str, bool]:
    """Run *function* in a child that has joined the cgroups *directories* through their *file*."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for directory in directories:
                write_at(directory, file, "0")
            os.write(writer, json.dumps(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as stream:
        output = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    result: dict[str, bool] = json.loads(output)
    return result


def apply(plan: CgroupPlan) -> None:
    """Carry out a plan as its docstring says, but for device programs and processes."""
    for directory in plan.dirs:
        _make(directory)
        descriptor = os.open(f"{directory.mountpoint}/{directory.path}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            write_all(descriptor, directory.writes)
        finally:
            os.close(descriptor)
        if directory.seed_cpuset:
            _seed(Path(directory.mountpoint) / directory.path)


def _make(directory: CgroupDir) -> None:
    level = Path(directory.mountpoint)
    for name in directory.path.split("/"):
        if directory.enable:
            wanted = set(directory.enable) - set((level / "cgroup.subtree_control").read_text().split())
            if wanted:
                (level / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(wanted)))
        level /= name
        level.mkdir(exist_ok=True)
        if directory.seed_cpuset and str(level) != f"{directory.mountpoint}/{directory.path}":
            _seed(level)


def _seed(directory: Path) -> None:
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not (directory / file).read_text().strip():
            (directory / file).write_text((directory.parent / file).read_text())


def values(layout: Layout, path: str) -> dict[str, str]:
    """The content of every file of a container's cgroups that can be set and is not a counter."""
    result = {}
    for hierarchy in layout.hierarchies:
        directory = open_cgroup(hierarchy, path)
        try:
            for name in sorted(os.listdir(directory)):
                mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
                counts = any(
                    word in name for word in ("usage", "failcnt", "procs", "tasks", "threads", "pressure")
                )
                if (mode & 0o600) == 0o600 and not counts:
                    result[name] = read_at(directory, name)
            if "devices" in hierarchy.controllers:
                result["devices.list"] = "\n".join(sorted(read_at(directory, "devices.list").splitlines()))
        finally:
            os.close(directory)
    return result
