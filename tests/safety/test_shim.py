"""Shims under attack: killed, along with who started them, at any system call; held up; and what they leave then."""

import fcntl
import json
import os
import random
import resource
import select
import stat
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc import Sandbox, errors
from pyrunc.runtime import shim, spawner
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.cgroup_layout import detect
from pyrunc.runtime.launcher import Launcher
from tests.child import in_child
from tests.runtime.shim_support import Place, ended, eventually, place, small_tmpfs
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
    thread.join(60)
    eventually(here.marker.exists)
    assert here.marker.read_text().strip() == os.readlink("/proc/self/ns/net")
    status = shim.status(str(here.state))
    assert status is not None
    assert status.exit_code == 3
    who = shim.running(str(here.state))
    assert who is not None
    eventually(lambda: ended(who))


LOOK = """
import ctypes, os, sys
pid = int(sys.argv[1])
found = []
for name in ("mem", "environ", "maps", "exe", "cwd", "root", "fd", "getfd", "trace"):
    try:
        if name in ("exe", "cwd", "root"):
            os.readlink(f"/proc/{pid}/{name}")
        elif name == "fd":
            os.readlink(f"/proc/{pid}/fd/0")
        elif name == "getfd":
            if ctypes.CDLL(None).syscall(438, os.pidfd_open(pid), 0, 0) < 0:
                continue
        elif name == "trace":
            if ctypes.CDLL(None).ptrace(0x4206, pid, None, None) < 0:
                continue
        else:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                file.read(0 if name == "mem" else 1)
        found.append(name)
    except OSError:
        pass
print(*found)
"""


@pytest.mark.parametrize("user", ["0", "1000"])
def test_who_sees_a_shim_cannot_look_into_it(here: Place, sandbox: Callable[..., Sandbox], user: str) -> None:
    """With the host's processes in sight; whoever may trace them all, and is the host's root by that, can."""
    process = here.start("exec sleep 60")
    eventually(lambda: "shims" in Path(f"/proc/{process.shim_pid}/cgroup").read_text())
    command = support.python(LOOK, str(process.shim_pid))
    seen = sandbox(pid="host", mounts=support.python_mounts(), user=user).run(command)
    assert seen.stdout.split() == [], seen.stderr
    assert seen.exit_code == 0
    if user == "0":
        careless = sandbox(pid="host", mounts=support.python_mounts(), privileged=True).run(command)
        assert {b"mem", b"fd", b"root", b"getfd", b"trace"} <= set(careless.stdout.split())
    stop(process)


def test_a_small_stack_is_enough_to_end_a_container(here: Place) -> None:
    """The starter's limits are the shim's."""

    def start() -> None:
        spawner._forget()
        resource.setrlimit(resource.RLIMIT_STACK, (65536, 65536))
        process = here.start("exec sleep 60")
        stop(process)
        spawner.shut_down()

    in_child(start)


@pytest.mark.parametrize("what", ["pipe", "link", "directory", "device"])
def test_a_log_that_is_no_file_of_its_own_is_refused_and_holds_up_nobody(here: Place, what: str) -> None:
    """Whoever opens a pipe to write waits for a reader."""
    secret = here.directory / "secret"
    secret.write_text("secret")
    {
        "pipe": lambda: os.mkfifo(here.log),
        "link": lambda: here.log.symlink_to(secret),
        "directory": lambda: here.log.mkdir(),  # noqa: PLW0108
        "device": lambda: os.mknod(here.log, stat.S_IFCHR | 0o600, os.makedev(5, 0)),
    }[what]()
    with pytest.raises(errors.StartError, match="log or state files"):
        here.start("echo x")
    assert secret.read_text() == "secret"
    here.log.rmdir() if what == "directory" else here.log.unlink()
    finish(here.start("echo x"))
    assert here.logged() == "x\n"


@pytest.mark.parametrize("torn", ['{"log":"par', "x" * 100_000, "\n", ""])
def test_a_log_is_gone_on_with_behind_its_last_whole_record(here: Place, torn: str) -> None:
    """What a killed shim has left of a record would else be the beginning of the next one."""
    finish(here.start("echo one"))
    with here.log.open("a") as file:
        file.write(torn)
    here.id = os.urandom(32).hex()
    finish(here.start("echo two"))
    lines = [line for line in here.log.read_text().splitlines() if line]
    assert [json.loads(line)["log"] for line in lines] == ["one\n", "two\n"]


