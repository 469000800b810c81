"""Cgroups made and removed in the hierarchies of the host, under names of the test's own."""

import errno
import os
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from pyrunc._native import cgroup
from tests.child import in_child, refused


def hierarchies() -> dict[str, bytes]:
    """Mount point by controller name; cgroup v2 as "unified"."""
    found: dict[str, bytes] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if kind == "cgroup2":
            found["unified"] = os.fsencode(fields[4])
        elif kind == "cgroup":
            found.update(dict.fromkeys(fields[-1].split(","), os.fsencode(fields[4])))
    return found


@pytest.fixture(params=["memory", "cpuset", "unified"])
def hierarchy(request: pytest.FixtureRequest) -> bytes:
    mounted = hierarchies()
    if request.param not in mounted:
        pytest.skip(f"no cgroup hierarchy {request.param} is mounted")
    return mounted[request.param]


@pytest.fixture
def base(hierarchy: bytes) -> Iterator[bytes]:
    """The name of a cgroup that does not exist; what the test leaves below it is removed."""
    name = f"/pyrunc-test-{os.getpid()}".encode()
    yield name
    for directory, _, _ in os.walk(hierarchy + name, topdown=False):
        os.rmdir(directory)


def test_make_and_remove_with_parents(hierarchy: bytes, base: bytes) -> None:
    path = base + b"/a/b"
    assert cgroup.make(hierarchy, path)
    assert b"cgroup.procs" in os.listdir(hierarchy + path)
    cgroup.remove(hierarchy, path)
    assert not os.path.exists(hierarchy + path)
    assert os.path.isdir(hierarchy + base + b"/a")
    cgroup.remove(hierarchy, path)  # what is not there is no error


def test_an_existing_cgroup_is_refused_or_joined(hierarchy: bytes, base: bytes) -> None:
    assert cgroup.make(hierarchy, base)
    with refused(errno.EEXIST, "mkdir", (hierarchy + base).decode()):
        cgroup.make(hierarchy, base)
    assert not cgroup.make(hierarchy, base, existing=True)


def test_a_cgroup_with_a_task_is_not_removed(hierarchy: bytes, base: bytes) -> None:
    in_cpuset = b"cpuset" in hierarchy
    cgroup.make(hierarchy, base, cpuset=in_cpuset, seed=in_cpuset)
    sleeper = subprocess.Popen(["sleep", "60"])
    Path(os.fsdecode(hierarchy + base), "cgroup.procs").write_text(str(sleeper.pid))
    ticks: list[None] = []
    end = threading.Event()

    def tick() -> None:
        while not end.wait(0.001):
            ticks.append(None)

    thread = threading.Thread(target=tick)
    thread.start()
    before = len(ticks)
    try:
        with refused(errno.EBUSY, "rmdir", (hierarchy + base).decode()):
            cgroup.remove(hierarchy, base)
        assert len(ticks) > before, "other threads stood still meanwhile"
    finally:
        end.set()
        thread.join()
        sleeper.kill()
        sleeper.wait()


def test_removal_waits_for_the_last_task(hierarchy: bytes, base: bytes) -> None:
    in_cpuset = b"cpuset" in hierarchy
    cgroup.make(hierarchy, base, cpuset=in_cpuset, seed=in_cpuset)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    procs = os.open(hierarchy + base + b"/cgroup.procs", os.O_WRONLY)
    os.write(procs, str(pid).encode())
    for each in (procs, reading):
        os.close(each)
    killer = threading.Timer(0.05, os.close, (writing,))
    killer.start()
    reaper = threading.Thread(target=os.waitpid, args=(pid, 0))
    reaper.start()
    cgroup.remove(hierarchy, base)
    assert not os.path.exists(hierarchy + base)
    killer.join()
    reaper.join()


def test_names_that_cannot_be(hierarchy: bytes) -> None:
    long = b"/x" * 2048
    for call, name in ((cgroup.make, "mkdir"), (cgroup.remove, "rmdir")):
        with refused(errno.ENAMETOOLONG, name, (hierarchy + long).decode()):
            call(hierarchy, long)
        for path in (b"/a\0b", b"", b"a", b"/..", b"/a/../../b"):
            with pytest.raises(ValueError, match=r"null byte|absolute"):
                call(hierarchy, path)


def test_a_missing_hierarchy_is_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with refused(errno.ENOENT, "mkdir", f"{missing}/a"):
        cgroup.make(os.fsencode(missing), b"/a")
    assert not missing.exists()


def test_a_cpuset_can_hold_tasks_only_when_seeded() -> None:
    mounted = hierarchies()
    if "cpuset" not in mounted:
        pytest.skip("no cgroup v1 hierarchy cpuset is mounted")
    hierarchy = mounted["cpuset"]
    base = f"/pyrunc-test-{os.getpid()}".encode()

    def join(path: bytes) -> None:
        with open(hierarchy + path + b"/tasks", "wb") as tasks:
            tasks.write(b"0")

    try:
        cgroup.make(hierarchy, base)
        with pytest.raises(AssertionError, match="No space left"):
            in_child(lambda: join(base))
        cgroup.remove(hierarchy, base)
        cgroup.make(hierarchy, base + b"/parent/seeded", cpuset=True, seed=True)
        for path in (base, base + b"/parent", base + b"/parent/seeded"):
            for name in (b"/cpuset.cpus", b"/cpuset.mems"):
                assert Path(os.fsdecode(hierarchy + path + name)).read_text().strip()
        in_child(lambda: join(base + b"/parent/seeded"))
    finally:
        for directory, _, _ in os.walk(hierarchy + base, topdown=False):
            cgroup.remove(hierarchy, directory.removeprefix(hierarchy))


def test_a_controller_that_is_not_there_cannot_be_enabled() -> None:
    mounted = hierarchies()
    if "unified" not in mounted:
        pytest.skip("cgroup v2 is not mounted")
    path = f"/pyrunc-test-{os.getpid()}/a".encode()
    with refused(errno.EINVAL, "mkdir", (mounted["unified"] + path).decode()):
        cgroup.make(mounted["unified"], path, enable=b"+nosuchcontroller")
    assert not os.path.exists(mounted["unified"] + path)


def test_a_parent_that_is_just_being_removed_is_made_again(hierarchy: bytes, base: bytes) -> None:
    # The end of each of another's short containers removes the parent that both share.
    in_cpuset = b"cpuset" in hierarchy
    cgroup.make(hierarchy, base, cpuset=in_cpuset, seed=in_cpuset)
    end = time.monotonic() + 2

    def remove() -> None:
        while time.monotonic() < end:
            with suppress(OSError):
                os.rmdir(hierarchy + base + b"/shared")

    def make(name: bytes) -> None:
        path = base + b"/shared/" + name
        while time.monotonic() < end:
            cgroup.make(hierarchy, path, cpuset=in_cpuset)
            cgroup.remove(hierarchy, path)

    children = [in_background(partial(make, name)) for name in (b"a", b"b")]
    children += [in_background(remove) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4


def in_background(work: Callable[[], None]) -> int:
    """A child that does *work*, and ends with 1 if that raises OSError."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except OSError:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
