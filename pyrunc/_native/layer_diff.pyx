# cython: cdivision=True, boundscheck=False, language_level=3
"""Directory trees as tar streams and lists of changes: whole trees, upper directories of an overlay, two trees compared.

One walk serves all. Names come in byte order, a directory before what is in it, so that equal trees make equal bytes.
What is written is a POSIX.1-2001 ("pax") tar, see `tar_write`; a file is written as sparse (GNU format 1.0) where a
mebibyte of it or more is holes. Everything is opened by descriptor and nothing through a symlink; a regular file is
known to be one before it is opened for reading, so that no device is ever opened. Sockets are left out. What vanishes
during the walk is left out too; a file whose size changes while it is read is an error, as is a directory that moves.
"""

from cpython.bytearray cimport PyByteArray_AsString
from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport strerror

from pyrunc._native.layer_write cimport *
from pyrunc._native.linux cimport *
from pyrunc._native.member_read cimport *
from pyrunc._native.tar_write cimport *
from pyrunc._native.tree_walk cimport *

cdef int same_content(Job *job, int one, int other, bint *same) noexcept nogil:
    """Compare two regular files of equal size, given by O_PATH descriptors."""
    cdef int a = open_content(job, one)
    cdef int b = open_content(job, other)
    cdef off_t at = 0
    cdef ssize_t got = -1
    cdef int rc = a if a < 0 else b if b < 0 else 0
    while rc == 0 and same[0] and got != 0:
        got = pread(a, job.buffer, COMPARED_BYTES, at)
        if got < 0 or pread(b, job.buffer + COMPARED_BYTES, COMPARED_BYTES, at) != got:
            rc = changed(job, b"the file changed while it was compared")
        else:
            same[0] = memcmp(job.buffer, job.buffer + COMPARED_BYTES, <size_t>got) == 0
            at += got
    if a >= 0:
        close(a)
    if b >= 0:
        close(b)
    return rc


cdef int compare(Job *job, int fd, const stat_t *status, int other, const stat_t *before, bint *same) noexcept nogil:
    """Compare the current file with the one below it.

    As Docker does, content counts as changed where size or time of change differ; where they agree to the second,
    without a fraction, as times of images often do, the content itself is compared. A list of changes leaves out
    directories whose times alone differ, and which names are one file; a layer has to carry both.
    """
    cdef mode_t kind = status.st_mode & S_IFMT
    cdef bint times = (status.st_mtim.tv_sec == before.st_mtim.tv_sec
                       and status.st_mtim.tv_nsec == before.st_mtim.tv_nsec)
    cdef int rc
    same[0] = (status.st_mode == before.st_mode and status.st_uid == before.st_uid and status.st_gid == before.st_gid
               and (times or (job.report and kind == S_IFDIR)))
    if kind != S_IFDIR:
        same[0] = same[0] and status.st_size == before.st_size and (
            job.report or same_names(&job.links, status, before))
    if kind == S_IFCHR or kind == S_IFBLK:
        same[0] = same[0] and status.st_rdev == before.st_rdev
    if status.st_dev == before.st_dev and status.st_ino == before.st_ino:
        return 0
    if same[0]:
        rc = attributes_of(job, &job.attributes, fd, -1, job.marks)
        if rc == 0:
            rc = attributes_of(job, &job.others, other, -1, NULL)
        if rc < 0:
            return rc
        same[0] = bytes_equal(&job.attributes.records, &job.others.records)
    if same[0] and kind == S_IFLNK:
        rc = read_target(fd, &job.text)
        if rc == 0:
            rc = read_target(other, &job.scratch)
        same[0] = bytes_equal(&job.text, &job.scratch)
        return rc
    if same[0] and kind == S_IFREG and status.st_mtim.tv_nsec == 0 and status.st_size:
        return same_content(job, fd, other, same)
    return 0