def test_nothing_is_made_by_the_starter_s_umask(here: Place) -> None:
    before = os.umask(0o707)
    try:
        spawner.shut_down()
        command = ("/bin/sh", "-c", f"umask > {here.marker}.new; mv {here.marker}.new {here.marker}")
        process = here.start("umask", exit_command=command)
        process.release()
        eventually(here.marker.exists)
        eventually(lambda: ended(process.running))
    finally:
        os.umask(before)
        spawner.shut_down()
    assert here.marker.read_text() == "0022\n"
    assert here.logged() == "0022\n"
    assert stat.S_IMODE(here.log.stat().st_mode) == 0o640


def stop(process: shim.ShimProcess) -> None:
    """Kill it, and wait until its shim has removed what shims share."""
    process.kill()
    assert process.wait(60).exit_code == 137
    process.finished()
    eventually(lambda: ended(process.running))


def finish(process: shim.ShimProcess) -> None:
    """Wait for its end and take note of it."""
    assert process.wait(60).exit_code == 0
    process.finished()
    eventually(lambda: ended(process.running))


def test_who_is_behind_while_the_disk_is_full_holds_up_the_others_for_a_moment_only(
    launcher: Launcher, tmp_path: Path
) -> None:
    """However steadily it takes a little."""
    with small_tmpfs(tmp_path / "full", "1m") as full, place(launcher, tmp_path) as here:
        process = here.start("read go; seq 1 500000", stdin_open=True, log=shim.LogFile(str(full / "log")))
        slow = AttachClient.connect(str(here.state))
        fast = AttachClient.connect(str(here.state), stdin=True)
        fast.send(b"\n")
        over = threading.Event()
        taken: list[int] = []
        thread = threading.Thread(target=sip, args=(slow, over, taken))
        thread.start()
        while not fast.closed:
            select.select([fast], [], [], 1)
            fast.receive()
        over.set()
        thread.join()
        assert fast.exit_status is not None
        finish(process)
        slow._sock.settimeout(60)
        while got := len(slow._sock.recv(65536)):
            taken.append(got)
        assert sum(taken) < 3_000_000  # of 3.4 million


def sip(client: AttachClient, over: threading.Event, taken: list[int]) -> None:
    """Take 16 KiB now and then; *taken* is how much that was each time."""
    while not over.wait(0.05):
        try:
            taken.append(len(client._sock.recv(16384)))
        except BlockingIOError:
            pass


def test_who_was_dropped_is_told_so_though_nothing_more_happens(launcher: Launcher, tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "full", "64k") as full, place(launcher, tmp_path) as here:
        script = "while read x; do dd if=/dev/zero bs=30000 count=1 2>/dev/null; done"
        process = here.start(script, stdin_open=True, log=shim.LogFile(str(full / "log")))
        slow = AttachClient.connect(str(here.state))
        fast = AttachClient.connect(str(here.state), stdin=True)
        for client in (slow, fast):
            client._sock.settimeout(60)
        with pytest.raises(OSError, match="No space"):
            (full / "ballast").write_bytes(bytes(1 << 20))
        sent = len(fast._sock.recv(8))  # READY
        eventually(lambda: waiting(slow) >= sent)  # which is heard later
        while waiting(slow) >= sent:
            fast.send(b"\n")
            due = sent + 30008
            while sent < due:
                sent += len(fast._sock.recv(65536))
        while slow._sock.recv(65536):
            pass  # what it was sent in time
        stop(process)


def waiting(client: AttachClient) -> int:
    """How much there is to receive."""
    return int.from_bytes(fcntl.ioctl(client, termios.FIONREAD, bytes(4)), sys.byteorder)


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
            thread.join(60)
            what = f"seed {number}, turn {turn}: {victim} killed at {got} of {at}: {heard}"
            assert heard in ([5], ["Unavailable"]), what
            assert victim == "shim" or heard == [5], what
            assert support.wait_until(lambda: not cgroups_of(here)), what
            assert here.commands() == 0, what
            who = shim.running(str(here.state))
            assert who is None or support.wait_until(lambda: ended(who)), what  # noqa: B023


def run(here: Place, heard: list[int | str]) -> None:
    """A container from its start to its end, and what its owner has heard."""
    try:
        process = here.start("exit 5")
        heard.append(process.wait(60).exit_code)
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
            assert support.wait_until(lambda: not cgroups_of(here)), what
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
