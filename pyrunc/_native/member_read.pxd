# cython: cdivision=True, boundscheck=False
# What a tar says of one file beyond its status: extended attributes, hard links, and where a sparse file has holes.

from libc.stdlib cimport calloc, free, qsort, realloc

from pyrunc._native.linux cimport *
from pyrunc._native.tar_write cimport Bytes, bytes_free, bytes_put, bytes_room, decimal, pax_record

cdef enum:
    # A file is written as sparse when this much of it is holes; less is not worth a form that fewer programs read.
    HOLES_BYTES = 1 << 20
    # The shortest hole that counts, and how many pieces of content a map has at most: beyond, only longer holes count.
    HOLE_BYTES = 1 << 16
    PIECES = 1 << 14

cdef struct Attributes:
    # What listing them found: finished PAX records in the order of their names, and what overlayfs says with some.
    Bytes records
    bint opaque
    bint redirect
    bint metacopy
    Bytes _names
    Bytes _sorted
    Bytes _value
    Bytes _key

cdef struct Link:
    # A file with several names. *path* is 1 + the offset of the one it was written under in the table's text; 0: none.
    bint used
    dev_t device
    unsigned long inode
    size_t path
    # How many of its names another tree has too, for what file, and whether for different ones.
    unsigned long seen
    dev_t other_device
    unsigned long other_inode
    bint broken

cdef struct Links:
    Link *slots
    size_t room
    size_t count
    Bytes text

cdef struct Piece:
    uint64_t offset
    uint64_t length

cdef struct Pieces:
    Piece *items
    size_t count
    size_t room
    uint64_t content


cdef inline void attributes_free(Attributes *found) noexcept nogil:
    bytes_free(&found.records)
    bytes_free(&found._names)
    bytes_free(&found._sorted)
    bytes_free(&found._value)
    bytes_free(&found._key)


cdef inline int by_text(const void *a, const void *b) noexcept nogil:
    return strcmp((<const char **>a)[0], (<const char **>b)[0])


cdef inline ssize_t list_names(int fd, const char *path, char *list, size_t size) noexcept nogil:
    return listxattr(path, list, size) if fd < 0 else flistxattr(fd, list, size)


cdef inline ssize_t get_value(int fd, const char *path, const char *name, char *value, size_t size) noexcept nogil:
    return getxattr(path, name, value, size) if fd < 0 else fgetxattr(fd, name, value, size)


cdef inline bint starts(const char *text, const char *prefix) noexcept nogil:
    cdef size_t i = 0
    while prefix[i] != 0:
        if text[i] != prefix[i]:
            return False
        i += 1
    return True


cdef inline int put_key(Bytes *key, const char *name) noexcept nogil:
    """SCHILY.xattr.NAME; "=" ends a key, so it and "%" are written as GNU tar does, in hexadecimal."""
    cdef int rc
    key.used = 0
    rc = bytes_put(key, b"SCHILY.xattr.", 13)
    while rc == 0 and name[0] != 0:
        if name[0] == c'=':
            rc = bytes_put(key, b"%3D", 3)
        elif name[0] == c'%':
            rc = bytes_put(key, b"%25", 3)
        else:
            rc = bytes_put(key, name, 1)
        name += 1
    return rc


