"""Freeze, thaw, kill and remove on real cgroups, through v2 and through v1 alone; and updates of limits."""

import errno
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_control import freeze, kill, remove, thaw
from pyrunc.runtime.cgroup_files import open_cgroup, read_at, write_at
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout, detect
from pyrunc.runtime.cgroups import plan_cgroup, plan_update, write_all
from tests.runtime.cgroup_support import apply, needs_root, unique_name

pytestmark = needs_root

# A shell that forks as fast as it can, which is what a freezer and a killer must be able to stop.
FORKER = ["sh", "-c", "while :; do (:) & wait; done"]


def only(version: int) -> Layout:
    """This host, as if it had only the hierarchies of one version."""
    found = tuple(one for one in detect().hierarchies if one.version == version)
    if not found:
        pytest.skip(f"no cgroup v{version} here")
    return Layout(f"v{version}", found)


@pytest.fixture(params=["v1", "v2", "host"])
def layout(request: pytest.FixtureRequest) -> Layout:
    if request.param == "host":
        return detect()
    return only(int(request.param[1]))


@pytest.fixture
def cgroup(layout: Layout) -> Iterator[str]:
    name = unique_name()
    apply(plan_cgroup(layout, f"{name}/inner", {}, account=()))
    try:
        yield name
    finally:
        kill(layout, name)
        remove(layout, name)


def join(layout: Layout, path: str, pid: int) -> None:
    for hierarchy in layout.hierarchies:
        (Path(hierarchy.mountpoint) / path / "cgroup.procs").write_text(str(pid))


@pytest.fixture
def forker(layout: Layout, cgroup: str) -> Iterator[subprocess.Popen[bytes]]:
    """The forker, in the cgroup below the container's."""
    reader, writer = os.pipe()
    process = subprocess.Popen(["sh", "-c", 'read _; exec "$@"', "sh", *FORKER], stdin=reader)
    try:
        join(layout, f"{cgroup}/inner", process.pid)
        os.write(writer, b"go\n")
        yield process
    finally:
        os.close(reader)
        os.close(writer)
        kill(layout, cgroup)
        process.wait(60)


