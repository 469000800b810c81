# cython: cdivision=True, boundscheck=False
# What else than its namespaces makes a path or a plan another one for another process.

from pyrunc._native.linux cimport *
from pyrunc._native.uproot cimport which_root

cdef extern from *:
    """
    #define PR_KEEP_PERSONALITY 0xFFFFFFFFul
    """
    unsigned long PR_KEEP_PERSONALITY

cdef enum:
    STANDING_ROOT_MOUNT = 0         # the number of the mount that "/" is in: two of one directory show different things
    STANDING_PERSONALITY = 1        # of which uname(2) speaks
    STANDING_FACTS = 2
    FIRST_USER_NAMESPACE = 0xEFFFFFFD   # its inode; linux/proc_ns.h, PROC_USER_INIT_INO


cdef inline int c_standing(uint64_t *facts) noexcept nogil:
    """Fill in STANDING_FACTS of this process; 0 or -errno."""
    cdef uint64_t inode
    cdef int rc = which_root(&inode, &facts[STANDING_ROOT_MOUNT])
    facts[STANDING_PERSONALITY] = <uint64_t>syscall(SYS_personality, PR_KEEP_PERSONALITY)
    return rc


cdef inline int c_leave_keyring() noexcept nogil:
    """Part with the session's keyring for an empty one; 0 or -errno, ENOSYS where there are none. Source: keyctl(2)."""
    cdef long rc = _rc(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL))
    return 0 if rc >= 0 else <int>rc
