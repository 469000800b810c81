"""What a process in a container can say in the name of a program that joins it, by that one's socket.

Who holds CAP_SYS_PTRACE there may take a copy of the socket (pidfd_getfd(2)) before the program runs. Nothing that is
said on it may be more than a program's own failure.
"""

import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyrunc import ExecProcess, Sandbox, SandboxProcess, errors
from pyrunc.runtime import joining, spawner
from pyrunc.runtime.plan import PlanTemplate
from tests.safety import stepper, support

Make = Callable[..., Sandbox]
FAILED, SYNC, FORKED = 2, 3, 4
_NR_PIDFD_GETFD = 438

# FORGER KIND STEP ERROR: say so on the socket of each process that it meets before its program runs. KIND 0: keep it.
FORGER = """
import ctypes, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
over, kept, shared = [], [], set()
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
kind, step, error = map(int, sys.argv[1:])
message = struct.pack("=IIiI16Q", kind, step, error, 0, *bytes(16))
known = set(os.listdir("/proc"))
print("ready", flush=True)
while not over:
    for pid in set(os.listdir("/proc")) - known:
        try:
            with open(f"/proc/{pid}/comm") as file:
                if not pid.isdigit() or not file.read().startswith("pyrunc-"):
                    continue
            with open(f"/proc/{pid}/maps") as file:
                lines = file.read().splitlines()
                shared |= {line for line in lines if "s" in line.split()[1]}
            for fd in map(int, os.listdir(f"/proc/{pid}/fd")):
                if fd > 2 and os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
                    pidfd = os.pidfd_open(int(pid))
                    taken = libc.syscall(438, pidfd, fd, 0)
                    os.close(pidfd)
                    if taken >= 0:
                        known.add(pid)
                        sock = socket.socket(fileno=taken)
                        if kind:
                            sock.send(message)
                            sock.close()
                        else:
                            kept.append(sock)
                        print("met", flush=True)
        except OSError:
            pass
print(len(shared), flush=True)
"""


class Forger:
    """A process in the container that says its words as often as it can."""

    def __init__(self, program: ExecProcess, said: int) -> None:
        self._program = program
        self._said = said
        self.words = b""

    @property
    def met(self) -> int:
        """How many processes it has met."""
        while select.select([self._said], [], [], 0)[0] and (more := os.read(self._said, 4096)):
            self.words += more
        return self.words.count(b"met")

    def end(self) -> int:
        """How many shared mappings it has seen."""
        self._program.kill(signal.SIGTERM)
        self._program.wait(60)
        assert self.met
        return int(self.words.split()[-1])


@contextmanager
def forging(process: SandboxProcess, *words: int) -> Iterator[Forger]:
    """A process that says *words*, and is ready to."""
    reading, writing = os.pipe()
    try:
        with process.exec_start(support.python(FORGER, *map(str, words)), stdout=writing) as program:
            os.close(writing)
            assert os.read(reading, 100) == b"ready\n"
            yield Forger(program, reading)
    finally:
        os.close(reading)


def slow(process: SandboxProcess) -> PlanTemplate:
    """The plan that `exec` walks, its end drawn out, and without what cgroup v2 does without."""
    plan = joining.compile_join(process._child.template, joining.Join())
    steps = [step for step in plan.steps if step.op not in ("join_tasks", "write_procfs")]
    idle = next(step for step in steps if step.op == "umask")
    at = next(at for at, step in enumerate(steps) if step.op == "fork") + 1
    steps[at:at] = [idle] * 7000
    plan.steps[:] = steps
    plan.freeze()
    assert process._child.origin is not None
    process._child.origin[0].joins[joining.Join()] = plan
    return plan


@pytest.fixture
def process(sandbox: Make) -> Iterator[SandboxProcess]:
    """A container in which somebody may trace every process."""
    with sandbox(mounts=support.python_mounts(), cap_add=["SYS_PTRACE"]).start(["/bin/sleep", "600"]) as made:
        yield made


def outcomes(process: SandboxProcess, forger: Forger, told: bool = False) -> list[int | str]:
    """What has become of programs until *forger* has met some: exit codes, and kinds of errors.

    *told* says that we want to know of starts.
    """
    found: list[int | str] = []
    while forger.met < 3 and len(found) < 200:
        try:
            if told:
                with process.exec_start(["/bin/true"]) as program:
                    found.append(program.wait(60))
            else:
                found.append(process.exec(["/bin/true"], timeout_s=60).exit_code)
        except errors.PyruncError as exc:
            found.append(type(exc).__name__)
    return found


