"""A terminal in the foreground: what is typed and shown goes between the caller's and the program's, as with runc."""

import contextlib
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.oci.runtime import SUBJECT, Runtime, unique_id
from tests.oci.waiting import PATIENCE_S
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root


class Seat:
    """Somebody at a terminal, who has called a program from there."""

    def __init__(self, command: list[str], rows: int = 20, columns: int = 70) -> None:
        self.command = command
        self.master, peer = os.openpty()
        self.peer = peer
        self.resize(rows, columns)
        self.before = termios.tcgetattr(peer)
        self.shown = b""
        # A session of its own, whose terminal this is; the command takes the place of setsid(1).
        self.child = subprocess.Popen(["setsid", "--ctty", *command], stdin=peer, stdout=peer, stderr=peer)

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        while text:
            text = text[os.write(self.master, text) :]

    def read(self, patience_s: float) -> bool:
        """Take what is shown within a while; whether there was something."""
        if not select.select([self.master], [], [], patience_s)[0]:
            return False
        self.shown += os.read(self.master, 1 << 16)
        return True

    def until(self, text: bytes) -> None:
        """Wait until *text* is shown."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self.read(0.1)

    def end(self) -> int:
        """Wait for the command's end; its exit code. Its terminal has to be as it was."""
        deadline = time.monotonic() + PATIENCE_S
        while self.child.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self.read(0.05)
        while self.read(0):
            pass
        assert termios.tcgetattr(self.peer) == self.before
        return self.child.returncode

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self.master)
        os.close(self.peer)


Sit = Callable[..., Seat]


@pytest.fixture(params=["exec", "run"])
def sit(request: pytest.FixtureRequest, runtime: Runtime, bundle: Callable[..., Path]) -> Iterator[Sit]:
    """Calls a shell script with a terminal, in a running container or as one: `sit(script)`."""
    seats: list[Seat] = []

    def make(script: str, *size: int) -> Seat:
        if request.param == "exec":
            name = runtime.create(bundle("bundle", "sleep", "1000"))
            runtime("start", name)
            command = runtime.command("exec", "-t", name, "sh", "-c", script)
        else:
            name = unique_id()
            runtime.made.append(name)
            place = bundle("bundle", "sh", "-c", script, process__terminal=True)
            runtime.root.parent.mkdir(parents=True, exist_ok=True)
            command = runtime.command("run", "--bundle", str(place), name)
        seats.append(Seat(command, *size))
        return seats[-1]

    with contextlib.ExitStack() as stack:
        yield make
        for seat in seats:
            stack.callback(seat.close)


def test_a_line_is_typed_once_and_the_exit_code_is_the_programs(sit: Sit) -> None:
    seat = sit('tty; echo ready; read x; echo "[$x]"; exit 3')
    seat.until(b"ready")
    seat.type(b"hello\r")
    assert seat.end() == 3
    assert seat.shown.replace(b"\r\n", b"\n").splitlines()[1:] == [b"ready", b"hello", b"[hello]"]
    assert seat.shown.startswith(b"/dev/pts/")


def test_ends_of_lines_are_made_by_the_callers_terminal(sit: Sit) -> None:
    seat = sit("stty -a; echo one; echo two")
    assert seat.end() == 0
    assert b"-onlcr" in seat.shown
    assert b"one\r\ntwo\r\n" in seat.shown
    assert b"\r\r" not in seat.shown


def test_the_size_is_the_callers_and_follows_it(sit: Sit) -> None:
    seat = sit("trap 'stty size; exit 5' WINCH; stty size; while :; do sleep 0.1; done", 33, 99)
    seat.until(b"33 99")
    seat.resize(44, 111)
    seat.child.send_signal(signal.SIGWINCH)
    seat.until(b"44 111")
    assert seat.end() == 5


def test_control_c_is_the_programs(sit: Sit) -> None:
    seat = sit("trap 'echo caught; exit 6' INT; echo ready; while :; do sleep 0.1; done")
    seat.until(b"ready")
    seat.type(b"\x03")
    assert seat.end() == 6
    assert b"caught" in seat.shown


def test_a_signal_is_passed_on_and_the_terminal_restored(sit: Sit) -> None:
    seat = sit("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    seat.until(b"ready")
    seat.child.terminate()
    assert seat.end() == 7


def test_much_that_is_typed_and_shown_arrives_whole(sit: Sit) -> None:
    seat = sit("stty raw -echo; echo ready; head -c 200000 | wc -c; seq 20000; echo end")
    seat.until(b"ready")
    block = bytes(range(32, 127)) * 22
    sent = 0
    while sent < 200000:
        part = block[: 200000 - sent]
        seat.type(part)
        sent += len(part)
        while seat.read(0):
            pass
    assert seat.end() == 0
    assert b"200000" in seat.shown
    numbers = [line for line in seat.shown.replace(b"\r", b"").splitlines() if line.isdigit()]
    assert numbers[-20000:] == [str(number).encode() for number in range(1, 20001)]
    assert seat.shown.rstrip().endswith(b"end")


def test_a_program_that_cannot_start_leaves_the_terminal_alone(sit: Sit) -> None:
    seat = sit("true")
    assert seat.end() == 0
    command = [*seat.command[:-3], "/nope"]
    if "exec" in command:
        other = Seat(command)
        try:
            assert other.end() == 255
            assert b"/nope" in other.shown
        finally:
            other.close()


def test_there_has_to_be_a_terminal(runtime: Runtime, bundle: Callable[..., Path]) -> None:
    if SUBJECT == "crun":
        pytest.skip("crun takes any")
    name = unique_id()
    runtime.made.append(name)
    place = bundle("bundle", "true", process__terminal=True)
    result = runtime("run", "--bundle", str(place), name, code=1)
    assert "open /dev/tty: no such device or address" in result.err
    assert not (runtime.root / name).exists()
