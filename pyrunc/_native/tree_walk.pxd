# cython: cdivision=True, boundscheck=False
# Walking a directory tree by descriptor, beside the trees below it: names in byte order, no recursion, and one
# descriptor for the directory that is being walked, whatever the depth.
#
# A directory above is come back to by "..", and must be the very one that was left: whoever moves directories
# meanwhile, nothing outside the root is read. Layers below are opened from their roots, without following a symlink.

from libc.stdlib cimport free, malloc, qsort, realloc

from pyrunc._native.linux cimport *
from pyrunc._native.openat2 cimport c_openat2
from pyrunc._native.tar_write cimport Bytes, bytes_free, bytes_put, bytes_room

cdef enum:
    # getdents64(2)
    DT_UNKNOWN = 0
    DT_CHR = 2
    DT_DIR = 4
    DIRENTS_BYTES = 1 << 16
    # A path of openat2(2) has to be shorter than 4096.
    PATH_PIECE = 4000
    UPPER = -1

cdef struct dirent64:
    uint64_t d_ino
    int64_t d_off
    unsigned short d_reclen
    unsigned char d_type
    char d_name[1]

cdef struct Entry:
    # *layer*: UPPER, or the index of the highest layer below that has the name. *below*: that index for an entry of
    # the upper tree, UPPER where no layer below has it.
    const char *name
    int layer
    int below
    unsigned char kind

cdef struct Frame:
    # One directory on the way from the root to where the walk is.
    dev_t device
    unsigned long inode
    size_t path_length
    Bytes names
    Entry *entries
    size_t count
    size_t next
    bint opaque
    # The layers below whose directories merge here, the highest first.
    int *layers
    size_t layer_count
    # What is written before the first change below this directory.
    Bytes pending

cdef struct Walk:
    Frame *frames
    size_t depth
    size_t room
    int fd
    # Of what is being looked at, from the root, without a leading "/"; that of a directory ends in "/".
    Bytes path
    const int *lowers
    size_t lower_count
    # Layers of an overlay: character devices 0:0 hide names, opaque directories hide directories.
    bint overlay
    const char *opaque_name


cdef inline int by_name(const void *a, const void *b) noexcept nogil:
    """Order entries by the bytes of their names, then from the upper tree downwards."""
    cdef const Entry *one = <const Entry *>a
    cdef const Entry *other = <const Entry *>b
    cdef int order = strcmp(one.name, other.name)
    return order if order else one.layer - other.layer


cdef inline int set_path(Walk *walk, size_t keep, const char *name, bint directory) noexcept nogil:
    """Cut the path to *keep* bytes and append *name*; it stays terminated."""
    cdef int rc
    walk.path.used = keep
    rc = bytes_put(&walk.path, name, strlen(name))
    if rc == 0 and directory:
        rc = bytes_put(&walk.path, b"/", 1)
    if rc == 0:
        rc = bytes_room(&walk.path, 1)
    if rc == 0:
        walk.path.data[walk.path.used] = 0
    return rc


