# cython: cdivision=True, boundscheck=False
# What a directory of the image holds, copied into the fresh tmpfs that is about to cover it.
#
# The source is read through a detached copy of its mounts that is read-only, opens no device and follows no
# symlink: whatever others do to the tree meanwhile, the kernel opens only files and directories of it.

from pyrunc._native.linux cimport *
from pyrunc._native.mount cimport *
from pyrunc._native.openat2 cimport *

cdef enum:
    COPY_DEPTH = 128                # directories in each other, each with two descriptors
    COPY_XATTR = 65536              # XATTR_LIST_MAX and XATTR_SIZE_MAX of the kernel
    COPY_DIRECTORY = 1              # what copy_entry says of one that is to be entered


cdef struct copy_level:
    int source
    int target
    off_t position                  # in the source, behind the entry that is being copied


cdef struct copying:
    copy_level levels[COPY_DEPTH]
    char entries[4096]
    char names[COPY_XATTR]
    char data[COPY_XATTR]           # of files, symlinks and attributes


cdef inline int copy_range(copying *c, int source, int target, uint64_t left) noexcept nogil:
    """Copy *left* bytes, or up to the end, from where both files stand."""
    cdef ssize_t got
    cdef ssize_t done
    cdef ssize_t at
    cdef bint by_kernel = True
    while left > 0:
        if by_kernel:
            got = sendfile(target, source, NULL, <size_t>(left if left < (1 << 30) else 1 << 30))
            if got < 0 and (errno == EINVAL or errno == ENOSYS):
                by_kernel = False   # a file system that cannot splice
                continue
        else:
            got = read(source, c.data, <size_t>(left if left < sizeof(c.data) else sizeof(c.data)))
            at = 0
            while at < got:
                done = write(target, c.data + at, <size_t>(got - at))
                if done < 0:
                    return -errno
                at += done
        if got < 0:
            return -errno
        if got == 0:
            return 0
        left -= <uint64_t>got
    return 0


cdef inline int copy_data(copying *c, int source, int target, const stat_t *status) noexcept nogil:
    """Copy a file's contents, at most the size that it had; holes stay holes, since a tmpfs is memory."""
    cdef off_t at = 0
    cdef off_t end
    cdef int rc
    if status.st_blocks >= status.st_size / 512:
        return copy_range(c, source, target, <uint64_t>status.st_size)
    while at < status.st_size:
        at = lseek(source, at, SEEK_DATA)
        if at < 0:
            if errno == ENXIO:      # only a hole is left
                break
            return -errno
        end = lseek(source, at, SEEK_HOLE)
        if end < 0 or lseek(source, at, SEEK_SET) < 0 or lseek(target, at, SEEK_SET) < 0:
            return -errno
        if end > status.st_size:
            end = status.st_size
        rc = copy_range(c, source, target, <uint64_t>(end - at) if end > at else 0)
        if rc < 0:
            return rc
        at = end
    return <int>_rc(ftruncate(target, status.st_size))


cdef inline bint copied_attribute(const char *name) noexcept nogil:
    """Capabilities, access control lists, and the user's own; a security module labels what it wants to itself."""
    return (strncmp(name, b"user.", 5) == 0 or strcmp(name, b"security.capability") == 0
            or strncmp(name, b"system.posix_acl_", 17) == 0)


cdef inline int copy_attributes(copying *c, int source, int target) noexcept nogil:
    cdef const char *name = c.names
    cdef ssize_t size
    cdef ssize_t length = flistxattr(source, c.names, sizeof(c.names))
    if length < 0:
        return 0 if errno == EOPNOTSUPP else -errno
    while name < c.names + length:
        if copied_attribute(name):
            size = fgetxattr(source, name, c.data, sizeof(c.data))
            # A tmpfs has user attributes since Linux 6.6, the others if the kernel was built with them.
            if size < 0 or (fsetxattr(target, name, c.data, <size_t>size, 0) < 0 and errno != EOPNOTSUPP):
                return -errno
        name += strlen(name) + 1
    return 0


