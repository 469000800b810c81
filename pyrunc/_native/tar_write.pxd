# cython: cdivision=True, boundscheck=False
# Writing a tar: headers of POSIX.1-2001 ("pax", ustar where that suffices), content, the end, through one buffer.
#
# What a ustar header cannot hold goes into an extended header before it, as Go's archive/tar and GNU tar read it:
# names longer than its fields or not ASCII (the raw bytes, whatever their encoding), link targets likewise, sizes of
# 8 GiB on, ids from 2,097,152 on, times with nanoseconds or before 1970, extended attributes as SCHILY.xattr.NAME,
# and the map of a sparse file (GNU format 1.0).

from libc.stdlib cimport free, realloc

from pyrunc._native.linux cimport *
from pyrunc._native.tar cimport *

cdef enum:
    OUT_BYTES = 1 << 20
    # What fits the fields of a ustar header: 7 and 11 octal digits.
    USTAR_MAX_ID = 0o7777777
    USTAR_MAX_SIZE = 0o77777777777

ctypedef int (*flush_t)(void *context, size_t count) noexcept nogil

cdef struct Bytes:
    # Memory that grows; *data* is NULL while nothing was put.
    char *data
    size_t used
    size_t room

cdef struct Out:
    # *flush* takes the first *count* bytes of *data* away, or says -errno.
    char *data
    size_t used
    uint64_t total
    flush_t flush
    void *context

cdef struct Member:
    const char *path
    size_t path_length
    const char *link
    size_t link_length
    char kind
    mode_t mode
    uint64_t uid
    uint64_t gid
    uint64_t size
    int64_t seconds
    long nanoseconds
    unsigned int major
    unsigned int minor
    # Of a sparse file: the name and size it really has; *path* is a stand-in then.
    const char *sparse_path
    size_t sparse_path_length
    uint64_t sparse_size
    # Finished records of extended attributes.
    const char *records
    size_t records_length


cdef inline int bytes_room(Bytes *bytes, size_t more) noexcept nogil:
    """Make room for *more* bytes behind what is used; 0 or -ENOMEM."""
    cdef size_t room = bytes.room
    cdef char *data
    if bytes.used + more <= room:
        return 0
    while room < bytes.used + more:
        room = 256 if room == 0 else 2 * room
    data = <char *>realloc(bytes.data, room)
    if data == NULL:
        return -ENOMEM
    bytes.data = data
    bytes.room = room
    return 0


cdef inline int bytes_put(Bytes *bytes, const void *data, size_t size) noexcept nogil:
    """Append; 0 or -ENOMEM."""
    cdef int rc = bytes_room(bytes, size)
    if rc == 0 and size > 0:
        memcpy(bytes.data + bytes.used, data, size)
        bytes.used += size
    return rc


cdef inline bint bytes_equal(const Bytes *one, const Bytes *other) noexcept nogil:
    return one.used == other.used and (one.used == 0 or memcmp(one.data, other.data, one.used) == 0)


cdef inline void bytes_free(Bytes *bytes) noexcept nogil:
    free(bytes.data)
    memset(bytes, 0, sizeof(Bytes))


cdef inline int out_flush(Out *out) noexcept nogil:
    cdef int rc = 0
    if out.used:
        rc = out.flush(out.context, out.used)
        out.total += out.used
        out.used = 0
    return rc


cdef inline int out_put(Out *out, const char *data, size_t size) noexcept nogil:
    """Write *size* bytes, zeros where *data* is NULL."""
    cdef size_t part
    cdef int rc
    while size:
        if out.used == OUT_BYTES:
            rc = out_flush(out)
            if rc < 0:
                return rc
        part = OUT_BYTES - out.used
        if part > size:
            part = size
        if data == NULL:
            memset(out.data + out.used, 0, part)
        else:
            memcpy(out.data + out.used, data, part)
            data += part
        out.used += part
        size -= part
    return 0


cdef inline int out_pad(Out *out, uint64_t size) noexcept nogil:
    """Fill up the last block of *size* bytes."""
    cdef size_t over = size % TAR_BLOCK
    return out_put(out, NULL, TAR_BLOCK - over) if over else 0


cdef inline int decimal(char *target, uint64_t value) noexcept nogil:
    """Write *value* in decimal digits, at most 20, without a NUL; return their number."""
    cdef char digits[20]
    cdef int count = 0
    cdef int i
    while True:
        digits[count] = c'0' + <char>(value % 10)
        count += 1
        value /= 10
        if value == 0:
            break
    for i in range(count):
        target[i] = digits[count - 1 - i]
    return count


