# cython: cdivision=True, boundscheck=False
# Whether a child that was killed by a seccomp filter ever became its program.
#
# Init says READY before execve(2), and its socket ends both with execve and with its death. The kernel knows
# better: it clears PF_FORKNOEXEC in the first process's flags, which no program can set, once execve cannot fail
# any more, and shows them until the dead child is reaped.

from pyrunc._native.linux cimport *

cdef enum:
    PF_FORKNOEXEC = 0x40            # linux/sched.h


cdef inline uint64_t number_in_stat(const char *stat, int wanted) noexcept nogil:
    """The field *wanted* of /proc/<pid>/stat (proc_pid_stat(5)); the second may hold spaces and parentheses."""
    cdef const char *at = strrchr(stat, c')')
    cdef uint64_t value = 0
    cdef int field = 2
    while at != NULL and at[0] != 0:
        if at[0] == c' ':
            field += 1
            if field > wanted:
                break
        elif field == wanted and c'0' <= at[0] <= c'9':
            value = value * 10 + <uint64_t>(at[0] - c'0')
        at += 1
    return value


cdef inline bint c_died_of_seccomp(int pid) noexcept nogil:
    """Whether the child *pid*, dead and not reaped yet, was killed by SIGSYS."""
    cdef siginfo_t info
    memset(&info, 0, sizeof(info))
    if waitid(P_PID, pid, &info, WEXITED | WNOWAIT) < 0:
        return False
    return info.si_code != CLD_EXITED and info.si_status == SIGSYS


cdef inline bint c_never_executed(int process) noexcept nogil:
    """Whether the process whose directory in procfs is *process* is what was cloned, and not a program since."""
    cdef char text[512]
    cdef ssize_t length
    cdef int fd = openat(process, b"stat", O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return False
    length = read(fd, text, sizeof(text) - 1)
    close(fd)
    if length <= 0:
        return False
    text[length] = 0
    return number_in_stat(text, 9) & PF_FORKNOEXEC != 0
