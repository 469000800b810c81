"""SIGKILL of any of our processes, at any system call: soon nothing is left, and the next run works."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.child import in_child
from tests.safety import stepper, support

_PR_SET_CHILD_SUBREAPER = 36
# How many entries and exits of system calls each makes in what it is killed during, about.
_REACH = {"python": 900, "spawner": 90, "spare": 8, "supervisor": 190}


class Host:
    """A program that uses pyrunc, and what it may leave behind."""

    def __init__(self, rootfs: Path, number: int, parents: bool = True) -> None:
        """*parents* is whether the cgroup above the containers' is there already, as an administrator's would be."""
        self.rootfs = rootfs
        self.parent = f"/pyrunc-safety-{os.getpid()}-{number}"
        self.groups = [Path(hierarchy.mountpoint + self.parent) for hierarchy in detect().hierarchies]
        for group in self.groups if parents else ():
            group.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):  # which cgroup v1 wants before anybody may enter
                if (group / file).exists():
                    (group / file).write_text((group.parent / file).read_text())
        self.mounts = Path("/proc/self/mountinfo").read_text()
        self.files = sorted(rootfs.rglob("*"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.safety.host_program", str(rootfs), self.parent],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.ask("check") == "works"
        self.ask("cycle 0")  # whatever is imported and opened once
        self.descriptors = self.ask("fds")

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def spawner(self) -> int:
        """The present spawner; one that was killed is followed by another with the next request but one."""
        while True:
            found = [
                pid for pid in support.children(self.process.pid) if support.name_of(pid) == "pyrunc-spawner"
            ]
            if found:
                return found[0]
            assert self.ask("check") == "works"

    def spare(self) -> int:
        """The supervisor that waits for a request; a new spawner, or a busy machine, may need a moment."""
        found: list[int] = []

        def waits() -> bool:
            spawner = self.spawner()
            found[:] = [pid for pid, (parent, state) in support.process_table().items() if parent == spawner]
            # It rests in recvmsg(2) once it is ready.
            return len(found) == 1 and support.process_table().get(found[0], (0, ""))[1] == "S"

        assert support.wait_until(waits)
        return found[0]

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.process.stdout.close()

    def remove_groups(self) -> None:
        """Remove the cgroups that this test has made, and nothing in them."""
        for group in self.groups:
            group.rmdir()

    def leftovers(self, alive: bool) -> list[str]:
        """What there is beyond what should be; *alive* is whether the program still runs."""
        reap()
        found = [f"process {pid} {support.name_of(pid)}" for pid in support.descendants(os.getpid())]
        expected = ["host program", "spawner", "spare"] if alive else []
        if len(found) <= len(expected):
            found = []
        for group in self.groups:
            found += [f"cgroup {path}" for path, _, _ in os.walk(group) if path != str(group)]
        if Path("/proc/self/mountinfo").read_text() != self.mounts:
            found.append("mounts")
        if sorted(self.rootfs.rglob("*")) != self.files:
            found.append("files in the root directory")
        return found


def reap() -> None:
    """Orphans come to us; take note of their end."""
    for pid in support.descendants(os.getpid()):
        parent, state = support.process_table().get(pid, (0, ""))
        if parent == os.getpid() and state == "Z" and support.name_of(pid) != "python":
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


def nothing_left(host: Host, alive: bool, what: str) -> None:
    left: list[str] = []

    def clean() -> bool:
        left[:] = host.leftovers(alive)
        return not left

    assert support.wait_until(clean), f"{what}: {left}"


def _in_a_subreaper(function: Callable[[], None]) -> None:
    def run() -> None:
        support.call(support.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
        function()

    in_child(run)


# 200 in all by hand, 40 in CI, and a few on cgroup v2.
_V2 = pytest.mark.skipif(
    detect().mode != "v2", reason="a few rounds for a host with cgroup v2 alone: run ./dev vm"
)
_ROUNDS = pytest.mark.parametrize(
    "rounds",
    [10, pytest.param(50, marks=pytest.mark.soak), pytest.param(2, marks=[pytest.mark.vm, _V2], id="v2-2")],
)


def seed() -> int:
    return int(os.environ.get("PYRUNC_TEST_SEED") or random.SystemRandom().randrange(1 << 32))


@_ROUNDS
@pytest.mark.parametrize("victim", ["spawner", "spare", "supervisor"])
def test_one_of_ours_is_killed(rootfs: Path, victim: str, rounds: int) -> None:
    number = seed()
    print(f"PYRUNC_TEST_SEED={number}")

    def attack() -> None:
        chance = random.Random(number)
        host = Host(rootfs, number % 100000)
        for turn in range(rounds):
            at = chance.randrange(1, _REACH[victim])
            first = chance.randrange(4)
            pid = host.spawner() if victim == "spawner" else host.spare()

            def begin(first: int = first) -> None:
                if victim != "spare":
                    host.tell(f"cycle {first}")

            got = stepper.kill_at(pid, at, begin)
            what = f"seed {number}, turn {turn}: {victim} killed at {got} of {at} in cycle {first}"
            if victim == "spare":
                host.tell(f"cycle {first}")
            trouble = host.answer()
            assert trouble in ("fine", "unavailable"), f"{what}: {trouble!r}"
            if victim == "spare":
                assert trouble == "fine", what
            assert host.ask("check") == "works", what
            nothing_left(host, True, what)
            assert host.ask("fds") == host.descriptors, what
        host.close()
        nothing_left(host, False, "at the end")
        host.remove_groups()

    _in_a_subreaper(attack)


@_ROUNDS
def test_the_program_itself_is_killed(rootfs: Path, rounds: int) -> None:
    number = seed()
    print(f"PYRUNC_TEST_SEED={number}")

    def attack() -> None:
        chance = random.Random(number)
        for turn in range(rounds):
            host = Host(rootfs, turn)
            at = chance.randrange(1, _REACH["python"])
            first = chance.randrange(4)
            if turn % 2:
                assert host.ask("hold") == "held"  # two that run meanwhile
            got = stepper.kill_at(host.process.pid, at, partial(host.tell, f"cycle {first}"))
            host.close()
            what = f"seed {number}, turn {turn}: killed at {got} of {at} in cycle {first}"
            nothing_left(host, False, what)
            host.remove_groups()

    _in_a_subreaper(attack)


def test_without_anybody_who_cleans_up_there_would_be_leftovers(rootfs: Path) -> None:
    """What the checks above look at does show what a kill leaves: here all of ours are killed at once."""

    def careless() -> None:
        host = Host(rootfs, 0)
        assert host.ask("hold") == "held"
        spawner = host.spawner()
        assert support.wait_until(lambda: len(support.children(spawner)) == 3)  # two supervisors, one spare
        ours = [host.process.pid, spawner, *support.children(spawner)]
        for pid in ours:
            os.kill(pid, signal.SIGSTOP)  # so that none acts on the other's end
        for pid in ours:
            os.kill(pid, signal.SIGKILL)
        host.close()
        assert support.wait_until(lambda: not [pid for pid in ours if os.path.exists(f"/proc/{pid}/exe")])
        assert not support.wait_until(lambda: not host.leftovers(False), 1.0)
        assert any("cgroup" in what for what in host.leftovers(False))
        for group in host.groups:
            for path in [*sorted(set(group.rglob("*/")) - {group}, reverse=True), group]:
                assert support.wait_until(lambda path=path: removed(path))  # type: ignore[misc]

    _in_a_subreaper(careless)


def test_parents_that_killed_supervisors_made_are_removed(rootfs: Path) -> None:
    def attack() -> None:
        host = Host(rootfs, 0, parents=False)
        assert not [group for group in host.groups if group.exists()]
        assert host.ask("hold") == "held"
        supervisors = [
            pid for pid in support.children(host.spawner()) if support.name_of(pid) == "pyrunc-super"
        ]
        assert len(supervisors) == 2
        assert [group for group in host.groups if group.exists()] == host.groups
        for pid in supervisors:
            os.kill(pid, signal.SIGKILL)
        assert host.ask("release") == "unavailable"
        host.close()
        nothing_left(host, False, "at the end")
        left = [group for group in host.groups if group.exists()]
        for group in left:
            group.rmdir()
        assert not left

    _in_a_subreaper(attack)


def removed(path: Path) -> bool:
    """Remove a cgroup; whether it is gone."""
    reap()
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
