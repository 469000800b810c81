# cython: cdivision=True, boundscheck=False
# Init's steps that make the container's root: mounts, nodes, masks, and the root itself. Each path is resolved inside it.

from pyrunc._native.linux cimport *
from pyrunc._native.mount cimport *
from pyrunc._native.openat2 cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *
from pyrunc._native.uproot cimport *

cdef enum:
    MANY_TASKS = 256                # from here on what pivot_root(2) costs is more than what replaces it


cdef inline int attach_step(walk *w, const plan_step *step) noexcept nogil:
    """Attach a mount to a path of the root, opened once and by descriptor."""
    cdef uint64_t resolve = RESOLVE_NO_SYMLINKS if step.flags & F_REAL else 0
    cdef uint64_t flags = O_PATH
    cdef const char *path = text(w, step.s0)
    cdef statfs_t kind
    cdef int rc
    cdef int target
    if step.slot_b != <uint32_t>NONE:
        # A name in a fresh mount that nothing but this process has seen: it is what it was made as.
        return c_move_mount_to(w.slots[step.slot_a], w.slots[step.slot_b], text(w, step.s1))
    if not step.flags & F_FILE:
        flags |= <uint64_t>O_DIRECTORY
    target = c_open_in_root(w.root, path, flags, resolve)
    if target == -ENOENT and step.flags & F_CREATE:
        rc = c_make_in_root(w.root, path, not step.flags & F_FILE, 0o755, w.path, sizeof(w.path))
        if rc < 0:
            return rc
        target = c_open_in_root(w.root, path, flags, resolve)
    if target < 0:
        return target
    # Whatever path led there: nothing of the kernel's own is covered but what the document may name.
    rc = 0
    if not step.flags & F_PROC and (fstatfs(target, &kind) < 0 or kind.f_type == PROC_MAGIC):
        rc = -EXDEV
    if rc == 0:
        rc = c_move_mount(w.slots[step.slot_a], target)
    close(target)
    return rc


cdef inline int same_node(int parent, const char *leaf, const plan_step *step) noexcept nogil:
    """0 if what is there already is what the step makes, else -EEXIST."""
    cdef stat_t status
    cdef mode_t kind = <mode_t>step.n0 & <mode_t>S_IFMT
    if fstatat(parent, leaf, &status, AT_SYMLINK_NOFOLLOW) < 0:
        return -errno
    if step.op == OP_SYMLINK:
        return 0 if S_ISLNK(status.st_mode) else -EEXIST
    if status.st_mode & S_IFMT != kind or (kind != S_IFIFO and status.st_rdev != <dev_t>step.n1):
        return -EEXIST
    return 0


cdef inline int make_node_step(walk *w, const plan_step *step) noexcept nogil:
    """A directory, device, symlink or file at a path of the root; its last component is never followed."""
    cdef const char *leaf = NULL
    cdef int fd
    cdef int rc
    cdef int parent
    if step.op == OP_MKDIR and step.flags & F_CREATE:
        fd = c_open_in_root(w.root, text(w, step.s0), O_PATH | O_DIRECTORY, 0)
        if fd >= 0:
            close(fd)
            return 0
        if fd != -ENOENT:
            return fd
        return c_make_in_root(w.root, text(w, step.s0), True, <mode_t>step.n0, w.path, sizeof(w.path))
    if step.slot_a != <uint32_t>NONE:
        # A fresh mount that nothing but this process has seen: a name in it needs no walk.
        parent = w.slots[step.slot_a]
        leaf = text(w, step.s0)
    else:
        parent = c_open_parent(w.root, text(w, step.s0), w.path, sizeof(w.path), 0o755, &leaf)
    if parent < 0:
        return parent
    if step.op == OP_MKDIR:
        rc = <int>_rc(mkdirat(parent, leaf, <mode_t>step.n0))
    elif step.op == OP_SYMLINK:
        rc = <int>_rc(symlinkat(text(w, step.s1), parent, leaf))
    elif step.op == OP_FILE:
        fd = <int>_rc(openat(parent, leaf, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, <mode_t>step.n0))
        rc = fd
        if fd >= 0:
            rc = write_all(fd, text(w, step.s1))
            close(fd)
    else:
        rc = <int>_rc(mknodat(parent, leaf, <mode_t>step.n0, <dev_t>step.n1))
        if rc == 0 and step.n2:
            rc = <int>_rc(fchownat(parent, leaf, <uid_t>(step.n2 >> 32), <gid_t>step.n2, AT_SYMLINK_NOFOLLOW))
    if rc == -EEXIST and step.flags & F_EXISTING:
        rc = same_node(parent, leaf, step)
    if step.slot_a == <uint32_t>NONE:
        close(parent)
    return rc


