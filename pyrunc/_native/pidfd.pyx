# cython: language_level=3
"""What a pidfd gives beyond `os.pidfd_open`, `os.waitid` and `signal.pidfd_send_signal`."""

from pyrunc._native.errors cimport check


def pidfd_getfd(int pidfd, int target):
    """Duplicate descriptor *target* of another process into this one, close-on-exec.

    Raises OSError EBADF (either descriptor), EPERM (ptrace access is refused), ESRCH (the process is gone).
    Source: pidfd_getfd(2).
    """
    cdef int rc
    with nogil:
        rc = c_pidfd_getfd(pidfd, target)
    return check(rc, "pidfd_getfd")
