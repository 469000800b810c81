"""The requester's descriptors: a plan that nobody can change, a socket, pipes; each closed by its owner."""

import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc._native import requester
from pyrunc._native.requester import FED, NOTHING, RECORD

F_GET_SEALS = 1034
ALL_SEALS = 0xF
RECORD_LAYOUT = struct.Struct("=IIiiiiII4Q16Q")


def closed(*descriptors: int) -> bool:
    """Whether none of them is open."""
    for fd in descriptors:
        try:
            os.fstat(fd)
        except OSError as exc:
            assert exc.errno == errno.EBADF
            continue
        return False
    return True


@contextmanager
def supervisor_of(channel: requester.Channel) -> Iterator[socket.socket]:
    """The other end of the channel, as a supervisor holds it."""
    with socket.socket(fileno=os.dup(channel.theirs)) as theirs:
        channel.sent()
        yield theirs


def test_a_plan_is_what_was_written_and_nobody_can_change_it() -> None:
    channel = requester.Channel(b"content" * 100_000)
    assert os.pread(channel.plan, 1 << 20, 0) == b"content" * 100_000
    assert os.readlink(f"/proc/self/fd/{channel.plan}").startswith("/memfd:pyrunc-plan")
    assert fcntl.fcntl(channel.plan, F_GET_SEALS) == ALL_SEALS
    for fd in (channel.plan, channel.theirs, channel.fileno()):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    for change in (lambda: os.pwrite(channel.plan, b"x", 0), lambda: os.ftruncate(channel.plan, 1)):
        with pytest.raises(PermissionError):
            change()


def test_their_owner_closes_them() -> None:
    channel = requester.Channel(b"y")
    fds = channel.plan, channel.theirs, channel.fileno()
    channel.close()
    channel.close()
    assert channel.fileno() == -1
    assert closed(*fds)
    channel = requester.Channel(b"y")
    fds = channel.plan, channel.theirs, channel.fileno()
    del channel
    assert closed(*fds)
    pipes = requester.Pipes(b"in")
    fds = (*pipes.theirs, pipes.input, pipes.output, pipes.errors)  # type: ignore[assignment]
    assert not closed(fds[0])
    del pipes
    assert closed(*fds)


