# cython: cdivision=True, boundscheck=False
# How the supervisor ends a container that does not end by itself.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.cgroup_end cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *


cdef inline int open_cgroup(walk *w, const plan_step *step) noexcept nogil:
    """The directory that an OP_CGROUP_MKDIR has made."""
    cdef int rc = c_join_path(text(w, step.s0), text(w, step.s1), w.path, sizeof(w.path))
    return rc if rc < 0 else <int>_rc(openat(AT_FDCWD, w.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW))


cdef inline void thaw(walk *w) noexcept nogil:
    """Let a signal reach what the v1 freezer holds; a container that may write to its cgroups can freeze itself.

    Whoever could freeze it anew is killed on the way, but not in a cgroup that others share.
    """
    cdef const plan_step *step
    cdef uint32_t i
    cdef int directory
    for i in range(w.header.step_count):
        step = &w.steps[i]
        if step.op == OP_CGROUP_MKDIR:
            directory = open_cgroup(w, step)
            if directory >= 0 and write_at(directory, b"freezer.state", b"THAWED") == 0:
                c_cgroup_end(directory, not step.flags & F_EXISTING)
            close(directory)
        elif step.op == OP_OPEN and step.flags & F_EXISTING:
            # The freezer of a container that was joined. It is the container's, and whoever is in it lives on.
            if w.slots[step.slot_a] >= 0 and write_at(w.slots[step.slot_a], b"freezer.state", b"THAWED") == 0:
                c_cgroup_end(w.slots[step.slot_a], False)


cdef inline void kill_container(walk *w, int pidfd) noexcept nogil:
    """End init, and whatever shares its cgroup where the pid namespace is not its own.

    Of a program in a container of another's, only that program.
    """
    if w.header.cgroup_slot != <uint32_t>NONE and not w.header.flags & PLAN_EXEC:
        write_at(w.slots[w.header.cgroup_slot], b"cgroup.kill", b"1")   # Linux 5.14
    syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
    thaw(w)
    w.dying = True


cdef inline void kill_stragglers(walk *w) noexcept nogil:
    """Kill every process of the container's cgroup, again until none forks away from under it."""
    cdef const plan_step *step
    cdef timespec pause
    cdef uint32_t i
    cdef int directory
    cdef int attempt
    pause.tv_sec = 0
    pause.tv_nsec = 1000000
    for i in range(w.header.step_count):
        step = &w.steps[i]
        if step.op == OP_CGROUP_MKDIR and not step.flags & F_EXISTING:
            directory = open_cgroup(w, step)
            for attempt in range(1000):
                if c_cgroup_end(directory, True) <= 0:
                    break
                nanosleep(&pause, NULL)
            close(directory)
            return
