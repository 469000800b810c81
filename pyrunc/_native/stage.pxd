# cython: cdivision=True, boundscheck=False
# The stage: a process between supervisor and init, where a plan has steps that neither of the two can do. What is
# joined before init is born (a user namespace, and others that belong to the host while it is new) the supervisor
# could never leave; time offsets can only be set while nobody is in their namespace. It lives until init does.

from pyrunc._native.linux cimport *
from pyrunc._native.container_init cimport *
from pyrunc._native.host_steps cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *


cdef struct staged:
    int pid                         # init's, or -errno
    uint32_t step                   # the one that failed, or NONE


cdef inline bint has_stage(walk *w) noexcept nogil:
    # Its section is the last.
    return w.steps[w.header.step_count - 1].section == <uint32_t>SECTION_STAGE


cdef inline bint stage_joins_user(walk *w) noexcept nogil:
    """Whether init is born in a user namespace that exists already."""
    cdef uint32_t i = w.header.step_count
    while i > 0:
        i -= 1
        if w.steps[i].section != <uint32_t>SECTION_STAGE:
            break
        if w.steps[i].op == OP_SETNS and w.steps[i].n0 & <uint64_t>CLONE_NEWUSER:
            return True
    return False


cdef inline int stage_steps(walk *w, uint32_t *failed) noexcept nogil:
    cdef const plan_step *step
    cdef uint32_t i
    cdef int rc
    for i in range(w.header.step_count):
        step = &w.steps[i]
        if step.section != <uint32_t>SECTION_STAGE:
            continue
        rc = proc_write_step(w, step, getpid()) if step.op == OP_WRITE_PROC else init_step(w, step)
        if rc < 0:
            failed[0] = i
            return rc
    # A user namespace that was joined may have made it what fs.suid_dumpable says; who is in there shall not look.
    return <int>_rc(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


cdef inline int clone_staged(walk *w, clone_args *args) noexcept nogil:
    """clone3 of init, as *args* have it, by a stage that takes the plan's steps first; 0 in init.

    Init is a child of the supervisor's all the same (CLONE_PARENT), and not ended by a signal of the stage's.
    """
    cdef clone_args own
    cdef staged said
    cdef int ends[2]
    cdef int *pidfd = <int *>args.pidfd
    cdef int stage
    cdef int rc = <int>_rc(pipe2(ends, O_CLOEXEC))
    if rc < 0:
        return rc
    memset(&own, 0, sizeof(own))
    # In the cgroup from the start: once in a user namespace the stage might not be allowed to put anyone there.
    own.flags = args.flags & CLONE_INTO_CGROUP
    own.cgroup = args.cgroup
    own.exit_signal = <uint64_t>SIGCHLD
    said.pid = -ECHILD              # it was killed before it could say more
    said.step = <uint32_t>NONE
    stage = <int>_rc(syscall(NR_clone3, &own, sizeof(own)))
    if stage == 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        close(ends[0])
        said.pid = stage_steps(w, &said.step)
        if said.pid == 0:
            args.flags = args.flags & ~(CLONE_INTO_CGROUP | <uint64_t>CLONE_PIDFD) | <uint64_t>CLONE_PARENT
            args.exit_signal = 0
            said.pid = <int>_rc(syscall(NR_clone3, args, sizeof(clone_args)))
            if said.pid == 0:
                close(ends[1])
                return 0
        write(ends[1], &said, sizeof(said))
        _exit(0)
    close(ends[1])
    if stage > 0:
        while read(ends[0], &said, sizeof(said)) < 0 and errno == EINTR:
            pass
        while wait4(stage, NULL, 0, NULL) < 0 and errno == EINTR:
            pass
    else:
        said.pid = stage
    close(ends[0])
    w.stage_failed = said.step + 1  # NONE + 1 is 0
    if said.pid > 0:
        # A child of ours that nobody has waited for: no other can have its number.
        pidfd[0] = <int>_rc(syscall(NR_pidfd_open, said.pid, 0))
        if pidfd[0] < 0:
            kill(said.pid, SIGKILL)
            while wait4(said.pid, NULL, 0, NULL) < 0 and errno == EINTR:
                pass
            return pidfd[0]
    return said.pid
