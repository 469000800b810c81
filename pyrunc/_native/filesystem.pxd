# cython: cdivision=True, boundscheck=False
# What Python's os module lacks of a file system as a whole.

from pyrunc._native.linux cimport _rc
# filesystem.pyx has a function of this name
from pyrunc._native.linux cimport syncfs as libc_syncfs


cdef inline int c_syncfs(int fd) noexcept nogil:
    return <int>_rc(libc_syncfs(fd))