@pytest.mark.parametrize("section", [0xFFFFFFFF, 0xFFFFFFFE, 8, 0])
def test_no_step_is_executed_that_serves_no_sync_point(process: SandboxProcess, section: int) -> None:
    """By a number that wraps around: the host's section, or init's, with which the supervisor itself would join."""
    with forging(process, SYNC, section, 0) as forger:
        slow(process)
        found = outcomes(process, forger, told=True)
        assert section < 9 or [each for each in found if each != 0]  # who says that is killed
        for pid in support.children(support.spawner_pid()):
            with suppress(FileNotFoundError):  # it ends just now
                assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
                assert os.readlink(f"/proc/{pid}/ns/uts") == os.readlink("/proc/self/ns/uts")
        forger.end()


@pytest.mark.parametrize(
    ("step", "error"), [(99999, -5), (0xFFFFFFFF, -5), (0, -(1 << 31)), (0, 5), (3, -13)]
)
def test_a_failure_that_cannot_be_is_still_an_error_of_ours(
    process: SandboxProcess, step: int, error: int
) -> None:
    with forging(process, FAILED, step, error) as forger:
        slow(process)
        assert set(outcomes(process, forger)) <= {0, "StartError", "OutOfMemory", "TimedOut"}
        forger.end()


def test_a_socket_that_does_not_end_holds_up_nobody(process: SandboxProcess) -> None:
    """Neither the start is waited for in vain, nor the end."""
    with forging(process, 0, 0, 0) as forger:
        slow(process)
        assert set(outcomes(process, forger)) == {0}
        with process.exec_start(["/bin/sleep", "600"]) as program:
            assert support.name_of(program.pid) == "sleep"
            program.kill(signal.SIGKILL)
            assert program.wait(60) == 137
        forger.end()


def test_no_memory_is_shared_with_whom_the_container_can_see(process: SandboxProcess) -> None:
    """In the spawner's own table it could stop all further starts."""
    with forging(process, 0, 0, 0) as forger:
        slow(process)
        outcomes(process, forger)
        assert forger.end() == 0
    spare = support.children(support.spawner_pid())[0]
    maps = Path(f"/proc/{spare}/maps").read_text().splitlines()
    assert [line for line in maps if "s" in line.split()[1]]  # it is there to be found


@pytest.fixture
def one_spare() -> None:
    """A spawner that has only what the next start needs."""
    spawner.shut_down()


@pytest.mark.usefixtures("one_spare")
def test_a_process_that_is_none_of_the_supervisor_s_is_not_killed(sandbox: Make) -> None:
    """The number of the program's process comes from who has made it; that one is visible before it has said so."""
    process = sandbox().start(["/bin/sleep", "600"])
    assert support.wait_until(lambda: len(spares()) == 1)
    (spare,) = spares()
    bystander = subprocess.Popen(["/bin/sleep", "600"])
    found: list[ExecProcess | errors.PyruncError] = []

    def start() -> None:
        try:
            found.append(process.exec_start(["/bin/sleep", "600"]))
        except errors.PyruncError as exc:
            found.append(exc)

    thread = threading.Thread(target=start)
    try:
        old = stepper.birth(spare, thread.start)
        stepper.let_go(spare)
        new = stepper.birth(old)
        say(new, FORKED, bystander.pid)
        stepper.let_go(new)
        stepper.let_go(old)
        thread.join(60)
        (program,) = found
        if not isinstance(program, errors.PyruncError):
            program.close()  # which kills it
        time.sleep(0.2)
        assert bystander.poll() is None
        assert isinstance(program, errors.StartError)
        assert support.wait_until(lambda: not os.path.exists(f"/proc/{new}"))
    finally:
        thread.join(60)
        bystander.kill()
        bystander.wait()
        process.close()


def spares() -> list[int]:
    """The supervisors that wait for a request."""
    return [
        pid for pid in support.children(support.spawner_pid()) if support.name_of(pid) == "pyrunc-spawner"
    ]


def say(pid: int, kind: int, step: int) -> None:
    """As FORGER does, on the only socket of *pid*."""
    fd = next(
        int(fd)
        for fd in os.listdir(f"/proc/{pid}/fd")
        if int(fd) > 2 and os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    )
    pidfd = os.pidfd_open(pid)
    taken = support.call(support.libc.syscall(_NR_PIDFD_GETFD, pidfd, fd, 0))
    os.close(pidfd)
    with socket.socket(fileno=taken) as sock:
        sock.send(struct.pack("=IIiI16Q", kind, step, 0, 0, *bytes(16)))
