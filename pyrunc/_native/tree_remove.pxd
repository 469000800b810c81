# cython: cdivision=True, boundscheck=False
# Removing trees, and, of a tree, what lower layers have in it.

from libc.string cimport memset

from pyrunc._native.linux cimport *
from pyrunc._native.openat2 cimport c_openat2
from pyrunc._native.own_entries cimport *

cdef extern from *:
    """
    struct pr_dirent { unsigned long long d_ino; long long d_off; unsigned short d_reclen; unsigned char d_type; char d_name[]; };
    """
    ctypedef struct dirent64 "struct pr_dirent":
        unsigned short d_reclen
        char d_name[1]


cdef enum:
    # Of a buffer of directory entries. Functions here want two of them in *entries*.
    ENTRIES_SIZE = 32768


cdef inline int set_time(int fd, const timespec *mtime) noexcept nogil:
    cdef timespec times[2]
    times[0].tv_sec = 0
    times[0].tv_nsec = UTIME_OMIT
    times[1] = mtime[0]
    return <int>_rc(futimens(fd, times))


cdef inline int open_directory(int parent, const char *name) noexcept nogil:
    return <int>_rc(openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))


cdef inline bint _dots(const char *name) noexcept nogil:
    return name[0] == c'.' and (name[1] == 0 or (name[1] == c'.' and name[2] == 0))


cdef inline int is_empty(int fd, char *entries) noexcept nogil:
    """Whether the open directory has no entries, or -errno."""
    cdef long n
    cdef long i
    cdef dirent64 *entry
    while True:
        n = _rc(syscall(SYS_getdents64, fd, entries, ENTRIES_SIZE))
        if n <= 0:
            return 1 if n == 0 else <int>n
        i = 0
        while i < n:
            entry = <dirent64 *>(entries + i)
            if not _dots(entry.d_name):
                return 0
            i += entry.d_reclen


cdef inline int remove_tree(int parent, const char *name, char *entries) noexcept nogil:
    """Remove the directory *name* of *parent* with all in it, however deep, with two descriptors and no recursion.

    Down into the first directory that is not empty, up when one has become so.
    """
    cdef int depth = 0
    cdef int next = -1
    cdef int fd
    cdef long n = 0
    cdef long i
    cdef long rc = _rc(unlinkat(parent, name, AT_REMOVEDIR))
    cdef dirent64 *entry
    if rc != -ENOTEMPTY:
        return <int>rc
    fd = open_directory(parent, name)
    while fd >= 0:
        n = _rc(syscall(SYS_getdents64, fd, entries, ENTRIES_SIZE))
        rc = n if n < 0 else 0
        i = 0
        next = -1
        while i < n and rc == 0 and next < 0:
            entry = <dirent64 *>(entries + i)
            i += entry.d_reclen
            if _dots(entry.d_name):
                continue
            rc = _rc(unlinkat(fd, entry.d_name, 0))
            if rc == -EISDIR:
                rc = _rc(unlinkat(fd, entry.d_name, AT_REMOVEDIR))
                if rc == -ENOTEMPTY:
                    rc = 0
                    depth += 1
                    next = open_directory(fd, entry.d_name)
                    if next < 0:
                        rc = next
        if next < 0 and rc == 0 and n == 0:
            # Empty. Its name is found, and removed, by looking again in the one above.
            if depth == 0:
                close(fd)
                return <int>_rc(unlinkat(parent, name, AT_REMOVEDIR))
            depth -= 1
            next = <int>_rc(openat(fd, b"..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
            rc = next if next < 0 else 0
        if rc < 0:
            close(fd)
            return <int>rc
        if next >= 0:
            close(fd)
            fd = next
    return fd


cdef inline int _hide_in(int fd, own_entries *own, char *entries, hidden_queue *queue) noexcept nogil:
    """Remove what lower layers have in the open directory; directories with something of this layer are queued."""
    cdef stat_t st
    cdef timespec mtime
    cdef dirent64 *entry
    cdef long n
    cdef long i
    cdef uint64_t dev
    cdef uint64_t ino
    cdef bint changed = False
    cdef int rc = <int>_rc(fstat(fd, &st))
    if rc < 0:
        return rc
    mtime = st.st_mtim
    dev = st.st_dev
    ino = st.st_ino
    while True:
        n = _rc(syscall(SYS_getdents64, fd, entries, ENTRIES_SIZE))
        if n <= 0:
            break
        i = 0
        while i < n:
            entry = <dirent64 *>(entries + i)
            i += entry.d_reclen
            if _dots(entry.d_name):
                continue
            rc = <int>_rc(fstatat(fd, entry.d_name, &st, AT_SYMLINK_NOFOLLOW))
            if rc < 0:
                return rc
            if not S_ISDIR(st.st_mode):
                if not own_has(own, dev, ino, entry.d_name):
                    rc = <int>_rc(unlinkat(fd, entry.d_name, 0))
                    changed = True
            elif own_has(own, st.st_dev, st.st_ino, b""):
                rc = hidden_add(queue, entry.d_name)
            else:
                rc = remove_tree(fd, entry.d_name, entries + ENTRIES_SIZE)
                changed = True
            if rc < 0:
                return rc
    if n < 0:
        return <int>n
    return set_time(fd, &mtime) if changed else 0


cdef inline int hide_below(int directory, own_entries *own, char *entries) noexcept nogil:
    """Remove what lower layers have below the open directory; what this layer has written stays, at every depth."""
    cdef hidden_queue queue
    cdef int fd
    cdef int rc
    memset(&queue, 0, sizeof(queue))
    rc = hidden_add(&queue, b".")
    while rc == 0 and queue.first < queue.size:
        fd = c_openat2(directory, queue.data + queue.first, <uint64_t>(O_RDONLY | O_DIRECTORY), 0,
                       RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        if fd < 0:
            rc = fd
            break
        rc = _hide_in(fd, own, entries, &queue)
        close(fd)
        hidden_next(&queue)
    free(queue.data)
    return rc
