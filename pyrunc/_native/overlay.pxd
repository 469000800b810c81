# cython: cdivision=True, boundscheck=False
# An overlay that the host mounts for a user namespace: detached, over layers that may be idmapped.

from pyrunc._native.linux cimport *
from pyrunc._native.mount cimport *
from pyrunc._native.numbers cimport put_decimal
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *

cdef enum:
    LAYER_MAX = 26                  # the longest way to a layer, with its separator
    PR_SET_SECUREBITS = 28
    SECBIT_NO_SETUID_FIXUP = 4


cdef inline char *put_text(char *at, const char *value) noexcept nogil:
    """Write a text and its NUL; where that NUL is."""
    cdef size_t length = strlen(value)
    memcpy(at, value, length + 1)
    return at + length


cdef inline char *put_layer(char *at, const char *before, int fd, const char *name) noexcept nogil:
    """Write *before*, then a path to what *fd* is open for and *name* below it; as put_text."""
    at = put_text(put_text(at, before), b"/proc/self/fd/")
    at += put_decimal(at, <uint64_t>fd)
    return put_text(put_text(at, b"/"), name)


cdef inline int overlay_options(walk *w, const plan_step *step) noexcept nogil:
    """The mount options in w.path: layers by their descriptors, which are short and lead to their mounts."""
    cdef const int *layers = &w.slots[step.slot_b]
    cdef const char *upper = text(w, step.s1)
    cdef const char *work = text(w, step.s2)
    cdef char *at = w.path
    cdef int count = <int>step.n0
    cdef int i
    if <size_t>(count + 4) * LAYER_MAX + strlen(upper) + strlen(work) > sizeof(w.path):
        return -E2BIG
    for i in range(count):
        at = put_layer(at, b":" if i else b"lowerdir=", layers[count - 1 - i], b"")
    at = put_layer(at, b",upperdir=", layers[count], upper)
    at = put_layer(at, b",workdir=", layers[count], work)
    # As pyrunc/runtime/overlay_options.py has it.
    at = put_text(at, b",index=off,redirect_dir=off,metacopy=off")
    if step.n1:
        put_text(at, b",volatile")
    return 0


cdef inline int become_owner(const plan_step *step) noexcept nogil:
    """Be the user that the layers' root is shown as, with all capabilities kept.

    The overlay makes its own files as whoever mounts it, and on an idmapped mount the host's root has no number.
    """
    cdef int rc = <int>_rc(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
    if rc == 0:
        rc = <int>_rc(syscall(SYS_setresgid, -1, <gid_t>step.n2, -1))
    if rc == 0:
        rc = <int>_rc(syscall(SYS_setresuid, -1, <uid_t>(step.n2 >> 32), -1))
    return rc


cdef inline int overlay_child(walk *w, const plan_step *step, int result) noexcept nogil:
    """In a mount namespace of its own: attach the layers, mount the overlay, and let *result* be a detached copy.

    Attached, one over the other, since the kernel takes no layer that is attached nowhere (before 6.15).
    """
    cdef uint64_t i
    cdef int made
    cdef int target
    cdef int rc = c_mount(NULL, b"/", NULL, MS_REC | MS_PRIVATE, NULL)
    if rc < 0:
        return rc
    target = <int>_rc(openat(AT_FDCWD, text(w, step.s0), O_PATH | O_DIRECTORY | O_CLOEXEC))
    if target < 0:
        return target
    for i in range(step.n0 + 1):
        rc = c_move_mount(w.slots[step.slot_b + i], target)
        if rc < 0:
            break
    close(target)                   # the table of descriptors is the supervisor's too
    if rc == 0:
        rc = overlay_options(w, step)
    if rc == 0 and step.n2:
        rc = become_owner(step)
    if rc == 0:
        # Missing in a tmpfs that was made for them.
        umask(0)
        if mkdirat(w.slots[step.slot_b + step.n0], text(w, step.s1), 0o755) < 0 and errno != EEXIST:
            rc = -errno
        elif mkdirat(w.slots[step.slot_b + step.n0], text(w, step.s2), 0o755) < 0 and errno != EEXIST:
            rc = -errno
    if rc == 0:
        rc = c_mount(b"overlay", text(w, step.s0), b"overlay", 0, w.path)
    if rc < 0:
        return rc
    made = c_open_tree(AT_FDCWD, text(w, step.s0), OPEN_TREE_CLONE)
    if made < 0:
        return made
    rc = <int>_rc(dup3(made, result, O_CLOEXEC))
    close(made)
    return 0 if rc >= 0 else rc


cdef inline int overlay_step(walk *w, const plan_step *step) noexcept nogil:
    """Make the overlay in a child that shares our descriptors and not our mounts.

    The host's user namespace owns its file system, so that trusted.* attributes mean what they mean on the host.
    """
    cdef clone_args args
    cdef int status = 0
    cdef int rc
    cdef int pid
    cdef int result = <int>_rc(fcntl(w.slots[step.slot_b], F_DUPFD_CLOEXEC, 0))
    if result < 0:
        return result
    memset(&args, 0, sizeof(args))
    args.flags = <uint64_t>CLONE_NEWNS | <uint64_t>CLONE_FILES
    args.exit_signal = <uint64_t>SIGCHLD
    pid = <int>_rc(syscall(NR_clone3, &args, sizeof(args)))
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        _exit(-overlay_child(w, step, result))
    rc = pid
    if pid > 0:
        while wait4(pid, &status, 0, NULL) < 0 and errno == EINTR:
            pass
        # killed by a signal (the lower seven bits), or its errno
        rc = -EIO if status & 0x7F else -(status >> 8)
    if rc < 0:
        close(result)
        return rc
    return put_slot(w, step.slot_a, result)