cdef int visit_directory(Job *job, Entry *entry, int fd, const stat_t *status, bint same, bint below) noexcept nogil:
    """Write or note the current directory and go into it; *fd* is open for reading, and the walk's from here on.

    *same*: it is as the directory below it, and is written when something in it is; *below*: there is one.
    """
    cdef int highest = UPPER
    cdef Member member
    cdef Frame *frame
    cdef bint opaque
    cdef int rc = attributes_of(job, &job.attributes, fd, fd, job.marks)
    if rc == 0 and job.attributes.redirect:
        job.problem = b"the directory was renamed in the upper directory (overlayfs option redirect_dir)"
        rc = -EOPNOTSUPP
    opaque = job.attributes.opaque
    job.header.used = 0
    if rc == 0 and job.report and job.walk.depth:
        rc = note(&job.header, c'C' if entry.below != UPPER else c'A', job.walk.path.data)
    if rc == 0 and job.walk.depth:
        rc = set_path(&job.walk, job.walk.path.used, b"", True)
    if rc == 0 and not job.report:
        describe(job, &member, status)
        if job.walk.depth == 0:
            member.path = b"./"
            member.path_length = 2
        member.records = job.attributes.records.data
        member.records_length = job.attributes.records.used
        rc = put_header(&job.header, &member, &job.scratch)
    if rc < 0:
        close(fd)
        return rc
    if below:
        highest = entry.below if entry != NULL else 0
    rc = enter(&job.walk, fd, status, highest, opaque, job.buffer)
    if rc < 0:
        return rc
    frame = &job.walk.frames[job.walk.depth - 1]
    rc = bytes_put(&frame.pending, job.header.data, job.header.used)
    if rc == 0 and not same:
        rc = settle(job)
    if rc == 0 and opaque and job.layer and not job.report:
        rc = whiteout(job, frame.path_length, b".wh..wh..opq", b"")
    return rc


cdef int visit_other(Job *job, Frame *frame, Entry *entry, int fd, const stat_t *status, bint same) noexcept nogil:
    """Write or note what is no directory."""
    cdef int rc
    if same:
        return 0
    if job.report:
        rc = settle(job)
        return note(&job.changes, c'C' if entry.below != UPPER else c'A', job.walk.path.data) if rc == 0 else rc
    if (status.st_mode & S_IFMT) == S_IFSOCK:
        return deleted(job, frame.path_length, entry.name) if entry.below != UPPER else 0
    return write_file(job, fd, status)


cdef int visit(Job *job, Frame *frame, Entry *entry) noexcept nogil:
    """Look at one name of the upper tree."""
    cdef stat_t status
    cdef stat_t before
    cdef bint same = False
    cdef bint below = False
    cdef bint readable
    cdef int directory
    cdef int other
    cdef int fd
    cdef int rc = 0
    fd = -ENOTDIR
    if entry.kind == DT_DIR:
        # With O_DIRECTORY, nothing else is opened in its place.
        fd = open_quietly(job.walk.fd, entry.name, O_DIRECTORY | O_NOFOLLOW)
    readable = fd >= 0
    if fd == -ENOTDIR or fd == -ELOOP:
        fd = <int>_rc(openat(job.walk.fd, entry.name, O_PATH | O_NOFOLLOW | O_CLOEXEC))
    if fd == -ENOENT:
        return 0
    if fd < 0:
        return fd
    if fstat(fd, &status) < 0:
        rc = -errno
    elif job.marks != NULL and is_whiteout(&status):
        close(fd)
        return deleted(job, frame.path_length, entry.name) if not job.report or entry.below != UPPER else 0
    elif S_ISDIR(status.st_mode) and not readable:
        directory = open_quietly(fd, b".", O_DIRECTORY)
        if directory < 0:
            rc = directory
        else:
            close(fd)
            fd = directory
    if rc == 0 and entry.below != UPPER:
        other = open_below(job.walk.lowers[entry.below], job.walk.path.data, job.walk.path.used, O_PATH | O_NOFOLLOW)
        rc = other
        if other >= 0:
            rc = -errno if fstat(other, &before) < 0 else compare(job, fd, &status, other, &before, &same)
            below = S_ISDIR(before.st_mode)
            close(other)
    if rc < 0:
        close(fd)
        return rc
    if S_ISDIR(status.st_mode):
        return visit_directory(job, entry, fd, &status, same, below)
    rc = visit_other(job, frame, entry, fd, &status, same)
    close(fd)
    return rc


