# cython: language_level=3
"""Open files that are somebody's from the first moment on."""

from cpython.exc cimport PyErr_CheckSignals

from pyrunc._native.errors cimport c_text, check
from pyrunc._native.linux cimport AT_FDCWD, EINTR, O_CLOEXEC, _rc, close, openat


cdef class Descriptor:
    """An open file, which is closed with its last reference at the latest; a context manager that gives its number.

    A number alone is nobody's between open(2) and the variable that it is put in, and that is when an interrupt comes,
    since the call lets other threads run: the file stays open for as long as the process lives, locked if it was locked.
    """

    cdef readonly int fd
    cdef bint is_open  # not where the arguments were wrong: then fd is 0, which is somebody else's

    def __cinit__(self, str path not None, int flags, int mode=0o777, *, int dir_fd=AT_FDCWD):
        """Open *path*, relative to the directory *dir_fd*, close-on-exec, with the *flags* of open(2).

        *mode* only counts for a new file. Raises OSError as open(2) does.
        Source: openat(2).
        """
        cdef bytes name = path.encode("utf-8", "surrogateescape")
        cdef const char *text = c_text(name)
        cdef int rc
        self.fd = -1
        while True:
            with nogil:
                rc = <int>_rc(openat(dir_fd, text, flags | O_CLOEXEC, mode))
            if rc != -EINTR:
                break
            PyErr_CheckSignals()  # PEP 475
        self.fd = <int>check(rc, "openat", name)
        self.is_open = True

    def close(self):
        """Close it, unless that has been done."""
        cdef int fd = self.fd
        if self.is_open:
            self.is_open = False
            self.fd = -1
            with nogil:
                close(fd)

    def __enter__(self):
        return self.fd

    def __exit__(self, *raised):
        self.close()

    def __dealloc__(self):
        if self.is_open:
            close(self.fd)
