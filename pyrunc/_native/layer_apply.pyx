# cython: cdivision=True, boundscheck=False, language_level=3
"""A layer, as its tar's bytes come, becomes files below a directory, and nothing outside of it.

What is applied is what dockerd and containerd would apply: names are cleaned of "." and ".." as text and then resolved
inside the root, symlinks on the way too; the last component is never followed. What a member finds in its place is
removed, but a directory stays one. `.wh.NAME` hides a lower layer's NAME, `.wh..wh..opq` all that lower layers have in
its directory, and neither hides what the same layer brings, before or after.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strerror

from pyrunc._native.layer_tree cimport *
from pyrunc._native.linux cimport *
from pyrunc._native.tar cimport *
from pyrunc._native.tar_member cimport *
from pyrunc._native.tar_reader cimport *
from pyrunc._native.tar_text cimport *
from pyrunc._native.tree_remove cimport set_time
from pyrunc._native.tree_write cimport *
from pyrunc._native.xattr_records cimport *

REMOVE = TREE_REMOVE
OVERLAY = TREE_OVERLAY

cdef enum:
    # answers of the functions here, beside -errno and TREE_BAD
    APPLY_NOT_TAR = TREE_BAD - 1       # reader.problem
    APPLY_TOO_LARGE = TREE_BAD - 2
    APPLY_TOO_MANY = TREE_BAD - 3
    MAX_PATH = 4095                    # the kernel's PATH_MAX without its NUL


ctypedef struct layer:
    tar_reader reader
    layer_tree tree
    bint set_root
    uint64_t max_bytes
    uint64_t max_members
    uint64_t members
    uint64_t bytes
    uint64_t skipped_xattrs
    int fd              # of the file that is being written, or -1
    char *path          # of the member, cleaned; max_path + 1 bytes
    char *link          # of the target of a hard link, cleaned


cdef int clean(layer *a, const tar_text *name, char *path, size_t *length) noexcept nogil:
    """The components of *name* without "", "." and "..": as text, whatever the symlinks, as Go's path.Clean."""
    cdef size_t i = 0
    cdef size_t start
    cdef size_t n = 0
    while i < name.size:
        start = i
        while i < name.size and name.data[i] != c'/':
            i += 1
        if i - start == 2 and name.data[start] == c'.' and name.data[start + 1] == c'.':
            if n == 0:
                return tree_bad(&a.tree, b"it leads outside")
            while n > 0 and path[n - 1] != c'/':
                n -= 1
            n -= 1 if n else 0
        elif i > start and not (i - start == 1 and name.data[start] == c'.'):
            if n:
                path[n] = c'/'
                n += 1
            memcpy(path + n, name.data + start, i - start)
            n += i - start
        i += 1
    path[n] = 0
    length[0] = n
    return 0


cdef inline bint starts_with(const char *text, const char *prefix) noexcept nogil:
    while prefix[0]:
        if text[0] != prefix[0]:
            return False
        text += 1
        prefix += 1
    return True


cdef int whiteout_kind(layer *a, const char *path, size_t leaf) noexcept nogil:
    """0: no whiteout; 1: of one name; 2: of all of a directory; 3: a name that AUFS kept for itself, and that is passed
    over. Source: OCI image-spec, layer.md, "Whiteouts"."""
    cdef size_t i = 0
    while i <= leaf:
        if starts_with(path + i, b".wh."):
            if i == leaf and strcmp(path + i, b".wh..wh..opq") == 0:
                return 2
            if starts_with(path + i, b".wh..wh."):
                return 3
            if i < leaf:
                return tree_bad(&a.tree, b"it passes through a whiteout")
            if path[i + 4] == 0 or strcmp(path + i + 4, b".") == 0 or strcmp(path + i + 4, b"..") == 0:
                return tree_bad(&a.tree, b"a whiteout of nothing")
            return 1
        while path[i] != 0 and path[i] != c'/':
            i += 1
        i += 1
    return 0


cdef inline int settle(layer *a, int fd) noexcept nogil:
    """Owner, extended attributes and mode of the open file: chown(2) drops capabilities and set-user-ID."""
    cdef tar_member *m = &a.reader.member
    cdef int rc = 0
    if a.tree.set_owner:
        rc = <int>_rc(fchown(fd, m.uid, m.gid))
        if rc == 0 and m.type == TAR_DIRECTORY:
            rc = clear_xattrs(fd)
    if rc == 0 and m.xattrs:
        rc = set_xattrs(&a.reader, fd, not a.tree.set_owner, &a.skipped_xattrs)
    if rc == XATTR_BAD:
        return tree_bad(&a.tree, b"an extended attribute that cannot be one")
    return rc if rc < 0 else <int>_rc(fchmod(fd, m.mode))


