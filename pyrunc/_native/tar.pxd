# cython: cdivision=True, boundscheck=False
# The tar format, declared once: where the fields of a block lie, what they may say, and how numbers are written.
#
#     archive   header [data] header [data] ... two blocks of zeros; all in blocks of 512 bytes
#     member    any of x (PAX records), L, K (long names), each with its data; then the member's own header and data
#
# Sources: POSIX pax ("ustar Interchange Format", "pax Header Block"), the GNU tar manual ("Basic Tar Format",
# "Storing Sparse Files"), star(5).

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp


cdef enum:
    TAR_BLOCK = 512
    # offset and size of each field
    TAR_NAME = 0
    TAR_NAME_SIZE = 100
    TAR_MODE = 100
    TAR_UID = 108
    TAR_GID = 116
    TAR_ID_SIZE = 8
    TAR_SIZE = 124
    TAR_MTIME = 136
    TAR_LONG_SIZE = 12
    TAR_CHECKSUM = 148
    TAR_CHECKSUM_SIZE = 8
    TAR_TYPE = 156
    TAR_LINK = 157
    TAR_LINK_SIZE = 100
    TAR_MAGIC = 257
    TAR_MAGIC_SIZE = 6
    TAR_VERSION = 263
    TAR_UNAME = 265
    TAR_GNAME = 297
    TAR_OWNER_SIZE = 32
    TAR_MAJOR = 329
    TAR_MINOR = 337
    TAR_PREFIX = 345
    TAR_PREFIX_SIZE = 155
    # star keeps times behind a shorter prefix, and signs the block at its end
    TAR_STAR_PREFIX_SIZE = 131
    TAR_STAR_MAGIC = 508
    # old GNU sparse: (offset, length) pairs in the header, then in blocks of their own
    TAR_SPARSE = 386
    TAR_SPARSE_COUNT = 4
    TAR_SPARSE_MORE = 482
    TAR_SPARSE_REAL_SIZE = 483
    TAR_SPARSE_BLOCK_COUNT = 21
    TAR_SPARSE_BLOCK_MORE = 504

    # types of members
    TAR_FILE = 48          # '0'
    TAR_OLD_FILE = 0
    TAR_HARD_LINK = 49     # '1'
    TAR_SYMLINK = 50       # '2'
    TAR_CHARACTER = 51     # '3'
    TAR_BLOCK_DEVICE = 52  # '4'
    TAR_DIRECTORY = 53     # '5'
    TAR_FIFO = 54          # '6'
    TAR_CONTIGUOUS = 55    # '7'
    # what goes before a member
    TAR_PAX = 120          # 'x'
    TAR_PAX_SOLARIS = 88   # 'X'
    TAR_PAX_GLOBAL = 103   # 'g'
    TAR_GNU_NAME = 76      # 'L'
    TAR_GNU_LINK = 75      # 'K'
    TAR_GNU_SPARSE = 83    # 'S'
    TAR_GNU_LABEL = 86     # 'V'


cdef inline bint tar_zeros(const uint8_t *block) noexcept nogil:
    """Whether the block is one of those that end an archive."""
    return block[0] == 0 and memcmp(block, block + 1, TAR_BLOCK - 1) == 0


cdef inline bint tar_checksum_holds(const uint8_t *block) noexcept nogil:
    """Whether the header's checksum is right, taken over unsigned or, as old tars did, over signed bytes."""
    cdef int64_t unsigned_sum = 0
    cdef int64_t high = 0
    cdef int64_t said = 0
    cdef int i
    for i in range(TAR_BLOCK):
        unsigned_sum += block[i]
        high += block[i] >> 7
    for i in range(TAR_CHECKSUM, TAR_CHECKSUM + TAR_CHECKSUM_SIZE):
        unsigned_sum += 32 - <int64_t>block[i]
        high -= block[i] >> 7
    if not tar_number(block + TAR_CHECKSUM, TAR_CHECKSUM_SIZE, &said):
        return False
    return said == unsigned_sum or said == unsigned_sum - 256 * high


cdef inline bint tar_number(const uint8_t *field, int size, int64_t *value) noexcept nogil:
    """The number in *field*: octal between spaces and NULs (empty is 0), or base 256 where the first bit is set.

    False for anything else, and beyond 63 bits. Source: GNU tar manual, "Basic Tar Format", base-256.
    """
    cdef int64_t total = 0
    cdef int i = 0
    if field[0] & 0x80:
        # 0xff.. is negative, in two's complement; 0x80.. is not.
        total = -1 if field[0] & 0x40 else 0
        total = total * 64 + (field[0] & 0x3F)
        for i in range(1, size):
            if total > INT64_MAX >> 8 or total < -(INT64_MAX >> 8) - 1:
                return False
            total = total * 256 + field[i]
        value[0] = total
        return True
    while i < size and field[i] == c' ':
        i += 1
    while i < size and c'0' <= field[i] <= c'7':
        if total > INT64_MAX >> 3:
            return False
        total = total * 8 + (field[i] - c'0')
        i += 1
    # What follows a NUL is left over from whatever was in the writer's memory.
    while i < size and field[i] != 0:
        if field[i] != c' ':
            return False
        i += 1
    value[0] = total
    return True


cdef inline size_t tar_decimal(const char *text, size_t size, uint64_t *value) noexcept nogil:
    """How many bytes of *text* are a decimal number, which becomes *value*; 0 for none, and beyond 63 bits."""
    cdef uint64_t total = 0
    cdef size_t i = 0
    while i < size and c'0' <= text[i] <= c'9':
        if total > (<uint64_t>INT64_MAX - <uint64_t>(text[i] - c'0')) // 10:
            return 0
        total = total * 10 + <uint64_t>(text[i] - c'0')
        i += 1
    value[0] = total
    return i


cdef inline bint tar_time(const char *text, size_t size, int64_t *seconds, int64_t *nanoseconds) noexcept nogil:
    """A PAX time: seconds as a decimal fraction, perhaps negative; digits beyond the ninth are dropped.

    False for anything else. Source: POSIX pax, "pax Extended Header File Times".
    """
    cdef uint64_t whole = 0
    cdef bint negative = size > 0 and text[0] == c'-'
    cdef size_t i = 1 if negative else 0
    cdef size_t used = tar_decimal(text + i, size - i, &whole)
    cdef int64_t scale = 100000000
    if used == 0:
        return False
    i += used
    seconds[0] = <int64_t>whole
    nanoseconds[0] = 0
    if i < size:
        if text[i] != c'.':
            return False
        i += 1
        while i < size:
            if not c'0' <= text[i] <= c'9':
                return False
            nanoseconds[0] += scale * (text[i] - c'0')
            scale //= 10
            i += 1
    if negative:
        # Nanoseconds count upwards from the second before.
        seconds[0] = -seconds[0]
        if nanoseconds[0]:
            seconds[0] -= 1
            nanoseconds[0] = 1000000000 - nanoseconds[0]
    return True