cdef inline int copy_metadata(copying *c, int source, int target, const stat_t *status) noexcept nogil:
    """Owner, attributes, mode and times, in the order in which none undoes another."""
    cdef timespec times[2]
    cdef int rc = <int>_rc(fchown(target, status.st_uid, status.st_gid))
    if rc == 0:
        rc = copy_attributes(c, source, target)
    if rc == 0:
        rc = <int>_rc(fchmod(target, status.st_mode & 0o7777))
    times[0] = status.st_atim
    times[1] = status.st_mtim
    return <int>_rc(futimens(target, times)) if rc == 0 else rc


cdef inline int copy_file(copying *c, int source, int target, const char *name) noexcept nogil:
    cdef stat_t status
    cdef int rc
    cdef int copy
    # O_NONBLOCK: should it have become a FIFO since, this does not wait
    cdef int fd = <int>_rc(openat(source, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC))
    if fd < 0:
        return fd if fd != -ELOOP else -ESTALE
    rc = <int>_rc(fstat(fd, &status))
    if rc == 0 and not S_ISREG(status.st_mode):
        rc = -ESTALE
    if rc == 0:
        copy = <int>_rc(openat(target, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0o600))
        rc = copy
        if copy >= 0:
            rc = copy_data(c, fd, copy, &status)
            if rc == 0:
                rc = copy_metadata(c, fd, copy, &status)
            close(copy)
    close(fd)
    return rc


cdef inline int copy_special(copying *c, int source, int target, const char *name, const stat_t *status) noexcept nogil:
    """A symlink, device or FIFO; they have no attributes that are copied."""
    cdef timespec times[2]
    cdef ssize_t length
    cdef int rc
    if S_ISLNK(status.st_mode):
        length = readlinkat(source, name, c.data, sizeof(c.data) - 1)
        if length < 0:
            return -errno if errno != EINVAL else -ESTALE
        c.data[length] = 0
        rc = <int>_rc(symlinkat(c.data, target, name))
    else:
        rc = <int>_rc(mknodat(target, name, status.st_mode, status.st_rdev))
    if rc == 0:
        rc = <int>_rc(fchownat(target, name, status.st_uid, status.st_gid, AT_SYMLINK_NOFOLLOW))
    times[0] = status.st_atim
    times[1] = status.st_mtim
    return <int>_rc(utimensat(target, name, times, AT_SYMLINK_NOFOLLOW)) if rc == 0 else rc


cdef inline int copy_entry(copying *c, const copy_level *level, const char *name) noexcept nogil:
    """Copy one entry of a directory; COPY_DIRECTORY for a directory, which is only made.

    What the target has already stays as it is; what goes away meanwhile is not missed, what becomes something
    else is -ESTALE.
    """
    cdef stat_t status
    cdef int rc = <int>_rc(fstatat(level.source, name, &status, AT_SYMLINK_NOFOLLOW))
    if rc == 0:
        if S_ISDIR(status.st_mode):
            rc = <int>_rc(mkdirat(level.target, name, 0o700))
            return COPY_DIRECTORY if rc == 0 or rc == -EEXIST else rc
        elif S_ISREG(status.st_mode):
            rc = copy_file(c, level.source, level.target, name)
        elif not S_ISSOCK(status.st_mode):      # whoever listens there is not in the container
            rc = copy_special(c, level.source, level.target, name, &status)
    return 0 if rc == -ENOENT or rc == -EEXIST else rc