cdef int settle_node(layer *a, const char *leaf) noexcept nogil:
    """The same of what is at *leaf* and has no content: it is new, and no directory."""
    cdef tar_member *m = &a.reader.member
    cdef int directory = a.tree.levels[a.tree.top].fd
    cdef timespec times[2]
    cdef int rc = 0
    cdef int fd
    if a.tree.set_owner:
        rc = <int>_rc(fchownat(directory, leaf, m.uid, m.gid, AT_SYMLINK_NOFOLLOW))
    if rc == 0 and m.xattrs:
        fd = <int>_rc(openat(directory, leaf, O_PATH | O_NOFOLLOW | O_CLOEXEC))
        if fd < 0:
            return fd
        rc = set_node_xattrs(&a.reader, fd, not a.tree.set_owner, &a.skipped_xattrs)
        close(fd)
        if rc == XATTR_BAD:
            rc = tree_bad(&a.tree, b"an extended attribute that cannot be one")
    if rc == 0 and m.type != TAR_SYMLINK:
        rc = <int>_rc(fchmodat(directory, leaf, m.mode, 0))
    times[0].tv_sec = 0
    times[0].tv_nsec = UTIME_OMIT
    times[1].tv_sec = m.mtime
    times[1].tv_nsec = m.mtime_ns
    return rc if rc < 0 else <int>_rc(utimensat(directory, leaf, times, AT_SYMLINK_NOFOLLOW))


cdef int begin_directory(layer *a, size_t length, const char *leaf) noexcept nogil:
    cdef tar_member *m = &a.reader.member
    cdef layer_tree *t = &a.tree
    cdef timespec mtime
    cdef uint32_t mode = m.mode
    cdef int fd = tree_directory(t, leaf)
    cdef int rc
    if fd < 0:
        return fd
    if not t.set_owner:
        # Without root's privileges its entries could not be made.
        m.mode |= 0o700
    rc = settle(a, fd)
    if rc < 0:
        close(fd)
        return rc
    mtime.tv_sec = m.mtime
    mtime.tv_nsec = m.mtime_ns
    rc = tree_push(t, fd, length, &mtime)
    if rc < 0:
        return rc
    memcpy(t.path, a.path, length)
    if mode != m.mode:
        t.levels[t.top].mode = <int>mode
    return tree_own(t, b"")


cdef int begin_root(layer *a) noexcept nogil:
    """The root's own entry. dockerd (with overlay2) and containerd leave the root as it is."""
    cdef tar_member *m = &a.reader.member
    cdef tree_level *root = &a.tree.levels[0]
    if m.type != TAR_DIRECTORY:
        return tree_bad(&a.tree, b"something that is no directory in place of the root")
    if not a.set_root:
        return 0
    root.changed = True
    root.mtime.tv_sec = m.mtime
    root.mtime.tv_nsec = m.mtime_ns
    return settle(a, root.fd)


cdef int begin_link(layer *a, const char *leaf) noexcept nogil:
    cdef size_t length = 0
    cdef int rc = clean(a, &a.reader.link, a.link, &length)
    if rc < 0:
        return tree_bad(&a.tree, b"the target of the hard link leads outside")
    if length == 0:
        return tree_bad(&a.tree, b"a hard link to the root")
    return tree_link(&a.tree, a.link, length, leaf)


