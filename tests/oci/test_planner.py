"""The planner saves time and is trusted with nothing else: whatever sits at its socket, the command does the same."""

import ast
import contextlib
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.oci.create import prepare
from pyrunc.oci.log import Failure
from pyrunc.runtime import caller
from pyrunc.runtime.spawner import sealed_memfd
from tests.oci.bundles import Runtime, document
from tests.oci.native import PYTHON, call
from tests.oci.planning import (
    MAGIC,
    PLAN,
    PLANNED,
    await_end,
    descriptors,
    forget_cgroups,
    planner,
    served,
    socket_of,
    stranger,
)
from tests.oci.starting import pid_of_planner

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

COLD = "create --bundle bundle x\n"
"""What the Python of the test prints when it is asked instead of a planner."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / ("d" * 100) / "planners"
    path.parent.mkdir()
    return path


def create(front_door: Path, planner: Path | str, **options: Any) -> str:
    """What `create` came to: the words of the Python that it became."""
    bundle = front_door.parents[2]
    done = call(front_door, "create", "--bundle", "bundle", "x", planner=planner, cwd=bundle, **options)
    assert (done.returncode, done.stderr) == (PYTHON, "")
    return done.stdout


def planned(front_door: Path, planner: Path, **options: Any) -> None:
    """See that `create` gets a plan. It names a directory that cannot be made: that failure is Python's to tell."""
    served(lambda: create(front_door, planner, **options))


