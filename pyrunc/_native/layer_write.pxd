# cython: cdivision=True, boundscheck=False
# What a walk writes: members of a tar with their content, whiteouts, or notes of what has changed.

from pyrunc._native.linux cimport *
from pyrunc._native.member_read cimport *
from pyrunc._native.tar_write cimport *
from pyrunc._native.tree_walk cimport *

cdef enum:
    COMPARED_BYTES = DIRENTS_BYTES // 2

cdef struct Job:
    Walk walk
    Out out
    Links links
    Attributes attributes
    Attributes others
    Pieces pieces
    Bytes header
    Bytes scratch
    Bytes text
    Bytes changes
    # Whether changes are listed and nothing is written; whether a layer is written, where whiteouts mean something.
    bint report
    bint layer
    # The prefix of overlayfs's marks where the upper tree is the upper directory of an overlay, or NULL.
    const char *marks
    bint clamp
    int64_t clamp_seconds
    long clamp_nanoseconds
    # /proc/thread-self/fd, and room for one directory's entries or two pieces of content.
    int descriptors
    char *buffer
    uint64_t members
    # The directories above this depth have been written.
    size_t settled
    const char *problem


cdef inline int changed(Job *job, const char *problem) noexcept nogil:
    """Something is not as the walk needs it: say what."""
    job.problem = problem
    return -ESTALE


cdef inline int open_quietly(int directory, const char *name, int flags) noexcept nogil:
    """Open for reading and leave the time of last access alone, where that is permitted."""
    cdef int fd = <int>_rc(openat(directory, name, flags | O_RDONLY | O_CLOEXEC | O_NOATIME))
    if fd == -EPERM:
        fd = <int>_rc(openat(directory, name, flags | O_RDONLY | O_CLOEXEC))
    return fd


cdef inline int open_content(Job *job, int fd) noexcept nogil:
    """Open for reading the regular file that *fd* (O_PATH) is, whatever its name has become."""
    cdef char number[24]
    number[decimal(number, <uint64_t>fd)] = 0
    return open_quietly(job.descriptors, number, 0)


cdef inline int attributes_of(Job *job, Attributes *found, int fd, int content, const char *marks) noexcept nogil:
    """Read the attributes of *fd*, which may be O_PATH, or of *content*, the same file open for reading, if not -1."""
    cdef char path[64]
    cdef int length = 21
    if content < 0:
        memcpy(path, b"/proc/thread-self/fd/", 21)
        length += decimal(path + 21, <uint64_t>fd)
        path[length] = 0
    return read_attributes(found, content, path, marks)


cdef inline int settle(Job *job) noexcept nogil:
    """Write the directories above that were waiting for a change below them."""
    cdef Frame *frame
    cdef int rc = 0
    while rc == 0 and job.settled < job.walk.depth:
        frame = &job.walk.frames[job.settled]
        if frame.pending.used:
            if job.report:
                rc = bytes_put(&job.changes, frame.pending.data, frame.pending.used)
            else:
                rc = out_put(&job.out, frame.pending.data, frame.pending.used)
                job.members += 1
            frame.pending.used = 0
        job.settled += 1
    return rc


cdef inline int note(Bytes *changes, char kind, const char *path) noexcept nogil:
    """Append a change: its kind and its path, terminated."""
    cdef int rc = bytes_put(changes, &kind, 1)
    return bytes_put(changes, path, strlen(path) + 1) if rc == 0 else rc


cdef inline int write_header(Job *job, Member *member) noexcept nogil:
    cdef int rc = settle(job)
    job.header.used = 0
    if rc == 0:
        rc = put_header(&job.header, member, &job.scratch)
    if rc == 0:
        rc = out_put(&job.out, job.header.data, job.header.used)
        job.members += 1
    return rc


cdef inline int whiteout(Job *job, size_t directory, const char *prefix, const char *name) noexcept nogil:
    """Write the empty member *prefix* + *name* in the directory that is the first *directory* bytes of the path.

    Its owner is root, its time 1970: equal changes make equal bytes.
    """
    cdef Member member
    cdef int rc
    job.text.used = 0
    rc = bytes_put(&job.text, job.walk.path.data, directory)
    if rc == 0:
        rc = bytes_put(&job.text, prefix, strlen(prefix))
    if rc == 0:
        rc = bytes_put(&job.text, name, strlen(name))
    if rc < 0:
        return rc
    memset(&member, 0, sizeof(member))
    member.path = job.text.data
    member.path_length = job.text.used
    member.kind = c'0'
    member.mode = 0o600
    return write_header(job, &member)


cdef inline int deleted(Job *job, size_t directory, const char *name) noexcept nogil:
    cdef int rc
    if not job.report:
        return whiteout(job, directory, b".wh.", name)
    rc = settle(job)
    return note(&job.changes, c'D', job.walk.path.data) if rc == 0 else rc


