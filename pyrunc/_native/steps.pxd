# cython: cdivision=True, boundscheck=False
# Steps that the supervisor and init share, and the walk's state.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup_home cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.mount cimport *
from pyrunc._native.openat2 cimport *
from pyrunc._native.plan cimport *


# Where the spawner sees what this supervisor does, in memory that all of them share.
cdef struct crew_place:
    char *state
    void *memory
    size_t size


cdef struct walk:
    const unsigned char *data
    size_t data_size
    const plan_header *header
    const plan_step *steps
    const char *strings
    char **argv                     # NULL-terminated, built before clone
    char **env
    size_t argv_size                # of both, in bytes
    int slots[PLAN_MAX_SLOTS]
    bint dying                      # it was killed, and init has not ended yet
    uint32_t stage_failed           # 1 + the step of the stage that failed, or 0
    int host_net                    # the host's network namespace, where this process has left it, else -1
    int forked                      # of a plan that joins a container: the program's process, once there is one
    bint skip                       # the next step is an alternative that is not needed
    int cached_fd                   # the file that the last OP_WRITE_AT wrote, still open
    uint32_t cached_slot
    uint32_t cached_name
    cgroup_homes *homes
    int channel                     # to the spawner, whose death is its end
    int sock                        # where requests come in; given up when the spawner is dead
    bint lo_is_up                   # the network namespace came with its loopback interface up
    int progress_fd                 # this side's end of the pair between supervisor and init
    int root                        # the root's mount, once attached
    int state_dir                   # of a shim, else -1
    bint running                    # it has told who runs
    int terminal                    # the master's end of the program's terminal, from init; or -1
    crew_place crew
    void *hook_report               # of the front door, shared with init: a hook_end, or NULL
    int hook_fd                     # the memfd that it is in
    rlimit_t files                  # the caller's limit of descriptors, which the program gets; nothing if rlim_max is 0
    uint64_t stage_ns[STAGES]
    char path[4096]


cdef inline const char *text(walk *w, uint32_t offset) noexcept nogil:
    return w.strings + offset


cdef inline int put_slot(walk *w, uint32_t slot, long fd) noexcept nogil:
    """Keep *fd* (or pass on its -errno); what the slot held before is closed."""
    if fd < 0:
        return <int>fd
    if w.slots[slot] >= 0:
        close(w.slots[slot])
    w.slots[slot] = <int>fd
    return 0


cdef inline int write_all(int fd, const char *value) noexcept nogil:
    """One write(2) of the whole text: kernel files take a value only in one piece."""
    cdef size_t length = strlen(value)
    cdef ssize_t done = write(fd, value, length)
    if done < 0:
        return -errno
    return 0 if <size_t>done == length else -EIO


cdef inline int write_at(int dirfd, const char *name, const char *value) noexcept nogil:
    cdef int rc
    cdef int fd = <int>_rc(openat(dirfd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW))
    if fd < 0:
        return fd
    rc = write_all(fd, value)
    close(fd)
    return rc


cdef inline void forget_file(walk *w) noexcept nogil:
    if w.cached_fd >= 0:
        close(w.cached_fd)
    w.cached_fd = -1


cdef inline int write_at_step(walk *w, const plan_step *step) noexcept nogil:
    """Write a cgroup's file; one that is written again and again, as devices.allow is, stays open."""
    if w.cached_fd < 0 or w.cached_slot != step.slot_a or w.cached_name != step.s0:
        forget_file(w)
        w.cached_fd = <int>_rc(openat(w.slots[step.slot_a], text(w, step.s0), O_WRONLY | O_CLOEXEC | O_NOFOLLOW))
        if w.cached_fd < 0:
            return w.cached_fd
        w.cached_slot = step.slot_a
        w.cached_name = step.s0
    return write_all(w.cached_fd, text(w, step.s1))


cdef inline int open_subtree(walk *w, const plan_step *step, unsigned int flags) noexcept nogil:
    """A detached copy of a directory in a host path, or in a new mount, that nothing in there leads out of."""
    cdef const char *subdirectory = text(w, step.s1)
    cdef const char *path
    cdef int home
    cdef int top
    cdef int inner
    cdef int fd
    if step.slot_b != <uint32_t>NONE:
        top = w.slots[step.slot_b]
    else:
        home = c_at_home(w.homes, text(w, step.s0), &path)
        top = <int>_rc(openat(home, path, O_PATH | O_DIRECTORY | O_CLOEXEC))
        if top < 0:
            return top
    inner = c_open_in_root(top, subdirectory, O_PATH | O_DIRECTORY, 0)
    fd = inner
    if inner >= 0:
        fd = c_open_tree(inner, b"", flags | <unsigned int>AT_EMPTY_PATH)
        close(inner)
    if step.slot_b == <uint32_t>NONE:
        close(top)
    elif fd == -EINVAL and step.section == <uint32_t>SECTION_INIT:
        fd = copy_attached(top, subdirectory, flags)
    return fd


