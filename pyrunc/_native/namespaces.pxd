# cython: cdivision=True, boundscheck=False
# Making, leaving and joining namespaces (clone3(2), Linux 5.3; setns(2) by pidfd, Linux 5.8).

from pyrunc._native.linux cimport (
    SIGKILL, O_CLOEXEC, _exit, close, pipe2, poll, prctl, read, wait4, write, errno, EINTR, PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG, kill,
    CLONE_INTO_CGROUP, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME,
    CLONE_NEWUSER, CLONE_NEWUTS, CLONE_PARENT, CLONE_PIDFD, EINVAL, NR_clone3, SIGCHLD, _rc, clone_args, memset,
    syscall,
    uint64_t,
)
# namespaces.pyx has functions of these names
from pyrunc._native.linux cimport setns as libc_setns
from pyrunc._native.linux cimport unshare as libc_unshare


cdef inline int c_clone3(uint64_t flags, int exit_signal, int cgroup_fd, int *pidfd) noexcept nogil:
    """clone3 as a fork; the child's pid, 0 in the child, or -errno. *cgroup_fd* is where it is born, or negative."""
    cdef clone_args args
    memset(&args, 0, sizeof(args))
    args.flags = flags | <uint64_t>CLONE_PIDFD
    args.pidfd = <uint64_t>pidfd
    args.exit_signal = <uint64_t>exit_signal
    if cgroup_fd >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = <uint64_t>cgroup_fd
    return <int>_rc(syscall(NR_clone3, &args, sizeof(args)))


cdef inline int c_setns(int fd, int nstype) noexcept nogil:
    return <int>_rc(libc_setns(fd, nstype))


cdef inline int c_hold_user_namespace(int fd, int *pidfd) noexcept nogil:
    """A process in the user namespace *fd* that only waits to be killed; its pid or -errno."""
    cdef int ends[2]
    cdef int told = -EINTR
    cdef int pid = <int>_rc(pipe2(ends, O_CLOEXEC))
    if pid < 0:
        return pid
    pid = c_clone3(0, SIGCHLD, -1, pidfd)
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        told = <int>_rc(libc_setns(fd, CLONE_NEWUSER))
        write(ends[1], &told, sizeof(told))
        while told == 0:
            poll(NULL, 0, -1)
        _exit(1)
    close(ends[1])
    if pid > 0:
        while read(ends[0], &told, sizeof(told)) < 0 and errno == EINTR:
            pass
        if told < 0:
            c_let_go(pid, pidfd[0])
            pid = told
    close(ends[0])
    return pid


cdef inline void c_let_go(int pid, int pidfd) noexcept nogil:
    kill(pid, SIGKILL)
    while wait4(pid, NULL, 0, NULL) < 0 and errno == EINTR:
        pass
    close(pidfd)


cdef inline int c_unshare(int flags) noexcept nogil:
    return <int>_rc(libc_unshare(flags))