cdef inline void describe(Job *job, Member *member, const stat_t *status) noexcept nogil:
    """Fill in what the status of the current file says."""
    cdef mode_t kind = status.st_mode & S_IFMT
    memset(member, 0, sizeof(Member))
    member.path = job.walk.path.data
    member.path_length = job.walk.path.used
    member.mode = status.st_mode
    member.uid = status.st_uid
    member.gid = status.st_gid
    member.seconds = status.st_mtim.tv_sec
    member.nanoseconds = status.st_mtim.tv_nsec
    if job.clamp and (member.seconds > job.clamp_seconds or (
        member.seconds == job.clamp_seconds and member.nanoseconds > job.clamp_nanoseconds
    )):
        member.seconds = job.clamp_seconds
        member.nanoseconds = job.clamp_nanoseconds
    if kind == S_IFDIR:
        member.kind = c'5'
    elif kind == S_IFLNK:
        member.kind = c'2'
    elif kind == S_IFIFO:
        member.kind = c'6'
    elif kind == S_IFREG:
        member.kind = c'0'
        member.size = <uint64_t>status.st_size
    else:
        member.kind = c'3' if kind == S_IFCHR else c'4'
        member.major = device_major(status.st_rdev)
        member.minor = device_minor(status.st_rdev)


cdef inline int write_piece(Job *job, int fd, uint64_t offset, uint64_t length) noexcept nogil:
    cdef Out *out = &job.out
    cdef uint64_t part
    cdef ssize_t got
    cdef int rc
    while length:
        if out.used == OUT_BYTES:
            rc = out_flush(out)
            if rc < 0:
                return rc
        part = OUT_BYTES - out.used
        if part > length:
            part = length
        got = pread(fd, out.data + out.used, part, <off_t>offset)
        if got < 0:
            return -errno
        if got == 0:
            return changed(job, b"the file became shorter while it was read")
        out.used += <size_t>got
        offset += <uint64_t>got
        length -= <uint64_t>got
    return 0


cdef inline int write_regular(Job *job, Member *member, int fd, const stat_t *status) noexcept nogil:
    """Write the header and the content of the regular file *fd*."""
    cdef uint64_t size = member.size
    cdef stat_t after
    cdef size_t i
    cdef bint sparse = False
    cdef int rc = 0
    if <uint64_t>status.st_blocks * 512 + HOLES_BYTES <= size:
        rc = find_pieces(&job.pieces, fd, size)
        sparse = job.pieces.content + HOLES_BYTES <= size
    if sparse and rc == 0:
        rc = put_map(&job.text, &job.pieces)
        member.sparse_path = member.path
        member.sparse_path_length = member.path_length
        member.sparse_size = size
        member.size = job.text.used + job.pieces.content
        member.path = b"GNUSparseFile.0"
        member.path_length = 15
    if rc == 0:
        rc = write_header(job, member)
    if rc == 0 and sparse:
        rc = out_put(&job.out, job.text.data, job.text.used)
        for i in range(job.pieces.count):
            if rc == 0:
                rc = write_piece(job, fd, job.pieces.items[i].offset, job.pieces.items[i].length)
    elif rc == 0:
        rc = write_piece(job, fd, 0, size)
    if rc < 0:
        return rc
    if fstat(fd, &after) < 0:
        return -errno
    if <uint64_t>after.st_size != size:
        return changed(job, b"the file changed its size while it was read")
    return out_pad(&job.out, member.size)


cdef inline int read_target(int fd, Bytes *target) noexcept nogil:
    """Read where the symlink *fd* (O_PATH) points."""
    cdef ssize_t got
    cdef int rc
    target.used = 0
    rc = bytes_room(target, 4096)
    if rc < 0:
        return rc
    got = readlinkat(fd, b"", target.data, target.room)
    if got < 0:
        return -errno
    target.used = <size_t>got
    return 0


cdef inline int write_file(Job *job, int fd, const stat_t *status) noexcept nogil:
    """Write the current file, whose descriptor is *fd* (O_PATH) and which is no directory."""
    cdef Member member
    cdef const char *first = NULL
    cdef int content = -1
    cdef int rc = 0
    describe(job, &member, status)
    if status.st_nlink > 1:
        rc = find_link(&job.links, status, member.path, &first)
        if rc < 0:
            return rc
        if first != NULL:
            member.kind = c'1'
            member.link = first
            member.link_length = strlen(first)
            member.size = 0
            member.major = member.minor = 0
            return write_header(job, &member)
    if member.kind == c'2':
        rc = read_target(fd, &job.text)
        member.link = job.text.data
        member.link_length = job.text.used
    elif member.size:
        content = open_content(job, fd)
        rc = content
    if rc >= 0:
        rc = attributes_of(job, &job.attributes, fd, content, job.marks)
    if rc == 0:
        member.records = job.attributes.records.data
        member.records_length = job.attributes.records.used
        if job.attributes.metacopy:
            job.problem = b"only the metadata of the file is in the upper directory (overlayfs option metacopy)"
            rc = -EOPNOTSUPP
        elif content >= 0:
            rc = write_regular(job, &member, content, status)
        else:
            rc = write_header(job, &member)
    if content >= 0:
        close(content)
    return rc
