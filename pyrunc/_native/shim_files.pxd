# cython: cdivision=True, boundscheck=False
# What the shim leaves in the container's state directory: who runs, and how it has ended. One line of JSON each.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.process_stat cimport *
from pyrunc._native.steps cimport *

cdef enum:
    LINE_ROOM = 512                 # ten numbers with their names

cdef struct line:
    size_t size
    char text[LINE_ROOM]


cdef inline void put_text(line *to, const char *words) noexcept nogil:
    cdef size_t length = strlen(words)
    if to.size + length < LINE_ROOM:
        memcpy(to.text + to.size, words, length)
        to.size += length


cdef inline void put_value(line *to, const char *name, uint64_t value) noexcept nogil:
    """Append `"name":value`, after a comma unless it is the first."""
    cdef char digits[24]
    cdef int at = 23
    put_text(to, b"{\"" if to.size == 0 else b",\"")
    put_text(to, name)
    put_text(to, b"\":")
    digits[at] = 0
    while value > 0 or at == 23:
        at -= 1
        digits[at] = <char>(48 + value % 10)
        value = value / 10
    put_text(to, digits + at)


cdef inline uint64_t realtime_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef inline int replace_file(int directory, const char *name, const char *temporary, line *content) noexcept nogil:
    """Whoever looks finds the whole line or nothing."""
    cdef int rc
    # Not truncated before: what is reserved stays so.
    cdef int fd = <int>_rc(openat(directory, temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600))
    if fd < 0:
        return fd
    put_text(content, b"\n")
    content.text[content.size] = 0
    rc = write_all(fd, content.text)
    if rc == 0:
        rc = <int>_rc(ftruncate(fd, <off_t>content.size))
    close(fd)
    if rc == 0:
        rc = <int>_rc(renameat(directory, temporary, directory, name))
    if rc < 0:
        unlinkat(directory, temporary, 0)
    return rc


cdef inline void reserve_file(int directory, const char *temporary) noexcept nogil:
    """Take the space for a line that is to be written when the disk may be full."""
    cdef char nothing[LINE_ROOM]
    cdef int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
    if fd >= 0:
        memset(nothing, 0, sizeof(nothing))
        write(fd, nothing, sizeof(nothing))
        close(fd)


cdef inline void describe_running(line *to, int pid, int shim) noexcept nogil:
    """Who the container's init *pid* and its *shim* are, as JSON."""
    to.size = 0
    put_value(to, b"pid", <uint64_t>pid)
    put_value(to, b"pid_started", start_time(pid))
    put_value(to, b"shim", <uint64_t>shim)
    put_value(to, b"shim_started", start_time(shim))
    put_value(to, b"started_ns", realtime_ns())
    put_text(to, b"}")


cdef inline int write_running(int directory, int pid, int shim) noexcept nogil:
    """Say who the container's init *pid* and its *shim* are."""
    cdef line content
    describe_running(&content, pid, shim)
    return replace_file(directory, b"running", b".running", &content)


cdef inline void describe_end(line *to, const record *report, uint64_t dropped) noexcept nogil:
    """How it ended, as JSON; *dropped* records of its log could not be written."""
    cdef int number = report.wait_status & 0x7F
    to.size = 0
    put_value(to, b"exit_code", <uint64_t>(128 + number if number else report.wait_status >> 8 & 0xFF))
    put_value(to, b"signal", <uint64_t>number)
    put_value(to, b"oom_kills", report.oom_kills)
    put_value(to, b"finished_ns", realtime_ns())
    put_value(to, b"utime_us", report.utime_us)
    put_value(to, b"stime_us", report.stime_us)
    put_value(to, b"maxrss_bytes", report.maxrss_bytes)
    put_value(to, b"log_dropped", dropped)
    put_value(to, b"cgroups_left", 1 if report.leftover else 0)
    put_text(to, b"}")
