# cython: cdivision=True, boundscheck=False
# Paths of a container are opened inside its root, by descriptor (openat2(2), Linux 5.6).

from pyrunc._native.linux cimport *


cdef inline int c_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) noexcept nogil:
    cdef open_how how
    cdef long rc = 0
    cdef int attempt
    memset(&how, 0, sizeof(how))
    how.flags = flags | <uint64_t>O_CLOEXEC
    how.mode = mode
    how.resolve = resolve
    # EAGAIN: somewhere a rename or mount raced with ".."; the kernel asks for another try.
    for attempt in range(128):
        rc = _rc(syscall(NR_openat2, dirfd, path, &how, sizeof(how)))
        if rc != -EAGAIN:
            break
    return <int>rc


cdef inline int c_open_in_root(int root, const char *path, uint64_t flags, uint64_t resolve) noexcept nogil:
    """Open *path* as a process whose root is *root* would; magic links are refused."""
    return c_openat2(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)


cdef inline int c_open_parent(int root, const char *path, char *buffer, size_t size, mode_t create,
                              const char **leaf) noexcept nogil:
    """The directory above *path* inside *root*, its missing components made with the mode *create*, if not 0.

    *buffer* holds the walk; *leaf* becomes the last component. Every prefix is resolved anew
    from the root, so neither a symlink nor a race leads outside.
    """
    cdef size_t length = strlen(path)
    cdef size_t i
    cdef size_t start
    cdef int parent
    cdef int rc
    if length + 1 > size:
        return -ENAMETOOLONG
    memcpy(buffer, path, length + 1)
    while length > 1 and buffer[length - 1] == c'/':
        length -= 1
        buffer[length] = 0
    start = length
    while start > 0 and buffer[start - 1] != c'/':
        start -= 1
    leaf[0] = buffer + start
    if start == length:
        return -EISDIR
    if start <= 1:
        return c_open_in_root(root, b"/", O_PATH | O_DIRECTORY, 0)
    buffer[start - 1] = 0
    parent = c_open_in_root(root, buffer, O_PATH | O_DIRECTORY, 0)
    if parent != -ENOENT or not create:
        return parent
    # Rare: walk down and make what is missing.
    parent = c_open_in_root(root, b"/", O_PATH | O_DIRECTORY, 0)
    i = 0
    while parent >= 0 and i < start - 1:
        while buffer[i] == c'/':
            i += 1
        length = i
        while buffer[i] != 0 and buffer[i] != c'/':
            i += 1
        if i == length:
            break
        buffer[i] = 0
        rc = <int>_rc(mkdirat(parent, buffer + length, create))
        close(parent)
        if rc < 0 and rc != -EEXIST:
            return rc
        parent = c_open_in_root(root, buffer, O_PATH | O_DIRECTORY, 0)
        if i < start - 1:
            buffer[i] = c'/'
    return parent


cdef inline int c_make_in_root(int root, const char *path, bint directory, mode_t mode, char *buffer,
                               size_t size) noexcept nogil:
    """Make *path* inside *root*, a directory with this *mode* or an empty file, with its missing parents.

    What a symlink that leads nowhere names is made in its place, as runc does: a system's own tree may have
    /etc/resolv.conf point into a /run that is empty. Where that is, the kernel says, inside *root* again.
    """
    cdef char place[4096]
    cdef char *target = place
    cdef const char *leaf = NULL
    cdef ssize_t length
    cdef size_t above
    cdef int hop
    cdef int rc = -ELOOP
    cdef int parent
    for hop in range(40):           # as many as the kernel follows
        parent = c_open_parent(root, path, buffer, size, mode, &leaf)
        if parent < 0:
            return parent
        if directory:
            rc = <int>_rc(mkdirat(parent, leaf, mode))
        else:
            rc = <int>_rc(openat(parent, leaf, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0o644))
            if rc >= 0:
                close(rc)
                rc = 0
        above = <size_t>(leaf - buffer)
        if rc != -EEXIST or above >= sizeof(place):
            close(parent)
            return rc
        if path != target:
            memcpy(target, path, above)
        length = readlinkat(parent, leaf, target + above, sizeof(place) - above)
        close(parent)
        if length < 0:
            return 0                # something else was faster
        if above + <size_t>length >= sizeof(place):
            return -ENAMETOOLONG
        target[above + <size_t>length] = 0
        if target[above] == c'/':
            memmove(target, target + above, <size_t>length + 1)
        path = target
    return -ELOOP