cdef inline bint is_null(const stat_t *status) noexcept nogil:
    return S_ISCHR(status.st_mode) and status.st_rdev == 0x103


cdef inline int mask_step(walk *w, const plan_step *step) noexcept nogil:
    """Hide a path: a directory under an empty read-only tmpfs, anything else under the host's /dev/null."""
    cdef stat_t status
    cdef mount_attr attr
    cdef int cover
    cdef int rc
    cdef int target = c_open_in_root(w.root, text(w, step.s0), O_PATH, 0)
    if target < 0:
        return 0 if target == -ENOENT or target == -ENOTDIR else target
    rc = <int>_rc(fstat(target, &status))
    if rc == 0 and S_ISDIR(status.st_mode):
        if w.slots[step.slot_a] < 0:
            rc = c_new_mount(b"tmpfs", b"mode\0000755\000size\0000\000", 2, 0x1 | 0x2 | 0x4 | 0x8)
            if rc >= 0:
                w.slots[step.slot_a] = rc
                rc = c_move_mount(rc, target)
        else:
            # A copy of the first one, which is attached to our namespace (a detached one cannot be copied before 6.15).
            cover = c_open_tree(w.slots[step.slot_a], b"", OPEN_TREE_CLONE | AT_EMPTY_PATH)
            rc = cover
            if cover >= 0:
                rc = c_move_mount(cover, target)
                close(cover)
    elif rc == 0:
        # Until pivot_root an absolute path is the host's own: nothing of the image is asked for its /dev/null.
        cover = c_open_tree(AT_FDCWD, b"/dev/null", OPEN_TREE_CLONE)
        rc = cover
        if cover >= 0:
            # Read-only, which writing to a device does not mind: else chmod(2) of the path changed the host's node.
            memset(&attr, 0, sizeof(attr))
            attr.attr_set = 0x1 | 0x2 | 0x8
            if fstat(cover, &status) < 0 or not is_null(&status):
                rc = -ENODEV
            else:
                rc = c_mount_setattr(cover, False, &attr)
            if rc >= 0:
                rc = c_move_mount(cover, target)
            close(cover)
    close(target)
    return rc


