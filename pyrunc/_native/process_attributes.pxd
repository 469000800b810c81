# cython: cdivision=True, boundscheck=False
# What the kernel keeps of a process beyond ids and limits, and hands on to what it executes: how it is scheduled,
# where it runs and has its memory, and what machine uname(2) tells it of.

from pyrunc._native.linux cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *

cdef enum:
    IOPRIO_WHO_PROCESS = 1


cdef inline const void *blob_at(walk *w, uint64_t offset) noexcept nogil:
    return w.data + w.header.blob_off + offset


cdef inline int attribute_step(walk *w, const plan_step *step) noexcept nogil:
    """One of OP_SCHEDULER to OP_AFFINITY, for this process; 0 or -errno."""
    if step.op == OP_SCHEDULER:
        # The size is in the structure itself; what stays 0 of a longer one the kernel has changes nothing.
        return <int>_rc(syscall(SYS_sched_setattr, 0, blob_at(w, step.n0), 0))
    if step.op == OP_IO_PRIORITY:
        return <int>_rc(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, step.n0))
    if step.op == OP_PERSONALITY:
        return <int>_rc(syscall(SYS_personality, step.n0))
    if step.op == OP_MEMORY_POLICY:
        # One more than there are bits: the kernel has always looked at one less than it is told.
        return <int>_rc(syscall(SYS_set_mempolicy, step.n0, NULL if step.n2 == 0 else blob_at(w, step.n1), step.n2 * 64 + 1))
    return <int>_rc(syscall(SYS_sched_setaffinity, 0, step.n1 * 8, blob_at(w, step.n0)))
