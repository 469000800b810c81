# cython: cdivision=True, boundscheck=False
# What a member's header, the PAX records and long names before it, and its sparse map say of it.

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memset, strlen

from pyrunc._native.tar cimport *
from pyrunc._native.tar_text cimport *


cdef enum:
    # what tar_next answers (tar_reader.pxd)
    TAR_MORE = 0      # the bytes are used up
    TAR_MEMBER = 1    # reader.member is a new one
    TAR_CONTENT = 2   # reader.piece, piece_size, piece_at
    TAR_FINISHED = 3  # the member's content is complete
    # or TAR_BAD, and reader.problem says what is wrong, or TAR_NO_MEMORY

    # states
    _HEADER = 0
    _GATHER = 1    # the data of an extension
    _SPARSE = 2    # blocks of an old GNU sparse map
    _MAP = 3       # blocks of a PAX 1.0 sparse map
    _CONTENT = 4
    _PADDING = 5
    _ZERO = 6      # after one block of zeros
    _END = 7

    # 4294967295 is -1, which chown(2) takes for "as it is".
    TAR_MAX_ID = 0xFFFFFFFE

    # Bounds of what has to be kept: one extension, and the pieces of a sparse file.
    TAR_MAX_EXTENSION = 1 << 20
    TAR_MAX_SEGMENTS = 1 << 20


ctypedef struct tar_segment:
    uint64_t at
    uint64_t size

ctypedef struct tar_member:
    int type
    uint32_t mode
    uint32_t uid
    uint32_t gid
    uint32_t major
    uint32_t minor
    int64_t mtime
    int64_t mtime_ns
    uint64_t size       # bytes of content in the archive
    uint64_t real_size  # of the file, which is larger where it has holes
    bint sparse
    bint xattrs         # tar_xattr has some to tell

ctypedef struct tar_reader:
    size_t max_path
    int state
    uint8_t block[TAR_BLOCK]
    size_t have
    uint64_t left       # of what the state reads
    uint64_t padding    # what follows it, to the end of its block
    uint64_t offset     # in the archive, of the block or piece last taken
    int gathering
    tar_text records    # x
    tar_text shared     # g
    tar_text long_name  # L
    tar_text long_link  # K
    tar_member member
    tar_text path
    tar_text link
    tar_segment *segments
    size_t segment_count
    size_t segment_room
    size_t segment      # the one that comes
    uint64_t done       # of it, or of the content
    int sparse_major    # of the PAX map, -1 for none
    int sparse_minor
    uint64_t map_numbers  # still to come
    uint64_t map_value
    int map_digits
    bint map_counted
    bint pair_open      # an offset waits for its size
    bint named          # by GNU.sparse.name: path is a stand-in for readers who know nothing of it
    bint inside         # a member's own header has come: path names it
    const char *problem
    const uint8_t *piece
    size_t piece_size
    uint64_t piece_at


cdef inline int tar_bad(tar_reader *r, const char *problem) noexcept nogil:
    r.problem = problem
    return TAR_BAD


cdef inline void tar_free(tar_reader *r) noexcept nogil:
    text_free(&r.records)
    text_free(&r.shared)
    text_free(&r.long_name)
    text_free(&r.long_link)
    text_free(&r.path)
    text_free(&r.link)
    free(r.segments)
    r.segments = NULL
    r.segment_count = r.segment_room = 0


cdef inline size_t _field_size(const uint8_t *field, size_t size) noexcept nogil:
    """Of the text in the field: to its NUL or its end."""
    cdef const void *nul = memchr(field, 0, size)
    return size if nul == NULL else <size_t>(<const uint8_t *>nul - field)


cdef inline int tar_segment_add(tar_reader *r, uint64_t at, uint64_t size) noexcept nogil:
    cdef size_t room = r.segment_room
    cdef tar_segment *grown
    if r.segment_count == TAR_MAX_SEGMENTS:
        return tar_bad(r, b"a sparse map of more than 1048576 pieces")
    if r.segment_count == room:
        room = room * 2 if room else 32
        grown = <tar_segment *>realloc(r.segments, room * sizeof(tar_segment))
        if grown == NULL:
            return TAR_NO_MEMORY
        r.segments = grown
        r.segment_room = room
    r.segments[r.segment_count].at = at
    r.segments[r.segment_count].size = size
    r.segment_count += 1
    return 0


