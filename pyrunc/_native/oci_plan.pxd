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


cdef inline int keep_preserved(oci_run *r) noexcept nogil:
    """See that the descriptors are open that the program gets, and that the plan's is none of them."""
    cdef uint32_t i
    cdef int moved = <int>_rc(fcntl(r.plan_fd, F_DUPFD_CLOEXEC, first_closed(&r.w)))
    if moved < 0:
        return fail(r, b"preserve", moved)
    close(r.plan_fd)
    r.plan_fd = moved
    for i in range(r.plan.preserve_fds):
        if fcntl(3 + i, F_GETFD) < 0:
            r.status = 3 + i
            return fail(r, b"preserve", -EBADF)
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
    rc = keep_preserved(&r)
    if rc < 0:
        return give_up(&r)
    keep[0] = r.plan_fd
    close_above(&r.w, keep, 1)
    if r.plan.flags & OCI_EXEC:
        return oci_exec_plan(&r)
    return oci_create_plan(&r)
