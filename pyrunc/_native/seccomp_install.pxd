# cython: cdivision=True, boundscheck=False
# Installing a compiled filter (seccomp(2)); compiling one is seccomp.pyx's job.

from pyrunc._native.linux cimport *


cdef inline int c_seccomp_install(const unsigned char *program, uint16_t instructions, unsigned int flags) noexcept nogil:
    """0 (or a listener's descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER) or -errno."""
    cdef sock_fprog filter
    filter.len = instructions
    filter.filter = program
    return <int>_rc(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter))
