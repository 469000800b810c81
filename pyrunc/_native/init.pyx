# cython: cdivision=True, boundscheck=False, language_level=3
"""The entry of pyrunc-init, and what Python knows of its protocol.

The same source is compiled twice: as this extension module, and, with its Python half
discarded by the linker, as the freestanding executable `pyrunc-init`.
"""

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.spawner cimport spawner


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


cdef public int pyrunc_init_main(int argc, char **argv) noexcept nogil:
    """`pyrunc-init spawner [CGROUP...]`: serve the requests that arrive on descriptor 3."""
    cdef int keep[4]
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if argc >= 2 and strcmp(argv[1], b"spawner") == 0:
        reset_signals()
        keep[0] = 0
        keep[1] = 1
        keep[2] = 2
        keep[3] = 3
        close_all_but(keep, 4)
        return spawner(3, argv + 2)
    return 64
