"""Kill a process at its n-th system call from now, or hold it where it has just forked (ptrace(2), PTRACE_SEIZE)."""

import ctypes
import os
import signal
import time
from collections.abc import Callable

_CONT, _DETACH, _SYSCALL, _GETEVENTMSG, _SEIZE, _INTERRUPT = 7, 17, 24, 0x4201, 0x4206, 0x4207
_TRACESYSGOOD = 1
_TRACE_BIRTHS = 2 | 4 | 8  # of fork, vfork and clone; the events are 1, 2 and 3
_WALL = 0x40000000
_STUCK_S = 0.3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"ptrace {request:#x}")


def kill_at(pid: int, count: int, begin: Callable[[], None]) -> int:
    """SIGKILL *pid* upon its *count*-th entry or exit of a system call after *begin* was called.

    One that rests in a system call is killed there. Returns how many it got to; 0 if it ended by itself.
    """
    try:
        _ptrace(_SEIZE, pid, _TRACESYSGOOD)
        _ptrace(_INTERRUPT, pid)
        os.waitpid(pid, _WALL)
        begin()
        _ptrace(_SYSCALL, pid)
    except ProcessLookupError:
        return 0
    done = 0
    deadline = time.monotonic() + _STUCK_S
    while True:
        waited, status = os.waitpid(pid, _WALL | os.WNOHANG)
        if waited == 0:
            if time.monotonic() > deadline:
                break
            time.sleep(0)
            continue
        if not os.WIFSTOPPED(status):
            return 0
        deadline = time.monotonic() + _STUCK_S
        stop = os.WSTOPSIG(status)
        deliver = 0
        if stop == signal.SIGTRAP | 0x80:
            done += 1
            if done >= count:
                break
        elif status >> 16 == 0:
            deliver = stop
        try:
            _ptrace(_SYSCALL, pid, deliver)
        except ProcessLookupError:
            continue  # killed by another meanwhile
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            _, status = os.waitpid(pid, _WALL)
        except ChildProcessError:
            return done
        if not os.WIFSTOPPED(status):
            return done


def walk(pid: int, begin: Callable[[], None], look: Callable[[], object]) -> int:
    """Call *look* at every entry and exit of a system call of *pid* after *begin* was called; its exit code."""
    _ptrace(_SEIZE, pid, _TRACESYSGOOD)
    _ptrace(_INTERRUPT, pid)
    os.waitpid(pid, _WALL)
    begin()
    deliver = 0
    while True:
        _ptrace(_SYSCALL, pid, deliver)
        _, status = os.waitpid(pid, _WALL)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        stop = os.WSTOPSIG(status)
        deliver = 0 if stop == signal.SIGTRAP | 0x80 or status >> 16 else stop
        look()


def birth(pid: int, begin: Callable[[], None] | None = None) -> int:
    """Hold *pid* where it forks next, and its child before it has done anything; the child's number.

    With *begin*, which is called at once, *pid* runs; else it is a child that another call has given. Both are let go
    by `let_go`.
    """
    if begin is None:
        _ptrace(_CONT, pid)
    else:
        _ptrace(_SEIZE, pid, _TRACE_BIRTHS)
        begin()
    while True:
        _, status = os.waitpid(pid, _WALL)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError(pid)
        if status >> 16 in (1, 2, 3):
            number = ctypes.c_ulong()
            _ptrace(_GETEVENTMSG, pid, ctypes.addressof(number))
            os.waitpid(number.value, _WALL)
            return number.value
        _ptrace(_CONT, pid, os.WSTOPSIG(status) if status >> 16 == 0 else 0)


def let_go(pid: int) -> None:
    """Trace *pid*, which is held, no more."""
    _ptrace(_DETACH, pid)
