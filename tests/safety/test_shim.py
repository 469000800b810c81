"""Shims under attack: killed, along with who started them, at any system call; held up; and what they leave then."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc import errors
from pyrunc.runtime import shim, spawner
from pyrunc.runtime.cgroup_layout import detect
from pyrunc.runtime.launcher import Launcher
from tests.runtime.shim_support import Place, ended, eventually, place
from tests.safety import stepper, support
from tests.safety.test_kill import seed

# How many entries and exits of system calls each makes in what it is killed during, about.
_REACH = {"starter": 700, "spawner": 60, "shim": 420}


@pytest.fixture
def launcher(rootfs: Path) -> Iterator[Launcher]:
    """With a spawner that has only what the next start needs."""
    spawner.shut_down()
    yield Launcher.of_options(rootfs, {"seccomp": "unconfined"})
    spawner.shut_down()


@pytest.fixture
def here(launcher: Launcher, tmp_path: Path) -> Iterator[Place]:
    with place(launcher, tmp_path) as made:
        yield made


def spare() -> int:
    """The supervisor that takes the next request."""
    spawner.current()

    def waiting() -> list[int]:
        table = support.process_table()
        return [
            pid for pid, (parent, state) in table.items() if parent == support.spawner_pid() and state == "S"
        ]

    assert support.wait_until(lambda: len(waiting()) == 1)
    return waiting()[0]


def cgroups_of(here: Place) -> list[Path]:
    places = [Path(hierarchy.mountpoint, "pyrunc", here.id) for hierarchy in detect().hierarchies]
    return [path for path in places if path.exists()]


def test_the_exit_command_of_a_container_that_ended_at_once_is_not_in_its_network(here: Place) -> None:
    """A shim that was not scheduled hears of the start and the end together."""
    command = (
        "/bin/sh",
        "-c",
        f"readlink /proc/self/ns/net > {here.marker}.new; mv {here.marker}.new {here.marker}",
    )
    thread = threading.Thread(target=lambda: here.start("exit 3", exit_command=command).release())
    pid = spare()
    init = stepper.birth(pid, thread.start)
    stepper.let_go(init)
    assert support.wait_until(lambda: support.process_table()[init][1] == "Z")
    stepper.let_go(pid)
    thread.join(10)
    eventually(here.marker.exists)
    assert here.marker.read_text().strip() == os.readlink("/proc/self/ns/net")
    status = shim.status(str(here.state))
    assert status is not None
    assert status.exit_code == 3


# 150 in all by hand, 24 in CI.
_ROUNDS = pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=pytest.mark.soak)])


@_ROUNDS
@pytest.mark.parametrize("victim", ["shim", "spawner"])
def test_one_of_ours_is_killed_at_any_system_call(
    launcher: Launcher, tmp_path: Path, victim: str, rounds: int
) -> None:
    """The owner hears of it, nothing is left, and no exit command runs beside an owner."""
    number = seed()
    print(f"PYRUNC_TEST_SEED={number}")
    chance = random.Random(number)
    for turn in range(rounds):
        (tmp_path / str(turn)).mkdir()
        with place(launcher, tmp_path / str(turn)) as here:
            at = chance.randrange(1, _REACH[victim])
            if victim == "spawner":
                spawner.shut_down()
            pid = spare()
            if victim == "spawner":
                pid = support.spawner_pid()
            heard: list[int | str] = []
            thread = threading.Thread(target=run, args=(here, heard))
            got = stepper.kill_at(pid, at, thread.start)
            thread.join(30)
            what = f"seed {number}, turn {turn}: {victim} killed at {got} of {at}: {heard}"
            assert heard in ([5], ["Unavailable"]), what
            assert victim == "shim" or heard == [5], what
            assert support.wait_until(lambda: not cgroups_of(here)), what  # noqa: B023
            assert here.commands() == 0, what
            who = shim.running(str(here.state))
            assert who is None or support.wait_until(lambda: ended(who)), what  # noqa: B023


def run(here: Place, heard: list[int | str]) -> None:
    """A container from its start to its end, and what its owner has heard."""
    try:
        process = here.start("exit 5")
        heard.append(process.wait(20).exit_code)
        process.finished()
    except errors.PyruncError as exc:
        heard.append(type(exc).__name__)


@_ROUNDS
def test_the_starter_is_killed_at_any_system_call(launcher: Launcher, tmp_path: Path, rounds: int) -> None:
    """Either nothing was started, or what was started ends, and the exit command runs once."""
    number = seed()
    print(f"PYRUNC_TEST_SEED={number}")
    chance = random.Random(number)
    ran = 0
    for turn in range(rounds):
        (tmp_path / str(turn)).mkdir()
        with place(launcher, tmp_path / str(turn)) as here:
            at = chance.randrange(1, _REACH["starter"])
            pid, begin = starter(here)
            got = stepper.kill_at(pid, at, begin)
            what = f"seed {number}, turn {turn}: killed at {got} of {at}"
            assert support.wait_until(lambda: not cgroups_of(here)), what  # noqa: B023
            who = shim.running(str(here.state))
            if who is None:
                assert here.commands() <= 1, what
                continue
            ran += 1
            here.processes.append(who)
            assert support.wait_until(lambda: ended(who)), what  # noqa: B023
            status = shim.status(str(here.state))
            assert status is not None, what
            assert status.exit_code == 5, what
            assert here.commands() == 1, what
    print(f"{ran} of {rounds} containers ran")


def starter(here: Place) -> tuple[int, Callable[[], None]]:
    """A process that starts a container as soon as the function is called, lets go of it and ends."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(reading, 1)
            here.start("exit 5").release()
        finally:
            os._exit(0)
    os.close(reading)

    def begin() -> None:
        os.write(writing, b"x")
        os.close(writing)

    return pid, begin
