"""The system calls for the harness and its tests that Python's os module lacks.

Numbers from 424 on are the same on every architecture; the older ones here are x86_64's, the only
architecture on which the second kernel runs.
"""

import ctypes
import os

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 1
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

CLONE_NEWTIME = 0x80
CLONE_PIDFD = 0x1000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
RB_POWER_OFF = 0x4321FEDC

NR_PIVOT_ROOT = 155
NR_FINIT_MODULE = 313
NR_SECCOMP = 317
NR_BPF = 321
NR_EXECVEAT = 322
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_CLONE3 = 435
NR_CLOSE_RANGE = 436
NR_OPENAT2 = 437
NR_PIDFD_GETFD = 438
NR_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class MountAttr(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class CloneArgs(ctypes.Structure):
    """`struct clone_args` of clone3(2), up to `cgroup`."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack",
            "stack_size", "tls", "set_tid", "set_tid_size", "cgroup",
        )
    )  # fmt: skip


def _check(result: int, what: str, path: str | None = None) -> int:
    """Return *result*, or raise the OSError of errno when it is negative, naming the call in a note."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    error = OSError(number, os.strerror(number), path)
    error.add_note(what)
    raise error


def syscall(number: int, *arguments: object, path: str | None = None) -> int:
    """Make system call *number*; an int argument is passed as a long, others by ctypes' own rules.

    Raises OSError, with *path* as its file name.
    """
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *words), f"syscall {number}", path)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount *source* on *target*; see mount(2) for the *flags* (MS_*). Raises OSError naming *target*."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(result, f"mount {kind or source}", target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount *target*; see umount2(2). Raises OSError naming *target*."""
    _check(_libc.umount2(target.encode(), flags), "umount2", target)


def mount_setattr(path: str, attributes: MountAttr, flags: int = 0) -> None:
    """Change the attributes of the mount at *path*; see mount_setattr(2). Raises OSError naming *path*."""
    size = ctypes.c_long(ctypes.sizeof(attributes))
    name = path.encode()
    syscall(NR_MOUNT_SETATTR, AT_FDCWD, name, flags, ctypes.byref(attributes), size, path=path)


def unshare(flags: int) -> None:
    """Leave the namespaces named by *flags* (CLONE_NEW*); see unshare(2). Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespaces *flags* (CLONE_NEW*) of the process of pidfd *fd*; see setns(2). Raises OSError."""
    _check(_libc.setns(fd, flags), "setns")


def prctl(option: int, value: int) -> int:
    """Call prctl(2) with one argument. Raises OSError."""
    return _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def load_module(path: str) -> None:
    """Load the kernel module in the file *path*, which must need no other; see finit_module(2).

    Raises OSError, FileExistsError when it is loaded already.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscall(NR_FINIT_MODULE, fd, b"", 0, path=path)
    finally:
        os.close(fd)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make *new_root* the root mount; see pivot_root(2). Raises OSError naming *new_root*."""
    syscall(NR_PIVOT_ROOT, new_root.encode(), put_old.encode(), path=new_root)


def power_off() -> None:
    """Switch the machine off; see reboot(2). Raises OSError, when refused."""
    _check(_libc.reboot(ctypes.c_int(RB_POWER_OFF)), "reboot")
