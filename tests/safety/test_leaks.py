"""After many starts nothing has grown: descriptors, memory, cgroups, namespaces, mounts, processes, keys.

What others do on the machine counts too in some figures, so growth is compared with the number of starts: one
leak for each start would be hundreds, or thousands when `pytest -m soak` makes ten thousand starts.
"""

import contextlib
import ctypes
import gc
import mmap
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyrunc import Mount, Sandbox, errors
from pyrunc.runtime import cgroup_layout, spawner
from tests.safety import support

Make = Callable[..., Sandbox]
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STARTS = pytest.mark.parametrize("starts", [200, pytest.param(10_000, marks=pytest.mark.soak)])
# A leak for every tenth start would be seen; caches that fill once, and what others do, are below it.
_SLACK = 10


class Figures(NamedTuple):
    """What may grow; counts, and bytes where the name says so."""

    descriptors: int
    spawner_descriptors: int
    children: int
    zombies: int
    mounts: int
    cgroups: int
    open_files: int
    keys: int
    network_namespaces: int
    memory_bytes: int
    spawner_memory_bytes: int


def private_bytes(pid: int | str) -> int:
    """The memory that is a process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) * 1024


def our_cgroups() -> int:
    places = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    found = 0
    for place in places:
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(place / "pyrunc") as entries,
        ):
            found += sum(entry.is_dir() for entry in entries)
    return found


def our_keys() -> int:
    try:
        lines = Path("/proc/key-users").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == "0:")


def network_namespaces() -> int:
    found = set()
    for pid in support.process_table():
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue
    return len(found)


def measure() -> Figures:
    gc.collect()
    table = support.process_table()
    below = [pid for pid, (parent, _) in table.items() if parent == os.getpid()]
    pid = support.spawner_pid()
    return Figures(
        len(os.listdir("/proc/self/fd")),
        len(os.listdir(f"/proc/{pid}/fd")),
        len(support.descendants(os.getpid())),
        sum(table[pid][1] == "Z" for pid in below),
        len(Path("/proc/self/mountinfo").read_text().splitlines()),
        our_cgroups(),
        int(Path("/proc/sys/fs/file-nr").read_text().split()[0]),
        our_keys(),
        network_namespaces(),
        private_bytes("self"),
        private_bytes(pid),
    )


def growth(before: Figures, starts: int) -> dict[str, tuple[int, int]]:
    """What is larger than *before* by more than its limit, as (growth, limit)."""
    few = max(_SLACK, starts // _SLACK)
    limits = {
        "descriptors": 0, "spawner_descriptors": 0, "children": 0, "zombies": 0, "mounts": 0,
        "cgroups": few, "keys": few, "network_namespaces": few, "open_files": few + 200,
        # 200 starts: what is allocated once; 10,000: 200 bytes a start
        "memory_bytes": (1 << 20) + starts * 100, "spawner_memory_bytes": 64 << 10,
    }  # fmt: skip
    after = measure()
    grown = {name: getattr(after, name) - getattr(before, name) for name in Figures._fields}
    return {name: (amount, limits[name]) for name, amount in grown.items() if amount > limits[name]}


def nothing_has_grown(before: Figures, starts: int) -> None:
    found: dict[str, tuple[int, int]] = {}

    def steady() -> bool:
        found.clear()
        found.update(growth(before, starts))
        return not found

    assert support.wait_until(steady), found


@pytest.fixture(autouse=True, scope="module")
def _only_ours() -> Iterator[None]:
    """Other tests make this process the parent of orphans; what is counted here must be what these tests start."""
    spawner.shut_down()
    was = ctypes.c_int()
    support.call(support.libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0))
    support.call(support.libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0))
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    yield
    support.call(support.libc.prctl(_PR_SET_CHILD_SUBREAPER, was.value, 0, 0, 0))


def repeat(act: Callable[[], object], starts: int) -> None:
    """Do *act* often, and say what it cost.

    The heap of a process that has run thousands of tests grows in steps; a leak grows it each time. So where memory
    alone has grown it is done again, twice at most.
    """
    for _ in range(20):
        act()
    assert support.wait_until(lambda: len(support.descendants(os.getpid())) <= 2)
    for attempts_left in (2, 1, 0):
        before = measure()
        begun = time.monotonic()
        for _ in range(starts):
            act()
        seconds = time.monotonic() - begun
        after = measure()
        grown = {name: getattr(after, name) - getattr(before, name) for name in Figures._fields}
        print(f"{starts} in {seconds:.0f} s; grown by {grown}")
        if not attempts_left or set(growth(before, starts)) != {"memory_bytes"}:
            nothing_has_grown(before, starts)
            return


@_STARTS
def test_runs(sandbox: Make, starts: int) -> None:
    box = sandbox()
    repeat(lambda: box.run(["/bin/true"]), starts)


@_STARTS
def test_starts_that_are_killed(sandbox: Make, starts: int) -> None:
    box = sandbox()

    def act() -> None:
        with box.start(["/bin/sleep", "60"]):
            pass

    repeat(act, starts // 2)


def test_sandboxes(sandbox: Make) -> None:
    """Also what is made anew for each: plans, filters, descriptors of /dev/null."""
    repeat(
        lambda: sandbox(seccomp="default", memory_bytes=64 << 20).run(["/bin/cat"], stdin=b"x" * 100_000), 100
    )


def failing_acts(sandbox: Make, rootfs: Path, tmp_path: Path, kind: str) -> dict[str, Callable[[], object]]:
    """One way to fail for each stage of a start."""
    (rootfs / "link").symlink_to("/nowhere")
    (rootfs / "plain").write_text("no program")
    (rootfs / "plain").chmod(0o755)
    volume = tmp_path / "volume"
    volume.mkdir()
    plain = sandbox()
    run = ["/bin/true"]
    options: dict[str, dict[str, Any]] = {
        "cgroup limit": {"cpu_period_us": 1000, "cpu_quota_us": 1000, "cpuset_cpus": "4095"},
        "mount": {"mounts": [Mount("/x", "x", "tmpfs", ["no-such-option"])]},
        "destination": {"mounts": [Mount("/link/x", str(volume))]},
        "rlimit": {"rlimits": {"nofile": (10, 1 << 40)}},
        "sysctl": {"sysctls": {"net.no.such": "1"}},
    }
    acts: dict[str, Callable[[], object]] = {}
    if kind in options:
        acts[kind] = partial(sandbox(**options[kind]).run, run)
    acts["no program"] = lambda: plain.run(["/bin/missing"])
    acts["not executable"] = lambda: plain.run(["/plain"])
    acts["a directory"] = lambda: plain.run(["/bin"])
    acts["time-out"] = lambda: plain.run(["/bin/sleep", "60"], timeout_s=0.001)
    acts["argument"] = lambda: plain.run(["/bin/true", "\0"])
    acts["started"] = lambda: plain.start(["/bin/missing"])
    return acts


@pytest.mark.parametrize(
    "kind",
    ["cgroup limit", "mount", "destination", "rlimit", "sysctl", "no program", "not executable", "a directory",
     "time-out", "argument", "started"],
)  # fmt: skip
def test_failing_starts(sandbox: Make, rootfs: Path, tmp_path: Path, kind: str) -> None:
    if kind == "cgroup limit" and cgroup_layout.detect().of("cpuset") is None:
        pytest.skip("needs the cpuset controller, to be refused a processor that there is not")
    act = failing_acts(sandbox, rootfs, tmp_path, kind)[kind]
    sandbox().run(["/bin/true"])

    def fails() -> None:
        with pytest.raises(errors.PyruncError):
            act()

    repeat(fails, 30)


def test_supervisors_that_are_killed(sandbox: Make) -> None:
    box = sandbox()

    def act() -> None:
        process = box.start(["/bin/sleep", "60"])
        os.kill(support.supervisor_of(process.pid), 9)
        with pytest.raises(errors.Unavailable):
            process.wait()

    repeat(act, 30)


def test_spawners_that_are_killed(sandbox: Make) -> None:
    box = sandbox()
    box.run(["/bin/true"])

    def act() -> None:
        killed = support.spawner_pid()
        os.kill(killed, 9)
        for _ in range(20):  # the first are the orphaned spares'
            box.run(["/bin/true"])
            if support.spawner_pid() != killed:
                return
        raise AssertionError("more than 20 spares were left")

    act()
    before = len(os.listdir("/proc/self/fd")), len(support.descendants(os.getpid()))
    for _ in range(20):
        act()
    assert support.wait_until(
        lambda: (len(os.listdir("/proc/self/fd")), len(support.descendants(os.getpid()))) <= before
    )


def memory(size: int) -> mmap.mmap:
    """*size* bytes that are the kernel's latest: an allocation may be of what earlier tests have freed."""
    pages = mmap.mmap(-1, size)
    pages.write(b"x" * size)
    return pages


def test_a_leak_is_seen(sandbox: Make) -> None:
    """The figures above do show one: a descriptor, a process and memory for each start."""
    box = sandbox()
    box.run(["/bin/true"])
    before = measure()
    kept = [(os.dup(0), memory(200_000), box.start(["/bin/sleep", "60"])) for _ in range(20)]
    found = growth(before, 20)
    for fd, pages, process in kept:
        os.close(fd)
        pages.close()
        process.close()
    assert {"descriptors", "children", "cgroups", "memory_bytes"} <= found.keys()
    spawner.shut_down()
