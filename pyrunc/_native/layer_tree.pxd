# cython: cdivision=True, boundscheck=False
# The directory that a layer is applied to. Every name is reached by descriptor: the directories on the way to the
# present one stay open, each opened from the one above without following a symlink. A symlink on the way is resolved
# as a process whose root is the layer's would (openat2(2), RESOLVE_IN_ROOT). So no name and no race leads outside.
#
# A directory's time is set, or, where only its entries change, restored, when it is left.

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from pyrunc._native.linux cimport *
from pyrunc._native.openat2 cimport c_open_in_root
from pyrunc._native.own_entries cimport *
from pyrunc._native.tree_remove cimport *

cdef enum:
    TREE_REMOVE = 0
    TREE_OVERLAY = 1
    # Directories kept open at once. What lies deeper shares the last place.
    TREE_DEPTH = 64
    # An answer beside -errno: the archive is wrong, tree.problem says how.
    TREE_BAD = -100000


ctypedef struct tree_level:
    int fd
    size_t end        # of its path within tree.path
    timespec mtime
    int mode          # to be set when it is left, or -1
    bint changed      # so that its time has to be set
    bint own          # it is among the own entries, as all above it
    uint64_t dev
    uint64_t ino

ctypedef struct layer_tree:
    int whiteouts
    bint user_xattr
    bint set_owner
    own_entries own
    bint tracking      # whether there may be anything of lower layers here that a whiteout could hide
    int top
    tree_level levels[TREE_DEPTH]
    char *path         # of the top level, max_path + 1 bytes
    bint symlinked     # one of the levels was reached by a symlink
    bint stale         # something was removed since, that such a level may have led through
    char *entries
    const char *problem


cdef inline int tree_bad(layer_tree *t, const char *problem) noexcept nogil:
    t.problem = problem
    return TREE_BAD


