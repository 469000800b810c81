# cython: language_level=3
"""Copying what a directory of an image holds into a file system that is about to cover it."""

from pyrunc._native.errors cimport c_text, check


def copy_up(int root, bytes path not None, int mount_fd, *, bint mode=True, bint contents=True):
    """Give the empty directory *mount_fd* the *mode* and the *contents* of the directory *path* inside *root*.

    Both are descriptors. Directories, files, symlinks, devices and FIFOs are copied with owner, mode, times,
    capabilities, access control lists and user attributes, holes as holes; sockets are not. What exists in the
    target stays. A *path* that is no directory is no error. Mounts below it are copied with it.

    Raises OSError ENOSPC, ENAMETOOLONG (more than 127 directories in each other), EPERM (a device, in a user
    namespace; or without CAP_SYS_ADMIN), EINVAL (an owner that the user namespace does not map),
    ESTALE (somebody has put something else in an entry's place meanwhile).
    Source: runc docs, "tmpcopyup"; open_tree(2), mount_setattr(2).
    """
    cdef const char *p = c_text(path)
    cdef int rc
    with nogil:
        rc = c_copy_up(root, p, mount_fd, mode, contents)
    check(rc, "copy_up", path)