def asked(directory: Path) -> list[Any]:
    """What the planner was asked: arguments, working directory, bundle, environment."""
    path = directory.parent / "asked"
    return [ast.literal_eval(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_plan_of_the_planner_is_carried_out_without_python(
    front_door: Path, directory: Path, plan: Path, tmp_path: Path
) -> None:
    environment = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": "/n s", "SECRET": "x", "XDG_RUNTIME_DIR": ""}
    with planner(front_door, directory, plan):
        planned(front_door, directory, env=environment)
        words = ("--root", "/r", "exec", "-t", "x", "sh")
        served(lambda: call(front_door, *words, planner=directory).stdout)
    first, *_, second = asked(directory)
    del environment["SECRET"]
    environment |= {"PYRUNC_OCI_PLANNER": str(directory), "PATH": "/usr/bin"}
    assert first == [
        ["create", "--bundle", "bundle", "x"],
        str(tmp_path),
        str(tmp_path / "bundle"),
        environment,
    ]
    assert second[:3] == [["--root", "/r", "exec", "-t", "x", "sh"], "/", ""]


def test_it_is_asked_only_where_that_is_wanted_and_a_line_is_plain(
    front_door: Path, directory: Path, plan: Path
) -> None:
    with planner(front_door, directory, plan):
        assert create(front_door, "0") == COLD
        for words in (
            ["create", "--nope", "x"],
            ["create"],
            ["create", "-b", "", "x"],
            ["--debug", "run", "x"],
            # What these lead to is another thing in the planner.
            ["create", "-b", "/proc/self/fd/3", "x"],
            ["exec", "--process", "/dev/stdin", "x"],
            ["exec", "-p=/dev/fd/3", "x"],
            ["--root", "/proc/thread-self/cwd", "exec", "x", "sh"],
        ):
            assert call(front_door, *words, planner=directory).stdout == " ".join(words) + "\n"
    assert asked(directory) == []


def test_it_declines_whatever_goes_wrong_in_it(front_door: Path, directory: Path, plan: Path) -> None:
    with planner(front_door, directory, plan) as child:
        plan.unlink()
        assert create(front_door, directory) == COLD
        plan.write_bytes(b"no plan")
        assert create(front_door, directory) == COLD
        plan.write_bytes(PLAN)
        planned(front_door, directory)
        assert child.poll() is None


@pytest.mark.parametrize("flag", ["--mount", "--net", "--cgroup", "--pid", "--uts", "--ipc", "--time"])
def test_it_declines_callers_of_other_namespaces(
    front_door: Path, directory: Path, plan: Path, flag: str
) -> None:
    before = ("unshare", flag, *(["--fork"] if flag in ("--pid", "--time") else []))
    with planner(front_door, directory, plan):
        assert create(front_door, directory, before=before) == COLD
        assert asked(directory) == []


def test_it_declines_callers_with_another_root(
    front_door: Path, directory: Path, plan: Path, tmp_path: Path
) -> None:
    # The same mount namespace; its proc, and by a link the rest, are where they were.
    root = tmp_path / "root"
    for name in ("proc", "tmp", "usr", "lib", "lib64", "bin"):
        (root / name).mkdir(parents=True)
        subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)
    try:
        with planner(front_door, directory, plan):
            before = ("/usr/sbin/chroot", str(root))
            done = call(front_door, "run", "x", planner=directory, before=before)
            assert (done.returncode, done.stdout) == (PYTHON, "run x\n")
            assert asked(directory) == []
    finally:
        for name in ("proc", "tmp", "usr", "lib", "lib64", "bin"):
            subprocess.run(["umount", "--recursive", "--lazy", root / name], check=True)


def test_a_plan_that_names_the_planner_is_none(front_door: Path, directory: Path, plan: Path) -> None:
    with planner(front_door, directory, plan) as child:
        name = f"/proc/{child.pid}/x".encode()
        plan.write_bytes(PLAN.replace(b"/proc/nonexistent", name.ljust(17, b"x")))
        assert create(front_door, directory) == COLD


def test_it_declines_another_version(front_door: Path, directory: Path, plan: Path) -> None:
    with planner(front_door, directory, plan, changes="_VERSION=99"):
        assert create(front_door, directory) == COLD
    shutil.rmtree(directory)
    with planner(front_door, directory, plan):
        planned(front_door, directory)


def test_it_ends_when_what_it_was_made_of_has_changed(front_door: Path, directory: Path, plan: Path) -> None:
    with planner(front_door, directory, plan, changes="_LOOK_AGAIN_NS=0") as child:
        planned(front_door, directory)
        os.utime(front_door)
        assert create(front_door, directory) == COLD
        assert child.wait(60) == 0
    assert not directory.exists()


def test_it_ends_when_nobody_asks_and_leaves_nothing(front_door: Path, directory: Path, plan: Path) -> None:
    with planner(front_door, directory, plan, idle_ms=300) as child:
        assert child.wait(60) == 0
    assert not directory.exists()
    assert create(front_door, directory) == COLD


def test_a_signal_ends_it_as_idleness_does(front_door: Path, directory: Path, plan: Path) -> None:
    with planner(front_door, directory, plan) as child:
        planned(front_door, directory)
        child.terminate()
        assert child.wait(60) == 0
        assert not directory.exists()
        for members in Path("/sys/fs/cgroup").glob("*/pyrunc-planner/cgroup.procs"):
            with contextlib.suppress(OSError):  # of another planner's, which has ended
                assert str(child.pid) not in members.read_text().split()


def test_one_whose_socket_was_taken_away_leaves_nothing_either(
    front_door: Path, directory: Path, plan: Path
) -> None:
    with planner(front_door, directory, plan) as child:
        planned(front_door, directory)
        socket_of(front_door, directory).unlink()
        child.terminate()
        assert child.wait(60) == 0
    assert not directory.exists()


def test_a_second_planner_leaves_the_place_to_the_first(
    front_door: Path, directory: Path, plan: Path
) -> None:
    with planner(front_door, directory, plan):
        with planner(front_door, directory, plan) as second:
            assert second.wait(60) == 0
        planned(front_door, directory)


def test_a_killed_planner_is_followed_by_another(front_door: Path, directory: Path, plan: Path) -> None:
    with planner(front_door, directory, plan):
        pass
    assert socket_of(front_door, directory).exists()
    assert create(front_door, directory) == COLD
    socket_of(front_door, directory).unlink()
    with planner(front_door, directory, plan):
        planned(front_door, directory)


# Strangers


def test_the_socket_of_another_user_gets_nothing(front_door: Path, directory: Path) -> None:
    place = socket_of(front_door, directory)
    with stranger(place) as listener:
        os.seteuid(65534)
        try:
            listener.listen(8)  # the kernel notes whose it is
        finally:
            os.seteuid(0)
        assert create(front_door, directory) == COLD
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b""


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o770, 0), (0o700, 65534)])
def test_a_directory_that_others_may_write_is_not_looked_into(
    front_door: Path, directory: Path, plan: Path, mode: int, owner: int
) -> None:
    with planner(front_door, directory, plan):
        directory.chmod(mode)
        os.chown(directory, owner, owner)
        assert create(front_door, directory) == COLD
    assert asked(directory) == []


def fds(*numbers: int) -> list[tuple[int, int, bytes]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(numbers)}i", *numbers))]


def unsealed() -> int:
    fd = os.memfd_create("plan")
    os.write(fd, PLAN)
    return fd