cdef inline int tar_sparse_number(tar_reader *r, uint64_t value) noexcept nogil:
    """Offsets and sizes come one after the other."""
    if r.pair_open:
        r.pair_open = False
        r.segments[r.segment_count - 1].size = value
        return 0
    r.pair_open = True
    return tar_segment_add(r, value, 0)


cdef inline bint _whole(const char *text, size_t size, uint64_t *value) noexcept nogil:
    """Whether all of *text* is a decimal number."""
    return size > 0 and tar_decimal(text, size, value) == size


cdef inline int _take_sparse(tar_reader *r, const char *key, size_t n, const char *value, size_t m) noexcept nogil:
    """A record `GNU.sparse.*`, of which *key* is the rest. Source: GNU tar manual, "Storing Sparse Files"."""
    cdef uint64_t number = 0
    cdef size_t used
    cdef int rc
    if text_is(key, n, b"name"):
        if memchr(value, 0, m) != NULL:
            return tar_bad(r, b"a PAX path with a NUL")
        r.named = True
        return text_set(&r.path, value, m)
    if text_is(key, n, b"map"):
        r.segment_count = 0
        r.pair_open = False
        while m:
            used = tar_decimal(value, m, &number)
            if used == 0 or (used < m and value[used] != c','):
                return tar_bad(r, b"GNU.sparse.map is no list of numbers")
            rc = tar_sparse_number(r, number)
            if rc < 0:
                return rc
            used += 1 if used < m else 0
            value += used
            m -= used
        r.member.sparse = True
        return 0
    if not _whole(value, m, &number):
        return tar_bad(r, b"a record GNU.sparse is no number")
    if text_is(key, n, b"major"):
        r.sparse_major = <int>number if number < 100 else 100
    elif text_is(key, n, b"minor"):
        r.sparse_minor = <int>number if number < 100 else 100
    elif text_is(key, n, b"size") or text_is(key, n, b"realsize"):
        r.member.sparse = True
        r.member.real_size = number
    elif text_is(key, n, b"offset") or text_is(key, n, b"numbytes"):
        if r.pair_open == text_is(key, n, b"offset"):
            return tar_bad(r, b"GNU.sparse.offset and GNU.sparse.numbytes do not take turns")
        return tar_sparse_number(r, number)
    return 0


cdef inline int _take_records(tar_reader *r, const tar_text *records, bint shared) noexcept nogil:
    """What PAX records say of the member, instead of its header; an empty value leaves the header's."""
    cdef size_t at = 0
    cdef const char *key = NULL
    cdef const char *value = NULL
    cdef size_t n = 0
    cdef size_t m = 0
    cdef uint64_t number = 0
    cdef int rc
    while True:
        rc = tar_record(records.data, records.size, &at, &key, &n, &value, &m)
        if rc == TAR_BAD:
            return tar_bad(r, b"a PAX record is not of the form '<length> <keyword>=<value>'")
        if rc == 0:
            return 0
        if text_begins(key, n, b"SCHILY.xattr.") or text_begins(key, n, b"LIBARCHIVE.xattr."):
            r.member.xattrs = True
        elif m == 0:
            continue
        elif text_is(key, n, b"path") or text_is(key, n, b"linkpath"):
            if memchr(value, 0, m) != NULL:
                return tar_bad(r, b"a PAX path with a NUL")
            if n != 4:
                rc = text_set(&r.link, value, m)
            elif not r.named:
                rc = text_set(&r.path, value, m)
            if rc < 0:
                return rc
        elif text_is(key, n, b"size"):
            if shared:
                return tar_bad(r, b"a global PAX header sets the size of every member")
            if not _whole(value, m, &r.member.size):
                return tar_bad(r, b"the PAX size is no number")
        elif text_is(key, n, b"uid") or text_is(key, n, b"gid"):
            if not _whole(value, m, &number) or number > <uint32_t>TAR_MAX_ID:
                return tar_bad(r, b"the PAX uid or gid is no number below 4294967295")
            if key[0] == c'u':
                r.member.uid = <uint32_t>number
            else:
                r.member.gid = <uint32_t>number
        elif text_is(key, n, b"mtime"):
            if not tar_time(value, m, &r.member.mtime, &r.member.mtime_ns):
                return tar_bad(r, b"the PAX mtime is no time")
        elif text_begins(key, n, b"GNU.sparse."):
            if shared:
                return tar_bad(r, b"a global PAX header says that every member is sparse")
            rc = _take_sparse(r, key + 11, n - 11, value, m)
            if rc < 0:
                return rc


