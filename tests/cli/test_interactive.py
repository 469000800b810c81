"""What a person at a terminal sees and types: a command on a pty of the test's, and a program in a container."""

import errno
import fcntl
import hashlib
import os
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc.errors import InvalidArgument
from pyrunc.runtime.terminal import DetachScanner, detach_keys
from tests.safety.support import wait_until

pytestmark = pytest.mark.usefixtures("host_unchanged")
_CHECKOUT = Path(__file__).parents[2]


class Person:
    """Sits at a terminal on which a command of the package runs, as a *job* of something like a shell if wanted.

    Who leads a session is never stopped.
    """

    def __init__(self, argv: list[str], size: tuple[int, int] = (24, 80), job: bool = False) -> None:
        self.seen = b""
        # The other side stays open here, to see how it is when the command has ended.
        self.terminal, self.own_side = os.openpty()
        self.before = termios.tcgetattr(self.own_side)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.login_tty(self.own_side)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
                os.environ["PYTHONPATH"] = str(_CHECKOUT)
                if job:
                    self._lead()
                os.execv(sys.executable, [sys.executable, *argv])
            finally:
                os._exit(126)

    def _lead(self) -> None:
        """Go on as a job in the foreground; its leader waits, and ends as it does."""
        job = os.fork()
        if job:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]))
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)

    def type(self, keys: bytes) -> None:
        left = memoryview(keys)
        while left:
            self._read(0)
            if select.select([], [self.terminal], [], 0.5)[1]:
                left = left[os.write(self.terminal, left[:2048]) :]

    def sees(self, what: bytes, timeout_s: float = 60) -> bytes:
        """Wait for *what*; all that was there up to it is taken."""
        deadline = time.monotonic() + timeout_s
        while what not in self.seen:
            assert time.monotonic() < deadline, self.seen[-2000:]
            self._read(0.1)
        found, _, self.seen = self.seen.partition(what)
        return found

    def _read(self, timeout_s: float) -> None:
        if select.select([self.terminal], [], [], timeout_s)[0]:
            try:
                self.seen += os.read(self.terminal, 65536)
            except OSError as exc:
                assert exc.errno == errno.EIO

    def shows(self, what: bytes, timeout_s: float) -> bool:
        """Whether *what* can be read soon; what was there up to it is taken."""
        deadline = time.monotonic() + timeout_s
        while what not in self.seen and time.monotonic() < deadline:
            self._read(0.1)
        return what in self.seen and self.sees(what) is not None

    def resizes(self, rows: int, columns: int, stty: bytes = b"stty") -> None:
        """Another size of the terminal, which a shell on it is asked for until it has it."""
        termios.tcsetwinsize(self.terminal, (rows, columns))

        def size() -> bytes:
            self.type(stty + b" size; echo as''ked\n")
            return self.sees(b"\nasked\r\n")

        assert wait_until(lambda: b"%d %d\r" % (rows, columns) in size())

    def runs_and_interrupts(self) -> None:
        """Start a program that lasts, in a shell, and press Ctrl-C when it runs."""
        self.type(b"sh -c 'echo beg\"\"un; exec sleep 600'\n")
        self.sees(b"\nbegun\r\n")
        self.type(b"\x03")

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.own_side)[3] & (termios.ICANON | termios.ECHO)

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.own_side) == self.before

    def waits(self, timeout_s: float = 60) -> int:
        """How the command ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, self.seen[-2000:]
            if self.terminal >= 0:
                self._read(0.05)
            else:
                time.sleep(0.05)

    def goes(self) -> None:
        """The terminal disappears."""
        for fd in (self.own_side, self.terminal):
            if fd >= 0:
                os.close(fd)
        self.own_side = self.terminal = -1

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.goes()


@pytest.fixture
def sit(rootfs: Path, tmp_path: Path) -> Iterator[Callable[..., Person]]:
    """Sit at a terminal where *script* runs in a container."""
    persons: list[Person] = []

    def begin(script: str, keys: str = "", size: tuple[int, int] = (24, 80), job: bool = False) -> Person:
        argv = ["-m", "tests.cli.conversation", str(rootfs), str(tmp_path / "report"), script, keys]
        persons.append(Person(argv, size, job))
        return persons[-1]

    yield begin
    for person in persons:
        person.close()


def report(tmp_path: Path) -> str:
    return (tmp_path / "report").read_text()


def test_a_shell(sit: Callable[..., Person], tmp_path: Path) -> None:
    person = sit("PS1='$ ' exec sh -i", size=(30, 100))
    person.sees(b"$ ")
    assert person.is_raw()
    person.type(b"stty size; tty\n")
    person.sees(b"30 100\r\n/dev/pts/0\r\n")
    person.runs_and_interrupts()  # Ctrl-C is the program's
    person.sees(b"$ ")
    person.resizes(40, 120)
    person.type(b"exit 9\n")
    assert person.waits() == 0
    assert person.is_as_before()
    assert report(tmp_path) == "ended 9 None"


def test_a_large_paste_is_not_lost(sit: Callable[..., Person]) -> None:
    data = os.urandom(1 << 20).replace(b"\x10", b"x")
    person = sit(f"stty raw -echo; echo ready; head -c {len(data)} | sha1sum; sleep 0.1")
    person.sees(b"ready")
    person.type(data)
    person.sees(hashlib.sha1(data).hexdigest().encode())
    assert person.waits() == 0


def test_keys_that_detach(sit: Callable[..., Person], tmp_path: Path) -> None:
    person = sit("stty -echo raw; echo ready; exec cat")
    person.sees(b"ready")
    person.type(b"\x10")
    time.sleep(0.2)  # a key of its own, or the beginning of a paste
    person.type(b"a\x10\x10b")
    person.sees(b"\x10a\x10\x10b")
    person.type(b"\x10")
    time.sleep(0.1)
    person.type(b"\x11")
    assert person.waits() == 0
    assert person.is_as_before()
    assert report(tmp_path) == "detached None None"


def test_chosen_keys(sit: Callable[..., Person], tmp_path: Path) -> None:
    person = sit("stty -echo raw; echo ready; exec cat", "ctrl-a,d")
    person.sees(b"ready")
    person.type(b"\x10\x11")
    person.sees(b"\x10\x11")
    person.type(b"\x01d")
    assert person.waits() == 0
    assert report(tmp_path).startswith("detached")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_that_ends_the_command_gives_the_terminal_back(
    sit: Callable[..., Person], number: signal.Signals
) -> None:
    person = sit("echo ready; exec sleep 600")
    person.sees(b"ready")
    assert person.is_raw()
    os.kill(person.pid, number)
    assert person.waits() == -number if number != signal.SIGINT else person.waits() in (1, -number)
    assert person.is_as_before()


def test_a_command_that_is_stopped_gives_the_terminal_back_and_goes_on(sit: Callable[..., Person]) -> None:
    person = sit("PS1='$ ' exec sh -i", job=True)
    person.sees(b"$ ")
    (job,) = map(int, Path(f"/proc/{person.pid}/task/{person.pid}/children").read_text().split())
    for number in (signal.SIGTSTP, signal.SIGSTOP):
        os.kill(job, number)
        assert wait_until(lambda: Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        if number == signal.SIGTSTP:
            assert person.is_as_before()
        else:
            termios.tcsetattr(person.own_side, termios.TCSANOW, person.before)  # as a shell does
        termios.tcsetwinsize(person.terminal, (50, number))
        os.kill(job, signal.SIGCONT)
        assert wait_until(person.is_raw)
        person.resizes(50, number)
    person.type(b"exit\n")
    assert person.waits() == 0


def test_a_terminal_that_disappears_ends_the_command(sit: Callable[..., Person], tmp_path: Path) -> None:
    """By SIGHUP, or, where that is ignored as by nohup(1), because there is nothing to be read or written any more."""
    person = sit("echo ready; exec sleep 600")
    person.sees(b"ready")
    person.goes()
    assert person.waits() == -signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        person = sit("echo ready; while :; do echo; sleep 0.1; done")
    finally:
        signal.signal(signal.SIGHUP, before)
    person.sees(b"ready")
    person.goes()
    assert person.waits() == 0
    assert report(tmp_path) == "gone None None"


def test_the_keys_in_dockers_syntax() -> None:
    assert detach_keys("") == b"\x10\x11"
    assert detach_keys("ctrl-@,ctrl-a,ctrl-z,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,x,DEL") == (
        b"\x00\x01\x1a\x1b\x1c\x1d\x1e\x1fx\x7f"
    )
    for wrong in ("wrong", "ctrl-", "ctrl-,,a", "ctrl-A", "a,,b", "é", "ctrl-a, b"):
        with pytest.raises(InvalidArgument, match=r"^Invalid escape keys \(.*\) provided$"):
            detach_keys(wrong)


def test_what_is_held_back_goes_on_when_it_was_nothing() -> None:
    """As Docker's client was seen to do it: a, x, a, a, b, a, b detaches after axaab."""
    scanner = DetachScanner(b"ab")
    found = [scanner.feed(key) for key in (b"a", b"x", b"a", b"a", b"b", b"a", b"b")]
    assert b"".join(data for data, _ in found) == b"axaab"
    assert [detached for _, detached in found] == [False] * 6 + [True]
    assert DetachScanner(b"ab").feed(b"xab") == (b"xab", False)  # a paste
    assert DetachScanner(b"ab").feed(b"ab") == (b"", True)
    assert DetachScanner(b"").feed(b"ab") == (b"ab", False)
