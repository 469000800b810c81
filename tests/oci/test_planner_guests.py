"""Whatever comes to a planner's socket, and whatever it is asked to read: the others are served meanwhile."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc.oci import guests
from tests.oci import bundles
from tests.oci.native import PYTHON, call, install
from tests.oci.planning import MAGIC, await_end, descriptors, forget_cgroups, planner, socket_of
from tests.oci.starting import pid_of_planner, start_planner
from tests.oci.waiting import until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root


class Real:
    """A real planner, and a front door that has nobody else: what it leaves to Python is said and fails."""

    def __init__(self, tmp_path: Path, oci: bundles.Runtime) -> None:
        self.oci = oci
        self.front_door = install(tmp_path / "installed")
        self.directory = tmp_path / "planners"
        self.pid = start_planner(self.front_door, self.directory)
        self.bundle = oci.bundle(tmp_path / "good", ["/bin/echo", "served"])
        with self.guest() as guest:
            guest.send(b"x")
            guest.recv(100)  # it is where it will be

    def call(self, *words: object) -> "subprocess.CompletedProcess[str]":
        return call(self.front_door, "--root", str(self.oci.root), *map(str, words), planner=self.directory)

    def serve(self) -> None:
        """See that a command gets a plan; one that is late on a busy machine is not waited for."""
        done: list[subprocess.CompletedProcess[str]] = []

        def in_time() -> bool:
            done.append(self.call("run", "-b", self.bundle, self.oci.id))
            assert done[-1].returncode in (0, PYTHON), done[-1]
            return done[-1].stdout == "served\n"

        until(in_time, lambda: done[-1])

    def declines(self, *words: object) -> bool:
        """Whether a command is left to Python."""
        return self.call(*words).returncode == PYTHON

    def guest(self) -> socket.socket:
        """A connection to the planner."""
        found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        place = socket_of(self.front_door, self.directory)
        here = os.open(self.directory, os.O_PATH)
        try:
            found.connect(f"/proc/self/fd/{here}/{place.name}")
        finally:
            os.close(here)
        found.settimeout(60)
        return found

    def guests(self) -> int:
        """How many are connected to the planner, which itself has one socket."""
        return sum(name.startswith("socket:") for name in descriptors(self.pid)) - 1

    def descriptors(self) -> list[str]:
        """What the planner has open when nobody is there any more."""
        until(lambda: self.guests() == 0, lambda: descriptors(self.pid))
        return descriptors(self.pid)


@pytest.fixture
def real(tmp_path: Path, oci: bundles.Runtime) -> Iterator[Real]:
    found = Real(tmp_path, oci)
    yield found
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGKILL)
    await_end(found.pid)
    forget_cgroups()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() != b""


# What it reads


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


ODD: dict[str, Callable[[Path], object]] = {
    "a fifo": os.mkfifo,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a directory": os.mkdir,
    "what never ends": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a link to itself": lambda path: path.symlink_to(path),
    "one's own descriptor": lambda path: path.symlink_to("/proc/self/fd/5"),
    "a link to a fifo": link_to_fifo,
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("file", ["config.json", "process.json"])
def test_an_odd_file_holds_nobody_up(
    real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "odd"
    place.mkdir()
    ODD[kind](place / file)
    before = real.descriptors()
    if file == "config.json":
        words: tuple[object, ...] = ("run", "-b", place, "x")
    else:
        real.oci.call("run", "-d", "-b", real.oci.bundle(tmp_path / "b", ["/bin/sleep", "1000"]), real.oci.id)
        words = ("exec", "--process", place / file, real.oci.id)
    assert real.declines(*words)
    if file == "process.json":
        real.oci.call("kill", real.oci.id, "KILL")
        real.oci.wait("stopped")
        real.oci.call("delete", real.oci.id)
    real.serve()
    assert real.descriptors() == before


def test_who_waits_to_write_to_a_fifo_is_not_woken_by_the_planner(real: Real, tmp_path: Path) -> None:
    """The command itself reads what is written, once, as runc does: the planner does not even open the fifo."""
    real.oci.call("run", "-d", "-b", real.oci.bundle(tmp_path / "b", ["/bin/sleep", "1000"]), real.oci.id)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "process.json").write_text(json.dumps({"args": ["/bin/echo", "read"], "cwd": "/"}))
    with subprocess.Popen(
        ["sh", "-c", 'cat "$0" >"$1" && echo written', tmp_path / "process.json", fifo],
        stdout=subprocess.PIPE,
    ) as writer:
        try:
            time.sleep(0.1)
            words = ("exec", "--process", fifo, real.oci.id)
            assert real.declines(*words)
            assert writer.poll() is None
            assert real.oci.call(*words).stdout == "read\n"
            assert writer.communicate(timeout=60)[0] == b"written\n"
        finally:
            writer.kill()


def test_a_state_that_never_ends_holds_nobody_up_for_long(real: Real, tmp_path: Path) -> None:
    """A root is the caller's to name; its time is limited."""
    root = tmp_path / "root"
    (root / "x").mkdir(parents=True)
    os.mkfifo(root / "x/state.json")
    assert (
        call(real.front_door, "--root", str(root), "exec", "x", "true", planner=real.directory).returncode
        == PYTHON
    )
    real.serve()


