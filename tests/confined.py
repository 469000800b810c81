"""Try syscalls in a child that has a seccomp filter, with the real kernel."""

import ctypes
import errno
import json
import os
import platform
import signal

_SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]
_SET_MODE_FILTER = 1
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def syscall(number: int, *args: int) -> int:
    """Make one syscall and return its result, or its errno as a negative number."""
    result: int = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(arg) for arg in args))
    return -ctypes.get_errno() if result == -1 else result


def install(bpf: bytes, flags: int) -> int:
    """Confine this thread for ever; return the listener's descriptor, if there is one, or 0."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    program = _Program(len(bpf) // 8, bpf)
    result: int = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp", os.strerror(ctypes.get_errno()))
    return result


def attempt(bpf: bytes, flags: int, calls: list[tuple[int, ...]]) -> list[int]:
    """Return the results of *calls* (number, arguments …), made one after the other in a confined child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)  # a filter may well refuse what a child needs to end
            install(bpf, flags)
            for call in calls:
                os.write(writer, json.dumps(syscall(*call)).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as lines:
        results = [json.loads(line) for line in lines]
    os.waitpid(pid, 0)
    return results


def fate(bpf: bytes, flags: int, call: tuple[int, ...]) -> int:
    """Return the wait status of a confined child that makes *call* and then exits with 0."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSYS, signal.SIG_DFL)
        try:
            signal.alarm(20)
            install(bpf, flags)
            syscall(*call)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


EPERM, ENOSYS = -errno.EPERM, -errno.ENOSYS
