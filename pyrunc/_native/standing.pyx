# cython: cdivision=True, boundscheck=False, language_level=3
"""What a planner has to know of itself, and to part with, as its callers know it natively."""

from pyrunc._native.errors cimport check
from pyrunc._native.linux cimport *
from pyrunc._native.standing cimport *


def standing():
    """The number of the mount that "/" is in, and the personality. Raises OSError. Source: statx(2), personality(2)."""
    cdef uint64_t facts[STANDING_FACTS]
    check(c_standing(facts), "statx", b"/")
    return facts[STANDING_ROOT_MOUNT], facts[STANDING_PERSONALITY]


def leave_keyring():
    """Part with the session's keyring for an empty one. Raises OSError. Source: keyctl(2), session-keyring(7)."""
    cdef int rc
    with nogil:
        rc = c_leave_keyring()
    check(rc, "keyctl")
