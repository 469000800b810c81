# cython: cdivision=True, boundscheck=False
# Signals as a fresh program expects them.

from pyrunc._native.linux cimport *


cdef inline void reset_signals() noexcept nogil:
    """Every signal as a fresh program expects it: Python ignores SIGPIPE, and a mask survives execve.

    The raw call, because libc hides the two or three signals that it keeps for itself.
    """
    cdef uint64_t action[4]         # struct sigaction of the kernel: SIG_DFL, no flags, an empty mask
    cdef uint64_t mask = 0
    cdef int number
    memset(action, 0, sizeof(action))
    for number in range(1, 65):
        syscall(SYS_rt_sigaction, number, action, NULL, sizeof(mask))
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask))


cdef inline void forget_signals() noexcept nogil:
    """Let nothing come of signals that are pending: one that is blocked is kept even where it is ignored.

    A hook that does not read what it is told leaves a SIGPIPE.
    """
    cdef int number
    for number in range(1, 65):
        signal(number, SIG_IGN)
