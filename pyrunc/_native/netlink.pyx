# cython: language_level=3
"""The little rtnetlink that a start needs; networks proper use a netlink library."""

from pyrunc._native.errors cimport check


def link_up(int index):
    """Set the interface number *index* of this network namespace up; lo is 1 in each.

    Raises OSError ENODEV (no such interface), EPERM.
    Source: rtnetlink(7), RTM_NEWLINK.
    """
    cdef int rc
    with nogil:
        rc = c_link_up(index)
    check(rc, "netlink")
