# cython: language_level=3
"""What Python's os module lacks of a file system as a whole."""

from pyrunc._native.errors cimport check


def syncfs(int fd):
    """Write all that the file system of the open *fd* still holds in memory, contents and names, to its device.

    Raises OSError EIO or ENOSPC for what an earlier write-back could not store (Linux 5.8).
    Source: syncfs(2).
    """
    cdef int rc
    with nogil:
        rc = c_syncfs(fd)
    check(rc, "syncfs")
