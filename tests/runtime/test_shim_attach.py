"""Clients of a shim: each at its own pace, and none at the cost of the program or of another."""

import hashlib
import os
import random
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyrunc import errors
from pyrunc.runtime import shim
from pyrunc.runtime.attach import STDERR, STDOUT, AttachClient
from pyrunc.runtime.launcher import Launcher
from tests import rootfs
from tests.runtime.shim_support import Place, ended, eventually, place, small_tmpfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
FOREVER = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    root = rootfs.make(tmp_path_factory.mktemp("attach") / "root")
    for applet in ("dd", "head", "wc", "md5sum", "seq", "yes", "stat"):
        (root / "bin" / applet).symlink_to("busybox")
    return Launcher.of_options(root, {"seccomp": "unconfined"})


@pytest.fixture
def here(launcher: Launcher, tmp_path: Path) -> Iterator[Place]:
    with place(launcher, tmp_path) as made:
        yield made


def wait(
    client: AttachClient, until: Callable[[bytes, bytes], bool], timeout_s: float = 60
) -> tuple[bytes, bytes]:
    """Read until what has come of stdout and stderr is enough, or the connection has ended."""
    got = {STDOUT: bytearray(), STDERR: bytearray()}
    deadline = time.monotonic() + timeout_s
    while not client.closed and not until(bytes(got[STDOUT][-64:]), bytes(got[STDERR][-64:])):
        assert time.monotonic() < deadline, (bytes(got[STDOUT][-200:]), bytes(got[STDERR][-200:]))
        ready = select.select([client], [client] if client.pending else [], [], 1)
        if ready[1]:
            client.flush()
        for kind, data in client.receive() if ready[0] else ():
            got[kind] += data
    return bytes(got[STDOUT]), bytes(got[STDERR])


def to_the_end(client: AttachClient) -> tuple[bytes, bytes]:
    return wait(client, lambda *_: False)


def ready(client: AttachClient) -> AttachClient:
    """Wait until the client misses nothing any more."""

    def heard() -> bool:
        client.receive()
        return client.is_ready

    eventually(heard)
    return client


def stop(here: Place, process: shim.ShimProcess) -> None:
    """End FOREVER, once it heeds that."""
    eventually(lambda: here.log.exists() and "up" in here.logged())
    process.kill(signal.SIGTERM)


def finish(process: shim.ShimProcess) -> int:
    code = process.wait(60).exit_code
    process.finished()
    eventually(lambda: ended(process.running))
    return code


def test_a_client_from_the_start_misses_nothing(here: Place) -> None:
    client, theirs = AttachClient.pair(stdin=False, stdout=True, stderr=True)
    process = here.start("echo out; echo err >&2; exit 4", theirs)
    os.close(theirs)
    assert to_the_end(client) == (b"out\n", b"err\n")
    assert client.exit_status == shim.status(str(here.state))
    assert client.exit_status is not None
    assert client.exit_status.exit_code == 4
    assert finish(process) == 4
    assert here.logged() == "out\n"


def test_clients_come_and_go_and_get_what_they_want(here: Place) -> None:
    process = here.start("read a; echo 1$a; echo 2$a >&2; read b; echo $b", stdin_open=True)
    both = ready(AttachClient.connect(str(here.state)))
    only = ready(AttachClient.connect(str(here.state), stdout=False))
    writer = ready(AttachClient.connect(str(here.state), stdin=True, stdout=False, stderr=False))
    assert writer.send(b"x\n") == 2
    assert wait(both, lambda out, err: out.endswith(b"\n") and err.endswith(b"\n")) == (b"1x\n", b"2x\n")
    writer.close()
    late = ready(AttachClient.connect(str(here.state), stdin=True))
    late.send(b"end\n")
    assert to_the_end(late) == (b"end\n", b"")
    assert to_the_end(both) == (b"end\n", b"")
    assert to_the_end(only) == (b"", b"2x\n")
    assert all(client.exit_status == shim.status(str(here.state)) for client in (late, both, only))
    assert finish(process) == 0
    with pytest.raises(errors.FailedPrecondition, match="does not run"):
        AttachClient.connect(str(here.state))


def test_nobody_listens_where_nothing_was_started(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "no"):
        with pytest.raises(errors.FailedPrecondition):
            AttachClient.connect(str(directory))


