# cython: cdivision=True, boundscheck=False
# The mount API: every mount is made detached, gets its attributes, and is then attached
# to a descriptor, so that no path is resolved twice (Linux 5.2; mount_setattr 5.12).

from pyrunc._native.linux cimport (
    AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW, FSCONFIG_CMD_CREATE, FSCONFIG_CMD_RECONFIGURE, FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING, FSMOUNT_CLOEXEC, FSOPEN_CLOEXEC, FSPICK_CLOEXEC, FSPICK_EMPTY_PATH, MNT_DETACH, MOUNT_ATTR_IDMAP, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH,
    MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE, NR_fsconfig, NR_fsmount, NR_fsopen, NR_fspick,
    NR_mount_setattr, NR_move_mount, NR_open_tree, O_CLOEXEC, OPEN_TREE_CLONE, SYS_pivot_root, _rc, chdir, chroot, close, memset, mount_attr,
    read, strlen, syscall, uint64_t,
)
# mount.pyx has functions of these names
from pyrunc._native.linux cimport mount as libc_mount
from pyrunc._native.linux cimport umount2 as libc_umount2


cdef inline int c_open_tree(int dirfd, const char *path, unsigned int flags) noexcept nogil:
    return <int>_rc(syscall(NR_open_tree, dirfd, path, flags | <unsigned int>O_CLOEXEC))


cdef inline int c_move_mount(int mount_fd, int target_fd) noexcept nogil:
    """Attach a detached mount to the object behind *target_fd*."""
    return <int>_rc(syscall(
        NR_move_mount, mount_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))


cdef inline int c_move_mount_to(int mount_fd, int dirfd, const char *name) noexcept nogil:
    """Attach a detached mount to *name* in *dirfd*, which is no symlink: one is not followed."""
    return <int>_rc(syscall(NR_move_mount, mount_fd, b"", dirfd, name, MOVE_MOUNT_F_EMPTY_PATH))


cdef inline int c_mount_setattr(int mount_fd, bint recursive, mount_attr *attr) noexcept nogil:
    cdef unsigned int flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return <int>_rc(syscall(NR_mount_setattr, mount_fd, b"", flags, attr, sizeof(mount_attr)))


cdef inline int c_fsopen(const char *fstype) noexcept nogil:
    return <int>_rc(syscall(NR_fsopen, fstype, FSOPEN_CLOEXEC))


cdef inline int c_fsconfig(int fs_fd, unsigned int command, const char *key, const char *value) noexcept nogil:
    return <int>_rc(syscall(NR_fsconfig, fs_fd, command, key, value, 0))


cdef inline int c_fsmount(int fs_fd, unsigned int attributes) noexcept nogil:
    return <int>_rc(syscall(NR_fsmount, fs_fd, FSMOUNT_CLOEXEC, attributes))


cdef inline int c_configure(int fs_fd, const char *options, uint64_t pairs, unsigned int command) noexcept nogil:
    """Tell a file system its *options*, *pairs* times key NUL value NUL, an empty value a flag; then *command*."""
    cdef int rc
    cdef uint64_t i
    cdef const char *key = options
    cdef const char *value
    for i in range(pairs):
        value = key + strlen(key) + 1
        rc = c_fsconfig(fs_fd, FSCONFIG_SET_STRING if value[0] else FSCONFIG_SET_FLAG, key, value if value[0] else NULL)
        if rc < 0:
            return rc
        key = value + strlen(value) + 1
    return c_fsconfig(fs_fd, command, NULL, NULL)


cdef inline int c_reconfigure(int mount_fd, const char *options, uint64_t pairs) noexcept nogil:
    """Change *options* of the file system behind a mount, for all of its mounts."""
    cdef int rc
    cdef int fs_fd = <int>_rc(syscall(NR_fspick, mount_fd, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH))
    if fs_fd < 0:
        return fs_fd
    rc = c_configure(fs_fd, options, pairs, FSCONFIG_CMD_RECONFIGURE)
    close(fs_fd)
    return rc


cdef inline int c_new_mount(const char *fstype, const char *options, uint64_t pairs,
                            unsigned int attributes) noexcept nogil:
    """A detached mount of *fstype* with *options* as `c_configure` takes them."""
    cdef int fs_fd = c_fsopen(fstype)
    cdef int rc
    if fs_fd < 0:
        return fs_fd
    rc = c_configure(fs_fd, options, pairs, FSCONFIG_CMD_CREATE)
    if rc == 0:
        rc = c_fsmount(fs_fd, attributes)
    close(fs_fd)
    return rc


cdef inline int c_mount(const char *source, const char *target, const char *fstype, unsigned long flags,
                        const char *data) noexcept nogil:
    return <int>_rc(libc_mount(source, target, fstype, flags, data))


cdef inline int c_umount2(const char *target, int flags) noexcept nogil:
    return <int>_rc(libc_umount2(target, flags))


cdef inline int c_pivot_root(const char *new_root, const char *put_old) noexcept nogil:
    return <int>_rc(syscall(SYS_pivot_root, new_root, put_old))


cdef inline int c_pivot_root_here() noexcept nogil:
    """Make the working directory, a mount, the root and drop the old root (pivot_root(2), "pivot_root('.', '.')")."""
    cdef int rc = <int>_rc(syscall(SYS_pivot_root, b".", b"."))
    if rc < 0:
        return rc
    # The old root is now stacked on the new one at "."; detaching it leaves only ours.
    rc = <int>_rc(libc_umount2(b".", MNT_DETACH))
    if rc < 0:
        return rc
    return <int>_rc(chdir(b"/"))


cdef inline int c_move_root_here() noexcept nogil:
    """Move the working directory, a mount, over the root, and make it the root: where pivot_root(2) refuses, as in initramfs.

    What was mounted below the old root stays, covered.
    """
    # 8192: MS_MOVE
    cdef int rc = <int>_rc(libc_mount(b".", b"/", NULL, 8192, NULL))
    if rc == 0:
        rc = <int>_rc(chroot(b"."))
    return <int>_rc(chdir(b"/")) if rc == 0 else rc
