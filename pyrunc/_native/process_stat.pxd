# cython: cdivision=True, boundscheck=False
# /proc/<pid>/stat: when a process was born, and whether it ever became a program. See proc_pid_stat(5).

from pyrunc._native.linux cimport *
from pyrunc._native.numbers cimport put_decimal

cdef enum:
    PF_FORKNOEXEC = 0x40            # linux/sched.h: cleared once execve(2) cannot fail any more; no program can set it
    STAT_ROOM = 1024
    STAT_FLAGS = 9                  # the numbers of fields
    STAT_THREADS = 20
    STAT_BORN = 22


cdef inline uint64_t number_in_stat(const char *stat, int wanted) noexcept nogil:
    """The field *wanted*; the second may hold spaces and parentheses."""
    cdef const char *at = strrchr(stat, c')')
    cdef uint64_t value = 0
    cdef int field = 2
    while at != NULL and at[0] != 0:
        if at[0] == c' ':
            field += 1
            if field > wanted:
                break
        elif field == wanted and c'0' <= at[0] <= c'9':
            value = value * 10 + <uint64_t>(at[0] - c'0')
        at += 1
    return value


cdef inline bint read_stat_at(int directory, const char *path, char *stat) noexcept nogil:
    """Read the file *path* into *stat*, which has STAT_ROOM; False if there is none."""
    cdef ssize_t length
    cdef int fd = openat(directory, path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return False
    length = read(fd, stat, STAT_ROOM - 1)
    close(fd)
    if length <= 0:
        return False
    stat[length] = 0
    return True


cdef inline bint read_stat(int pid, char *stat) noexcept nogil:
    """The same of the process *pid*."""
    cdef char path[32]
    memcpy(path, b"/proc/", 6)
    memcpy(path + 6 + put_decimal(path + 6, <uint64_t>pid), b"/stat", 6)
    return read_stat_at(AT_FDCWD, path, stat)


cdef inline uint64_t start_time(int pid) noexcept nogil:
    """When the process *pid* was born, in clock ticks since boot: with it, a number that is used anew is not taken for it."""
    cdef char stat[STAT_ROOM]
    return number_in_stat(stat, STAT_BORN) if read_stat(pid, stat) else 0
