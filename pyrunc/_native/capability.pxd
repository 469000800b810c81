# cython: cdivision=True, boundscheck=False
# Capability sets as 64-bit masks (capabilities(7)).

from pyrunc._native.linux cimport *


cdef inline int c_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable) noexcept nogil:
    cdef cap_header header
    cdef cap_data data[2]
    header.version = CAPABILITY_VERSION_3
    header.pid = 0
    data[0].effective = <uint32_t>effective
    data[0].permitted = <uint32_t>permitted
    data[0].inheritable = <uint32_t>inheritable
    data[1].effective = <uint32_t>(effective >> 32)
    data[1].permitted = <uint32_t>(permitted >> 32)
    data[1].inheritable = <uint32_t>(inheritable >> 32)
    return <int>_rc(syscall(SYS_capset, &header, data))


cdef inline int c_bounding_keep(uint64_t keep) noexcept nogil:
    """Drop from the bounding set all that the kernel knows and *keep* lacks."""
    cdef int capability
    cdef int rc
    for capability in range(64):
        if keep >> capability & 1:
            continue
        rc = <int>_rc(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
        if rc == -EINVAL:           # above the kernel's last capability
            return 0
        if rc < 0:
            return rc
    return 0


cdef inline int c_ambient(uint64_t wanted) noexcept nogil:
    cdef int capability
    cdef int rc = <int>_rc(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    for capability in range(64):
        if rc < 0:
            return rc
        if wanted >> capability & 1:
            rc = <int>_rc(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))
    return rc


cdef enum:
    PR_CAPBSET_READ = 23
    PR_CAP_AMBIENT_IS_SET = 1


cdef inline int c_capget(int pid, uint64_t *effective, uint64_t *permitted, uint64_t *inheritable) noexcept nogil:
    """The sets of the thread *pid*, 0 for the caller."""
    cdef cap_header header
    cdef cap_data data[2]
    cdef int rc
    header.version = CAPABILITY_VERSION_3
    header.pid = pid
    rc = <int>_rc(syscall(SYS_capget, &header, data))
    if rc == 0:
        effective[0] = data[0].effective | <uint64_t>data[1].effective << 32
        permitted[0] = data[0].permitted | <uint64_t>data[1].permitted << 32
        inheritable[0] = data[0].inheritable | <uint64_t>data[1].inheritable << 32
    return rc


cdef inline int c_read_set(bint ambient, uint64_t *result) noexcept nogil:
    """The caller's bounding or ambient set; returns the last capability that the kernel knows."""
    cdef int capability
    cdef int rc
    result[0] = 0
    for capability in range(64):
        if ambient:
            rc = <int>_rc(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0))
        else:
            rc = <int>_rc(prctl(PR_CAPBSET_READ, capability, 0, 0, 0))
        if rc == -EINVAL:           # above the kernel's last capability
            return capability - 1
        if rc < 0:
            return rc
        result[0] |= <uint64_t>rc << capability
    return 63
