# cython: language_level=3
"""The mount API: a mount is made detached, gets its attributes, and is then attached to a descriptor."""

from pyrunc._native.errors cimport c_text, check

# The .pxd's constants are C's; these are Python's.
globals().update(
    AT_EMPTY_PATH=AT_EMPTY_PATH, AT_RECURSIVE=AT_RECURSIVE, AT_SYMLINK_NOFOLLOW=AT_SYMLINK_NOFOLLOW,
    OPEN_TREE_CLONE=OPEN_TREE_CLONE, MNT_DETACH=MNT_DETACH, MS_REC=MS_REC, MS_UNBINDABLE=MS_UNBINDABLE,
    MS_PRIVATE=MS_PRIVATE, MS_SLAVE=MS_SLAVE, MS_SHARED=MS_SHARED, MOUNT_ATTR_IDMAP=MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_RDONLY=0x1, MOUNT_ATTR_NOSUID=0x2, MOUNT_ATTR_NODEV=0x4, MOUNT_ATTR_NOEXEC=0x8,
)


def open_tree(int dirfd, bytes path not None, unsigned int flags=OPEN_TREE_CLONE):
    """Open the mount at *path*, by default as a detached copy; close-on-exec.

    *flags* are ``OPEN_TREE_CLONE``, ``AT_RECURSIVE`` (with all below it), ``AT_EMPTY_PATH`` (the object
    behind *dirfd*, with an empty path) and ``AT_SYMLINK_NOFOLLOW``.

    Raises OSError EINVAL (an unbindable mount, or one of another namespace), ENOENT, EPERM.
    Source: open_tree(2), Linux 5.2.
    """
    cdef const char *p = c_text(path)
    cdef int rc
    with nogil:
        rc = c_open_tree(dirfd, p, flags)
    return check(rc, "open_tree", path)


def move_mount(int mount_fd, int target_fd):
    """Attach a detached mount to the object behind *target_fd*: no path is resolved a second time.

    Raises OSError EINVAL (attached already, a directory over a file, a target of another namespace), EPERM.
    Source: move_mount(2), Linux 5.2.
    """
    cdef int rc
    with nogil:
        rc = c_move_mount(mount_fd, target_fd)
    check(rc, "move_mount")


cdef object _explain(int fs_fd, error):
    """Add what the file system itself says of a refused mount: one message for each read(2)."""
    cdef char message[1024]
    cdef ssize_t length
    while True:
        with nogil:
            length = read(fs_fd, message, sizeof(message))
        if length <= 0:
            return error
        error.add_note(message[:length].decode("utf-8", "replace").rstrip())


def new_mount(bytes fstype not None, options=(), unsigned int attributes=0):
    """Make a new file system and return its detached mount, close-on-exec.

    *options* are pairs (key, value) of bytes; a value of b"" makes it a flag. *attributes* are
    ``MOUNT_ATTR_*``.

    Raises OSError ENODEV (unknown type), EINVAL (an option or a value; the file system's own words
    are in the notes), EPERM.
    Source: fsopen(2), fsconfig(2), fsmount(2), Linux 5.2.
    """
    cdef const char *kind = c_text(fstype)
    cdef const char *k
    cdef const char *v
    cdef bytes key
    cdef bytes value
    cdef int fs_fd
    cdef int rc
    pairs = list(options)
    with nogil:
        fs_fd = c_fsopen(kind)
    check(fs_fd, "fsopen", fstype)
    try:
        for key, value in pairs:
            k = c_text(key)
            v = c_text(value)
            with nogil:
                if v[0]:
                    rc = c_fsconfig(fs_fd, FSCONFIG_SET_STRING, k, v)
                else:
                    rc = c_fsconfig(fs_fd, FSCONFIG_SET_FLAG, k, NULL)
            check(rc, "fsconfig", key)
        with nogil:
            rc = c_fsconfig(fs_fd, FSCONFIG_CMD_CREATE, NULL, NULL)
        check(rc, "fsconfig", fstype)
        with nogil:
            rc = c_fsmount(fs_fd, attributes)
        return check(rc, "fsmount", fstype)
    except OSError as error:
        raise _explain(fs_fd, error)
    finally:
        close(fs_fd)


def mount_setattr(
    int mount_fd, *, uint64_t attr_set=0, uint64_t attr_clr=0, uint64_t propagation=0, int userns_fd=-1,
    bint recursive=False,
):
    """Change the attributes of the mount behind *mount_fd*, with *recursive* of all below it: all or none.

    *attr_set* and *attr_clr* are ``MOUNT_ATTR_*``; *propagation* is one of ``MS_PRIVATE``, ``MS_SLAVE``,
    ``MS_SHARED``, ``MS_UNBINDABLE`` or 0. *userns_fd* makes it idmapped (``MOUNT_ATTR_IDMAP`` is set for it):
    the mount must be detached.

    Raises OSError EINVAL (the file system cannot be idmapped, a flag), EPERM (idmapped already, a locked attribute).
    Source: mount_setattr(2), Linux 5.12.
    """
    cdef mount_attr attr
    cdef int rc
    memset(&attr, 0, sizeof(attr))
    attr.attr_set = attr_set
    attr.attr_clr = attr_clr
    attr.propagation = propagation
    if userns_fd >= 0:
        attr.attr_set |= <uint64_t>MOUNT_ATTR_IDMAP
        attr.userns_fd = <uint64_t>userns_fd
    with nogil:
        rc = c_mount_setattr(mount_fd, recursive, &attr)
    check(rc, "mount_setattr")


def mount(bytes source, bytes target not None, bytes fstype=None, unsigned long flags=0, bytes data=None):
    """The classic call, for what the new ones lack: options beyond 255 bytes, propagation by path.

    *flags* are ``MS_*``; *data* are options of the file system, one page at most.

    Raises OSError ENODEV, ENOENT, EINVAL, EBUSY, EPERM.
    Source: mount(2).
    """
    cdef const char *s = NULL
    cdef const char *t = c_text(target)
    cdef const char *f = NULL
    cdef const char *d = NULL
    cdef int rc
    if source is not None:
        s = c_text(source)
    if fstype is not None:
        f = c_text(fstype)
    if data is not None:
        d = c_text(data)
    with nogil:
        rc = c_mount(s, t, f, flags, d)
    check(rc, "mount", target)


def umount2(bytes target not None, int flags=0):
    """Unmount what is mounted at *target*; ``MNT_DETACH`` now from sight, later in fact.

    Raises OSError EINVAL (not a mount point, or locked), EBUSY, ENOENT, EPERM.
    Source: umount2(2).
    """
    cdef const char *t = c_text(target)
    cdef int rc
    with nogil:
        rc = c_umount2(t, flags)
    check(rc, "umount2", target)


def pivot_root(bytes new_root not None, bytes put_old not None):
    """Make *new_root*, a mount point, the root mount and move the old one to *put_old*, at or below it.

    Both may be b".": then the old root lies over the new one and a ``umount2(b".", MNT_DETACH)`` drops it.

    Raises OSError EBUSY (on the root's own mount), EINVAL (not a mount point, shared propagation, *put_old* is not
    below), EPERM.
    Source: pivot_root(2).
    """
    cdef const char *n = c_text(new_root)
    cdef const char *o = c_text(put_old)
    cdef int rc
    with nogil:
        rc = c_pivot_root(n, o)
    check(rc, "pivot_root", new_root)
