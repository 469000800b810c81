# cython: cdivision=True, boundscheck=False
# What the front door does with a plan: create a container, run one, or run a program in one.

from pyrunc._native.linux cimport *
from pyrunc._native.joining cimport *
from pyrunc._native.loading cimport *
from pyrunc._native.oci_create cimport *
from pyrunc._native.oci_exec cimport *
from pyrunc._native.oci_python cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.signals cimport *


cdef inline int fill_preserved(oci_run *r) noexcept nogil:
    """Let none of our own descriptors stand among those that the program gets, where the caller has left gaps; 0 or -errno.

    Ours would only be closed by execve, which resolves its path first (CVE-2024-21626).
    """
    cdef int first = <int>first_closed(&r.w)
    cdef int fd
    cdef int rc
    if r.plan_fd < first:
        rc = <int>_rc(fcntl(r.plan_fd, F_DUPFD_CLOEXEC, first))
        if rc < 0:
            return rc
        close(r.plan_fd)
        r.plan_fd = rc
    for fd in range(3, first):
        if fcntl(fd, F_GETFD) < 0:
            # The lowest that is free; and nothing that leads anywhere.
            rc = <int>_rc(openat(AT_FDCWD, b"/dev/null", O_PATH | O_CLOEXEC))
            if rc < 0:
                return rc
    return 0


cdef inline int oci_run_plan(oci_place *here, int plan_fd) noexcept nogil:
    """Do what the sealed plan on the descriptor *plan_fd* says; the exit code of the command."""
    cdef oci_run r
    cdef uint32_t i
    cdef int keep[1]
    cdef int rc
    reset_signals()                 # Python has ignored one or two
    begin_run(&r, here, plan_fd)
    rc = load_plan(&r.w, plan_fd, 3)
    if rc == 0:
        r.plan = plan_oci_of(r.w.data)
        if r.plan == NULL:
            rc = -EINVAL
    if rc < 0:
        fail(&r, b"plan", rc)
        return give_up(&r)
    for i in range(3):
        r.w.slots[i] = <int>i
    rc = fill_preserved(&r)
    if rc < 0:
        fail(&r, b"preserve-fds", rc)
        return give_up(&r)
    keep[0] = r.plan_fd
    close_above(&r.w, keep, 1)
    fcntl(r.plan_fd, F_SETFD, FD_CLOEXEC)
    if r.plan.flags & OCI_EXEC:
        return oci_exec_plan(&r)
    return oci_create_plan(&r)