def test_a_megabyte_of_input_arrives_whole_though_the_program_is_slow(here: Place) -> None:
    data = os.urandom(1 << 20)
    client, theirs = AttachClient.pair(stdin=True, stdout=True, stderr=True)
    script = "trap 'go=on' USR1; echo up >&2; while [ -z $go ]; do sleep 0.01; done; md5sum"
    process = here.start(script, theirs, stdin_open=True, stdin_once=True)
    os.close(theirs)
    wait(client, lambda _, err: err == b"up\n")
    view = memoryview(data)
    while taken := client.send(view):
        view = view[taken:]
    assert view  # nobody takes it
    shim.signal(process.running, signal.SIGUSR1)
    while view:
        view = view[client.send(view) :]
        select.select([], [client], [], 0.1)
    client.close_stdin()
    out, _ = to_the_end(client)
    assert out.split()[0].decode() == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert finish(process) == 0


def test_input_that_nobody_takes_is_not_read_and_a_resize_still_gets_through(here: Place) -> None:
    process = here.start(FOREVER, stdin_open=True)
    stuck = ready(AttachClient.connect(str(here.state), stdin=True))
    total = 0
    while taken := stuck.send(bytes(65536)):
        total += taken
        time.sleep(0.02)
    assert total < 2 << 20  # the pipe, the shim's one buffer, and the two of the socket
    other = ready(AttachClient.connect(str(here.state)))
    other.resize(10, 20)
    before = ticks(process.shim_pid)
    time.sleep(0.3)
    assert ticks(process.shim_pid) - before <= 5  # it waits, and does not try again and again
    stuck.close()
    time.sleep(0.2)
    assert ticks(process.shim_pid) - before <= 10
    stop(here, process)
    assert finish(process) == 0


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("how", ["close_stdin", "close", "detach", "half"])
@pytest.mark.parametrize("once", [True, False])
def test_input_ends_with_its_first_client_only_where_it_opens_once(here: Place, how: str, once: bool) -> None:
    process = here.start("cat; echo over", stdin_open=True, stdin_once=once)
    watcher = ready(AttachClient.connect(str(here.state)))
    client = ready(AttachClient.connect(str(here.state), stdin=True, stdout=False, stderr=False))
    client.send(b"some\n")
    if how == "half":
        client._sock.shutdown(socket.SHUT_WR)
    else:
        getattr(client, how)()
    if once and how != "detach":
        assert to_the_end(watcher)[0] == b"some\nover\n"
        assert finish(process) == 0
    else:
        assert wait(watcher, lambda out, _: out.endswith(b"\n"))[0] == b"some\n"
        another = ready(AttachClient.connect(str(here.state), stdin=True, stdout=False, stderr=False))
        another.send(b"more\n")
        assert wait(watcher, lambda out, _: out.endswith(b"more\n"))[0] == b"more\n"
        process.kill()
        assert finish(process) == 137


def test_a_slow_client_holds_up_nobody_and_loses_nothing(here: Place) -> None:
    process = here.start("read go; seq 1 1000000; echo done >&2", stdin_open=True)
    slow = ready(AttachClient.connect(str(here.state)))
    fast = ready(AttachClient.connect(str(here.state), stdin=True))
    fast.send(b"\n")
    expected = "".join(f"{n}\n" for n in range(1, 1000001)).encode()
    assert to_the_end(fast) == (expected, b"done\n")
    status = shim.status(str(here.state))
    assert fast.exit_status == status
    # The container is over, its owner knows, the shim itself is gone; and not a byte is lost.
    assert finish(process) == 0
    assert here.logged().encode() == expected
    assert to_the_end(slow) == (expected, b"done\n")
    assert slow.exit_status == status
    assert not [name for name in os.listdir(here.directory) if "spool" in name]


def test_a_single_client_without_a_log_holds_the_program_up_as_a_pipe_would(here: Place) -> None:
    client, theirs = AttachClient.pair(stdin=False, stdout=True, stderr=True)
    process = here.start("seq 1 3000000", theirs, log=None)
    os.close(theirs)

    def spooled() -> int:
        total = 0
        for fd in os.listdir(f"/proc/{process.shim_pid}/fd"):
            with suppress(FileNotFoundError):
                if "(deleted)" in os.readlink(f"/proc/{process.shim_pid}/fd/{fd}"):
                    total += os.stat(f"/proc/{process.shim_pid}/fd/{fd}").st_size
        return total

    eventually(lambda: spooled() >= 1 << 20)  # it is held up from here on
    time.sleep(0.5)
    assert spooled() < 2 << 20
    assert process.exit is None
    out, _ = to_the_end(client)
    assert (
        hashlib.sha256(out).digest()
        == hashlib.sha256("".join(f"{n}\n" for n in range(1, 3000001)).encode()).digest()
    )
    assert finish(process) == 0
    assert not here.log.exists()


