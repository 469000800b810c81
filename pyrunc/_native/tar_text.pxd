# cython: cdivision=True, boundscheck=False
# Text of any length, and PAX records in it.

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, strlen

from pyrunc._native.tar cimport tar_decimal

cdef enum:
    # answers, beside 0
    TAR_BAD = -1
    TAR_NO_MEMORY = -2


ctypedef struct tar_text:
    char *data
    size_t size
    size_t room


cdef inline int text_add(tar_text *text, const void *data, size_t size) noexcept nogil:
    """Append, and keep a NUL behind the text."""
    cdef size_t room = text.room
    cdef char *grown
    if text.size + size + 1 > room:
        room = text.size + size + 1 if text.size + size + 1 > room * 2 else room * 2
        if room < 256:
            room = 256
        grown = <char *>realloc(text.data, room)
        if grown == NULL:
            return TAR_NO_MEMORY
        text.data = grown
        text.room = room
    memcpy(text.data + text.size, data, size)
    text.size += size
    text.data[text.size] = 0
    return 0


cdef inline int text_set(tar_text *text, const void *data, size_t size) noexcept nogil:
    text.size = 0
    return text_add(text, data, size)


cdef inline void text_free(tar_text *text) noexcept nogil:
    free(text.data)
    text.data = NULL
    text.size = text.room = 0


cdef inline bint text_is(const char *text, size_t size, const char *word) noexcept nogil:
    return strlen(word) == size and memcmp(text, word, size) == 0


cdef inline bint text_begins(const char *text, size_t size, const char *word) noexcept nogil:
    return strlen(word) <= size and memcmp(text, word, strlen(word)) == 0


cdef inline int tar_record(const char *data, size_t size, size_t *at, const char **key, size_t *key_size,
                           const char **value, size_t *value_size) noexcept nogil:
    """The PAX record at *at*, which goes on to the next: 1, or 0 at the end, or TAR_BAD.

    Source: POSIX pax, "pax Extended Header": "%d %s=%s\\n", <length>, <keyword>, <value>.
    """
    cdef uint64_t length = 0
    cdef size_t used
    cdef size_t start = at[0]
    cdef const char *equals
    if start == size:
        return 0
    used = tar_decimal(data + start, size - start, &length)
    if used == 0 or length > size - start or length < used + 3 or data[start + used] != c' ':
        return TAR_BAD
    if data[start + length - 1] != c'\n':
        return TAR_BAD
    key[0] = data + start + used + 1
    equals = <const char *>memchr(key[0], c'=', length - used - 2)
    if equals == NULL or equals == key[0]:
        return TAR_BAD
    key_size[0] = <size_t>(equals - key[0])
    value[0] = equals + 1
    value_size[0] = length - used - 3 - key_size[0]
    at[0] = start + length
    return 1