cdef inline int read_attributes(Attributes *found, int fd, const char *path, const char *overlay) noexcept nogil:
    """Read the attributes of *fd*, or where that is negative those of *path*; 0 or -errno.

    Left out are what overlayfs keeps for itself, in the trusted and in the user namespace, and SELinux's label, which
    belongs to a host. *overlay* is the prefix whose marks count ("trusted.overlay."), or NULL.
    """
    cdef ssize_t size
    cdef ssize_t got
    cdef ssize_t at = 0
    cdef size_t count = 0
    cdef size_t i
    cdef const char *name
    cdef const char *mark
    cdef int rc
    found.records.used = 0
    found.opaque = found.redirect = found.metacopy = False
    while True:
        size = list_names(fd, path, found._names.data, found._names.room)
        if size == 0 or (size < 0 and errno == EOPNOTSUPP):
            return 0
        if size > 0 and found._names.room:
            break
        if size < 0 and errno != ERANGE:
            return -errno
        found._names.used = 0
        rc = bytes_room(&found._names, 1 << 16 if size < 0 else 1 << 12)
        if rc < 0:
            return rc
    found._sorted.used = 0
    while at < size:
        name = found._names.data + at
        at += <ssize_t>strlen(name) + 1
        if starts(name, b"trusted.overlay.") or starts(name, b"user.overlay."):
            if overlay != NULL and starts(name, overlay):
                mark = name + strlen(overlay)
                found.redirect = found.redirect or strcmp(mark, b"redirect") == 0
                found.metacopy = found.metacopy or strcmp(mark, b"metacopy") == 0
                if strcmp(mark, b"opaque") == 0:
                    rc = bytes_room(&found._value, 16)
                    if rc < 0:
                        return rc
                    got = get_value(fd, path, name, found._value.data, 16)
                    found.opaque = got == 1 and found._value.data[0] == c'y'
            continue
        if strcmp(name, b"security.selinux") == 0:
            continue
        rc = bytes_put(&found._sorted, &name, sizeof(name))
        if rc < 0:
            return rc
        count += 1
    if count > 1:
        qsort(found._sorted.data, count, sizeof(name), &by_text)
    for i in range(count):
        name = (<const char **>found._sorted.data)[i]
        while True:
            got = get_value(fd, path, name, found._value.data, found._value.room)
            if got >= 0 and found._value.room:
                break
            if got < 0 and errno == ENODATA:
                break
            if got < 0 and errno != ERANGE:
                return -errno
            found._value.used = 0
            rc = bytes_room(&found._value, 1 << 16 if got < 0 else 1 << 12)
            if rc < 0:
                return rc
        if got < 0:
            continue
        rc = put_key(&found._key, name)
        if rc == 0:
            rc = pax_record(&found.records, found._key.data, found._key.used, found._value.data, <size_t>got)
        if rc < 0:
            return rc
    return 0


cdef inline Link *link_slot(Links *links, dev_t device, unsigned long inode) noexcept nogil:
    """The slot of a file, or the free one where it belongs."""
    # A multiplication spreads what is near; its upper half is the hash.
    cdef uint64_t at = ((<uint64_t>inode ^ (<uint64_t>device << 40)) * <uint64_t>0x1E3779B97F4A7C15) >> 24
    cdef Link *slot
    while True:
        slot = &links.slots[at & (links.room - 1)]
        if not slot.used or (slot.inode == inode and slot.device == device):
            return slot
        at += 1


cdef inline Link *link_of(Links *links, const stat_t *status) noexcept nogil:
    """The table's entry of a file, a new one where it has none; NULL without memory."""
    cdef Link *old = links.slots
    cdef size_t room = links.room
    cdef Link *slot
    cdef size_t i
    if 2 * links.count >= room:
        links.slots = <Link *>calloc(256 if room == 0 else 2 * room, sizeof(Link))
        if links.slots == NULL:
            links.slots = old
            return NULL
        links.room = 256 if room == 0 else 2 * room
        for i in range(room):
            if old[i].used:
                link_slot(links, old[i].device, old[i].inode)[0] = old[i]
        free(old)
    slot = link_slot(links, status.st_dev, status.st_ino)
    if not slot.used:
        slot.used = True
        slot.device = status.st_dev
        slot.inode = status.st_ino
        links.count += 1
    return slot


cdef inline int find_link(Links *links, const stat_t *status, const char *path, const char **first) noexcept nogil:
    """Set *first* to the path under which the file was met before; NULL: now, and *path* is kept for the next time.

    *first* is valid until the next call.
    """
    cdef Link *slot = link_of(links, status)
    first[0] = NULL
    if slot == NULL:
        return -ENOMEM
    if slot.path:
        first[0] = links.text.data + slot.path - 1
        return 0
    slot.path = links.text.used + 1
    return bytes_put(&links.text, path, strlen(path) + 1)