def test_a_record_comes_with_its_stages_and_its_descriptor() -> None:
    channel = requester.Channel(b"plan")
    with supervisor_of(channel) as theirs:
        stages = [100 + number if number % 2 else 0 for number in range(16)]
        message = RECORD_LAYOUT.pack(3, 7, -2, 4711, 256, -16, 1, 2, 10, 20, 30, 40, *stages)
        with open("/dev/null") as null:
            socket.send_fds(theirs, [message], [null.fileno()])
        names = ("a", "b", "c", "d")
        received = channel.receive(names)
        assert received is not None
        (found,) = received[11:]
        passed = channel.pidfd
        assert received[:11] == (3, 7, -2, 4711, 256, -16, 2, 10, 20, 30, 40)
        assert found == {"b": 101, "d": 103}
        assert fcntl.fcntl(passed, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        theirs.send(message)
        assert channel.receive(names) is received  # until it has arrived
        channel.handled()
        received = channel.receive(names)
        channel.handled()
        assert received is not None
        assert channel.pidfd == passed
        channel.kill(9)
        assert theirs.recv(64) == struct.pack("=Ii", 1, 9)
        theirs.send(message)
        channel.kill(15)  # unread when the other end closes: an error that is in front of the record
    assert channel.receive(names) is not None
    channel.handled()
    assert channel.receive(names) is None
    channel.kill(9)
    channel.close()
    assert closed(passed)
    channel.kill(9)


def test_a_plan_is_taken_when_its_offset_is_0() -> None:
    channel = requester.Channel(b"plan")
    assert not channel.taken()
    os.lseek(channel.plan, 0, os.SEEK_SET)
    assert channel.taken()


def test_a_request_carries_its_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open("/dev/null") as null:
        requester.send_request(ours.fileno(), [null.fileno()] * 250, True)
        message, fds, _, _ = socket.recv_fds(theirs, 64, 253)
        assert (message, len(fds)) == (struct.pack("=II", 0x51525950, 1), 250)
        for fd in fds:
            os.close(fd)
        with pytest.raises(ValueError, match="251 descriptors are more than the 250"):
            requester.send_request(ours.fileno(), [null.fileno()] * 251, True)
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            requester.send_request(ours.fileno(), [-1], True)
        assert caught.value.__notes__ == ["in sendmsg(2)"]
        sent = 0
        try:
            while sent < 10_000:
                requester.send_request(ours.fileno(), [], False)
                sent += 1
        except BlockingIOError:
            pass
        assert 0 < sent < 10_000
        theirs.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            requester.send_request(ours.fileno(), [], True)


def test_what_is_written_is_read_and_what_is_given_is_fed() -> None:
    given = os.urandom(300_000)
    pipes = requester.Pipes(given)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stdin, stdout, stderr = pipes.theirs
        os.write(stdout, b"out")
        os.write(stderr, b"err")
        assert (
            pipes.wait(ours.fileno(), time.monotonic() + 0.05) == NOTHING
        )  # the pipe is full, and nobody reads
        assert pipes.written() == (b"out", b"err")
        taken = b""
        while len(taken) < len(given):
            taken += os.read(stdin, 1 << 20)
            if (
                pipes.wait(ours.fileno(), time.monotonic() + 0.05 if len(taken) < len(given) else 0.001)
                == FED
            ):
                pipes.shut_input()
        assert taken == given
        assert os.read(stdin, 1) == b""
        theirs.send(b"x")
        os.write(stdout, b"put")
        assert pipes.wait(ours.fileno(), None) == RECORD
        os.write(stderr, b"ors" * 20_000)
        assert pipes.drain() == (b"output", b"err" + b"ors" * 20_000)


def test_input_that_nobody_reads_is_no_error() -> None:
    pipes = requester.Pipes(b"x" * 1_000_000)
    pipes.close_theirs()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert pipes.wait(ours.fileno(), None) == FED
        assert not pipes.feed()


def test_who_reads_ones_output_first_makes_nobody_wait() -> None:
    pipes = requester.Pipes(b"")
    ours, theirs = socket.socketpair()
    with ours, theirs, alarm(5):
        _, stdout, stderr = pipes.theirs
        for fd in (pipes.output, pipes.errors):
            assert pipes.receive(fd)
            assert not os.get_blocking(fd)
        assert os.get_blocking(stdout) and os.get_blocking(stderr)
        os.write(stdout, b"all")
        assert pipes.receive(pipes.output)
        assert pipes.drain() == (b"all", b"")


@contextmanager
def alarm(after_s: float) -> Iterator[None]:
    """Raise InterruptedError in here when *after_s* seconds have passed."""

    def raises(*_: object) -> None:
        raise InterruptedError("by a signal")

    before = signal.signal(signal.SIGALRM, raises)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def always_readable(pipes: requester.Pipes) -> Iterator[None]:
    """As if the program could always write faster than we read, but no more than this process may hold."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    with open("/dev/urandom", "rb") as endless:  # slower than /dev/zero
        os.dup2(endless.fileno(), pipes.output, inheritable=False)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_output_without_end_puts_off_no_deadline() -> None:
    pipes = requester.Pipes(b"")
    ours, theirs = socket.socketpair()
    with ours, theirs, always_readable(pipes):
        assert pipes.wait(ours.fileno(), time.monotonic() + 0.05) == NOTHING


def test_output_without_end_puts_off_no_signal() -> None:
    pipes = requester.Pipes(b"")
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        always_readable(pipes),
        alarm(0.05),
        pytest.raises(InterruptedError, match="by a signal"),
    ):
        pipes.wait(ours.fileno(), None)


def test_what_is_written_after_the_end_is_not_waited_for() -> None:
    pipes = requester.Pipes(b"")
    _, stdout, _ = pipes.theirs
    fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
    writer = os.fork()
    if writer == 0:
        while True:
            os.write(stdout, bytes(1 << 20))
    try:
        with alarm(10):
            assert len(pipes.drain()[0]) <= 1 << 20
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def test_a_signal_handler_runs_while_it_waits() -> None:
    pipes = requester.Pipes(b"")
    ours, theirs = socket.socketpair()

    def raises(*_: object) -> None:
        raise InterruptedError("by a signal")

    before = signal.signal(signal.SIGALRM, raises)
    try:
        with ours, theirs:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(InterruptedError, match="by a signal"):
                pipes.wait(ours.fileno(), None)
            signal.signal(signal.SIGALRM, lambda *_: theirs.send(b"x"))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert pipes.wait(ours.fileno(), None) == RECORD
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
