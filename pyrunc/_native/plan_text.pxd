# cython: cdivision=True, boundscheck=False
# What the plan's validators ask of offsets and texts.

from pyrunc._native.linux cimport *

cdef enum:
    NONE = 0xFFFFFFFF               # no text, no slot


cdef inline bint _inside(uint32_t offset, uint64_t length, uint64_t size) noexcept nogil:
    return offset <= size and length <= size - offset


cdef inline bint _list_ends(const char *area, uint32_t size, uint32_t offset, uint64_t count) noexcept nogil:
    """Whether *count* consecutive NUL-terminated strings start at *offset* inside the area."""
    cdef uint32_t at = offset
    cdef uint64_t found = 0
    if count > size:
        return False
    while found < count:
        if at >= size:
            return False
        while area[at] != 0:
            at += 1                 # the area's last byte is NUL
        at += 1
        found += 1
    return True


cdef inline bint _groups_ok(const char *text) noexcept nogil:
    """Decimal numbers below 2**32 with commas between, or nothing."""
    cdef uint64_t value = 0
    cdef uint32_t digits = 0
    cdef uint32_t groups = 0
    cdef size_t i = 0
    while text[i] != 0:
        if text[i] == c',':
            if digits == 0:
                return False
            digits = 0
            value = 0
            groups += 1
        elif c'0' <= text[i] <= c'9':
            value = value * 10 + <uint64_t>(text[i] - c'0')
            digits += 1
            if value >= <uint64_t>NONE or digits > 10:
                return False
        else:
            return False
        i += 1
    return groups < 65536 and (digits > 0 or i == 0)


cdef inline bint _plain_name(const char *name) noexcept nogil:
    """One component of a path, neither "." nor ".."."""
    return name[0] != 0 and strchr(name, c'/') == NULL and strcmp(name, b".") != 0 and strcmp(name, b"..") != 0


cdef inline bint _plain_path(const char *path) noexcept nogil:
    """Absolute, and no component is ".."."""
    cdef size_t i
    if path[0] != c'/':
        return False
    i = 0
    while path[i] != 0:
        if path[i] == c'/' and path[i + 1] == c'.' and path[i + 2] == c'.' and (path[i + 3] == 0 or path[i + 3] == c'/'):
            return False
        i += 1
    return True
