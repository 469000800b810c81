# cython: cdivision=True, boundscheck=False, language_level=3
"""Anonymous files that nobody can change any more (memfd_create(2), fcntl(2) "File sealing")."""

from pyrunc._native.errors cimport check
from pyrunc._native.linux cimport *

cdef enum:
    MFD_CLOEXEC = 1
    MFD_ALLOW_SEALING = 2


cdef inline int c_sealed(const char *name, const char *data, size_t size) noexcept nogil:
    """A sealed file with *size* bytes; its descriptor or -errno."""
    cdef size_t done = 0
    cdef ssize_t got
    cdef int rc
    cdef int fd = <int>_rc(syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING))
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


cdef class Sealed:
    """A sealed anonymous file, owned by this object: what holds no reference to it any more has closed it.

    *name* shows in /proc/self/fd, *data* is the content. Made in one call, so that no signal handler that raises,
    such as Ctrl-C's, can come between the descriptor and its owner. Raises OSError.
    Source: memfd_create(2), Linux 3.17.
    """

    cdef int _fd

    def __cinit__(self, bytes name not None, bytes data not None):
        cdef const char *c_name = name
        cdef const char *c_data = data
        cdef size_t size = len(data)
        self._fd = -1
        with nogil:
            self._fd = c_sealed(c_name, c_data, size)
        check(self._fd, "memfd_create", None)

    def __dealloc__(self):
        if self._fd >= 0:
            close(self._fd)

    def fileno(self):
        """The descriptor, or -1 after `close`."""
        return self._fd

    def close(self):
        """Close it; a second time does nothing."""
        cdef int fd = self._fd
        self._fd = -1
        if fd >= 0:
            close(fd)
