# cython: cdivision=True, boundscheck=False
# From the descriptor of a request to a plan that can be walked.

from pyrunc._native.linux cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_rules cimport plan_validate
from pyrunc._native.steps cimport *

cdef enum:
    SEALS = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE


cdef inline int load_plan(walk *w, int plan_fd, uint32_t fds) noexcept nogil:
    """Map the sealed plan, validate it, and lay out argv and the environment for execve."""
    cdef stat_t status
    cdef const uint32_t *table
    cdef char **pointers
    cdef uint64_t count
    cdef uint32_t i
    cdef int rc
    cdef long seals = fcntl(plan_fd, F_GET_SEALS)
    if seals < 0 or seals & SEALS != SEALS:
        return -EPERM               # an unsealed plan could change after its validation
    if fstat(plan_fd, &status) < 0:
        return -errno
    if status.st_size < <off_t>sizeof(plan_header) or status.st_size > PLAN_MAX_SIZE:
        return -EMSGSIZE
    w.data = <const unsigned char *>mmap(NULL, <size_t>status.st_size, PROT_READ, MAP_PRIVATE, plan_fd, 0)
    if <void *>w.data == MAP_FAILED:
        w.data = NULL
        return -errno
    w.data_size = <size_t>status.st_size
    rc = plan_validate(w.data, <uint64_t>status.st_size, fds)
    if rc < 0:
        return rc
    w.header = <const plan_header *>w.data
    w.steps = <const plan_step *>(w.data + w.header.steps_off)
    w.strings = <const char *>w.data + w.header.strings_off
    count = <uint64_t>w.header.argv_count + w.header.env_count + 2
    pointers = <char **>mmap(NULL, count * sizeof(char *), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if <void *>pointers == MAP_FAILED:
        return -errno
    w.argv = pointers
    w.argv_size = count * sizeof(char *)
    table = <const uint32_t *>(w.data + w.header.argv_off)
    for i in range(w.header.argv_count):
        pointers[i] = <char *>w.strings + table[i]
    w.env = pointers + w.header.argv_count + 1
    table = <const uint32_t *>(w.data + w.header.env_off)
    for i in range(w.header.env_count):
        w.env[i] = <char *>w.strings + table[i]
    return 0