cdef inline void octal(char *field, int width, uint64_t value) noexcept nogil:
    """Fill *width* digits and a NUL; a value that does not fit is 0, an extended header has it."""
    cdef int i
    if width < 21 and value >> (3 * width):
        value = 0
    for i in range(width - 1, -1, -1):
        field[i] = c'0' + <char>(value & 7)
        value >>= 3
    field[width] = 0


cdef inline int pax_record(Bytes *bytes, const char *key, size_t key_length,
                           const char *value, size_t length) noexcept nogil:
    """Append "LENGTH KEY=VALUE\n"; the length counts itself."""
    cdef size_t rest = key_length + length + 3
    cdef size_t size = rest + 1
    cdef char digits[20]
    cdef int count = decimal(digits, size)
    cdef int rc
    # One more digit may make the record longer by one more digit, once.
    while rest + <size_t>count != size:
        size = rest + <size_t>count
        count = decimal(digits, size)
    rc = bytes_room(bytes, size)
    if rc < 0:
        return rc
    bytes_put(bytes, digits, <size_t>count)
    bytes_put(bytes, b" ", 1)
    bytes_put(bytes, key, key_length)
    bytes_put(bytes, b"=", 1)
    bytes_put(bytes, value, length)
    return bytes_put(bytes, b"\n", 1)


cdef inline int pax_number(Bytes *bytes, const char *key, uint64_t value) noexcept nogil:
    cdef char digits[20]
    cdef int count = decimal(digits, value)
    return pax_record(bytes, key, strlen(key), digits, <size_t>count)


cdef inline int pax_time(Bytes *bytes, const char *key, int64_t seconds, long nanoseconds) noexcept nogil:
    """A time as a decimal number of seconds, to the nanosecond; one before 1970 is the negative sum of both."""
    cdef char text[32]
    cdef int count = 0
    cdef int i
    cdef uint64_t whole = <uint64_t>seconds
    if seconds < 0:
        text[0] = c'-'
        count = 1
        whole = <uint64_t>-seconds
        if nanoseconds:
            whole -= 1
            nanoseconds = 1000000000 - nanoseconds
    count += decimal(text + count, whole)
    if nanoseconds:
        text[count] = c'.'
        for i in range(9, 0, -1):
            text[count + i] = c'0' + <char>(nanoseconds % 10)
            nanoseconds /= 10
        count += 10
        while text[count - 1] == c'0':
            count -= 1
    return pax_record(bytes, key, strlen(key), text, <size_t>count)


cdef inline bint is_ascii(const char *text, size_t length) noexcept nogil:
    cdef size_t i
    for i in range(length):
        if <unsigned char>text[i] >= 0x80:
            return False
    return True


cdef inline size_t split(const char *path, size_t length) noexcept nogil:
    """Where a "/" divides *path* into a ustar prefix and name; 0: it need not or cannot be divided."""
    cdef size_t i = length - 1 if length else 0
    if length <= TAR_NAME_SIZE:
        return 0
    if i > TAR_PREFIX_SIZE + 1:
        i = TAR_PREFIX_SIZE + 1
    while i > 0:
        i -= 1
        if path[i] == c'/' and i > 0 and length - i - 1 <= TAR_NAME_SIZE:
            return i
        if length - i - 1 > TAR_NAME_SIZE:
            return 0
    return 0


cdef inline void ustar(char *block, Member *member, size_t divide) noexcept nogil:
    """Fill one header block; *divide* is what `split` says."""
    cdef const char *name = member.path
    cdef size_t length = member.path_length
    cdef unsigned long total = 0
    cdef int i
    memset(block, 0, TAR_BLOCK)
    if divide:
        memcpy(block + TAR_PREFIX, name, divide)
        name += divide + 1
        length -= divide + 1
    memcpy(block + TAR_NAME, name, length if length < TAR_NAME_SIZE else TAR_NAME_SIZE)
    octal(block + TAR_MODE, TAR_ID_SIZE - 1, member.mode & 0o7777)
    octal(block + TAR_UID, TAR_ID_SIZE - 1, member.uid)
    octal(block + TAR_GID, TAR_ID_SIZE - 1, member.gid)
    octal(block + TAR_SIZE, TAR_LONG_SIZE - 1, member.size)
    octal(block + TAR_MTIME, TAR_LONG_SIZE - 1, <uint64_t>member.seconds if member.seconds >= 0 else 0)
    memset(block + TAR_CHECKSUM, c' ', TAR_CHECKSUM_SIZE)
    block[TAR_TYPE] = member.kind
    length = member.link_length
    if length:
        memcpy(block + TAR_LINK, member.link, length if length < TAR_LINK_SIZE else TAR_LINK_SIZE)
    memcpy(block + TAR_MAGIC, b"ustar\x0000", 8)
    octal(block + TAR_MAJOR, TAR_ID_SIZE - 1, member.major)
    octal(block + TAR_MINOR, TAR_ID_SIZE - 1, member.minor)
    for i in range(TAR_BLOCK):
        total += <unsigned char>block[i]
    octal(block + TAR_CHECKSUM, 6, total)


