# cython: language_level=3
"""The calling thread's capability sets as integers, bit n for capability number n (capabilities(7))."""

from pyrunc._native.errors cimport check


def capget(int pid=0):
    """Return (effective, permitted, inheritable) of the thread *pid*, 0 for the caller.

    Raises OSError ESRCH.
    Source: capget(2).
    """
    cdef uint64_t effective = 0
    cdef uint64_t permitted = 0
    cdef uint64_t inheritable = 0
    cdef int rc
    with nogil:
        rc = c_capget(pid, &effective, &permitted, &inheritable)
    check(rc, "capget")
    return effective, permitted, inheritable


def capset(uint64_t effective, uint64_t permitted, uint64_t inheritable):
    """Replace the caller's sets; bits above the last capability are ignored by the kernel.

    Raises OSError EPERM for a permitted capability that was given up, an effective one that is not
    permitted, or an inheritable one beyond the bounding set.
    Source: capset(2).
    """
    cdef int rc
    with nogil:
        rc = c_capset(effective, permitted, inheritable)
    check(rc, "capset")


def bounding():
    """Return the bounding set: what an execve may still gain.

    Source: prctl(2), PR_CAPBSET_READ.
    """
    cdef uint64_t result = 0
    cdef int rc
    with nogil:
        rc = c_read_set(False, &result)
    check(rc, "prctl")
    return result


def bounding_keep(uint64_t keep):
    """Drop all from the bounding set but *keep*; there is no way back.

    Raises OSError EPERM without CAP_SETPCAP.
    Source: prctl(2), PR_CAPBSET_DROP.
    """
    cdef int rc
    with nogil:
        rc = c_bounding_keep(keep)
    check(rc, "prctl")


def ambient():
    """Return the ambient set: what an ordinary program keeps over execve.

    Source: prctl(2), PR_CAP_AMBIENT_IS_SET.
    """
    cdef uint64_t result = 0
    cdef int rc
    with nogil:
        rc = c_read_set(True, &result)
    check(rc, "prctl")
    return result


def ambient_set(uint64_t wanted):
    """Make *wanted* the ambient set; on failure some of it may be set.

    Raises OSError EPERM for a capability that is not both permitted and inheritable.
    Source: prctl(2), PR_CAP_AMBIENT_RAISE.
    """
    cdef int rc
    with nogil:
        rc = c_ambient(wanted)
    check(rc, "prctl")


def last_capability():
    """Return the number of the last capability that this kernel knows (as /proc/sys/kernel/cap_last_cap)."""
    cdef uint64_t ignored = 0
    cdef int rc
    with nogil:
        rc = c_read_set(False, &ignored)
    return check(rc, "prctl")