cdef int visit_root(Job *job, int root) noexcept nogil:
    cdef stat_t status
    cdef stat_t before
    cdef bint same = False
    cdef int rc
    cdef int fd = open_quietly(root, b".", O_DIRECTORY)
    if fd < 0:
        return fd
    rc = -errno if fstat(fd, &status) < 0 else set_path(&job.walk, 0, b"", False)
    if rc == 0 and job.walk.lower_count and not job.report:
        rc = -errno if fstat(job.walk.lowers[0], &before) < 0 else compare(
            job, fd, &status, job.walk.lowers[0], &before, &same)
    if rc < 0:
        close(fd)
        return rc
    return visit_directory(job, NULL, fd, &status, same, job.walk.lower_count > 0)


cdef int survey_root(Job *job, int root) noexcept nogil:
    cdef stat_t status
    cdef int fd = open_quietly(root, b".", O_DIRECTORY)
    cdef int rc
    if fd < 0:
        return fd
    rc = -errno if fstat(fd, &status) < 0 else set_path(&job.walk, 0, b"", False)
    if rc < 0:
        close(fd)
        return rc
    return enter(&job.walk, fd, &status, 0, False, job.buffer)


cdef int survey(Job *job, Entry *entry) noexcept nogil:
    """Look at one name of the upper tree: a file with several names, is it the same file below under each of them?"""
    cdef stat_t status
    cdef stat_t before
    cdef int fd
    cdef int rc = 0
    if entry.below == UPPER:
        return 0
    if fstatat(job.walk.fd, entry.name, &status, AT_SYMLINK_NOFOLLOW) < 0:
        return 0 if errno == ENOENT else -errno
    if S_ISDIR(status.st_mode):
        fd = open_quietly(job.walk.fd, entry.name, O_DIRECTORY | O_NOFOLLOW)
        if fd < 0:
            return 0 if fd in (-ENOENT, -ENOTDIR, -ELOOP) else fd
        rc = -errno if fstat(fd, &status) < 0 else set_path(&job.walk, job.walk.path.used, b"", True)
        if rc < 0:
            close(fd)
            return rc
        return enter(&job.walk, fd, &status, entry.below, False, job.buffer)
    if status.st_nlink > 1:
        fd = open_below(job.walk.lowers[entry.below], job.walk.path.data, job.walk.path.used, O_PATH | O_NOFOLLOW)
        if fd < 0:
            return fd
        rc = -errno if fstat(fd, &before) < 0 else pair_link(&job.links, &status, &before)
        close(fd)
    return rc


cdef int look(Job *job, Frame *frame, Entry *entry) noexcept nogil:
    """Look at one name, to write or to list it."""
    if job.layer and starts(entry.name, b".wh."):
        job.problem = b"the name means a whiteout in a layer and cannot be written"
        return -EINVAL
    if entry.layer == UPPER:
        return visit(job, frame, entry)
    if not job.walk.overlay or frame.opaque:
        return deleted(job, frame.path_length, entry.name)
    return 0


cdef int walk_tree(Job *job, int root, bint surveying) noexcept nogil:
    """Walk the whole tree; 0 or -errno."""
    cdef Frame *frame
    cdef Entry *entry
    cdef int rc = survey_root(job, root) if surveying else visit_root(job, root)
    while rc == 0 and job.walk.depth:
        frame = &job.walk.frames[job.walk.depth - 1]
        if frame.next < frame.count:
            entry = &frame.entries[frame.next]
            frame.next += 1
            rc = set_path(&job.walk, frame.path_length, entry.name, False)
            if rc == 0:
                rc = survey(job, entry) if surveying else look(job, frame, entry)
            continue
        rc = set_path(&job.walk, frame.path_length, b"", False)
        if rc == 0:
            rc = leave(&job.walk)
        if job.settled > job.walk.depth:
            job.settled = job.walk.depth
        if rc == -ESTALE:
            job.problem = b"the directory was moved while it was read"
    return rc