cdef inline int tree_open(layer_tree *t, int root, size_t max_path) noexcept nogil:
    """Begin at the directory *root*; tree_close undoes it, after a failure too."""
    cdef stat_t st
    cdef tree_level *level = &t.levels[0]
    cdef int rc
    t.top = -1
    t.path = <char *>malloc(max_path + 1)
    t.entries = <char *>malloc(ENTRIES_SIZE * 2)
    if t.path == NULL or t.entries == NULL:
        return -ENOMEM
    # A descriptor of our own, whose position in the directory nobody else moves.
    level.fd = <int>_rc(openat(root, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    if level.fd < 0:
        return level.fd
    t.top = 0
    level.end = 0
    level.mode = -1
    level.changed = False
    level.own = True
    rc = <int>_rc(fstat(level.fd, &st))
    if rc < 0:
        return rc
    level.mtime = st.st_mtim
    level.dev = st.st_dev
    level.ino = st.st_ino
    if t.whiteouts == TREE_REMOVE:
        rc = is_empty(level.fd, t.entries)
        t.tracking = rc == 0
    return own_open(&t.own) if t.tracking and rc >= 0 else (rc if rc < 0 else 0)


cdef inline int tree_leave(layer_tree *t) noexcept nogil:
    """Leave the directory at the top, with its time set."""
    cdef tree_level *level = &t.levels[t.top]
    cdef int rc = 0
    if level.mode >= 0:
        rc = <int>_rc(fchmod(level.fd, <mode_t>level.mode))
        level.mode = -1
    if level.changed and rc == 0:
        rc = set_time(level.fd, &level.mtime)
    level.changed = False
    if t.top:
        close(level.fd)
        t.top -= 1
    return rc


cdef inline int tree_finish(layer_tree *t) noexcept nogil:
    """Leave all directories and the root."""
    cdef int rc = 0
    cdef int failed
    while True:
        failed = tree_leave(t)
        if rc == 0:
            rc = failed
        if t.top == 0 and not t.levels[0].changed:
            return rc


cdef inline void tree_close(layer_tree *t) noexcept nogil:
    while t.top >= 0:
        close(t.levels[t.top].fd)
        t.top -= 1
    free(t.path)
    free(t.entries)
    t.path = t.entries = NULL
    own_close(&t.own)


cdef inline int tree_opaque(layer_tree *t, int fd) noexcept nogil:
    """Hide what lower layers have in the directory. Source: kernel, filesystems/overlayfs.rst."""
    cdef const char *name = b"trusted.overlay.opaque"
    if t.user_xattr:
        name = b"user.overlay.opaque"
    return <int>_rc(fsetxattr(fd, name, b"y", 1, 0))


cdef inline int tree_clear(layer_tree *t, const char *leaf) noexcept nogil:
    """Remove what is called *leaf* at the top: file or tree, of this layer or of a lower one."""
    cdef int fd = t.levels[t.top].fd
    cdef int rc = <int>_rc(unlinkat(fd, leaf, 0))
    t.levels[t.top].changed = True
    t.stale = t.symlinked
    if rc == -EISDIR:
        rc = remove_tree(fd, leaf, t.entries)
    return 0 if rc == -ENOENT else rc


cdef inline int _follow(layer_tree *t, char *path, size_t end) noexcept nogil:
    """Open what the first *end* bytes of *path* lead to, where the last component is no directory itself."""
    cdef stat_t st
    cdef char kept = path[end]
    cdef int fd
    path[end] = 0
    fd = c_open_in_root(t.levels[0].fd, path, <uint64_t>(O_RDONLY | O_DIRECTORY), 0)
    path[end] = kept
    if fd == -ENOTDIR:
        return tree_bad(t, b"it passes through something that is no directory")
    if fd == -ENOENT:
        return tree_bad(t, b"it passes through a symlink that leads nowhere")
    if fd == -ELOOP:
        return tree_bad(t, b"it passes through a symlink that leads round in a circle")
    if fd >= 0:
        t.symlinked = True
    return fd


cdef inline int _make_above(layer_tree *t, const char *name) noexcept nogil:
    """Make a directory that the archive does not mention itself."""
    cdef int rc = <int>_rc(mkdirat(t.levels[t.top].fd, name, 0o755))
    cdef int fd
    if rc < 0:
        return rc
    t.levels[t.top].changed = True
    fd = open_directory(t.levels[t.top].fd, name)
    if fd < 0:
        return fd
    rc = 0
    if t.set_owner:
        rc = <int>_rc(fchown(fd, 0, 0))
    if rc == 0:
        rc = <int>_rc(fchmod(fd, 0o755))
    if rc < 0:
        close(fd)
        return rc
    return fd


cdef inline bint is_whiteout(layer_tree *t, int fd, const char *name) noexcept nogil:
    cdef stat_t st
    return (t.whiteouts == TREE_OVERLAY and fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0
            and S_ISCHR(st.st_mode) and st.st_rdev == 0)


cdef inline int tree_push(layer_tree *t, int fd, size_t end, const timespec *mtime) noexcept nogil:
    """Enter the open directory, which the tree owns from now on; *mtime* is what it shall have, NULL: what it has."""
    cdef stat_t st
    cdef tree_level *level
    cdef int rc = 0
    cdef bint shared = t.top == TREE_DEPTH - 1
    if mtime == NULL or t.tracking:
        rc = <int>_rc(fstat(fd, &st))
    if rc == 0 and shared:
        rc = tree_leave(t)
    if rc < 0:
        close(fd)
        return rc
    t.top += 1
    level = &t.levels[t.top]
    level.fd = fd
    level.end = end
    level.mode = -1
    level.changed = mtime != NULL
    level.own = False
    level.mtime = st.st_mtim if mtime == NULL else mtime[0]
    level.dev = st.st_dev
    level.ino = st.st_ino
    return 0


cdef inline int tree_enter(layer_tree *t, char *path, size_t length) noexcept nogil:
    """Make the directory that the first *length* bytes of the clean *path* name the top, with what is missing of it."""
    cdef tree_level *level
    cdef size_t start
    cdef size_t end
    cdef char kept
    cdef int fd
    cdef int rc
    if t.stale:
        rc = tree_to(t, 0)
        if rc < 0:
            return rc
    while t.top:
        level = &t.levels[t.top]
        end = level.end
        if end <= length and (end == length or path[end] == c'/') and memcmp(path, t.path, end) == 0:
            break
        rc = tree_leave(t)
        if rc < 0:
            return rc
    if t.top == 0:
        t.symlinked = t.stale = False
    start = t.levels[t.top].end
    while start < length:
        if start:
            start += 1
        end = start
        while end < length and path[end] != c'/':
            end += 1
        kept = path[end]
        path[end] = 0
        fd = open_directory(t.levels[t.top].fd, path + start)
        if fd == -ENOENT:
            fd = _make_above(t, path + start)
        elif fd == -ENOTDIR or fd == -ELOOP:
            if is_whiteout(t, t.levels[t.top].fd, path + start):
                fd = tree_clear(t, path + start)
                if fd == 0:
                    fd = _make_above(t, path + start)
                if fd >= 0:
                    rc = tree_opaque(t, fd)
                    if rc < 0:
                        close(fd)
                        fd = rc
            else:
                path[end] = kept
                fd = _follow(t, path, end)
        path[end] = kept
        if fd < 0:
            return fd
        rc = tree_push(t, fd, end, NULL)
        if rc < 0:
            return rc
        memcpy(t.path, path, end)
        start = end
    return 0


cdef inline int tree_to(layer_tree *t, int top) noexcept nogil:
    """Leave all levels above *top*."""
    cdef int rc = 0
    while t.top > top and rc == 0:
        rc = tree_leave(t)
    return rc


cdef inline int tree_own(layer_tree *t, const char *leaf) noexcept nogil:
    """Remember that *leaf* at the top was written by this layer, and that all directories above have something of it."""
    cdef tree_level *level = &t.levels[t.top]
    cdef tree_level *root = &t.levels[0]
    cdef uint64_t dev = level.dev
    cdef uint64_t ino = level.ino
    cdef stat_t st
    cdef int fd
    cdef int above
    cdef int rc
    if not t.tracking:
        return 0
    level.changed = True
    rc = own_add(&t.own, level.dev, level.ino, leaf)
    if rc < 0 or level.own:
        return rc
    # Upwards by "..", and not along the levels: a symlink may have led here.
    fd = level.fd
    while not (dev == root.dev and ino == root.ino):
        rc = own_add(&t.own, dev, ino, b"")
        above = <int>_rc(openat(fd, b"..", O_PATH | O_DIRECTORY | O_CLOEXEC)) if rc == 0 else rc
        if fd != level.fd:
            close(fd)
        if above < 0:
            return above
        fd = above
        rc = <int>_rc(fstat(fd, &st))
        dev = st.st_dev
        ino = st.st_ino
        if rc < 0:
            break
    if fd != level.fd:
        close(fd)
    if rc == 0:
        level.own = True
    return rc
