# cython: cdivision=True, boundscheck=False
# The unit of systemd that a container is in, where --systemd-cgroup wants one.
#
# A scope begins with a process that is there already. It is one that only waits, until init was born beside it: so all
# is limited before init exists, as without systemd. It ends with the front door, and a scope in which nobody is ends
# by itself: whoever is killed leaves no unit.

from pyrunc._native.linux cimport *
from pyrunc._native.namespaces cimport c_clone3
from pyrunc._native.oci_system cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.signals cimport *
from pyrunc._native.steps cimport *
from pyrunc._native.systemd cimport *

cdef struct oci_unit:
    uint32_t step                   # 1 + the number of the step that made it; 0: none was made
    int holder                      # the process that waits in it, or 0
    int text_fd                     # what systemd has said of a failure, or -1


cdef inline void begin_unit(oci_unit *u) noexcept nogil:
    u.step = 0
    u.holder = 0
    u.text_fd = -1


cdef inline int hold_unit(oci_unit *u) noexcept nogil:
    """Start the process with which the unit begins; 0 or -errno."""
    cdef int parent = getpid()
    cdef int pidfd = -1
    cdef int pid = c_clone3(0, SIGCHLD, -1, &pidfd)
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        reset_signals()
        syscall(NR_close_range, 0, <unsigned int>0xFFFFFFFF, 0)
        while getppid() == parent:
            poll(NULL, 0, -1)
        _exit(0)
    if pid < 0:
        return pid
    close(pidfd)
    u.holder = pid
    return 0


cdef inline void let_unit_go(oci_unit *u) noexcept nogil:
    """End the process that waits in it: somebody else is in there, or nobody will be."""
    cdef int status
    if u.holder <= 0:
        return
    kill(u.holder, SIGKILL)
    while wait4(u.holder, &status, 0, NULL) < 0 and errno == EINTR:
        pass
    u.holder = 0


cdef inline const plan_unit *unit_of(walk *w, const plan_step *step) noexcept nogil:
    return <const plan_unit *>(w.data + w.header.blob_off + step.n0)


cdef inline const unsigned char *stop_call(const plan_unit *unit) noexcept nogil:
    return <const unsigned char *>unit + sizeof(plan_unit) + ((unit.start_size + 7) & ~<size_t>7)


cdef inline const unsigned char *reset_call(const plan_unit *unit) noexcept nogil:
    return stop_call(unit) + ((unit.stop_size + 7) & ~<size_t>7)


cdef inline void tell_unit(oci_unit *u, const bus_end *end) noexcept nogil:
    """Keep the words of a failure for who becomes Python."""
    u.text_fd = <int>_rc(syscall(SYS_memfd_create, b"unit", MFD_CLOEXEC))
    if u.text_fd >= 0 and write(u.text_fd, end.text, strlen(end.text)) < 0:
        close(u.text_fd)
        u.text_fd = -1


cdef inline int start_unit(walk *w, oci_unit *u, uint32_t number) noexcept nogil:
    """Have systemd make the unit of the step *number*, and wait until it has; 0 or -errno, as bus_call says."""
    cdef const plan_step *step = &w.steps[number]
    cdef const plan_unit *unit = unit_of(w, step)
    cdef const char *name = text(w, step.s1)
    cdef const char *place = text(w, step.s0)
    cdef unsigned char *call = <unsigned char *>anonymous(unit.start_size)
    cdef bus_end end
    cdef bus_end ignored
    cdef uint32_t pid
    cdef int rc
    if call == NULL:
        return -ENOMEM
    memcpy(call, <const unsigned char *>unit + sizeof(plan_unit), unit.start_size)
    if unit.pid_at:
        rc = hold_unit(u)
        if rc < 0:
            return rc
        pid = <uint32_t>u.holder
        memcpy(call + unit.pid_at, &pid, 4)
    rc = c_systemd_call(place, call, unit.start_size, name, &end)
    if rc == -EEXIST:
        # One that has failed stays until somebody has seen it; a living one is not touched by this.
        c_systemd_call(place, reset_call(unit), unit.reset_size, NULL, &ignored)
        rc = c_systemd_call(place, call, unit.start_size, name, &end)
    munmap(call, unit.start_size)
    if rc == 0 or rc == -ETIMEDOUT or rc == -ECANCELED:
        u.step = number + 1
    if rc < 0:
        tell_unit(u, &end)
    return rc


cdef inline void stop_unit(walk *w, oci_unit *u) noexcept nogil:
    """Have systemd forget the unit, if one was made; it may have done so already."""
    cdef const plan_step *step
    cdef const plan_unit *unit
    cdef bus_end end
    let_unit_go(u)
    if u.step == 0:
        return
    step = &w.steps[u.step - 1]
    unit = unit_of(w, step)
    c_systemd_call(text(w, step.s0), stop_call(unit), unit.stop_size, text(w, step.s1), &end)
    c_systemd_call(text(w, step.s0), reset_call(unit), unit.reset_size, NULL, &end)
    u.step = 0