cdef int begin(layer *a) noexcept nogil:
    """Make the member, but for its content."""
    cdef tar_member *m = &a.reader.member
    cdef layer_tree *t = &a.tree
    cdef size_t length = 0
    cdef size_t leaf
    cdef int hides
    cdef int rc
    if a.members == a.max_members:
        return APPLY_TOO_MANY
    if m.size > a.max_bytes - a.bytes:
        return APPLY_TOO_LARGE
    a.members += 1
    a.bytes += m.size
    rc = clean(a, &a.reader.path, a.path, &length)
    if rc < 0:
        return rc
    if length == 0:
        return begin_root(a)
    leaf = length
    while leaf > 0 and a.path[leaf - 1] != c'/':
        leaf -= 1
    hides = whiteout_kind(a, a.path, leaf)
    if hides < 0 or hides == 3:
        return hides if hides < 0 else 0
    rc = tree_enter(t, a.path, leaf - 1 if leaf else 0)
    if rc < 0:
        return rc
    if hides == 1:
        return tree_whiteout(t, a.path + leaf + 4)
    if hides == 2:
        return tree_opaque_whiteout(t)
    if m.type == TAR_DIRECTORY:
        return begin_directory(a, length, a.path + leaf)
    if m.type == TAR_FILE:
        a.fd = tree_file(t, a.path + leaf)
        rc = a.fd if a.fd < 0 else 0
    elif m.type == TAR_HARD_LINK:
        rc = begin_link(a, a.path + leaf)
    else:
        if m.type == TAR_SYMLINK:
            if a.reader.link.size == 0:
                return tree_bad(t, b"a symlink to nothing")
            rc = tree_node(t, a.path + leaf, 0, 0, a.reader.link.data)
        else:
            rc = tree_node(t, a.path + leaf, 0o600 | (S_IFCHR if m.type == TAR_CHARACTER else
                           S_IFBLK if m.type == TAR_BLOCK_DEVICE else S_IFIFO), makedev(m.major, m.minor), NULL)
        if rc == 0:
            rc = settle_node(a, a.path + leaf)
    return rc if rc < 0 else tree_own(t, a.path + leaf)


cdef inline int put(layer *a) noexcept nogil:
    """Write the piece of content at hand."""
    cdef const uint8_t *data = a.reader.piece
    cdef size_t left = a.reader.piece_size
    cdef off_t at = <off_t>a.reader.piece_at
    cdef ssize_t done
    while left:
        done = pwrite(a.fd, data, left, at) if a.reader.member.sparse else write(a.fd, data, left)
        if done < 0:
            if errno == EINTR:
                continue
            return -errno
        data += done
        at += done
        left -= <size_t>done
    return 0


cdef inline int end(layer *a) noexcept nogil:
    """The content is complete."""
    cdef tar_member *m = &a.reader.member
    cdef timespec mtime
    cdef int rc = 0
    if m.sparse:
        rc = <int>_rc(ftruncate(a.fd, <off_t>m.real_size))
    if rc == 0:
        rc = settle(a, a.fd)
    if rc == 0:
        mtime.tv_sec = m.mtime
        mtime.tv_nsec = m.mtime_ns
        rc = set_time(a.fd, &mtime)
    close(a.fd)
    a.fd = -1
    return rc


cdef int take(layer *a, const uint8_t *data, size_t size) noexcept nogil:
    """Apply what the bytes say."""
    cdef int rc
    while True:
        rc = tar_next(&a.reader, &data, &size)
        if rc == TAR_MEMBER:
            rc = begin(a)
        elif rc == TAR_CONTENT:
            # A whiteout's, or that of a name which is passed over, goes nowhere.
            rc = put(a) if a.fd >= 0 else 0
        elif rc == TAR_FINISHED:
            rc = end(a) if a.fd >= 0 else 0
        elif rc == TAR_MORE:
            return 0
        else:
            return APPLY_NOT_TAR if rc == TAR_BAD else -ENOMEM
        if rc < 0:
            return rc


cdef str text(const char *data, size_t size):
    return data[:size].decode("utf-8", "surrogateescape")