GOOD = struct.pack("=II", MAGIC, PLANNED)
SEALED: Callable[[], int] = lambda: sealed_memfd("plan", PLAN)  # noqa: E731
ANSWERS: dict[str, Callable[[socket.socket], object]] = {
    "nothing, and hangs up": lambda _: None,
    "half a word": lambda peer: peer.send(GOOD[:5]),
    "no plan": lambda peer: peer.send(GOOD),
    "another magic": lambda peer: peer.sendmsg([struct.pack("=II", MAGIC + 1, PLANNED)], fds(SEALED())),
    "an unknown kind": lambda peer: peer.sendmsg([struct.pack("=II", MAGIC, 7)], fds(SEALED())),
    "more than an answer": lambda peer: peer.sendmsg([GOOD + b"x"], fds(SEALED())),
    "a huge answer": lambda peer: peer.sendmsg([GOOD * 20000], fds(SEALED())),
    "two plans": lambda peer: peer.sendmsg([GOOD], fds(SEALED(), SEALED())),
    "two hundred descriptors": lambda peer: peer.sendmsg([GOOD], fds(*[SEALED()] * 200)),
    "a plan that could still change": lambda peer: peer.sendmsg([GOOD], fds(unsealed())),
    "a directory": lambda peer: peer.sendmsg([GOOD], fds(os.open("/", os.O_RDONLY))),
    "a device": lambda peer: peer.sendmsg([GOOD], fds(os.open("/dev/zero", os.O_RDONLY))),
    "garbage for a plan": lambda peer: peer.sendmsg([GOOD], fds(sealed_memfd("plan", os.urandom(5000)))),
    "an empty plan": lambda peer: peer.sendmsg([GOOD], fds(sealed_memfd("plan", b""))),
    "half a plan": lambda peer: peer.sendmsg([GOOD], fds(sealed_memfd("plan", PLAN[: len(PLAN) // 2]))),
    "silence": lambda peer: select.select([peer], [], [], 20),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_none_costs_time_only(front_door: Path, directory: Path, answer: str) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            connection.recv(1 << 17)
            with contextlib.suppress(ConnectionError):  # it has not waited for so long
                ANSWERS[answer](connection)

    with stranger(socket_of(front_door, directory)) as listener:
        peer = threading.Thread(target=serve)
        peer.start()
        assert create(front_door, directory) == COLD
        peer.join()


def test_the_same_answer_with_a_plan_is_taken(front_door: Path, directory: Path) -> None:
    """So that what is refused above is refused for its reason."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 17)
            with contextlib.suppress(ConnectionError):  # it has not waited for so long
                connection.sendmsg([GOOD], fds(SEALED()))

    def ask() -> str:
        peer = threading.Thread(target=serve)
        peer.start()
        said = create(front_door, directory)
        peer.join()
        return said

    with stranger(socket_of(front_door, directory)) as listener:
        served(ask)


def test_nobody_waits_in_its_queue(front_door: Path, directory: Path) -> None:
    place = socket_of(front_door, directory)
    with stranger(place, backlog=0), contextlib.ExitStack() as waiting:
        here = os.open(directory, os.O_PATH)
        waiting.callback(os.close, here)
        error = 0
        while error == 0:
            caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            error = waiting.enter_context(caller).connect_ex(f"/proc/self/fd/{here}/{place.name}")
        assert error == errno.EAGAIN
        assert create(front_door, directory) == COLD


# Its starter


def test_whoever_started_it_neither_waits_for_it_nor_shares_anything_with_it(
    front_door: Path, directory: Path
) -> None:
    code = "import sys; from pyrunc.oci import planner; planner.ensure(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, front_door],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYRUNC_OCI_PLANNER": str(directory)},
        timeout=120,  # the end of its pipe
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    place = socket_of(front_door, directory)
    pid = pid_of_planner(front_door, directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        here = os.open(directory, os.O_PATH)
        probe.connect(f"/proc/self/fd/{here}/{place.name}")
        os.close(here)
        probe.send(b"no request")
        probe.recv(100)  # it has declined, and so is where it will be
    try:
        process = Path(f"/proc/{pid}")
        assert os.readlink(process / "cwd") == "/"
        assert int((process / "stat").read_text().rpartition(")")[2].split()[3]) not in (0, os.getsid(0))
        assert {os.readlink(process / f"fd/{number}") for number in (0, 1, 2)} == {"/dev/null"}
        cgroups = (process / "cgroup").read_text().splitlines()
        assert [line for line in cgroups if not line.endswith(":/pyrunc-planner")] == []
        assert [
            name
            for name in descriptors(pid)
            if not name.startswith(("/dev/null", "socket:", str(place), "/proc/"))
        ] == []
    finally:
        os.kill(pid, 9)
        await_end(pid)
        forget_cgroups()


def test_a_mount_of_what_is_the_callers_own_is_left_to_the_caller(oci: Runtime, tmp_path: Path) -> None:
    spec = document(oci.rootfs, ["true"])
    spec["mounts"].append({"destination": "/own", "source": "/proc/self/fd/7", "type": "bind"})
    words = ["create", "-b", str(oci.write(tmp_path / "b", spec)), "x"]
    caller.serve(1)
    try:
        with pytest.raises(Failure, match="source of a mount"):
            prepare(words)
    finally:
        caller.serve(0)
