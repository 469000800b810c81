"""The spawner's protocol: whatever arrives, it costs one request, and never the spawner or a descriptor of it."""

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc import errors
from pyrunc._native import plan as native
from pyrunc.runtime import spawner
from pyrunc.runtime.plan import INIT, PlanTemplate
from pyrunc.runtime.sandbox import Sandbox
from pyrunc.runtime.supervised import _FAILED_PLAN, FAILED, Supervised
from tests import rootfs
from tests.safety.support import wait_until

MAGIC, VERSION = 0x51525950, 1
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
KERNEL_LIMIT = 253
CLONE_NEWNS = 0x00020000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a spawner needs root")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    root = rootfs.make(tmp_path_factory.mktemp("spawner") / "root")
    with Sandbox(root, seccomp="unconfined") as sandbox:
        yield sandbox


@pytest.fixture
def current(box: Sandbox) -> Iterator[spawner.Spawner]:
    """The running spawner; afterwards it still runs, serves, and holds as many descriptors as before."""
    assert box.run(["/bin/true"]).exit_code == 0
    found = spawner._current
    assert found is not None
    before = descriptors(found.pid)
    yield found
    assert box.run(["/bin/true"]).exit_code == 0
    assert spawner._current is found
    assert wait_until(lambda: descriptors(found.pid) == before), (before, descriptors(found.pid))


def descriptors(pid: int) -> int:
    """How many descriptors a spawner holds at rest, the same number five times in a row, without one for each child."""
    seen: list[int] = []
    while len(seen) < 5 or len(set(seen[-5:])) > 1:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        seen.append(len(os.listdir(f"/proc/{pid}/fd")) - len(children))
        time.sleep(0.005)
    return seen[-1]


def send(current: spawner.Spawner, payload: bytes, rights: list[int]) -> None:
    ancillary = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(rights)}i", *rights))] if rights else []
    )
    current._socket.sendmsg([payload], ancillary, socket.MSG_NOSIGNAL)


@contextmanager
def reply_socket() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(60)
        yield ours, theirs


def least_plan(fd_count: int = 0) -> bytes:
    """A plan that does nothing but fail to execute what does not exist."""
    template = PlanTemplate()
    template.clone_flags = CLONE_NEWNS
    for _ in range(fd_count):
        template.descriptor()
    template.add("execve", INIT, "program", s0="")
    return bytes(template.finish("0" * 64, ["x"], [], ["/nonexistent"], native.FLAG_QUIET))


REQUEST = struct.pack("=II", MAGIC, VERSION)
RECORD = struct.Struct("=IIiiiiII4Q16Q")
GARBAGE = {
    "empty": b"",
    "one byte": b"x",
    "short": REQUEST[:7],
    "long": REQUEST + b"x",
    "very long": bytes(100_000),
    "no magic": bytes(8),
    "magic with a bit flipped": struct.pack("=II", MAGIC ^ 1, VERSION),
    "another version": struct.pack("=II", MAGIC, VERSION + 1),
}


@pytest.mark.parametrize("count", [0, 1, 2, 5, KERNEL_LIMIT])
@pytest.mark.parametrize("what", GARBAGE)
def test_a_garbled_request_is_dropped(current: spawner.Spawner, what: str, count: int) -> None:
    with reply_socket() as (ours, theirs), open("/dev/null") as null:
        send(current, GARBAGE[what], [null.fileno(), theirs.fileno(), *[null.fileno()] * count][:count])
        theirs.close()
        if count >= 2:
            assert ours.recv(RECORD.size) == b""


@pytest.mark.parametrize("count", [0, 1])
def test_a_request_without_plan_or_reply_is_dropped(current: spawner.Spawner, count: int) -> None:
    with open("/dev/null") as null:
        send(current, REQUEST, [null.fileno()] * count)


def test_more_descriptors_than_a_message_holds_are_refused_at_the_sender(current: spawner.Spawner) -> None:
    with open("/dev/null") as null:
        with pytest.raises(OSError, match=r"Too many references|Invalid argument"):
            send(current, REQUEST, [null.fileno()] * (KERNEL_LIMIT + 1))
        with pytest.raises(ValueError, match="251 descriptors"):
            spawner.request([null.fileno()] * 251)


def refusal(current: spawner.Spawner, plan_fd: int, *passed: int) -> int:
    """The errno with which a supervisor refuses the plan."""
    with reply_socket() as (ours, theirs):
        send(current, REQUEST, [plan_fd, theirs.fileno(), *passed])
        theirs.close()
        kind, step, error, *_ = RECORD.unpack(ours.recv(RECORD.size))
        assert (kind, step) == (FAILED, _FAILED_PLAN)
        assert ours.recv(RECORD.size) == b""
        return -int(error)


@pytest.mark.parametrize(
    "missing", [0, fcntl.F_SEAL_SEAL, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE]
)
def test_a_plan_that_could_still_change_is_refused(current: spawner.Spawner, missing: int) -> None:
    """With all seals but *missing*; 0 stands for no seal at all."""
    fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, least_plan())
        if missing:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS & ~missing)
        assert refusal(current, fd) == errno.EPERM
    finally:
        os.close(fd)