cdef inline int pair_link(Links *links, const stat_t *status, const stat_t *other) noexcept nogil:
    """Note that a name of the file *status* is a name of *other* in another tree."""
    cdef Link *slot = link_of(links, status)
    if slot == NULL:
        return -ENOMEM
    if slot.seen == 0:
        slot.other_device = other.st_dev
        slot.other_inode = other.st_ino
    elif slot.other_device != other.st_dev or slot.other_inode != other.st_ino:
        slot.broken = True
    slot.seen += 1
    return 0


cdef inline bint same_names(Links *links, const stat_t *status, const stat_t *other) noexcept nogil:
    """Whether the names of the file *status* are, all of them and no more, those of *other* in the other tree."""
    cdef Link *slot
    if status.st_nlink != other.st_nlink:
        return False
    if status.st_nlink == 1:
        return True
    if links.room == 0:
        return False
    slot = link_slot(links, status.st_dev, status.st_ino)
    return slot.used and not slot.broken and slot.seen == status.st_nlink


cdef inline void links_free(Links *links) noexcept nogil:
    free(links.slots)
    bytes_free(&links.text)


cdef inline int add_piece(Pieces *pieces, uint64_t offset, uint64_t length) noexcept nogil:
    cdef Piece *items
    if pieces.count == pieces.room:
        pieces.room = 64 if pieces.room == 0 else 2 * pieces.room
        items = <Piece *>realloc(pieces.items, pieces.room * sizeof(Piece))
        if items == NULL:
            return -ENOMEM
        pieces.items = items
    pieces.items[pieces.count].offset = offset
    pieces.items[pieces.count].length = length
    pieces.content += length
    pieces.count += 1
    return 0


cdef inline int find_pieces(Pieces *pieces, int fd, uint64_t size) noexcept nogil:
    """Find where the open file has content, by SEEK_DATA and SEEK_HOLE; 0 or -errno.

    A file that ends in a hole gets an empty piece at its end, as GNU tar's map has it.
    """
    cdef uint64_t shortest = HOLE_BYTES
    cdef uint64_t end = 0
    cdef off_t data
    cdef off_t hole
    cdef Piece *last
    cdef int rc = 0
    pieces.count = 0
    pieces.content = 0
    while end < size:
        data = lseek(fd, <off_t>end, SEEK_DATA)
        if data < 0 and errno == ENXIO:
            break
        if data < 0:
            return -errno
        if <uint64_t>data >= size:
            break
        hole = lseek(fd, data, SEEK_HOLE)
        if hole < 0:
            return -errno
        if <uint64_t>hole > size:
            hole = <off_t>size
        # A short hole is content: zeros.
        last = &pieces.items[pieces.count - 1] if pieces.count else NULL
        if last != NULL and <uint64_t>data - last.offset - last.length < shortest:
            pieces.content += <uint64_t>hole - last.offset - last.length
            last.length = <uint64_t>hole - last.offset
        else:
            rc = add_piece(pieces, <uint64_t>data, <uint64_t>(hole - data))
        if rc < 0:
            return rc
        end = <uint64_t>hole
        if pieces.count > PIECES:
            shortest *= 4
            pieces.count = 0
            pieces.content = 0
            end = 0
    last = &pieces.items[pieces.count - 1] if pieces.count else NULL
    if last == NULL or last.offset + last.length < size:
        rc = add_piece(pieces, size, 0)
    return rc


cdef inline int put_map(Bytes *text, const Pieces *pieces) noexcept nogil:
    """The map that precedes a sparse file's content: decimal lines, filled up to a block."""
    cdef char line[48]
    cdef int length
    cdef size_t i
    cdef int rc
    text.used = 0
    length = decimal(line, pieces.count)
    line[length] = c'\n'
    rc = bytes_put(text, line, <size_t>length + 1)
    for i in range(pieces.count):
        if rc < 0:
            return rc
        length = decimal(line, pieces.items[i].offset)
        line[length] = c'\n'
        length += 1
        length += decimal(line + length, pieces.items[i].length)
        line[length] = c'\n'
        rc = bytes_put(text, line, <size_t>length + 1)
    while rc == 0 and text.used % 512:
        rc = bytes_put(text, b"\x00", 1)
    return rc
