# cython: cdivision=True, boundscheck=False
# What a pidfd gives beyond waiting and signals (pidfd_getfd(2), Linux 5.6).

from pyrunc._native.linux cimport *


cdef inline int c_pidfd_getfd(int pidfd, int target) noexcept nogil:
    return <int>_rc(syscall(NR_pidfd_getfd, pidfd, target, 0))
