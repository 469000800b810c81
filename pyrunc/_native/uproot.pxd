# cython: cdivision=True, boundscheck=False
# Out of a chroot, into a mount namespace whose root is the chroot's directory.
#
# In a chroot the kernel allows neither pivot_root(2) nor a user namespace; and where it did, because the directory
# is a mount, the rest of the host's tree would stay in the container's mount namespace, one setns(2) away.

from pyrunc._native.linux cimport *
from pyrunc._native.mount cimport *


cdef inline int root_of_namespace() noexcept nogil:
    """Make the root of this process's mount namespace its root and working directory (setns(2)); 0 or -errno."""
    cdef int rc
    cdef int own = <int>_rc(syscall(NR_pidfd_open, getpid(), 0))
    if own < 0:
        return own
    rc = <int>_rc(setns(own, CLONE_NEWNS))      # by pidfd, Linux 5.8: a chroot may have no /proc
    close(own)
    return rc


cdef inline int which_root(uint64_t *inode, uint64_t *mount_id) noexcept nogil:
    cdef uint64_t words[32]         # struct statx; STATX_MNT_ID since Linux 5.8
    cdef int rc = <int>_rc(syscall(SYS_statx, AT_FDCWD, b"/", 0, STATX_INO | STATX_MNT_ID, words))
    inode[0] = words[4]
    mount_id[0] = words[18]
    return rc


cdef inline int c_is_chrooted() noexcept nogil:
    """Whether the root of this process is not that of its mount namespace, 1 or 0, or -errno.

    "/" becomes the working directory.
    """
    cdef uint64_t before[2]
    cdef uint64_t after[2]
    cdef int here = <int>_rc(openat(AT_FDCWD, b"/", O_PATH | O_DIRECTORY | O_CLOEXEC))
    cdef int rc = here
    if rc >= 0:
        rc = which_root(&before[0], &before[1])
    if rc == 0:
        rc = root_of_namespace()
    if rc == 0:
        rc = which_root(&after[0], &after[1])
    if rc == 0 and (before[0] != after[0] or before[1] != after[1]):
        rc = 1 if fchdir(here) == 0 and chroot(b".") == 0 else -errno
    close(here)
    return rc


cdef inline int c_uproot() noexcept nogil:
    """Leave a chroot for a mount namespace of this process alone, where its directory is the root; 0 or -errno.

    After an error the root may be the host's.
    """
    cdef mount_attr attr
    cdef int here
    cdef int tree
    cdef int rc = <int>_rc(unshare(CLONE_NEWNS))
    if rc < 0:
        return rc
    here = <int>_rc(openat(AT_FDCWD, b"/", O_PATH | O_DIRECTORY | O_CLOEXEC))
    if here < 0:
        return here
    # A copy, before what stays behind becomes private: what is shared in it stays shared with the host.
    tree = c_open_tree(here, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
    rc = tree
    if tree >= 0:
        # Only its top must not be, since pivot_root mounts on it for a moment.
        memset(&attr, 0, sizeof(attr))
        attr.propagation = <uint64_t>MS_SLAVE
        rc = c_mount_setattr(tree, False, &attr)
        if rc == 0:
            rc = root_of_namespace()
        if rc == 0:
            # All that is about to be detached here must not be on the host.
            rc = <int>_rc(mount(NULL, b"/", NULL, MS_REC | MS_PRIVATE, NULL))
        if rc == 0:
            rc = c_move_mount(tree, here)
        if rc == 0:
            rc = <int>_rc(fchdir(tree))
        if rc == 0:
            rc = c_pivot_root_here()
        close(tree)
    close(here)
    return rc
