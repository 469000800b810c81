# cython: cdivision=True, boundscheck=False
# The hooks of a container that the front door makes: which of them run when, and what is kept of one that fails.
#
#   kind                          who runs it      when
#   prestart, createRuntime       the front door   at the sync point OCI_SYNC: the namespaces exist
#   createContainer               init             before pivot_root, by its path in the runtime's namespace
#   startContainer                init             in the container, the last thing before the program
#   poststart                     the front door   when the program runs
#   poststop                      Python           after `delete`
#                                 the front door   after `run`, and where no container has come of it
#
# The first one that fails ends its kind and the container, but for poststop.

from pyrunc._native.linux cimport *
from pyrunc._native.hook_run cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *

cdef enum:
    HOOK_EXITED = 3072              # above every errno: + its exit status
    HOOK_SIGNALED = 3328            # + the signal's number


cdef inline int oci_hooks_begin(walk *w) noexcept nogil:
    """Enter the bundle, in which hooks of the host run, and make the place where a failed one leaves its last words.

    Of init's hooks too. 0 or -errno; without hooks nothing is done.
    """
    cdef const plan_oci *oci = plan_oci_of(w.data)
    cdef void *memory
    w.hook_report = NULL
    w.hook_fd = -1
    if oci == NULL or oci.hook_count == 0:
        return 0
    if oci.bundle != <uint32_t>NONE and chdir(text(w, oci.bundle)) < 0:
        return -errno
    w.hook_fd = <int>_rc(syscall(SYS_memfd_create, b"hook", MFD_CLOEXEC))
    if w.hook_fd < 0:
        return w.hook_fd
    if ftruncate(w.hook_fd, sizeof(hook_end)) < 0:
        return -errno
    memory = mmap(NULL, sizeof(hook_end), PROT_READ | PROT_WRITE, MAP_SHARED, w.hook_fd, 0)
    if memory == MAP_FAILED:
        return -errno
    w.hook_report = memory
    return 0


cdef inline int hook_error(const hook_end *end) noexcept nogil:
    """How a hook ended as one negative number, 0 if well."""
    if not end.failed:
        return 0
    if end.timed_out:
        return -ETIMEDOUT
    if end.error:
        return end.error
    if end.status & 0x7F:
        return -(<int>HOOK_SIGNALED + (end.status & 0x7F))
    return -(<int>HOOK_EXITED + (end.status >> 8 & 0xFF))


cdef inline int run_one_hook(walk *w, const plan_oci *oci, uint32_t number, uint32_t index, const char *status, int pid, int pidfd,
                             int interrupt) noexcept nogil:
    """Run the hook *number* of the plan, the *index*-th of its kind, and tell it that the container is *status*.

    One that belongs to the creation of the container with *pidfd* ends with it: else whoever removes that had to wait.
    So it does when *interrupt*, unless -1, can be read.
    """
    cdef const plan_oci_hook *one = &(<const plan_oci_hook *>(w.data + oci.hooks_off))[number]
    cdef hook_program hook
    cdef hook_end own
    cdef hook_end *end = <hook_end *>w.hook_report if w.hook_report != NULL else &own
    cdef iovec_t state[5]
    cdef char digits[24]
    cdef const char *before_pid = text(w, oci.hook_state[1])
    cdef int i
    hook.path = text(w, one.path)
    hook.argv = text(w, one.argv)
    hook.argc = one.argc
    hook.env = text(w, one.env) if one.envc != <uint32_t>HOOK_INHERITS else NULL
    hook.envc = one.envc
    hook.timeout_s = one.timeout_s
    # Before pivot_root, so that it finds the root without knowing its path.
    hook.directory = w.root if one.kind == <uint32_t>HOOK_CREATE_CONTAINER else -1
    hook.in_init = one.kind == <uint32_t>HOOK_CREATE_CONTAINER or one.kind == <uint32_t>HOOK_START_CONTAINER
    hook.container = pidfd if one.kind < <uint32_t>HOOK_POSTSTART else -1
    hook.interrupt = interrupt
    # What belongs to a creation ends with its creator; what is started or cleaned up is brought to its end.
    hook.guarded = one.kind <= <uint32_t>HOOK_CREATE_CONTAINER
    # What the runtime was called with is none of a container's business.
    hook.inherited = w.env if hook.in_init else environ
    if one.kind == <uint32_t>HOOK_CREATE_CONTAINER and one.envc == <uint32_t>HOOK_INHERITS:
        # A program of the host's, with the host's rights: no LD_PRELOAD of the container's is for it (CVE-2025-23266).
        hook.envc = 0
    put_decimal(digits, <uint64_t>pid)
    if pid == 0:
        # There is none in the state of a stopped container, as runc has it.
        before_pid = b"\""
        digits[0] = 0
    state[0].iov_base = <void *>text(w, oci.hook_state[0])
    state[1].iov_base = <void *>status
    state[2].iov_base = <void *>before_pid
    state[3].iov_base = <void *>digits
    state[4].iov_base = <void *>text(w, oci.hook_state[2])
    for i in range(5):
        state[i].iov_len = strlen(<const char *>state[i].iov_base)
    run_hook(&hook, state, 5, end)
    end.index = index
    return hook_error(end)


cdef inline int oci_run_hooks(walk *w, uint32_t kind, const char *status, int pid, int pidfd, int interrupt,
                              uint32_t *index) noexcept nogil:
    """Run the front door's hooks of *kind* in their order; 0, or how the first one failed, which is *index*.

    It ends its kind, but not poststop: what is to be cleaned up by others is not kept by one.
    """
    cdef const plan_oci *oci = plan_oci_of(w.data)
    cdef const plan_oci_hook *hooks = <const plan_oci_hook *>(w.data + oci.hooks_off)
    cdef void *report = w.hook_report
    cdef uint32_t number = 0
    cdef uint32_t i
    cdef int first = 0
    cdef int rc
    index[0] = 0
    for i in range(oci.hook_count):
        if hooks[i].kind != kind:
            continue
        rc = run_one_hook(w, oci, i, number, status, pid, pidfd, interrupt)
        if rc < 0 and first == 0:
            first = rc
            index[0] = number
            if kind != <uint32_t>HOOK_POSTSTOP:
                break
            w.hook_report = NULL    # the first one's stays
        number += 1
    w.hook_report = report
    return first


cdef inline int oci_hook_step(walk *w, const plan_step *step) noexcept nogil:
    """Run, in init, the hook *n0* of the plan; the state that it is told has the pid by which its own namespace knows init."""
    cdef const plan_oci *oci = plan_oci_of(w.data)
    cdef const plan_oci_hook *hooks = <const plan_oci_hook *>(w.data + oci.hooks_off)
    cdef uint32_t number = <uint32_t>step.n0
    cdef uint32_t index = 0
    while index < number and hooks[number - index - 1].kind == hooks[number].kind:
        index += 1
    return run_one_hook(w, oci, number, index, b"created" if hooks[number].kind == <uint32_t>HOOK_START_CONTAINER else b"creating", getpid(), -1, -1)