def cpu_ticks(pid: int) -> int:
    """CPU time of a process and of its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15])


def advances(pid: int, within_s: float) -> bool:
    before = cpu_ticks(pid)
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if cpu_ticks(pid) > before:
            return True
        time.sleep(0.01)
    return False


def test_freeze_stops_a_forking_tree_and_thaw_lets_it_go_on(
    layout: Layout, cgroup: str, forker: subprocess.Popen[bytes]
) -> None:
    assert advances(forker.pid, 60)
    freeze(layout, cgroup)
    assert not advances(forker.pid, 0.3)
    thaw(layout, cgroup)
    assert advances(forker.pid, 60)


def test_kill_ends_a_forking_tree_and_the_cgroup_can_be_removed(
    layout: Layout, cgroup: str, forker: subprocess.Popen[bytes]
) -> None:
    assert advances(forker.pid, 60)
    kill(layout, cgroup)
    for hierarchy in layout.hierarchies:
        directory = Path(hierarchy.mountpoint) / cgroup
        assert (directory / "inner" / "cgroup.procs").read_text() == ""
    assert forker.wait(60) == -9
    remove(layout, cgroup)
    assert not any((Path(hierarchy.mountpoint) / cgroup).exists() for hierarchy in layout.hierarchies)


def test_kill_ends_what_is_frozen(layout: Layout, cgroup: str, forker: subprocess.Popen[bytes]) -> None:
    freeze(layout, cgroup)
    kill(layout, cgroup)
    assert forker.wait(60) == -9


def test_kill_on_a_hybrid_host_ends_what_v1_has_frozen_and_what_left_v2() -> None:
    """Another tool may have used the v1 freezer, or moved a process in one hierarchy only."""
    host = detect()
    if host.mode != "hybrid":
        pytest.skip("not a hybrid host")
    name = unique_name()
    apply(plan_cgroup(host, name, {}, account=()))
    frozen, moved = (subprocess.Popen(["sleep", "1000"]) for _ in range(2))
    try:
        join(host, name, frozen.pid)
        join(only(1), name, moved.pid)
        freeze(only(1), name)
        kill(host, name)
        assert frozen.wait(60) == moved.wait(60) == -9
    finally:
        for process in (frozen, moved):
            process.kill()
        thaw(only(1), name)
        remove(host, name)


def test_kill_spares_everything_outside(layout: Layout, cgroup: str) -> None:
    outside = subprocess.Popen(["sleep", "1000"])
    try:
        kill(layout, cgroup)
        assert outside.poll() is None
    finally:
        outside.kill()
        outside.wait()


def test_what_is_gone_is_no_error_but_cannot_be_frozen(layout: Layout) -> None:
    name = unique_name()
    kill(layout, name)
    kill(layout, f"{name}/inner")
    remove(layout, name)
    remove(layout, f"{name}/inner")
    for act in (freeze, thaw):
        with pytest.raises(FileNotFoundError, match=name):
            act(layout, name)


def test_remove_says_what_is_busy(layout: Layout, cgroup: str) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        join(layout, cgroup, process.pid)
        with pytest.raises(OSError, match=cgroup) as caught:
            remove(layout, cgroup, timeout_s=0.05)
        assert caught.value.errno == errno.EBUSY
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_remove_waits_for_the_last_process(layout: Layout, cgroup: str) -> None:
    script = "read _; exec sleep 0.3"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) as process:
        join(layout, f"{cgroup}/inner", process.pid)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        remove(layout, cgroup, timeout_s=60)


def test_remove_takes_a_deep_and_wide_tree_with_few_descriptors() -> None:
    """A container that may make cgroups cannot exhaust the descriptors, or the stack, of who cleans up."""
    layout = only(1)
    single = Layout("v1", layout.hierarchies[-1:])
    name = unique_name()
    top = Path(single.hierarchies[0].mountpoint) / name
    current = top
    for level in range(300):
        current.mkdir()
        if level % 100 == 0:
            for number in range(5):
                (current / f"side{number}").mkdir()
        current = current / "d"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        remove(single, name, timeout_s=60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not top.exists()


# --- never outside


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    """No cgroup is one, so a link can only come from somebody who wants us elsewhere."""
    outside = tmp_path / "outside"
    (outside / "victim").mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    (root / "box").symlink_to(outside)
    layout = Layout("v2", (Hierarchy(str(root), "/", 2, ()),))
    (outside / "cgroup.kill").write_text("")
    # Without the rule, the path leads out of the hierarchy:
    assert (root / "box" / "cgroup.kill").exists()
    for path in ("box", "box/victim"):
        with pytest.raises(OSError, match="box") as caught:
            kill(layout, path)
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    with pytest.raises(OSError, match="box"):
        remove(layout, "box")
    assert (outside / "victim").exists()
    assert (outside / "cgroup.kill").read_text() == ""


def test_a_mount_over_a_cgroup_is_not_that_cgroup() -> None:
    layout = only(1)
    hierarchy = layout.hierarchies[0]
    name = unique_name()
    directory = Path(hierarchy.mountpoint) / name
    directory.mkdir()
    try:
        script = (
            f"mount -t tmpfs tmpfs {directory} && exec {sys.executable} -c '"
            "import sys\n"
            "from pyrunc.runtime.cgroup_files import open_cgroup\n"
            "from pyrunc.runtime.cgroup_layout import Hierarchy\n"
            f'open_cgroup(Hierarchy("{hierarchy.mountpoint}", "/", 1, ()), "{name}")\''
        )
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert "OSError: [Errno 18]" in result.stderr
    finally:
        directory.rmdir()


# --- updates, on the real files

M = 1 << 20


@contextmanager
def copy_of(hierarchy: Hierarchy, path: str, directory: int) -> Iterator[int]:
    """A second cgroup with the memory limits of the first."""
    name = f"{path}-copy"
    (Path(hierarchy.mountpoint) / name).mkdir()
    copy = open_cgroup(hierarchy, name)
    try:
        for file in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            write_at(copy, file, read_at(directory, file))
        yield copy
    finally:
        os.close(copy)
        remove(Layout("v1", (hierarchy,)), name)


def test_any_memory_update_is_accepted_in_the_planned_order() -> None:
    """The kernel refuses a step after which memory would exceed memory+swap; the planned order avoids it."""
    layout = only(1)
    memory = layout.of("memory")
    if memory is None or not Path(memory.mountpoint, "memory.memsw.limit_in_bytes").exists():
        pytest.skip("no v1 memory controller with swap accounting here")
    layout = Layout("v1", (memory,))
    name = unique_name()
    apply(plan_cgroup(layout, name, {"memory": {"limit": 64 * M, "swap": 64 * M}}))
    seed = random.randrange(1 << 32)
    numbers = random.Random(seed)
    try:
        directory = open_cgroup(memory, name)
        refused = 0
        for _ in range(200):
            limit = numbers.choice([4, 8, 64, 65, 128, 256]) * M
            swap = numbers.choice([-1, limit, limit + 4 * M, 2 * limit])
            plan = plan_update(layout, name, {"memory": {"limit": limit, "swap": swap}})
            (only_dir,) = plan.dirs
            # The same two values the other way round fail now and then, so the order matters.
            with copy_of(memory, name, directory) as copy:
                try:
                    for write in reversed(only_dir.writes):
                        write_at(copy, write.file, write.value)
                except OSError as error:
                    assert error.errno == errno.EINVAL
                    refused += 1
            write_all(directory, only_dir.writes)
            assert int(read_at(directory, "memory.limit_in_bytes")) == limit
            if swap > 0:
                assert int(read_at(directory, "memory.memsw.limit_in_bytes")) == swap
        assert refused > 0, f"seed {seed}"
        os.close(directory)
    finally:
        remove(layout, name)


def test_any_cpu_update_is_accepted_in_the_planned_order() -> None:
    """Below a parent with a quota, and with a burst, each step is checked against what is set."""
    layout = only(1)
    cpu = layout.of("cpu")
    if cpu is None or not Path(cpu.mountpoint, "cpu.idle").exists():
        pytest.skip("no v1 cpu controller, or one without burst and idle, here")
    layout = Layout("v1", (cpu,))
    name = unique_name()
    seed = random.randrange(1 << 32)
    numbers = random.Random(seed)
    apply(plan_cgroup(layout, name, {"cpu": {"quota": 50000, "period": 100000}}))
    apply(plan_cgroup(layout, f"{name}/box", {"cpu": {"quota": 5000, "period": 10000, "burst": 5000}}))
    try:
        for _ in range(200):
            period = numbers.choice([10000, 20000, 100000, 500000])
            quota = numbers.choice([period // 2, period // 5])
            burst = numbers.choice([0, quota // 2, quota])
            wanted = {
                "period": period,
                "quota": quota,
                "burst": burst,
                "idle": numbers.choice([0, 1]),
                "shares": 99,
            }
            plan = plan_update(layout, f"{name}/box", {"cpu": wanted})
            directory = open_cgroup(cpu, f"{name}/box")
            try:
                write_all(directory, plan.dirs[0].writes)
                for file, value in (("period", period), ("quota", quota), ("burst", burst)):
                    assert int(read_at(directory, f"cpu.cfs_{file}_us")) == value, f"seed {seed}"
                assert int(read_at(directory, "cpu.idle")) == wanted["idle"]
            finally:
                os.close(directory)
    finally:
        remove(layout, name)