cdef inline int copy_attached(int top, const char *subdirectory, unsigned int flags) noexcept nogil:
    """Before Linux 6.15 only what is attached can be copied: for a moment, over what init has no use for."""
    cdef int fd
    cdef int inner
    cdef int rc
    cdef int place = <int>_rc(openat(AT_FDCWD, b"/sys", O_PATH | O_DIRECTORY | O_CLOEXEC))
    if place < 0:
        return place
    rc = c_move_mount(top, place)
    close(place)
    if rc < 0:
        return rc
    inner = c_open_in_root(top, subdirectory, O_PATH | O_DIRECTORY, 0)
    fd = inner
    if inner >= 0:
        fd = c_open_tree(inner, b"", flags | <unsigned int>AT_EMPTY_PATH)
        close(inner)
    rc = c_umount2(b"/sys", MNT_DETACH)
    if rc < 0 and fd >= 0:
        close(fd)
        fd = rc
    return fd


cdef inline int open_tree_step(walk *w, const plan_step *step) noexcept nogil:
    """A detached copy of a host path; a device node is checked on the descriptor."""
    cdef stat_t status
    cdef unsigned int flags = OPEN_TREE_CLONE
    cdef const char *path
    cdef int home
    cdef int fd
    if step.flags & F_RECURSIVE:
        flags |= <unsigned int>AT_RECURSIVE
    if step.s1 != <uint32_t>NONE:
        fd = open_subtree(w, step, flags)
    elif step.slot_b != <uint32_t>NONE:
        fd = c_open_tree(w.slots[step.slot_b], b"", flags | <unsigned int>AT_EMPTY_PATH)
    else:
        home = c_at_home(w.homes, text(w, step.s0), &path)
        fd = c_open_tree(home, path, flags)
    if fd >= 0 and step.flags & F_CHARDEV:
        if fstat(fd, &status) < 0 or status.st_rdev != step.n0 or status.st_mode & S_IFMT != (step.n1 if step.n1 else <uint64_t>S_IFCHR):
            close(fd)
            return -ENODEV
    return put_slot(w, step.slot_a, fd)


cdef inline int mount_attr_step(walk *w, const plan_step *step) noexcept nogil:
    cdef mount_attr attr
    memset(&attr, 0, sizeof(attr))
    attr.attr_set = step.n0
    attr.attr_clr = step.n1
    attr.propagation = step.n2
    if step.slot_b != <uint32_t>NONE:
        attr.userns_fd = <uint64_t>w.slots[step.slot_b]
    return c_mount_setattr(w.slots[step.slot_a], step.flags & F_RECURSIVE, &attr)


cdef inline int become_groups(const char *at) noexcept nogil:
    """Have exactly the supplementary groups of a list that the validator has seen; the raw call, since libc would signal threads."""
    cdef gid_t groups[256]
    cdef unsigned int count = 0
    cdef unsigned long value = 0
    cdef size_t i = 0
    if at[0] != 0:
        while True:
            if at[i] == c',' or at[i] == 0:
                if count >= 256:
                    return -E2BIG
                groups[count] = <gid_t>value
                count += 1
                value = 0
                if at[i] == 0:
                    break
            else:
                value = value * 10 + <unsigned long>(at[i] - c'0')
            i += 1
    return <int>_rc(syscall(SYS_setgroups, count, groups))


cdef inline int shared_step(walk *w, const plan_step *step) noexcept nogil:
    if step.op == OP_OPEN_TREE:
        return open_tree_step(w, step)
    if step.op == OP_NEW_MOUNT:
        return put_slot(w, step.slot_a, c_new_mount(text(w, step.s0), text(w, step.s1), step.n0, <unsigned int>step.n1))
    if step.op == OP_MOUNT_ATTR:
        return mount_attr_step(w, step)
    if step.op == OP_SETNS:
        return <int>_rc(setns(w.slots[step.slot_a], <int>step.n0))
    return -ENOSYS