def test_a_client_whose_spool_cannot_be_written_is_dropped_and_nobody_else_is(
    launcher: Launcher, tmp_path: Path
) -> None:
    with small_tmpfs(tmp_path / "full", "1m") as full, place(launcher, tmp_path) as here:
        process = here.start("read go; seq 1 500000", stdin_open=True, log=shim.LogFile(str(full / "log")))
        slow = ready(AttachClient.connect(str(here.state)))
        fast = ready(AttachClient.connect(str(here.state), stdin=True))
        fast.send(b"\n")
        assert to_the_end(fast)[0] == "".join(f"{n}\n" for n in range(1, 500001)).encode()
        assert finish(process) == 0
        out, _ = to_the_end(slow)
        assert slow.exit_status is None  # it was told nothing false
        assert b"500000\n" not in out


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">B3xI", 99, 0),
        struct.pack(">B3xI", 16, 5) + b"12345",
        (struct.pack(">B3xI", 16, 4) + bytes(4)) * 2,
        struct.pack(">B3xI", 18, 1 << 31),
        struct.pack(">B3xI", 17, 3) + b"abc",
        bytes(range(200, 256)),
    ],
)
def test_who_sends_no_frames_is_dropped(here: Place, garbage: bytes) -> None:
    process = here.start(FOREVER, stdin_open=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(here.state / "attach"))
        sock.sendall(garbage)
        sock.settimeout(60)
        try:
            while got := sock.recv(100):
                assert got == struct.pack(">B3xI", 21, 0)  # the answer to the first HELLO
        except ConnectionResetError:
            pass  # there was more of it
    assert ready(AttachClient.connect(str(here.state))).is_ready
    stop(here, process)
    assert finish(process) == 0


def test_garbage_of_hundreds_of_clients_costs_those_alone(here: Place) -> None:
    process = here.start(FOREVER, stdin_open=True)
    witness = ready(AttachClient.connect(str(here.state)))
    chance = random.Random(7)
    kinds = [0, 1, 2, 16, 17, 18, 19, 20, 21, 255]
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(here.state / "attach"))
            sock.setblocking(False)
            for _ in range(chance.randrange(6)):
                head = struct.pack(
                    ">B3xI", chance.choice(kinds), chance.choice([0, 1, 4, 5, 70000, (1 << 32) - 1])
                )
                try:
                    sock.send(
                        head[: chance.choice([8, 8, 8, 3])] + chance.randbytes(chance.choice([0, 4, 9, 5000]))
                    )
                except OSError:
                    break
    assert ready(AttachClient.connect(str(here.state))).is_ready
    stop(here, process)
    to_the_end(witness)
    assert witness.exit_status is not None
    assert finish(process) == 0


def test_more_clients_than_descriptors_and_later_ones_still_get_in(here: Place) -> None:
    process = here.start(FOREVER)
    clients = [ready(AttachClient.connect(str(here.state))) for _ in range(60)]
    for client in clients[::2]:
        client.close()
    clients = clients[1::2] + [ready(AttachClient.connect(str(here.state))) for _ in range(30)]
    stop(here, process)
    assert process.wait(60).exit_code == 0
    for client in clients:
        to_the_end(client)
        assert client.exit_status is not None
    process.finished()


def test_a_killed_shim_is_the_end_of_its_clients(here: Place) -> None:
    process = here.start("exec sleep 60")
    client = ready(AttachClient.connect(str(here.state)))
    os.kill(process.shim_pid, signal.SIGKILL)
    to_the_end(client)
    assert client.closed
    assert client.exit_status is None
    with pytest.raises(errors.Unavailable):
        process.wait(60)


def test_a_path_that_is_too_long_for_an_address_is_none_for_us(launcher: Launcher, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with place(launcher, deep) as here:
        process = here.start("read x; echo $x", stdin_open=True)
        client = ready(AttachClient.connect(str(here.state), stdin=True))
        client.send(b"deep\n")
        assert to_the_end(client)[0] == b"deep\n"
        assert finish(process) == 0


def test_output_of_whom_the_program_left_its_end_to_does_not_delay_the_end(here: Place) -> None:
    """A process outside that holds the program's end of a pipe."""
    process = here.start("read x; echo last; exit 6", stdin_open=True)
    holder = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY)
    try:
        client = ready(AttachClient.connect(str(here.state), stdin=True))
        client.send(b"\n")
        assert to_the_end(client)[0] == b"last\n"
        assert finish(process) == 6
    finally:
        os.close(holder)


def test_another_user_s_program_may_open_its_output_once_more(tmp_path: Path) -> None:
    root = rootfs.make(tmp_path / "root")
    (root / "bin/stat").symlink_to("busybox")
    launcher = Launcher.of_options(root, {"seccomp": "unconfined", "user": "1000:1000"})
    with place(launcher, tmp_path / "root" / "tmp") as here:
        process = here.start("echo again > /proc/self/fd/1; stat -L -c %u /proc/self/fd/1", stdin_open=True)
        assert finish(process) == 0
        assert here.logged() == "again\n1000\n"