cdef inline int extended(Bytes *records, Member *member, size_t divide) noexcept nogil:
    """Collect what the ustar header of *member* cannot hold."""
    cdef int rc = 0
    records.used = 0
    if (member.path_length > TAR_NAME_SIZE and not divide) or not is_ascii(member.path, member.path_length):
        rc |= pax_record(records, b"path", 4, member.path, member.path_length)
    if member.link_length > TAR_NAME_SIZE or not is_ascii(member.link, member.link_length):
        rc |= pax_record(records, b"linkpath", 8, member.link, member.link_length)
    if member.size > USTAR_MAX_SIZE:
        rc |= pax_number(records, b"size", member.size)
    if member.uid > USTAR_MAX_ID:
        rc |= pax_number(records, b"uid", member.uid)
    if member.gid > USTAR_MAX_ID:
        rc |= pax_number(records, b"gid", member.gid)
    if member.nanoseconds or member.seconds < 0 or member.seconds > <int64_t>USTAR_MAX_SIZE:
        rc |= pax_time(records, b"mtime", member.seconds, member.nanoseconds)
    if member.sparse_path != NULL:
        rc |= pax_number(records, b"GNU.sparse.major", 1)
        rc |= pax_number(records, b"GNU.sparse.minor", 0)
        rc |= pax_record(records, b"GNU.sparse.name", 15, member.sparse_path, member.sparse_path_length)
        rc |= pax_number(records, b"GNU.sparse.realsize", member.sparse_size)
    rc |= bytes_put(records, member.records, member.records_length)
    return -ENOMEM if rc else 0


cdef inline size_t companion(char *name, Member *member) noexcept nogil:
    """Name the extended header of *member* in at most 100 bytes of ASCII; return how many."""
    cdef size_t end = member.path_length
    cdef size_t start
    cdef size_t length = 11
    memcpy(name, b"PaxHeaders/", 11)
    while end > 0 and member.path[end - 1] == c'/':
        end -= 1
    start = end
    while start > 0 and member.path[start - 1] != c'/' and end - start < TAR_NAME_SIZE - 11:
        start -= 1
    while start < end:
        name[length] = member.path[start] if <unsigned char>member.path[start] < 0x80 else <char>c'_'
        length += 1
        start += 1
    return length


cdef inline int put_header(Bytes *header, Member *member, Bytes *records) noexcept nogil:
    """Append the header of *member*, with an extended one before it where it needs one; *records* is scratch."""
    cdef char name[TAR_NAME_SIZE]
    cdef size_t divide = split(member.path, member.path_length)
    cdef size_t over
    cdef Member before
    cdef int rc = extended(records, member, divide)
    if rc < 0:
        return rc
    over = records.used % TAR_BLOCK
    rc = bytes_room(header, records.used + 3 * TAR_BLOCK)
    if rc < 0:
        return rc
    if records.used:
        # Who does not know extended headers makes a file of it, whose name says what it belongs to.
        memset(&before, 0, sizeof(before))
        before.path = name
        before.path_length = companion(name, member)
        before.kind = c'x'
        before.mode = 0o644
        before.size = records.used
        ustar(header.data + header.used, &before, 0)
        header.used += TAR_BLOCK
        bytes_put(header, records.data, records.used)
        if over:
            memset(header.data + header.used, 0, TAR_BLOCK - over)
            header.used += TAR_BLOCK - over
    ustar(header.data + header.used, member, divide)
    header.used += TAR_BLOCK
    return 0


cdef inline int put_end(Out *out) noexcept nogil:
    """Two blocks of zeros, and whatever the buffer still holds."""
    cdef int rc = out_put(out, NULL, 2 * TAR_BLOCK)
    return out_flush(out) if rc == 0 else rc
