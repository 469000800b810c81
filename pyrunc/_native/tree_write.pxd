# cython: cdivision=True, boundscheck=False
# Entries made, and hidden, in the directory that a layer's tree is at.

from libc.string cimport memcmp

from pyrunc._native.layer_tree cimport *
from pyrunc._native.linux cimport *
from pyrunc._native.openat2 cimport c_open_in_root
from pyrunc._native.own_entries cimport own_has
from pyrunc._native.tree_remove cimport *


cdef inline int tree_file(layer_tree *t, const char *leaf) noexcept nogil:
    """A new, empty file in place of what is there; its descriptor."""
    cdef int directory = t.levels[t.top].fd
    cdef int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
    cdef int fd = <int>_rc(openat(directory, leaf, flags, 0o600))
    cdef int rc
    if fd == -EEXIST:
        rc = tree_clear(t, leaf)
        if rc < 0:
            return rc
        fd = <int>_rc(openat(directory, leaf, flags, 0o600))
    t.levels[t.top].changed = True
    return fd


cdef inline int tree_directory(layer_tree *t, const char *leaf) noexcept nogil:
    """A directory: the one that is there, or a new one in place of what is there; its descriptor."""
    cdef int parent = t.levels[t.top].fd
    cdef int rc = <int>_rc(mkdirat(parent, leaf, 0o700))
    cdef bint replaced = False
    cdef int fd
    if rc == -EEXIST:
        fd = open_directory(parent, leaf)
        if fd != -ENOTDIR and fd != -ELOOP:
            return fd
        rc = tree_clear(t, leaf)
        if rc == 0:
            rc = <int>_rc(mkdirat(parent, leaf, 0o700))
        replaced = True
    if rc < 0:
        return rc
    t.levels[t.top].changed = True
    fd = open_directory(parent, leaf)
    if fd >= 0 and replaced and t.whiteouts == TREE_OVERLAY:
        # What this layer had here before, a whiteout perhaps, hid what lower layers have.
        rc = tree_opaque(t, fd)
        if rc < 0:
            close(fd)
            return rc
    return fd


cdef inline int tree_node(layer_tree *t, const char *leaf, mode_t mode, dev_t device, const char *link) noexcept nogil:
    """A symlink to *link*, or a device or FIFO, in place of what is there."""
    cdef int directory = t.levels[t.top].fd
    cdef int attempt
    cdef int rc = 0
    for attempt in range(2):
        if link != NULL:
            rc = <int>_rc(symlinkat(link, directory, leaf))
        else:
            rc = <int>_rc(mknodat(directory, leaf, mode, device))
        if rc != -EEXIST or attempt:
            break
        rc = tree_clear(t, leaf)
        if rc < 0:
            return rc
    t.levels[t.top].changed = True
    return rc


cdef inline int tree_link(layer_tree *t, char *path, size_t length, const char *leaf) noexcept nogil:
    """A second name for what the clean *path* names, which is not followed itself, in place of what is there."""
    cdef tree_level *top = &t.levels[t.top]
    cdef size_t end = length
    cdef stat_t old
    cdef stat_t new
    cdef int source = top.fd
    cdef int rc
    while end > 0 and path[end - 1] != c'/':
        end -= 1
    # Most are in the same directory.
    if (end - 1 if end else 0) != top.end or memcmp(path, t.path, top.end) != 0:
        if end:
            path[end - 1] = 0
            source = c_open_in_root(t.levels[0].fd, path, <uint64_t>(O_PATH | O_DIRECTORY), 0)
            path[end - 1] = c'/'
        else:
            source = t.levels[0].fd
        if source == -ENOENT or source == -ENOTDIR or source == -ELOOP:
            return tree_bad(t, b"the target of the hard link does not exist")
        if source < 0:
            return source
    rc = <int>_rc(linkat(source, path + end, top.fd, leaf, 0))
    if rc == -EEXIST:
        rc = <int>_rc(fstatat(source, path + end, &old, AT_SYMLINK_NOFOLLOW))
        if rc == 0:
            rc = <int>_rc(fstatat(top.fd, leaf, &new, AT_SYMLINK_NOFOLLOW))
        if rc == 0 and not (old.st_ino == new.st_ino and old.st_dev == new.st_dev):
            rc = tree_bad(t, b"a hard link to a directory") if S_ISDIR(old.st_mode) else tree_clear(t, leaf)
            if rc == 0:
                rc = <int>_rc(linkat(source, path + end, top.fd, leaf, 0))
    if rc == -ENOENT:
        rc = tree_bad(t, b"the target of the hard link does not exist")
    if rc == -EPERM and fstatat(source, path + end, &old, AT_SYMLINK_NOFOLLOW) == 0 and S_ISDIR(old.st_mode):
        rc = tree_bad(t, b"a hard link to a directory")
    if source != top.fd and source != t.levels[0].fd:
        close(source)
    top.changed = True
    return rc


cdef inline int tree_whiteout(layer_tree *t, const char *leaf) noexcept nogil:
    """Hide what lower layers have as *leaf* at the top; what this layer has written there stays."""
    cdef tree_level *top = &t.levels[t.top]
    cdef stat_t st
    cdef int fd
    cdef int rc
    if t.whiteouts == TREE_OVERLAY:
        rc = <int>_rc(mknodat(top.fd, leaf, S_IFCHR, 0))
        top.changed = True
        if rc != -EEXIST:
            return rc
        fd = open_directory(top.fd, leaf)
        if fd >= 0:
            rc = tree_opaque(t, fd)
            close(fd)
            return rc
        return 0 if fd == -ENOTDIR or fd == -ELOOP else fd
    if not t.tracking:
        return 0
    fd = open_directory(top.fd, leaf)
    if fd == -ENOENT:
        return 0
    if fd == -ENOTDIR or fd == -ELOOP:
        return 0 if own_has(&t.own, top.dev, top.ino, leaf) else tree_clear(t, leaf)
    if fd < 0:
        return fd
    rc = <int>_rc(fstat(fd, &st))
    if rc == 0:
        if own_has(&t.own, st.st_dev, st.st_ino, b""):
            t.stale = t.symlinked
            rc = hide_below(fd, &t.own, t.entries)
        else:
            rc = tree_clear(t, leaf)
    close(fd)
    return rc


cdef inline int tree_opaque_whiteout(layer_tree *t) noexcept nogil:
    """Hide all that lower layers have in the directory at the top."""
    cdef tree_level *top = &t.levels[t.top]
    if t.whiteouts == TREE_OVERLAY:
        return tree_opaque(t, top.fd)
    if not t.tracking:
        return 0
    top.changed = True
    t.stale = t.symlinked
    return hide_below(top.fd, &t.own, t.entries)
