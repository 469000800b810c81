# cython: cdivision=True, boundscheck=False
# Whether a child that was killed by a seccomp filter ever became its program.
#
# Init says READY before execve(2), and its socket ends both with execve and with its death. The kernel knows
# better: it clears PF_FORKNOEXEC in the first process's flags, which no program can set, once execve cannot fail
# any more, and shows them until the dead child is reaped.

from pyrunc._native.linux cimport *
from pyrunc._native.process_stat cimport *


cdef inline bint c_died_of_seccomp(int pid) noexcept nogil:
    """Whether the child *pid*, dead and not reaped yet, was killed by SIGSYS."""
    cdef siginfo_t info
    memset(&info, 0, sizeof(info))
    if waitid(P_PID, pid, &info, WEXITED | WNOWAIT) < 0:
        return False
    return info.si_code != CLD_EXITED and info.si_status == SIGSYS


cdef inline bint c_never_executed(int process) noexcept nogil:
    """Whether the process whose directory in procfs is *process* is what was cloned, and not a program since."""
    cdef char stat[STAT_ROOM]
    return read_stat_at(process, b"stat", stat) and number_in_stat(stat, STAT_FLAGS) & PF_FORKNOEXEC != 0