cdef inline int open_below(int root, char *path, size_t length, uint64_t flags) noexcept nogil:
    """Open *path* ("" is *root* itself) beneath *root* without following a symlink, however long it is."""
    cdef int directory = root
    cdef int following
    cdef size_t start = 0
    cdef size_t end
    cdef char kept
    cdef const char *piece
    while length and path[length - 1] == c'/':
        length -= 1
    while True:
        end = length
        if length - start > PATH_PIECE:
            end = start + PATH_PIECE
            while path[end] != c'/':
                end -= 1
        kept = path[end]
        path[end] = 0
        piece = b"."
        if end > start:
            piece = path + start
        following = c_openat2(directory, piece, flags if end == length else <uint64_t>(O_PATH | O_DIRECTORY), 0,
                              RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
        path[end] = kept
        if directory != root:
            close(directory)
        if following < 0 or end == length:
            return following
        directory = following
        start = end + 1


cdef inline int add_names(Frame *frame, int fd, int layer, char *buffer, size_t *room) noexcept nogil:
    """Add the names of the open directory *fd*; *buffer* has DIRENTS_BYTES. Names are offsets until `merge`."""
    cdef long got
    cdef long at
    cdef dirent64 *item
    cdef Entry *entries
    cdef const char *name
    cdef int rc
    while True:
        got = _rc(syscall(SYS_getdents64, fd, buffer, DIRENTS_BYTES))
        if got <= 0:
            return <int>got
        at = 0
        while at < got:
            item = <dirent64 *>(buffer + at)
            at += item.d_reclen
            name = item.d_name
            if name[0] == c'.' and (name[1] == 0 or (name[1] == c'.' and name[2] == 0)):
                continue
            if frame.count == room[0]:
                room[0] = 32 if room[0] == 0 else 2 * room[0]
                entries = <Entry *>realloc(frame.entries, room[0] * sizeof(Entry))
                if entries == NULL:
                    return -ENOMEM
                frame.entries = entries
            frame.entries[frame.count].name = <const char *>frame.names.used
            frame.entries[frame.count].layer = layer
            frame.entries[frame.count].kind = item.d_type
            frame.count += 1
            rc = bytes_put(&frame.names, name, strlen(name) + 1)
            if rc < 0:
                return rc


cdef inline bint is_whiteout(const stat_t *status) noexcept nogil:
    return S_ISCHR(status.st_mode) and status.st_rdev == 0


cdef inline int merge(Walk *walk, Frame *frame) noexcept nogil:
    """Sort the entries and leave one for each name; what a whiteout of a layer below hides is not there."""
    cdef size_t i
    cdef size_t kept = 0
    cdef Entry *entry
    cdef bint has_upper
    cdef int fd
    cdef stat_t status
    for i in range(frame.count):
        frame.entries[i].name = frame.names.data + <size_t>frame.entries[i].name
    if frame.count > 1:
        qsort(frame.entries, frame.count, sizeof(Entry), &by_name)
    i = 0
    while i < frame.count:
        entry = &frame.entries[i]
        has_upper = entry.layer == UPPER
        frame.entries[kept] = entry[0]
        frame.entries[kept].below = UPPER
        if has_upper:
            i += 1
        if i < frame.count and strcmp(frame.entries[i].name, frame.entries[kept].name) == 0:
            entry = &frame.entries[i]
            frame.entries[kept].below = entry.layer
            if walk.overlay and entry.kind in (DT_CHR, DT_UNKNOWN):
                fd = set_path(walk, frame.path_length, entry.name, False)
                if fd == 0:
                    fd = open_below(walk.lowers[entry.layer], walk.path.data, walk.path.used, O_PATH | O_NOFOLLOW)
                if fd < 0 or fstat(fd, &status) < 0:
                    return fd if fd < 0 else -errno
                close(fd)
                if is_whiteout(&status):
                    frame.entries[kept].below = UPPER
            while i < frame.count and strcmp(frame.entries[i].name, frame.entries[kept].name) == 0:
                i += 1
        if has_upper or frame.entries[kept].below != UPPER:
            kept += 1
    frame.count = kept
    return 0


cdef inline int enter(Walk *walk, int fd, const stat_t *status, int highest, bint opaque, char *buffer) noexcept nogil:
    """Go down into the open directory *fd*, whose path is set; it is owned by the walk from here on.

    *highest* is the highest layer below that has a directory there, or UPPER.
    """
    cdef Frame *frames
    cdef Frame *frame
    cdef const Frame *above
    cdef size_t room = 0
    cdef size_t i
    cdef int lower
    cdef int rc
    cdef char value[1]
    if walk.fd >= 0:
        close(walk.fd)
    walk.fd = fd
    if walk.depth == walk.room:
        walk.room = 32 if walk.room == 0 else 2 * walk.room
        frames = <Frame *>realloc(walk.frames, walk.room * sizeof(Frame))
        if frames == NULL:
            return -ENOMEM
        walk.frames = frames
    frame = &walk.frames[walk.depth]
    memset(frame, 0, sizeof(Frame))
    above = &walk.frames[walk.depth - 1] if walk.depth else NULL
    walk.depth += 1
    frame.device = status.st_dev
    frame.inode = status.st_ino
    frame.path_length = walk.path.used
    frame.opaque = opaque or (above != NULL and above.opaque)
    rc = add_names(frame, fd, UPPER, buffer, &room)
    if rc == 0 and highest != UPPER:
        frame.layers = <int *>malloc(walk.lower_count * sizeof(int))
        if frame.layers == NULL:
            return -ENOMEM
        for i in range(above.layer_count if above != NULL else walk.lower_count):
            lower = above.layers[i] if above != NULL else <int>i
            if lower < highest:
                continue
            fd = open_below(walk.lowers[lower], walk.path.data, walk.path.used, O_DIRECTORY | O_RDONLY)
            if fd == -ENOENT:
                continue
            if fd == -ENOTDIR or fd == -ELOOP:
                break
            rc = fd
            if fd >= 0:
                frame.layers[frame.layer_count] = lower
                frame.layer_count += 1
                rc = add_names(frame, fd, lower, buffer, &room)
                opaque = walk.overlay and fgetxattr(fd, walk.opaque_name, value, 1) == 1 and value[0] == c'y'
                close(fd)
            if rc < 0 or opaque:
                break
    return merge(walk, frame) if rc >= 0 else rc


cdef inline void forget(Frame *frame) noexcept nogil:
    bytes_free(&frame.names)
    bytes_free(&frame.pending)
    free(frame.entries)
    free(frame.layers)


cdef inline int leave(Walk *walk) noexcept nogil:
    """Go up from a directory that is done; ESTALE: what is above it is not what was."""
    cdef stat_t status
    cdef Frame *above
    cdef int fd
    walk.depth -= 1
    forget(&walk.frames[walk.depth])
    if walk.depth == 0:
        return 0
    above = &walk.frames[walk.depth - 1]
    fd = <int>_rc(openat(walk.fd, b"..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
    if fd < 0:
        return fd
    close(walk.fd)
    walk.fd = fd
    if fstat(fd, &status) < 0:
        return -errno
    if status.st_dev != above.device or status.st_ino != above.inode:
        return -ESTALE
    return 0


cdef inline void walk_free(Walk *walk) noexcept nogil:
    while walk.depth:
        walk.depth -= 1
        forget(&walk.frames[walk.depth])
    free(walk.frames)
    bytes_free(&walk.path)
    if walk.fd >= 0:
        close(walk.fd)