cdef inline int copy_enter(copying *c, int *depth, const char *name) noexcept nogil:
    """Go down into the directory *name*."""
    cdef copy_level *level = &c.levels[depth[0]]
    cdef copy_level *below = level + 1
    if depth[0] + 1 == COPY_DEPTH:
        return -ENAMETOOLONG
    below.source = <int>_rc(openat(level.source, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
    if below.source < 0:
        if below.source == -ENOTDIR:
            return -ESTALE
        return 0 if below.source == -ENOENT else below.source
    below.target = <int>_rc(openat(level.target, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
    if below.target < 0:
        close(below.source)
        return 0 if below.target == -ENOTDIR or below.target == -ELOOP else below.target
    depth[0] += 1
    return 0


cdef inline int copy_leave(copying *c, int *depth) noexcept nogil:
    """Finish the directory that was entered last, whose times its entries have changed, and go up."""
    cdef stat_t status
    cdef copy_level *level = &c.levels[depth[0]]
    cdef int rc = <int>_rc(fstat(level.source, &status))
    if rc == 0:
        rc = copy_metadata(c, level.source, level.target, &status)
    close(level.source)
    close(level.target)
    depth[0] -= 1
    if rc == 0:
        level -= 1
        rc = 0 if lseek(level.source, level.position, SEEK_SET) >= 0 else -errno
    return rc


cdef inline int copy_tree(int source, int target) noexcept nogil:
    """Copy what the directory *source* holds into the directory *target*; 0 or -errno.

    No recursion and no allocation: one buffer, read anew where the walk comes back to a directory (getdents64(2)).
    """
    cdef copying c
    cdef const char *name
    cdef int depth = 0
    cdef int before
    cdef int rc = 0
    cdef long at = 0
    cdef long got = 0
    c.levels[0].source = source
    c.levels[0].target = target
    while rc == 0:
        if at == got:
            at = 0
            got = _rc(syscall(SYS_getdents64, c.levels[depth].source, c.entries, sizeof(c.entries)))
            if got < 0:
                rc = <int>got
            elif got == 0:
                if depth == 0:
                    break
                rc = copy_leave(&c, &depth)
            continue
        # inode, offset: 8 bytes each; length: 2; type: 1; name
        name = c.entries + at + 19
        memcpy(&c.levels[depth].position, c.entries + at + 8, 8)
        at += (<unsigned char>c.entries[at + 16]) | (<unsigned char>c.entries[at + 17]) << 8
        if strcmp(name, b".") != 0 and strcmp(name, b"..") != 0:
            rc = copy_entry(&c, &c.levels[depth], name)
            if rc == COPY_DIRECTORY:
                before = depth
                rc = copy_enter(&c, &depth, name)
                if depth != before:
                    at = got
    while depth > 0:
        close(c.levels[depth].source)
        close(c.levels[depth].target)
        depth -= 1
    return rc


cdef inline int copy_source(int directory) noexcept nogil:
    """A readable descriptor of *directory* as this file's head says."""
    cdef mount_attr attr
    cdef int fd
    cdef int rc
    cdef int tree = c_open_tree(directory, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
    if tree < 0:
        return tree
    memset(&attr, 0, sizeof(attr))
    attr.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSYMFOLLOW
    rc = c_mount_setattr(tree, True, &attr)
    fd = rc if rc < 0 else <int>_rc(openat(tree, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    close(tree)                     # its mounts live as long as something in them is open
    return fd


cdef inline int c_copy_up(int root, const char *path, int mount_fd, bint mode, bint contents) noexcept nogil:
    """Give the fresh mount *mount_fd* the *mode* and the *contents* of the directory *path* in *root*, if it is there.

    The owner stays that of the mount's options, as with runc.
    """
    cdef stat_t status
    cdef int rc = 0
    cdef int source
    cdef int target
    cdef int directory = c_open_in_root(root, path, O_PATH | O_DIRECTORY, 0)
    if directory < 0:
        return 0 if directory == -ENOENT or directory == -ENOTDIR else directory
    target = <int>_rc(openat(mount_fd, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    if target < 0:
        close(directory)
        return target
    if contents:
        source = copy_source(directory)
        rc = source
        if source >= 0:
            rc = copy_tree(source, target)
            close(source)
    if rc == 0 and mode:
        rc = <int>_rc(fstat(directory, &status))
        if rc == 0:
            rc = <int>_rc(fchmod(target, status.st_mode & 0o7777))
    close(target)
    close(directory)
    return rc
