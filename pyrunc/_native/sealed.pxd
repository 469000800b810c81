# cython: cdivision=True, boundscheck=False
# What is handed to another process and may not change any more.

from pyrunc._native.linux cimport *

cdef enum:
    MEMFD_FLAGS = 3                 # MFD_CLOEXEC | MFD_ALLOW_SEALING


cdef inline int c_sealed(const char *name, const char *data, size_t size) noexcept nogil:
    """An anonymous file of *size* bytes that nobody can change any more; its descriptor or -errno (memfd_create(2))."""
    cdef size_t done = 0
    cdef ssize_t got
    cdef int rc
    cdef int fd = <int>_rc(syscall(SYS_memfd_create, name, MEMFD_FLAGS))
    if fd < 0:
        return fd
    while done < size:
        got = write(fd, data + done, size - done)
        if got < 0:
            rc = -errno
            close(fd)
            return rc
        done += <size_t>got
    rc = <int>_rc(fcntl(fd, F_ADD_SEALS, SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE))
    if rc < 0:
        close(fd)
        return rc
    return fd
