# cython: cdivision=True, boundscheck=False
# What mount(8) does to a mount after it was made: remount, X-mount.owner, X-mount.group, X-mount.mode.

from pyrunc._native.linux cimport *
from pyrunc._native.mount cimport *
from pyrunc._native.openat2 cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *


cdef inline int remount_step(walk *w, const plan_step *step) noexcept nogil:
    """Change what is mounted at a path of the root; EINVAL if nothing is.

    All mounts in there are of this mount namespace alone, and attributes do not propagate.
    """
    cdef mount_attr attr
    cdef int rc
    cdef int target = c_open_in_root(w.root, text(w, step.s0), O_PATH, 0)
    if target < 0:
        return target
    memset(&attr, 0, sizeof(attr))
    attr.attr_set = step.n0
    attr.attr_clr = step.n1
    attr.propagation = step.n2
    rc = c_mount_setattr(target, step.flags & F_RECURSIVE, &attr)
    close(target)
    return rc


cdef inline int owner_step(walk *w, const plan_step *step) noexcept nogil:
    """Give a mount's root an owner and a mode, as whoever init is by now: in a user namespace its root."""
    cdef int mount_fd = w.slots[step.slot_a]
    cdef int fd
    cdef int rc = 0
    if step.n0 != <uint64_t>NONE or step.n1 != <uint64_t>NONE:
        rc = <int>_rc(fchownat(mount_fd, b"", <uid_t>step.n0, <gid_t>step.n1, AT_EMPTY_PATH))
    # After the owner, whose change takes away set-user-ID.
    if rc == 0 and step.n2 != <uint64_t>NONE:
        rc = <int>_rc(syscall(NR_fchmodat2, mount_fd, b"", step.n2, AT_EMPTY_PATH))
        if rc == -ENOSYS:           # before Linux 6.6: a directory can still be opened for it
            fd = <int>_rc(openat(mount_fd, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
            if fd >= 0:
                rc = <int>_rc(fchmod(fd, <mode_t>step.n2))
                close(fd)
            elif fd != -ENOTDIR:
                rc = fd
    return rc


cdef inline int mount_change_step(walk *w, const plan_step *step) noexcept nogil:
    if step.op == OP_REMOUNT:
        return remount_step(w, step)
    if step.op == OP_OWNER:
        return owner_step(w, step)
    return c_reconfigure(w.slots[step.slot_a], text(w, step.s1), step.n0)
