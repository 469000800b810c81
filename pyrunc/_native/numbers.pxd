# cython: cdivision=True, boundscheck=False
# Numbers as decimal text, without libc's formats.

from pyrunc._native.linux cimport *


cdef inline long parse_decimal(const char *text) noexcept nogil:
    """A number of decimal digits and nothing else, below 2**31; else -1."""
    cdef long value = 0
    cdef size_t i = 0
    while c'0' <= text[i] <= c'9' and value < <long>0x80000000:
        value = value * 10 + (text[i] - c'0')
        i += 1
    return value if i > 0 and text[i] == 0 and value < <long>0x80000000 else -1


cdef inline size_t put_decimal(char *at, uint64_t value) noexcept nogil:
    """Write *value* and a NUL, at most 21 bytes; how many digits it has."""
    cdef char digits[24]
    cdef size_t length = 0
    cdef size_t i
    while True:
        digits[length] = <char>(48 + value % 10)
        length += 1
        value = value / 10
        if value == 0:
            break
    for i in range(length):
        at[i] = digits[length - 1 - i]
    at[length] = 0
    return length
