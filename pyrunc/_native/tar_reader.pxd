# cython: cdivision=True, boundscheck=False
# A tar archive, read as its bytes come, in pieces of any size: a loop around `tar_next` sees each member, the pieces of
# its content with their places in the file, and its end. Nothing here touches a file.

from libc.string cimport memcpy

from pyrunc._native.tar cimport *
from pyrunc._native.tar_member cimport *
from pyrunc._native.tar_text cimport *


cdef inline int _take_header(tar_reader *r, const uint8_t *b) noexcept nogil:
    cdef int64_t size = 0
    cdef int type = b[TAR_TYPE]
    if tar_zeros(b):
        r.state = _END if r.state == _ZERO else _ZERO
        return 0
    if r.state == _ZERO:
        return tar_bad(r, b"a lone block of zeros")
    if not tar_checksum_holds(b):
        return tar_bad(r, b"the checksum of the header is wrong")
    if not tar_number(b + TAR_SIZE, TAR_LONG_SIZE, &size) or size < 0:
        return tar_bad(r, b"the size is no number")
    if type == TAR_PAX_SOLARIS:
        type = TAR_PAX
    if type == TAR_PAX or type == TAR_PAX_GLOBAL or type == TAR_GNU_NAME or type == TAR_GNU_LINK:
        if size > TAR_MAX_EXTENSION:
            return tar_bad(r, b"an extended header of more than 1048576 bytes")
        r.gathering = type
        r.left = <uint64_t>size
        r.padding = <uint64_t>-size % TAR_BLOCK
        _gathered(r).size = 0
        r.state = _GATHER
        return 0
    if type == TAR_GNU_LABEL:
        r.left = 0
        r.padding = <uint64_t>size + <uint64_t>-size % TAR_BLOCK
        r.state = _PADDING
        return 0
    return _take_member(r, b, size)


cdef inline tar_text *_gathered(tar_reader *r) noexcept nogil:
    if r.gathering == TAR_PAX:
        return &r.records
    if r.gathering == TAR_PAX_GLOBAL:
        return &r.shared
    return &r.long_name if r.gathering == TAR_GNU_NAME else &r.long_link


cdef inline int _take_block(tar_reader *r, const uint8_t *b) noexcept nogil:
    cdef int rc
    if r.state == _MAP:
        return _take_map(r, b)
    if r.state == _SPARSE:
        rc = _take_sparse_pairs(r, b, TAR_SPARSE_BLOCK_COUNT)
        if rc < 0 or b[TAR_SPARSE_BLOCK_MORE]:
            return rc
        return _begin(r)
    return _take_header(r, b)


cdef inline void _forget(tar_reader *r) noexcept nogil:
    """What was said of the last member holds for no other."""
    r.inside = False
    r.records.size = 0
    r.long_name.size = 0
    r.long_link.size = 0


cdef inline int _finished(tar_reader *r) noexcept nogil:
    r.padding = (0 - r.member.size) % TAR_BLOCK
    r.state = _PADDING
    return TAR_FINISHED


cdef inline int tar_next(tar_reader *r, const uint8_t **data, size_t *size) noexcept nogil:
    """Go on to the next thing to be said, and past the bytes that it took; one of the answers above."""
    cdef const uint8_t *b
    cdef uint64_t n
    cdef int rc
    while True:
        if r.state == _CONTENT:
            if r.member.sparse:
                while r.segment < r.segment_count and r.done == r.segments[r.segment].size:
                    r.segment += 1
                    r.done = 0
                if r.segment == r.segment_count:
                    return _finished(r)
                n = r.segments[r.segment].size - r.done
                r.piece_at = r.segments[r.segment].at + r.done
            else:
                n = r.member.size - r.done
                r.piece_at = r.done
                if n == 0:
                    return _finished(r)
            if size[0] == 0:
                return TAR_MORE
            if n > size[0]:
                n = size[0]
            r.piece = data[0]
            r.piece_size = <size_t>n
            r.done += n
            r.offset += n
            data[0] += n
            size[0] -= n
            return TAR_CONTENT
        if r.state == _GATHER:
            if r.left == 0:
                r.state = _PADDING
                continue
            if size[0] == 0:
                return TAR_MORE
            n = r.left if r.left < size[0] else size[0]
            rc = text_add(_gathered(r), data[0], <size_t>n)
            if rc < 0:
                return rc
            r.left -= n
            r.offset += n
            data[0] += n
            size[0] -= n
            continue
        if r.state == _PADDING:
            if r.inside:
                _forget(r)
            if r.padding == 0:
                r.state = _HEADER
                continue
            if size[0] == 0:
                return TAR_MORE
            n = r.padding if r.padding < size[0] else size[0]
            r.padding -= n
            r.offset += n
            data[0] += n
            size[0] -= n
            continue
        if size[0] == 0:
            return TAR_MORE
        if r.state == _END:
            r.offset += size[0]
            data[0] += size[0]
            size[0] = 0
            return TAR_MORE
        if r.have == 0 and size[0] >= TAR_BLOCK:
            b = data[0]
            n = TAR_BLOCK
        else:
            n = TAR_BLOCK - r.have
            if n > size[0]:
                n = size[0]
            memcpy(r.block + r.have, data[0], <size_t>n)
            r.have += <size_t>n
            b = r.block
        data[0] += n
        size[0] -= n
        if b == r.block:
            if r.have < TAR_BLOCK:
                return TAR_MORE
            r.have = 0
        rc = _take_block(r, b)
        if rc >= 0:
            r.offset += TAR_BLOCK
        if rc != 0:
            return rc


cdef inline bint tar_whole(const tar_reader *r) noexcept nogil:
    """Whether an archive may end here: behind its blocks of zeros, or, as some are written, without them."""
    return r.state >= _ZERO or (
        r.state == _HEADER and r.have == 0 and not (r.records.size or r.long_name.size or r.long_link.size)
    )