cdef inline bint _id(const uint8_t *field, uint32_t *value) noexcept nogil:
    cdef int64_t number = 0
    if not tar_number(field, TAR_ID_SIZE, &number) or number < 0 or number > <uint32_t>TAR_MAX_ID:
        return False
    value[0] = <uint32_t>number
    return True


cdef inline int _take_name(tar_reader *r, const uint8_t *b) noexcept nogil:
    """The header's own name and link."""
    cdef size_t n
    cdef int rc
    r.path.size = 0
    if memcmp(b + TAR_MAGIC, b"ustar\0", TAR_MAGIC_SIZE) == 0 and b[TAR_PREFIX] != 0:
        n = TAR_PREFIX_SIZE
        if memcmp(b + TAR_STAR_MAGIC, b"tar\0", 4) == 0:
            n = TAR_STAR_PREFIX_SIZE
        rc = text_add(&r.path, b + TAR_PREFIX, _field_size(b + TAR_PREFIX, n))
        if rc == 0:
            rc = text_add(&r.path, b"/", 1)
        if rc < 0:
            return rc
    rc = text_add(&r.path, b + TAR_NAME, _field_size(b + TAR_NAME, TAR_NAME_SIZE))
    if rc < 0:
        return rc
    return text_set(&r.link, b + TAR_LINK, _field_size(b + TAR_LINK, TAR_LINK_SIZE))


cdef inline int _take_device(tar_reader *r, const uint8_t *b) noexcept nogil:
    cdef int64_t major = 0
    cdef int64_t minor = 0
    if not tar_number(b + TAR_MAJOR, 8, &major) or not tar_number(b + TAR_MINOR, 8, &minor):
        return tar_bad(r, b"the device number is no number")
    # What Linux has: 12 and 20 bits.
    if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20:
        return tar_bad(r, b"a device number beyond 4095:1048575")
    r.member.major = <uint32_t>major
    r.member.minor = <uint32_t>minor
    return 0


cdef inline int _take_sparse_pairs(tar_reader *r, const uint8_t *pairs, int count) noexcept nogil:
    """Pairs of an old GNU sparse map, up to the first empty one."""
    cdef int64_t at = 0
    cdef int64_t size = 0
    cdef int i
    cdef int rc
    for i in range(count):
        if pairs[i * 24] == 0:
            break
        if (not tar_number(pairs + i * 24, 12, &at) or not tar_number(pairs + i * 24 + 12, 12, &size)
                or at < 0 or size < 0):
            return tar_bad(r, b"a sparse map with something that is no number")
        rc = tar_segment_add(r, <uint64_t>at, <uint64_t>size)
        if rc < 0:
            return rc
    return 0


cdef inline int _begin(tar_reader *r) noexcept nogil:
    """All is known of the member but its content."""
    cdef tar_member *m = &r.member
    cdef uint64_t end = 0
    cdef uint64_t total = 0
    cdef size_t i
    r.segment = 0
    r.done = 0
    r.state = _CONTENT
    if not m.sparse:
        m.real_size = m.size
        return TAR_MEMBER
    if r.pair_open:
        return tar_bad(r, b"a sparse map with an offset that has no size")
    if m.real_size > <uint64_t>INT64_MAX:
        return tar_bad(r, b"a file of more than 2**63 bytes")
    for i in range(r.segment_count):
        if (r.segments[i].at < end or r.segments[i].at > m.real_size
                or r.segments[i].size > m.real_size - r.segments[i].at):
            return tar_bad(r, b"a sparse map whose pieces overlap or lie beyond the end of the file")
        end = r.segments[i].at + r.segments[i].size
        total += r.segments[i].size
    if total != m.size:
        return tar_bad(r, b"a sparse map that does not add up to the size of the member")
    return TAR_MEMBER


