# cython: language_level=3
"""Making, leaving and joining namespaces.

`os.unshare` and `os.setns` exist from Python 3.12 on; pyrunc supports 3.11. Sending a signal by
pidfd and opening one are in the standard library (`signal.pidfd_send_signal`, `os.pidfd_open`).
"""

from pyrunc._native.errors cimport check
cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Parent()
    void PyOS_AfterFork_Child()

# The .pxd's constants are C's; these are Python's.
globals().update(
    CLONE_NEWTIME=CLONE_NEWTIME, CLONE_NEWNS=CLONE_NEWNS, CLONE_NEWCGROUP=CLONE_NEWCGROUP,
    CLONE_NEWUTS=CLONE_NEWUTS,
    CLONE_NEWIPC=CLONE_NEWIPC, CLONE_NEWUSER=CLONE_NEWUSER, CLONE_NEWPID=CLONE_NEWPID, CLONE_NEWNET=CLONE_NEWNET,
    CLONE_PARENT=CLONE_PARENT,
)

cdef enum:
    # CLONE_VM and its kin would let the child run on the parent's stack and heap.
    FORKS = 0x7E020000 | 0x80 | 0x8000


def clone3(uint64_t flags=0, *, int cgroup_fd=-1, int exit_signal=SIGCHLD):
    """Fork this process into the namespaces *flags* (``CLONE_NEW*``, ``CLONE_PARENT``).

    *cgroup_fd*, if not negative, is the directory of the cgroup v2 in which the child is born (Linux 5.7);
    *exit_signal* is what the parent gets when it ends. Returns (pid, pidfd) in the parent, where pidfd is
    close-on-exec, and (0, -1) in the child.

    Like `os.fork` it keeps the GIL and runs the handlers of `os.register_at_fork`. Unlike it, libc is not
    told: call it from a program with one thread, and leave the child by `os._exit` or execve.

    Raises OSError EINVAL for any other flag, and what clone3(2) says.
    Source: clone3(2).
    """
    cdef int pidfd = -1
    cdef int pid
    if flags & ~<uint64_t>FORKS:
        check(-EINVAL, "clone3")
    PyOS_BeforeFork()
    pid = c_clone3(flags, exit_signal, cgroup_fd, &pidfd)
    if pid == 0:
        PyOS_AfterFork_Child()
        return 0, -1
    PyOS_AfterFork_Parent()
    check(pid, "clone3")
    return pid, pidfd


def setns(int fd, int nstype=0):
    """Join a namespace by its descriptor, or those in *nstype* of the process behind the pidfd *fd*.

    *nstype* is a set of ``CLONE_NEW*``; 0 takes any single namespace. A pid namespace holds for children only.

    Raises OSError EBADF, EINVAL (not that kind of namespace), EPERM, ESRCH (the process is gone).
    Source: setns(2).
    """
    cdef int rc
    with nogil:
        rc = c_setns(fd, nstype)
    check(rc, "setns")


def unshare(int flags):
    """Move the calling thread into new namespaces *flags* (``CLONE_NEW*``).

    Raises OSError EINVAL (an unknown flag; a user namespace with several threads), EPERM, ENOSPC (a limit).
    Source: unshare(2).
    """
    cdef int rc
    with nogil:
        rc = c_unshare(flags)
    check(rc, "unshare")


def id_maps(int fd):
    """The id maps of the user namespace behind *fd*, by the ids of this process's own: (uid_map, gid_map) as proc(5) has them.

    Raises OSError EINVAL if *fd* is no user namespace, or this process's own; EPERM.
    Source: user_namespaces(7), "User and group ID mappings".
    """
    cdef int pidfd = -1
    cdef int pid
    with nogil:
        pid = c_hold_user_namespace(fd, &pidfd)
    check(pid, "setns")
    try:
        found = []
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", encoding="ascii") as file:
                found.append(file.read())
        return found[0], found[1]
    finally:
        with nogil:
            c_let_go(pid, pidfd)


def become_subreaper():
    """Be the new parent of each descendant of this process whose own parent ends; it stays so across execve.

    Raises OSError. Source: PR_SET_CHILD_SUBREAPER(2const).
    """
    check(_rc(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)), "prctl")