def test_a_document_of_many_megabytes_is_refused(real: Real, tmp_path: Path) -> None:
    place = tmp_path / "odd"
    place.mkdir()
    with (place / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    assert real.declines("run", "-b", place, "x")
    real.serve()
    pages = int(Path(f"/proc/{real.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 200 << 20


# Who comes


def test_hundreds_who_say_nothing_hold_nobody_up(real: Real) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(real.guest()) for _ in range(300)]
        for _ in range(3):
            real.serve()
        # Of those who wait a bounded number is kept; the first had to go.
        assert silent[0].recv(1) == b""
        assert real.guests() < 200
    real.serve()
    assert len(real.descriptors()) < 20


def test_who_has_spoken_does_not_have_to_go_for_another() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind("")
        listener.listen(256)
        inside = guests.Guests(listener)

        @stack.callback
        def leave() -> None:
            for guest in inside._waiting.values():
                guest.close()

        def come() -> socket.socket:
            found = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            found.connect(listener.getsockname())
            return found

        first, *_ = [come() for _ in range(guests._MOST)]
        while len(inside._waiting) < guests._MOST:
            assert list(inside.wait(1000)) == []
        first.send(b"I was here")
        come()
        heard = []
        for guest in inside.wait(1000):
            heard.append(guests.receive(guest, 100))
            guest.close()
        assert heard == [(b"I was here", [])]


def fds(*numbers: int) -> list[tuple[int, int, bytes]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(numbers)}i", *numbers))]


def head(argc: int = 1, envc: int = 0, bundle: int = 1, magic: int = MAGIC) -> bytes:
    return struct.pack("=6I", magic, 2, 0, argc, envc, bundle) + bytes(8 * 16)


def send_many(guest: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):  # it was declined by then
        for _ in range(10):
            guest.send(b"x")


def send_half(guest: socket.socket) -> None:
    guest.send(head()[:100])
    guest.shutdown(socket.SHUT_WR)


def send_large(guest: socket.socket) -> None:
    guest.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    with contextlib.suppress(OSError):  # more than a message may have, or it was declined by then
        guest.send(head(200000) + b"x" * 150000)
        guest.send(head(1 << 20) + b"x\0" * (1 << 19))


GARBAGE: dict[str, Callable[[socket.socket], object]] = {
    "an empty message": lambda guest: guest.send(b""),
    "a byte": lambda guest: guest.send(b"x"),
    "half a head": lambda guest: guest.send(head()[:60]),
    "a head alone": lambda guest: guest.send(head()),
    "noise": lambda guest: guest.send(os.urandom(4096)),
    "zeros": lambda guest: guest.send(bytes(4096)),
    "many words": lambda guest: guest.send(head((1 << 32) - 1, (1 << 32) - 1) + b"x\0" * 1000),
    "no text": lambda guest: guest.send(head(1) + b"\xff\xfe\xfd\0"),
    "more than there is room for": send_large,
    "a descriptor alone": lambda guest: guest.sendmsg([b"x"], fds(0)),
    "all the descriptors": lambda guest: guest.sendmsg([head()], fds(*[guest.fileno()] * 253)),
    "its own end": lambda guest: guest.sendmsg([head()], fds(guest.fileno())),
    "one message after another": send_many,
    "half of it and no more": send_half,
    "hanging up": lambda guest: guest.close(),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_declined(real: Real, what: str) -> None:
    real.serve()
    before = real.descriptors()
    for _ in range(20):
        with real.guest() as guest:
            GARBAGE[what](guest)
            if what not in ("hanging up", "an empty message"):
                with contextlib.suppress(ConnectionResetError):  # what it did not read
                    assert guest.recv(100) in (struct.pack("=II", MAGIC, 2), b"")
    real.serve()
    assert real.descriptors() == before


def test_a_command_line_of_a_megabyte_goes_the_other_way(real: Real) -> None:
    # A word has at most 128 KiB.
    words = ["x" * 100_000] * 10
    done = real.call("exec", "x", *words)
    assert done.returncode == PYTHON and len(done.stdout) > 1_000_000
    real.serve()


def test_a_caller_that_does_not_hear_its_answer_holds_nobody_up(real: Real, tmp_path: Path) -> None:
    """It is stopped, or is killed, behind its request."""
    other = bundles.Runtime(
        real.oci.root, real.oci.rootfs
    )  # how far it comes is not known, nor what it leaves
    other.id = f"{real.oci.id}x"
    bundle = other.bundle(tmp_path / "other", ["/bin/true"])
    line = [str(word) for word in (real.front_door, "--root", other.root, "run", "-b", bundle, other.id)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for _ in range(10):
            child = subprocess.Popen(
                line, env={"PYRUNC_OCI_PLANNER": str(real.directory)}, stdout=subprocess.DEVNULL
            )
            child.send_signal(number)
            real.serve()
            child.kill()
            child.wait()
            other.call("delete", "--force", other.id)


def test_64_at_once_are_served_or_go_the_other_way(real: Real, tmp_path: Path) -> None:
    done: list[subprocess.CompletedProcess[str]] = []

    def run(number: int) -> None:
        spec = json.loads((real.bundle / "config.json").read_text())
        spec["linux"]["cgroupsPath"] += f"-{number}"
        spec["process"]["args"] = ["/bin/echo", str(number)]
        bundle = real.oci.write(tmp_path / f"b{number}", spec)
        done.append(real.call("run", "-b", bundle, f"{real.oci.id}-{number}"))

    def served() -> int:
        """How many were; a busy machine serves few in time."""
        done.clear()
        threads = [threading.Thread(target=run, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 64
        assert all(one.returncode in (0, PYTHON) for one in done), [
            one for one in done if one.returncode not in (0, PYTHON)
        ]
        words = [int(one.stdout) for one in done if one.returncode == 0]
        assert len(set(words)) == len(words)
        return len(words)

    until(lambda: served() > 10, "hardly anybody is served")
    assert alive(real.pid)
    real.serve()


def test_a_planner_that_is_killed_while_it_answers(real: Real, tmp_path: Path) -> None:
    """Stopped with requests in its queue, and killed: each caller goes the other way, and the next planner serves."""
    os.kill(real.pid, signal.SIGSTOP)
    done: list[int] = []
    threads = [
        threading.Thread(
            target=lambda n=n: done.append(real.call("create", "-b", real.bundle, f"x{n}").returncode)
        )
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    os.kill(real.pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert done == [PYTHON] * 5
    await_end(real.pid)
    assert real.declines("run", "-b", real.bundle, real.oci.id)
    real.pid = start_planner(real.front_door, real.directory)
    real.serve()
    assert tmp_path.exists()


def test_one_whose_files_were_replaced_ends_and_is_followed(tmp_path: Path, oci: bundles.Runtime) -> None:
    """An upgrade: the caller goes the other way at once, and what it starts is made of the new files."""
    checkout = tmp_path / "checkout"
    shutil.copytree(
        bundles.REPOSITORY / "pyrunc",
        checkout / "pyrunc",
        ignore=shutil.ignore_patterns("*.c", "__pycache__"),
    )
    front_door = tmp_path / "bin/pyrunc-oci"
    front_door.parent.mkdir()
    shutil.copy2(bundles.FRONT_DOOR, front_door)
    python = (bundles.FRONT_DOOR.parent / "pyrunc-oci.python").read_text().splitlines()[0]
    (front_door.parent / "pyrunc-oci.python").write_text(f"{python}\n{checkout}\n")
    directory = tmp_path / "planners"
    bundle = oci.bundle(tmp_path / "b", ["/bin/echo", "served"])

    def run() -> str:
        return call(
            front_door, "--root", str(oci.root), "run", "-b", str(bundle), oci.id, planner=directory
        ).stdout

    def pid() -> int:
        return pid_of_planner(front_door, directory)

    pids = []
    try:
        assert run() == "served\n"
        pids.append(pid())
        assert run() == "served\n" and pid() == pids[0]
        module = checkout / "pyrunc/oci/create.py"
        module.write_text(module.read_text() + "\n# newer\n")
        time.sleep(0.6)  # it looks twice a second
        assert run() == "served\n"
        await_end(pids[0])
        assert run() == "served\n"
        pids.append(pid())
        assert pids[1] != pids[0]
    finally:
        for one in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
            await_end(one)
        forget_cgroups()


def test_declined_callers_do_not_keep_it(front_door: Path, plan: Path, tmp_path: Path) -> None:
    """It is there for those whom it can serve: with none of them it ends, and leaves its place to another's."""
    directory = tmp_path / "planners"

    def ended() -> bool:
        call(front_door, "create", "x", planner=directory, before=("setpriv", "--no-new-privs"))
        return child.poll() is not None

    with planner(front_door, directory, plan, idle_ms=1500) as child:
        until(ended, "it stays")
    assert not directory.exists()