cdef class LayerApplier:
    """Applies one layer to the directory *root_fd*, which stays the caller's.

    *whiteouts* says what a whiteout becomes. REMOVE: what lower layers have there is removed. OVERLAY: a character device
    0:0, and for a whole directory the attribute ``trusted.overlay.opaque``, or ``user.overlay.opaque`` with *userxattr*;
    the directory is then an overlay's, in which nothing but this layer is.

    At most *max_bytes* of content and *max_members* members are taken; paths and link targets of at most *max_path_bytes*
    (1 to 4095) bytes. Without *set_owner* everything belongs to the caller, and attributes that need a privilege are left
    out. The root's own entry is passed over, as dockerd's overlay2 and containerd do, unless *set_root*.

    Missing directories above a member are made 0755 and root's. Owners are numbers; times are kept to the nanosecond; a
    directory's time is that of its entry, or, without one, what it was. Attributes that belong to overlayfs itself, and
    those that the file system or the kind of file has no place for, are left out and counted.

    Raises OSError for *root_fd*, ValueError for a bound that is none.
    Sources: OCI image-spec, layer.md; POSIX pax; GNU tar manual, "Basic Tar Format"; kernel, filesystems/overlayfs.rst.
    """

    cdef layer _layer
    cdef bint _busy
    cdef str _over  # why nothing can be fed any more

    def __cinit__(self, int root_fd, int whiteouts, *, uint64_t max_bytes, uint64_t max_members, size_t max_path_bytes,
                  bint userxattr=False, bint set_owner=True, bint set_root=False):
        cdef layer *a = &self._layer
        cdef int rc
        memset(a, 0, sizeof(layer))
        a.fd = -1
        a.tree.top = -1
        if whiteouts != TREE_REMOVE and whiteouts != TREE_OVERLAY:
            raise ValueError(f"whiteouts: neither REMOVE nor OVERLAY: {whiteouts}")
        if not 0 < max_path_bytes <= MAX_PATH:
            raise ValueError(f"max_path_bytes: not within 1..{MAX_PATH}: {max_path_bytes}")
        a.max_bytes = max_bytes
        a.max_members = max_members
        a.set_root = set_root
        a.reader.max_path = max_path_bytes
        a.tree.whiteouts = whiteouts
        a.tree.user_xattr = userxattr
        a.tree.set_owner = set_owner
        a.path = <char *>malloc(max_path_bytes + 1)
        a.link = <char *>malloc(max_path_bytes + 1)
        if a.path == NULL or a.link == NULL:
            raise MemoryError
        rc = tree_open(&a.tree, root_fd, max_path_bytes)
        if rc < 0:
            raise OSError(-rc, strerror(-rc).decode())

    def __dealloc__(self):
        self._free()

    cdef void _free(self):
        cdef layer *a = &self._layer
        if a.fd >= 0:
            close(a.fd)
            a.fd = -1
        tree_close(&a.tree)
        tar_free(&a.reader)
        free(a.path)
        free(a.link)
        a.path = a.link = NULL

    @property
    def members(self):
        """How many have been taken, whiteouts too."""
        return self._layer.members

    @property
    def content_bytes(self):
        """How many bytes of content the members taken have, without the holes of sparse files."""
        return self._layer.bytes

    @property
    def skipped_xattrs(self):
        """How many extended attributes were left out."""
        return self._layer.skipped_xattrs

    cdef _enter(self):
        if self._busy:
            raise ValueError("the applier is in use by another thread")
        if self._over is not None:
            raise ValueError(self._over)

    cdef _fail(self, int rc):
        """Raise what *rc* means, with the member's name."""
        cdef layer *a = &self._layer
        cdef tar_reader *r = &a.reader
        self._over = "the layer could not be applied"
        name = text(r.path.data, r.path.size) if r.path.size else ""
        if rc == APPLY_NOT_TAR:
            where = name if r.inside else f"at byte {r.offset} of the archive"
            raise ValueError(f"not a readable archive: {where}: {text(r.problem, strlen(r.problem))}")
        if rc == TREE_BAD:
            raise ValueError(f"{name}: {text(a.tree.problem, strlen(a.tree.problem))}")
        if rc == APPLY_TOO_LARGE:
            raise ValueError(f"{name}: the layer unpacks to more than {a.max_bytes} bytes")
        if rc == APPLY_TOO_MANY:
            raise ValueError(f"{name}: the layer has more than {a.max_members} members")
        raise OSError(-rc, text(strerror(-rc), strlen(strerror(-rc))), name)

    def feed(self, data not None):
        """Apply the next bytes of the archive, a piece of any size of any bytes-like object.

        Raises ValueError for what is no tar, leads outside or is beyond the bounds, and OSError for what the file system
        refuses, its `filename` the member's; both name the member. After an error nothing more is taken; what was
        applied stays.
        """
        cdef Py_buffer view
        cdef int rc
        self._enter()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self._busy = True
        with nogil:
            rc = take(&self._layer, <const uint8_t *>view.buf, <size_t>view.len)
        self._busy = False
        PyBuffer_Release(&view)
        if rc < 0:
            self._fail(rc)

    def finish(self):
        """Set the times that are still to be set, and return how many members and bytes of content there were.

        Raises ValueError if the archive is cut short, OSError as `feed`.
        """
        cdef layer *a = &self._layer
        cdef int rc
        self._enter()
        if not tar_whole(&a.reader):
            self._over = "the layer could not be applied"
            name = text(a.reader.path.data, a.reader.path.size) if a.reader.inside else "the last header"
            raise ValueError(f"not a readable archive: {name}: cut short at byte {a.reader.offset + a.reader.have}")
        self._busy = True
        with nogil:
            rc = tree_finish(&a.tree)
        self._busy = False
        if rc < 0:
            self._fail(rc)
        self._over = "the layer is finished"
        return a.members, a.bytes

    def close(self):
        """Let go of all descriptors; a second time does nothing."""
        if self._busy:
            raise ValueError("the applier is in use by another thread")
        self._over = "the applier is closed"
        self._free()
