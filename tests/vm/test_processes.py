"""Processes, descriptors and filters do what the runtime counts on under whichever kernel this is."""

import array
import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from . import linux, needs
from .child import in_child

pytestmark = [pytest.mark.vm, needs.root()]

_NR_GETPPID = 110


def test_pidfd_signals_waits_and_fetches_a_descriptor(sleeper: int) -> None:
    pidfd = os.pidfd_open(sleeper)
    copy = linux.syscall(linux.NR_PIDFD_GETFD, pidfd, 0, 0)
    assert os.fstat(copy).st_ino == os.fstat(0).st_ino
    os.close(copy)
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    stopped = os.waitid(os.P_PIDFD, pidfd, os.WSTOPPED)
    assert stopped is not None
    assert stopped.si_pid == sleeper
    os.close(pidfd)


class _Filter(ctypes.Structure):
    """`struct sock_filter`."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Filter)))


def _refuse(number: int, action: int) -> None:
    """Install a seccomp filter that answers system call *number* with *action*."""
    allow = 0x7FFF0000
    filters = (_Filter * 4)(
        _Filter(0x20, 0, 0, 0),  # load seccomp_data.nr
        _Filter(0x15, 0, 1, number),
        _Filter(0x06, 0, 0, action),
        _Filter(0x06, 0, 0, allow),
    )
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    program = _Program(4, filters)
    linux.syscall(linux.NR_SECCOMP, 1, 0, ctypes.byref(program))


def test_seccomp_filter_gives_an_errno() -> None:
    def check() -> None:
        _refuse(_NR_GETPPID, 0x00050000 | errno.EXFULL)
        with pytest.raises(OSError) as failure:
            linux.syscall(_NR_GETPPID)
        assert failure.value.errno == errno.EXFULL
        assert os.getpid() > 0

    in_child(check)


def test_seccomp_filter_kills_the_process() -> None:
    pid = os.fork()
    if pid == 0:
        _refuse(_NR_GETPPID, 0x80000000)
        os.getppid()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSYS


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    return linux.syscall(linux.NR_BPF, command, ctypes.byref(buffer), 128)


@pytest.mark.skipif(needs.cgroup_v2_root() is None, reason="needs cgroup v2")
def test_device_program_closes_a_cgroup_to_devices() -> None:
    """BPF_PROG_TYPE_CGROUP_DEVICE, which is all that v2 has for devices, needs no controller."""
    root = needs.cgroup_v2_root()
    assert root is not None
    path = Path(root) / f"pyrunc-test-devices-{os.getpid()}"
    path.mkdir()
    try:
        deny_all = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
        code, licence = ctypes.create_string_buffer(deny_all, 16), ctypes.create_string_buffer(b"Apache-2.0")
        load = struct.pack("<IIQQ", 15, 2, ctypes.addressof(code), ctypes.addressof(licence))
        program = _bpf(5, load)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        _bpf(8, struct.pack("<IIII", directory, program, 6, 0))

        def check() -> None:
            (path / "cgroup.procs").write_text("0")
            with pytest.raises(PermissionError):
                os.open("/dev/zero", os.O_RDONLY)

        os.close(os.open("/dev/zero", os.O_RDONLY))
        in_child(check)
        os.close(directory)
        os.close(program)
    finally:
        path.rmdir()


@pytest.mark.parametrize("way", ["proc", "execveat"])
def test_a_static_program_runs_from_a_sealed_memfd(way: str, busybox: bytes) -> None:
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fd = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, busybox)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == seals
    pid = os.fork()
    if pid == 0:
        if way == "proc":
            os.execve(f"/proc/self/fd/{fd}", ["sh", "-c", "exit 9"], {})
        argv = (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 9", None)
        environment = (ctypes.c_char_p * 1)(None)
        linux.syscall(linux.NR_EXECVEAT, fd, b"", argv, environment, linux.AT_EMPTY_PATH)
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_close_range_closes_and_marks() -> None:
    def check() -> None:
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        os.set_inheritable(fds[0], True)
        linux.syscall(linux.NR_CLOSE_RANGE, fds[0], fds[0], 4)
        assert fcntl.fcntl(fds[0], fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        linux.syscall(linux.NR_CLOSE_RANGE, fds[1], 0xFFFFFFFF, 0)
        for fd in fds[1:]:
            with pytest.raises(OSError):
                os.fstat(fd)

    in_child(check)


def test_seqpacket_carries_many_descriptors_and_credentials() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.sendmsg(
            [b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [left.fileno()] * 250))]
        )
        data, fds, _, _ = socket.recv_fds(right, 16, 253)
        assert (data, len(fds)) == (b"m", 250)
        for fd in fds:
            os.close(fd)
        pid, uid, _ = struct.unpack("3i", right.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        assert (pid, uid) == (os.getpid(), 0)


def test_capabilities_and_dumpable() -> None:
    def check() -> None:
        set_dumpable, get_dumpable, capbset_drop = 4, 3, 24
        linux.prctl(set_dumpable, 0)
        assert linux.prctl(get_dumpable, 0) == 0
        linux.prctl(capbset_drop, 21)
        bounding = next(
            x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapBnd")
        )
        assert not int(bounding.split()[1], 16) & (1 << 21)

    in_child(check)