cdef inline int readonly_step(walk *w, const plan_step *step) noexcept nogil:
    """Cover a path with a recursive read-only copy of itself."""
    cdef mount_attr attr
    cdef int copy
    cdef int rc
    cdef int target = c_open_in_root(w.root, text(w, step.s0), O_PATH, 0)
    if target < 0:
        return 0 if target == -ENOENT or target == -ENOTDIR else target
    copy = c_open_tree(target, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
    rc = copy
    if copy >= 0:
        memset(&attr, 0, sizeof(attr))
        attr.attr_set = 0x1
        rc = c_mount_setattr(copy, True, &attr)
        if rc == 0:
            rc = c_move_mount(copy, target)
        close(copy)
    close(target)
    return rc


cdef inline int procfs_step(walk *w, const plan_step *step) noexcept nogil:
    """Write one file of a procfs that this process made itself, and check that it is one."""
    cdef statfs_t kind
    cdef int rc
    cdef int fd = c_openat2(w.slots[step.slot_a], text(w, step.s0), O_WRONLY, 0, RESOLVE_BENEATH | RESOLVE_NO_XDEV)
    if fd < 0:
        return fd
    rc = <int>_rc(fstatfs(fd, &kind))
    if rc == 0 and kind.f_type != PROC_MAGIC:
        rc = -EXDEV
    if rc == 0:
        rc = write_all(fd, text(w, step.s1))
    close(fd)
    return rc


cdef inline int root_attach_step(walk *w, const plan_step *step) noexcept nogil:
    """Attach the root's mount over a host directory, seen in this mount namespace only: pivot_root wants it attached."""
    cdef int rc
    cdef int target = <int>_rc(openat(AT_FDCWD, text(w, step.s0), O_PATH | O_DIRECTORY | O_CLOEXEC))
    if target < 0:
        return target
    rc = c_move_mount(w.slots[step.slot_a], target)
    close(target)
    if rc == 0:
        w.root = w.slots[step.slot_a]
    return rc


cdef inline int root_overlay_step(walk *w, const plan_step *step) noexcept nogil:
    """Mount an overlay over a host directory, seen in this mount namespace only, as the root.

    mount(2) takes one page of options, which are relative to a directory so that many layers fit; more of
    them come one by one, at most 255 bytes each.
    """
    cdef int fd
    cdef int rc = <int>_rc(chdir(text(w, step.s2)))
    if rc == 0 and step.n0 == 0:
        rc = <int>_rc(mount(b"overlay", text(w, step.s0), b"overlay", 0, text(w, step.s1)))
        if rc == 0:
            rc = put_slot(w, step.slot_a, _rc(openat(AT_FDCWD, text(w, step.s0), O_PATH | O_DIRECTORY | O_CLOEXEC)))
        if rc == 0:
            w.root = w.slots[step.slot_a]
    elif rc == 0:
        fd = c_new_mount(b"overlay", text(w, step.s1), step.n0, 0)
        rc = put_slot(w, step.slot_a, fd)
        if rc == 0:
            rc = root_attach_step(w, step)
    return rc


cdef inline bint has_many_tasks() noexcept nogil:
    """Whether the host has so many; it has fewer if the kernel cannot tell (sysinfo(2); 65,536 are none to it)."""
    cdef sysinfo_t info
    return sysinfo(&info) == 0 and info.procs >= MANY_TASKS


cdef inline bint stands_alone() noexcept nogil:
    """Whether the root is all of this mount namespace, and what it is mounted on is not shared with the host.

    In a chroot that is a mount the rest of the host's tree is what would be left. And what is unmounted and mounted on a
    shared mount is so on the host too: of a process's root no path leads there, but pivot_root(2) looks at it, before it
    sees that one mount is no two (EBUSY). What follows needs more than that does, setns(2) and chroot(2): both are
    tried here, before it is too late.
    """
    return c_is_chrooted() == 0 and chroot(b"/") == 0 and c_pivot_root(b"/", b"/") == -EBUSY


cdef inline int take_off_root(int *copy, int root) noexcept nogil:
    """Drop the old root, and put a copy of *root*'s tree, whose descriptor goes to *copy*, where it was.

    pivot_root(2) looks at every task of the host, whether the old root is its own: with 500 containers that is a tenth
    of a start. Nobody else is in this mount namespace, so that here it need not. -EAGAIN where the old root cannot go: it is
    locked in a user namespace, the very first mount of its namespace, or not alone in it.
    """
    cdef int rc
    if not stands_alone():
        return -EAGAIN
    copy[0] = c_open_tree(root, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
    # Private first, or what is mounted below a mount that the host shares would be unmounted there too.
    if copy[0] < 0 or mount(NULL, b"/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 or c_umount2(b"/", MNT_DETACH) < 0:
        close(copy[0])
        return -EAGAIN
    # What the old root was mounted on is left of the namespace, and empty; to join it anew makes that the root.
    rc = root_of_namespace()
    if rc == 0:
        rc = c_move_mount_to(copy[0], AT_FDCWD, b"/")
    if rc == 0:
        rc = <int>_rc(fchdir(copy[0]))
    if rc == 0:
        rc = <int>_rc(chroot(b"."))
    return <int>_rc(chdir(b"/")) if rc == 0 else rc


cdef inline int pivot_step(walk *w, const plan_step *step) noexcept nogil:
    """Make the root's mount the root, and drop the old one."""
    cdef int copy
    cdef int rc
    if step.n1 and has_many_tasks():
        rc = take_off_root(&copy, w.slots[step.slot_a])
        if rc == 0:
            rc = put_slot(w, step.slot_a, copy)
            w.root = w.slots[step.slot_a]
        if rc != -EAGAIN:
            return rc
    if fchdir(w.slots[step.slot_a]) < 0:
        return -errno
    return c_move_root_here() if step.n0 else c_pivot_root_here()