def test_what_is_no_memfd_is_refused(current: spawner.Spawner, tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(least_plan())
    for path in (tmp_path / "plan", tmp_path, Path("/dev/zero")):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        assert refusal(current, fd) == errno.EPERM
        os.close(fd)


@contextmanager
def sealed(data: bytes) -> Iterator[int]:
    fd = spawner.sealed_memfd("plan", data)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_truncated_plan_is_refused(current: spawner.Spawner) -> None:
    good = least_plan()
    for length in (0, 1, native.HEADER_SIZE - 1, native.HEADER_SIZE, len(good) - 4, len(good) - 1):
        with sealed(good[:length]) as fd:
            assert refusal(current, fd) == errno.EMSGSIZE, length


def test_a_plan_beyond_the_greatest_size_is_refused(current: spawner.Spawner) -> None:
    fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, least_plan())
        os.ftruncate(fd, native.MAX_SIZE + 1)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        assert refusal(current, fd) == errno.EMSGSIZE
    finally:
        os.close(fd)


@pytest.mark.parametrize(("said", "sent"), [(0, 1), (1, 0), (3, 2), (0, 248), (512, 3)])
def test_a_plan_for_another_number_of_descriptors_is_refused(
    current: spawner.Spawner, said: int, sent: int
) -> None:
    with sealed(least_plan(said)) as fd, open("/dev/null") as null:
        assert refusal(current, fd, *[null.fileno()] * sent) == errno.EMSGSIZE


def test_a_plan_of_another_kind_is_refused(current: spawner.Spawner) -> None:
    with sealed(b"x" * 4096) as fd:
        assert refusal(current, fd) == errno.EPROTO
    broken = bytearray(least_plan())
    struct.pack_into("=H", broken, native.HEADER_SIZE, len(native.STEP_NAMES))
    with sealed(bytes(broken)) as fd:
        assert refusal(current, fd) == errno.EINVAL


def test_as_many_descriptors_as_a_message_holds_reach_the_plan(current: spawner.Spawner) -> None:
    """Refused for a step, not for the descriptors: the program does not exist."""
    count = 248
    with sealed(least_plan(count)) as fd, reply_socket() as (ours, theirs), open("/dev/null") as null:
        send(current, REQUEST, [fd, theirs.fileno(), *[null.fileno()] * count])
        kind, step, error, *_ = RECORD.unpack(ours.recv(RECORD.size))
    assert (kind, step, error) == (FAILED, 0, -errno.ENOENT)


@pytest.mark.parametrize("kind", ["null", "pipe", "file", "closed socket", "the plan"])
def test_a_reply_that_cannot_be_sent_costs_nothing(
    current: spawner.Spawner, kind: str, tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    reading, writing = os.pipe()
    (tmp_path / "file").touch()
    with theirs, open("/dev/null") as null, open(tmp_path / "file") as file, sealed(least_plan()) as plan:
        replies = {
            "null": null.fileno(), "pipe": writing, "file": file.fileno(), "closed socket": theirs.fileno(),
            "the plan": plan,
        }  # fmt: skip
        send(current, REQUEST, [plan, replies[kind]])
    os.close(reading)
    os.close(writing)


@pytest.mark.usefixtures("current")
def test_a_refused_plan_is_a_start_error_that_names_it() -> None:
    template = PlanTemplate()
    template.clone_flags = CLONE_NEWNS
    template.add("execve", INIT, "program", s0="")
    plan = bytearray(least_plan())
    plan[4] ^= 0xFF  # the version
    child = Supervised(bytes(plan), template, "0" * 64, (), "x")
    with pytest.raises(errors.StartError, match="refused the plan") as caught:
        child.take()
    child.close()
    assert (caught.value.step, caught.value.errno) == ("plan", errno.EPROTO)


def test_a_thousand_garbled_requests_leave_no_descriptor_and_no_process(current: spawner.Spawner) -> None:
    with open("/dev/null") as null, sealed(least_plan(7)) as plan, reply_socket() as (ours, theirs):
        messages = [*GARBAGE.values(), REQUEST]
        for number in range(1000):
            rights = [plan, theirs.fileno(), *[null.fileno()] * (number % 9)]
            send(current, messages[number % len(messages)], rights[: number % 12])
        theirs.close()
        refused = 0
        while ours.recv(RECORD.size):
            refused += 1
    assert refused > 50
    with reply_socket() as (ours, theirs), sealed(b"") as plan:
        send(current, REQUEST, [plan, theirs.fileno()])  # all before it have been taken
        theirs.close()
        assert ours.recv(RECORD.size)
        assert ours.recv(RECORD.size) == b""
    children = Path(f"/proc/{current.pid}/task/{current.pid}/children")
    # After a burst some spares wait for a second.
    assert wait_until(lambda: len(children.read_text().split()) == 1)