cdef int run(Job *job, int root) noexcept nogil:
    """Do all of the job; 0 or -errno."""
    cdef int rc = 0
    job.descriptors = <int>_rc(openat(AT_FDCWD, b"/proc/thread-self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC))
    if job.descriptors < 0:
        job.problem = b"/proc is not there, which files are read through"
        return job.descriptors
    job.buffer = <char *>malloc(DIRENTS_BYTES)
    if job.buffer == NULL:
        return -ENOMEM
    # Whether a file is the same depends on all of its names, which lie anywhere.
    if job.walk.lower_count and not job.report:
        rc = walk_tree(job, root, True)
    if rc == 0:
        rc = walk_tree(job, root, False)
    return put_end(&job.out) if rc == 0 and not job.report else rc


cdef void release(Job *job) noexcept nogil:
    walk_free(&job.walk)
    links_free(&job.links)
    attributes_free(&job.attributes)
    attributes_free(&job.others)
    free(job.pieces.items)
    bytes_free(&job.header)
    bytes_free(&job.scratch)
    bytes_free(&job.text)
    bytes_free(&job.changes)
    free(job.buffer)
    if job.descriptors >= 0:
        close(job.descriptors)


cdef class _Sink:
    """Where the bytes go; *error* is what the caller's function raised."""

    cdef object target
    cdef object view
    cdef object error


cdef int deliver(void *context, size_t count) noexcept with gil:
    cdef _Sink sink = <_Sink>context
    try:
        PyErr_CheckSignals()
        sink.target(sink.view[:count])
    except BaseException as error:
        sink.error = error
        return -ECANCELED
    return 0


cdef object walked(int root, Job *job, tuple lowers, object sink):
    """Do the job and release it; raises OSError, or what *sink* raised. Returns members and bytes, or the changes."""
    cdef _Sink receiver = _Sink()
    cdef bytearray memory
    cdef int *descriptors = NULL
    cdef int rc
    cdef size_t i
    try:
        job.walk.fd = job.descriptors = -1
        if not job.report:
            memory = bytearray(OUT_BYTES)
            receiver.target = sink
            # A copy of the view that is kept too long keeps the memory too: wrong bytes at worst.
            receiver.view = memoryview(memory).toreadonly()
            job.out.data = PyByteArray_AsString(memory)
            job.out.flush = &deliver
            job.out.context = <void *>receiver
        if lowers:
            descriptors = <int *>malloc(len(lowers) * sizeof(int))
            if descriptors == NULL:
                raise MemoryError
            for i in range(<size_t>len(lowers)):
                descriptors[i] = lowers[i]
            job.walk.lowers = descriptors
            job.walk.lower_count = len(lowers)
        with nogil:
            rc = run(job, root)
        if receiver.error is not None:
            raise receiver.error
        if rc < 0:
            path = b"/" + (job.walk.path.data[:job.walk.path.used] if job.walk.path.used else b"")
            text = job.problem if job.problem != NULL else strerror(-rc)
            raise OSError(-rc, text.decode("utf-8"), path.decode("utf-8", "surrogateescape"))
        if not job.report:
            return job.members, job.out.total
        found = job.changes.data[:job.changes.used].split(b"\0")[:-1] if job.changes.used else []
        return [(chr(item[0]), "/" + item[1:].decode("utf-8", "surrogateescape")) for item in found]
    finally:
        release(job)
        free(descriptors)


cdef int clamp(Job *job, object clamp_mtime_ns) except -1:
    memset(job, 0, sizeof(Job))
    if clamp_mtime_ns is not None:
        job.clamp = True
        job.clamp_seconds, job.clamp_nanoseconds = divmod(clamp_mtime_ns, 1_000_000_000)
    return 0


def write_tree(int root_fd, object sink not None, *, object clamp_mtime_ns=None):
    """Write the whole tree below the directory *root_fd* as one tar; return its members and its bytes.

    *sink* is called with a memoryview of at most 1 MiB, which holds these bytes during the call only. The root itself
    is the member "./". A time of change after *clamp_mtime_ns* (nanoseconds since 1970) is written as that. Mounts
    below the root are written as they are seen. Owners are numbers.

    Raises OSError with the path of the file, from "/" as the root; ESTALE for what changed while it was read. What
    *sink* raises passes through.
    Source: POSIX.1-2017, pax, "pax Interchange Format"; GNU tar manual, "Storing Sparse Files".
    """
    cdef Job job
    clamp(&job, clamp_mtime_ns)
    return walked(root_fd, &job, (), sink)


def write_overlay_diff(int upper_fd, object sink not None, *, bint userxattr=False, object clamp_mtime_ns=None):
    """Write the upper directory *upper_fd* of an overlay as an OCI layer; return its members and its bytes.

    A whiteout (character device 0:0) becomes ".wh.NAME", an opaque directory gets ".wh..wh..opq"; *userxattr* says
    that the overlay was mounted with that option. The rest is as for `write_tree`.

    Raises OSError as `write_tree`; EOPNOTSUPP where content is not in the upper directory (metacopy, redirect_dir);
    EINVAL for a name that begins with ".wh.".
    Source: OCI image-spec, layer.md, "Representing Changes"; kernel Documentation/filesystems/overlayfs.rst.
    """
    cdef Job job
    clamp(&job, clamp_mtime_ns)
    job.layer = True
    job.marks = b"user.overlay." if userxattr else b"trusted.overlay."
    return walked(upper_fd, &job, (), sink)


def write_tree_diff(int lower_fd, int upper_fd, object sink not None, *, object clamp_mtime_ns=None):
    """Write what makes the tree *lower_fd* the tree *upper_fd* as an OCI layer; return its members and its bytes.

    A file is written when its kind, mode, owner, size, time of change, device, target, extended attributes or its other
    names differ; where the times agree and have no fraction of a second, content is compared too. The directories
    above a change are written with it. The rest is as for `write_tree`.

    Raises OSError as `write_overlay_diff`.
    Source: OCI image-spec, layer.md, "Representing Changes".
    """
    cdef Job job
    clamp(&job, clamp_mtime_ns)
    job.layer = True
    return walked(upper_fd, &job, (lower_fd,), sink)


def overlay_changes(int upper_fd, object lower_fds not None, *, bint userxattr=False):
    """List what the upper directory *upper_fd* changes in the layers *lower_fds*, the highest first.

    Returns pairs of "A" (added), "C" (changed) or "D" (deleted) and a path from "/". A directory with a change in it is
    a change; one whose time alone differs is none. A deleted directory stands for all that was in it. Names are in
    byte order, a directory before what is in it.

    Raises OSError with the path.
    Source: Docker, "docker diff".
    """
    cdef Job job
    clamp(&job, None)
    job.report = True
    job.walk.overlay = True
    job.marks = b"user.overlay." if userxattr else b"trusted.overlay."
    job.walk.opaque_name = b"user.overlay.opaque" if userxattr else b"trusted.overlay.opaque"
    return walked(upper_fd, &job, tuple(lower_fds), None)


def tree_changes(int lower_fd, int upper_fd):
    """List what differs between the tree *lower_fd* and the tree *upper_fd*, as `overlay_changes` does.

    Raises OSError with the path.
    """
    cdef Job job
    clamp(&job, None)
    job.report = True
    return walked(upper_fd, &job, (lower_fd,), None)