cdef inline int _take_member(tar_reader *r, const uint8_t *b, int64_t size) noexcept nogil:
    """A member's own header; TAR_MEMBER, or 0 where a sparse map follows."""
    cdef tar_member *m = &r.member
    cdef int64_t number = 0
    cdef bint gnu_sparse = b[TAR_TYPE] == TAR_GNU_SPARSE
    cdef int rc
    memset(m, 0, sizeof(tar_member))
    r.inside = True
    r.segment_count = 0
    r.pair_open = False
    r.named = False
    r.sparse_major = -1
    r.sparse_minor = 0
    rc = _take_name(r, b)
    if rc < 0:
        return rc
    m.type = b[TAR_TYPE]
    m.size = <uint64_t>size
    if not tar_number(b + TAR_MODE, TAR_ID_SIZE, &number):
        return tar_bad(r, b"the mode is no number")
    m.mode = <uint32_t>(number & 0o7777)
    if not tar_number(b + TAR_MTIME, TAR_LONG_SIZE, &m.mtime):
        return tar_bad(r, b"the mtime is no number")
    if not _id(b + TAR_UID, &m.uid) or not _id(b + TAR_GID, &m.gid):
        return tar_bad(r, b"the uid or gid is no number below 4294967295")
    rc = _take_records(r, &r.shared, True)
    if rc == 0:
        rc = _take_records(r, &r.records, False)
    if rc == 0 and r.long_name.size:
        rc = text_set(&r.path, r.long_name.data, strlen(r.long_name.data))
    if rc == 0 and r.long_link.size:
        rc = text_set(&r.link, r.long_link.data, strlen(r.long_link.data))
    if rc < 0:
        return rc
    if r.path.size > r.max_path or r.link.size > r.max_path:
        return tar_bad(r, b"a path that is too long")

    if m.type == TAR_OLD_FILE:
        m.type = TAR_DIRECTORY if r.path.size and r.path.data[r.path.size - 1] == c'/' else TAR_FILE
    elif m.type == TAR_CONTIGUOUS or gnu_sparse:
        m.type = TAR_FILE
    if m.type == TAR_CHARACTER or m.type == TAR_BLOCK_DEVICE:
        rc = _take_device(r, b)
        if rc < 0:
            return rc
    if m.type != TAR_FILE:
        if not TAR_FILE < m.type <= TAR_FIFO:
            return tar_bad(r, b"a type of member that is not supported")
        # Whatever their size says, no content follows these.
        m.size = 0
        m.sparse = False
        return _begin(r)
    if m.size > <uint64_t>INT64_MAX - TAR_BLOCK:
        return tar_bad(r, b"a file of more than 2**63 bytes")
    if gnu_sparse:
        if not tar_number(b + TAR_SPARSE_REAL_SIZE, TAR_LONG_SIZE, &number) or number < 0:
            return tar_bad(r, b"the size of the sparse file is no number")
        m.sparse = True
        m.real_size = <uint64_t>number
        rc = _take_sparse_pairs(r, b + TAR_SPARSE, TAR_SPARSE_COUNT)
        if rc < 0:
            return rc
        if b[TAR_SPARSE_MORE]:
            r.state = _SPARSE
            return 0
    elif r.sparse_major >= 1:
        if r.sparse_major != 1 or r.sparse_minor != 0:
            return tar_bad(r, b"a version of GNU.sparse that is not supported")
        r.map_counted = False
        r.map_numbers = 1
        r.map_value = 0
        r.map_digits = 0
        r.segment_count = 0
        r.pair_open = False
        r.state = _MAP
        return 0
    elif r.segment_count and not m.sparse:
        return tar_bad(r, b"a sparse map without the size of the file")
    return _begin(r)


cdef inline int _take_map(tar_reader *r, const uint8_t *b) noexcept nogil:
    """A block of a PAX 1.0 map: how many pieces, then offset and size of each, a number a line."""
    cdef int i = 0
    cdef int rc
    if r.member.size < TAR_BLOCK:
        return tar_bad(r, b"a sparse map that is longer than the member")
    r.member.size -= TAR_BLOCK
    while r.map_numbers and i < TAR_BLOCK:
        if c'0' <= b[i] <= c'9':
            r.map_digits += 1
            if r.map_digits > 18:
                return tar_bad(r, b"a sparse map with something that is no number")
            r.map_value = r.map_value * 10 + b[i] - c'0'
        elif b[i] != c'\n' or r.map_digits == 0:
            return tar_bad(r, b"a sparse map with something that is no number")
        else:
            r.map_numbers -= 1
            if r.map_counted:
                rc = tar_sparse_number(r, r.map_value)
                if rc < 0:
                    return rc
            else:
                if r.map_value > TAR_MAX_SEGMENTS:
                    return tar_bad(r, b"a sparse map of more than 1048576 pieces")
                r.map_counted = True
                r.map_numbers = r.map_value * 2
            r.map_value = 0
            r.map_digits = 0
        i += 1
    return 0 if r.map_numbers else _begin(r)
