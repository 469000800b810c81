"""A plan that is corrupt, absurd or changed after its validation costs one refused request, and no more."""

import ctypes
import fcntl
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Sandbox, errors
from pyrunc._native import plan as native
from pyrunc.runtime import spawner
from pyrunc.runtime.plan import PlanTemplate
from tests.safety import support

Make = Callable[..., Sandbox]
_HEADER_WORDS = 16
_FAILED_PLAN = 0xFFFFFFFF


def finished(box: Sandbox) -> bytearray:
    """A whole plan, as a run of /bin/true would send it."""
    template: PlanTemplate = box._launcher._template
    return bytearray(template.finish("0" * 64, ["/bin/true"], [], ["/bin/true"]))


def submit(plan_fd: int, descriptors: int = 3) -> tuple[int, int, int]:
    """Send a plan as it is; the record's kind, step and error."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open("/dev/null", os.O_RDWR)
    try:
        spawner.request((plan_fd, theirs.fileno(), *[null] * descriptors))
        theirs.close()
        ours.settimeout(60)
        data = ours.recv(4096)
        kind, step, error = struct.unpack_from("=IIi", data)
        return kind, step, error
    finally:
        ours.close()
        theirs.close()
        os.close(null)


def sealed(plan: bytes) -> int:
    return spawner.sealed_memfd("pyrunc-plan", plan)


def test_a_plan_that_could_change_is_refused(sandbox: Make) -> None:
    """What was validated must be what is walked: one seal too few, or an ordinary file, will not do."""
    box = sandbox()
    plan = finished(box)
    every = (1, 2, 4, 8)
    for missing in every:
        memfd = os.memfd_create("pyrunc-plan", os.MFD_ALLOW_SEALING)
        os.write(memfd, plan)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, sum(every) - missing)
        assert submit(memfd) == (2, _FAILED_PLAN, -1)  # EPERM
        os.close(memfd)
    # Careless: validated, then changed by whoever still holds it.
    memfd = os.memfd_create("pyrunc-plan", os.MFD_ALLOW_SEALING)
    os.write(memfd, plan)
    assert native.validate(bytes(plan), 3) == 0
    os.pwrite(memfd, b"\xff" * 64, 0)
    assert native.validate(os.pread(memfd, len(plan), 0), 3) != 0
    os.close(memfd)
    good = sealed(bytes(plan))
    with pytest.raises(PermissionError):
        os.pwrite(good, b"\xff", 0)
    os.close(good)
    assert box.run(["/bin/true"]).exit_code == 0


def test_a_plan_in_a_file_of_the_host_is_refused(sandbox: Make, tmp_path: Path) -> None:
    box = sandbox()
    (tmp_path / "plan").write_bytes(finished(box))
    for opened in (os.open(tmp_path / "plan", os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY), os.pipe()[0]):
        assert submit(opened) == (2, _FAILED_PLAN, -1)
        os.close(opened)
    assert box.run(["/bin/true"]).exit_code == 0


def absurd(plan: bytearray) -> list[bytes]:
    """Plans that lie about themselves, one lie each."""
    found = [b"", b"\0" * 127, bytes(plan[:100]), bytes(plan) + b"\0", b"\xff" * len(plan)]
    for word in range(_HEADER_WORDS):
        for value in (0, 1, 7, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF):
            lie = bytearray(plan)
            if struct.unpack_from("=I", lie, word * 4)[0] != value:
                struct.pack_into("=I", lie, word * 4, value)
                found.append(bytes(lie))
    steps_off = struct.unpack_from("=I", plan, 20)[0]
    for field in range(0, 32, 4):  # op and stage, flags, s0.. slot_b, of the first step
        lie = bytearray(plan)
        struct.pack_into("=I", lie, steps_off + field, 0xFFFFFFFE)
        found.append(bytes(lie))
    return [lie for lie in found if native.validate(lie or b"\0", 3) != 0 or not lie]


def test_absurd_plans_cost_one_request_each(sandbox: Make) -> None:
    box = sandbox()
    box.run(["/bin/true"])
    before = support.spawner_pid()
    lies = absurd(finished(box))
    assert len(lies) > 60
    for lie in lies:
        memfd = sealed(lie)
        kind, step, error = submit(memfd)
        os.close(memfd)
        assert (kind, step) == (2, _FAILED_PLAN)
        assert error < 0
    assert support.spawner_pid() == before
    assert box.run(["/bin/true"]).exit_code == 0


@pytest.mark.parametrize("flag", [0x100, 0x400, 0x4000, 0x8000, 0x10000, 0x800000])
def test_a_plan_cannot_share_what_the_supervisor_has(sandbox: Make, flag: int) -> None:
    """CLONE_VM, FILES, VFORK, PARENT, THREAD, UNTRACED: only namespaces may be named."""
    lie = finished(sandbox())
    (flags,) = struct.unpack_from("=Q", lie, 64)
    struct.pack_into("=Q", lie, 64, flags | flag)
    assert native.validate(bytes(lie), 3) < 0
    memfd = sealed(bytes(lie))
    assert submit(memfd)[:2] == (2, _FAILED_PLAN)
    os.close(memfd)


def test_an_offset_outside_reads_nothing(sandbox: Make) -> None:
    """What the validator refuses a trusting reader follows: beyond the plan, to whatever lies there."""
    plan = finished(sandbox())
    steps_off, strings_off = (struct.unpack_from("=I", plan, at)[0] for at in (20, 48))
    secret = b"secret of a neighbour"
    memory = ctypes.create_string_buffer(bytes(plan) + secret)
    lie = bytearray(plan)
    struct.pack_into("=I", lie, steps_off + 8, len(plan) - strings_off)  # the first step's s0
    careless = ctypes.string_at(ctypes.addressof(memory) + strings_off + len(plan) - strings_off)
    assert careless == secret
    assert native.validate(bytes(lie), 3) != 0
    memfd = sealed(bytes(lie))
    assert submit(memfd)[:2] == (2, _FAILED_PLAN)
    os.close(memfd)


@pytest.mark.parametrize("descriptors", [0, 1, 2, 4, 100, 248])
def test_the_wrong_number_of_descriptors_is_refused(sandbox: Make, descriptors: int) -> None:
    box = sandbox()
    memfd = sealed(bytes(finished(box)))
    assert submit(memfd, descriptors)[:2] == (2, _FAILED_PLAN)
    os.close(memfd)
    assert box.run(["/bin/true"]).exit_code == 0


def test_noise_on_the_spawners_socket_costs_a_spare(sandbox: Make) -> None:
    box = sandbox()
    box.run(["/bin/true"])
    before = support.spawner_pid()
    channel = spawner.current()._socket
    generator = random.Random(7)
    null = os.open("/dev/null", os.O_RDWR)
    for _ in range(50):
        count = generator.randrange(5)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={count}i", *[null] * count))][
            : count > 0
        ]
        channel.sendmsg([generator.randbytes(generator.randrange(1, 4000))], rights)
    for count in (1, 2, 253):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={count}i", *[null] * count))]
        channel.sendmsg([struct.pack("=II", 0x51525950, 1)], rights)
    os.close(null)
    assert box.run(["/bin/true"]).exit_code == 0
    assert support.spawner_pid() == before
    # the answer comes a moment before the supervisor is a spare again
    assert support.wait_until(
        lambda: "pyrunc-super" not in map(support.name_of, support.children(before)),
    )


def test_text_cannot_end_a_string_early(sandbox: Make) -> None:
    """A NUL would hide the rest of an argument from whoever checked it."""
    box = sandbox()
    for argv, env in (
        (["/bin/true\0/evil"], {}),
        (["/bin/true", "a\0b"], {}),
        (["/bin/true"], {"A": "b\0c"}),
    ):
        with pytest.raises(errors.InvalidArgument):
            box.run(argv, env=env)
    assert ctypes.create_string_buffer(b"/bin/true\0/evil").value == b"/bin/true"  # what C sees
