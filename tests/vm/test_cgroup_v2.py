"""cgroup v2 does what the runtime counts on: limits bind, kill kills, a clone is born inside."""

import ctypes
import mmap
import os
import signal
import time

import pytest

from . import linux, needs
from .conftest import Cgroup
from .guest import SPARE_DISK

CONTROLLERS = ("cpu", "io", "memory", "pids")

pytestmark = [pytest.mark.vm, needs.root(), needs.cgroup_v2(*CONTROLLERS)]


def _exit_code(pid: int) -> int:
    """Reap *pid*; a negative number is the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_new_cgroup_has_every_controller(cgroup: Cgroup) -> None:
    assert set(CONTROLLERS) <= set(cgroup.read("cgroup.controllers").split())
    for name in ("cpu.max", "cpu.weight", "io.max", "memory.max", "memory.high", "memory.low", "pids.max"):
        assert (cgroup.path / name).exists(), name


def test_memory_max_kills_the_process_that_exceeds_it(cgroup: Cgroup) -> None:
    cgroup.write("memory.max", 32 << 20)
    pid = cgroup.fork_into()
    if pid == 0:
        block = bytearray(b"x") * (128 << 20)
        os._exit(len(block) & 1)
    assert _exit_code(pid) == -signal.SIGKILL
    assert cgroup.keyed("memory.events")["oom_kill"] == 1


def test_memory_below_memory_max_is_granted(cgroup: Cgroup) -> None:
    cgroup.write("memory.max", 64 << 20)
    pid = cgroup.fork_into()
    if pid == 0:
        block = bytearray(b"x") * (16 << 20)
        os._exit(0 if len(block) else 1)
    assert _exit_code(pid) == 0
    assert cgroup.keyed("memory.events")["oom_kill"] == 0


def test_pids_max_refuses_the_fork_that_exceeds_it(cgroup: Cgroup) -> None:
    cgroup.write("pids.max", 3)
    pid = cgroup.fork_into()
    if pid == 0:
        made = 0
        try:
            for _ in range(10):
                if os.fork() == 0:
                    signal.pause()
                made += 1
        except BlockingIOError:
            os._exit(made)
        os._exit(100)
    assert _exit_code(pid) == 2
    assert cgroup.keyed("pids.events")["max"] >= 1
    assert cgroup.read("pids.current") == "2"


def test_cpu_max_throttles(cgroup: Cgroup) -> None:
    cgroup.write("cpu.max", "10000 100000")
    pid = cgroup.fork_into()
    if pid == 0:
        while True:
            pass
    try:
        patience = time.monotonic() + 60
        while cgroup.keyed("cpu.stat")["nr_throttled"] < 2:
            assert time.monotonic() < patience, cgroup.read("cpu.stat")
            time.sleep(0.05)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_cgroup_kill_reaches_the_whole_tree(cgroup: Cgroup) -> None:
    inner = Cgroup(cgroup.path / "inner")
    inner.path.mkdir()
    pids = []
    for group in (cgroup, inner):
        pid = group.fork_into()
        if pid == 0:
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            while True:
                signal.pause()
        pids.append(pid)
    while len(cgroup.read("cgroup.procs").split()) + len(inner.read("cgroup.procs").split()) < 2:
        time.sleep(0.01)
    cgroup.write("cgroup.kill", 1)
    assert [_exit_code(pid) for pid in pids] == [-signal.SIGKILL] * 2
    assert cgroup.keyed("cgroup.events")["populated"] == 0
    inner.path.rmdir()


def test_freeze_is_reported_and_kill_ends_the_frozen(cgroup: Cgroup) -> None:
    pid = cgroup.fork_into()
    if pid == 0:
        while True:
            signal.pause()
    while not cgroup.read("cgroup.procs"):
        time.sleep(0.01)
    cgroup.write("cgroup.freeze", 1)
    patience = time.monotonic() + 60
    while cgroup.keyed("cgroup.events")["frozen"] == 0:
        assert time.monotonic() < patience
        time.sleep(0.01)
    cgroup.write("cgroup.kill", 1)
    assert _exit_code(pid) == -signal.SIGKILL


def test_a_clone_is_born_in_the_cgroup(cgroup: Cgroup) -> None:
    """CLONE_INTO_CGROUP: the child is inside at its first instruction, and with CLONE_PIDFD in one call."""
    reading, writing = os.pipe()
    pidfd = ctypes.c_int(-1)
    directory = os.open(cgroup.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    arguments = linux.CloneArgs(
        flags=linux.CLONE_INTO_CGROUP | linux.CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=signal.SIGCHLD,
        cgroup=directory,
    )
    pid = linux.syscall(linux.NR_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid == 0:
        with open("/proc/self/cgroup", "rb") as file:
            os.write(writing, file.read())
        os._exit(5)
    os.close(directory)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert f"0::/{cgroup.path.name}\n".encode() in pipe.read()
    ended = os.waitid(os.P_PIDFD, pidfd.value, os.WEXITED)
    os.close(pidfd.value)
    assert ended is not None
    assert (ended.si_pid, ended.si_status) == (pid, 5)


def test_a_cgroup_with_children_that_use_controllers_takes_no_process(cgroup: Cgroup) -> None:
    """The rule "no internal processes": a container with cgroups of its own needs a leaf for its init."""
    cgroup.write("cgroup.subtree_control", "+memory")
    (cgroup.path / "leaf").mkdir()
    with pytest.raises(OSError, match="busy"):
        cgroup.write("cgroup.procs", os.getpid())
    (cgroup.path / "leaf").rmdir()


def _device_numbers(path: str) -> str:
    """Return "major:minor" of the block device at *path*."""
    number = os.stat(path).st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


@needs.spare_disk()
def test_io_max_is_kept_for_a_block_device(cgroup: Cgroup) -> None:
    device = _device_numbers(SPARE_DISK)
    cgroup.write("io.max", f"{device} rbps=1048576 wiops=100")
    assert cgroup.read("io.max") == f"{device} rbps=1048576 wbps=max riops=max wiops=100"


@needs.spare_disk()
def test_io_is_accounted_to_the_cgroup(cgroup: Cgroup) -> None:
    pid = cgroup.fork_into()
    if pid == 0:
        fd = os.open(SPARE_DISK, os.O_WRONLY | os.O_DIRECT)
        os._exit(0 if os.writev(fd, [mmap.mmap(-1, 1 << 20)]) == 1 << 20 else 1)
    assert _exit_code(pid) == 0
    line = next(x for x in cgroup.read("io.stat").splitlines() if x.startswith(_device_numbers(SPARE_DISK)))
    assert int(dict(pair.split("=") for pair in line.split()[1:])["wbytes"]) == 1 << 20
