# cython: cdivision=True, boundscheck=False
# The program of the image that ships: it greets, and tells what it sees of its isolation.
#
#   greeting TEXT           once, first
#   status LINE             of /proc/self/status: ids, capabilities, seccomp, no_new_privs
#   hostname NAME
#   interface LINE          of /proc/self/net/dev, one for each network interface
#   cgroup LINE             of /proc/self/cgroup
#   namespace KIND:[INODE]  of /proc/self/ns
#   mount LINE              of /proc/self/mountinfo

from pyrunc._native.linux cimport *

cdef extern from "<unistd.h>":
    ssize_t readlink(const char *path, char *buffer, size_t size) nogil


cdef struct printer:
    size_t used
    bint failed
    char buffer[4096]


cdef inline void flush(printer *out) noexcept nogil:
    cdef size_t done = 0
    cdef ssize_t written
    while done < out.used and not out.failed:
        written = write(1, out.buffer + done, out.used - done)
        if written > 0:
            done += <size_t>written
        elif written == 0 or errno != EINTR:
            out.failed = True
    out.used = 0


cdef inline void put(printer *out, const char *text, size_t length) noexcept nogil:
    cdef size_t i
    for i in range(length):
        if out.used == sizeof(out.buffer):
            flush(out)
        out.buffer[out.used] = text[i]
        out.used += 1


cdef inline void put_line(printer *out, const char *key, const char *text, size_t length) noexcept nogil:
    put(out, key, strlen(key))
    put(out, b" ", 1)
    put(out, text, length)
    put(out, b"\n", 1)


cdef inline bint wanted(const char *line, const char *prefixes) noexcept nogil:
    """Whether *line* begins with one of the *prefixes*, which are separated by spaces; none: any line."""
    cdef size_t i = 0
    cdef size_t at = 0
    if prefixes == NULL:
        return True
    while prefixes[i] != 0:
        at = 0
        while prefixes[i] != 0 and prefixes[i] != c' ' and prefixes[i] == line[at]:
            i += 1
            at += 1
        if prefixes[i] == 0 or prefixes[i] == c' ':
            return True
        while prefixes[i] != 0 and prefixes[i] != c' ':
            i += 1
        if prefixes[i] == c' ':
            i += 1
    return False


cdef inline void put_file(printer *out, const char *key, const char *path, const char *prefixes,
                          int skipped) noexcept nogil:
    """The lines of a file after the first *skipped* ones, if their prefix is *wanted*; a longer line is cut at 4095 bytes."""
    cdef char line[4096]
    cdef char chunk[4096]
    cdef size_t length = 0
    cdef ssize_t got
    cdef ssize_t i
    cdef int fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return
    while True:
        got = read(fd, chunk, sizeof(chunk))
        if got <= 0:
            break
        for i in range(got):
            if chunk[i] != c'\n':
                if length < sizeof(line) - 1:
                    line[length] = chunk[i]
                    length += 1
                continue
            line[length] = 0
            if skipped > 0:
                skipped -= 1
            elif wanted(line, prefixes):
                put_line(out, key, line, length)
            length = 0
    close(fd)


cdef inline void put_namespace(printer *out, const char *path) noexcept nogil:
    cdef char name[64]
    cdef ssize_t length = readlink(path, name, sizeof(name))
    if length > 0:
        put_line(out, b"namespace", name, <size_t>length)


cdef inline int hello() noexcept nogil:
    """Print the greeting and the report; the exit status."""
    cdef printer out
    cdef const char *greeting = b"Hello from a container that pyrunc started."
    out.used = 0
    out.failed = False
    put_line(&out, b"greeting", greeting, strlen(greeting))
    put_file(&out, b"status", b"/proc/self/status", b"Pid: Uid: Gid: NoNewPrivs: Seccomp: CapInh: CapPrm: CapEff: CapBnd: CapAmb:", 0)
    put_file(&out, b"hostname", b"/proc/sys/kernel/hostname", NULL, 0)
    put_file(&out, b"interface", b"/proc/self/net/dev", NULL, 2)
    put_file(&out, b"cgroup", b"/proc/self/cgroup", NULL, 0)
    put_namespace(&out, b"/proc/self/ns/cgroup")
    put_namespace(&out, b"/proc/self/ns/ipc")
    put_namespace(&out, b"/proc/self/ns/mnt")
    put_namespace(&out, b"/proc/self/ns/net")
    put_namespace(&out, b"/proc/self/ns/pid")
    put_namespace(&out, b"/proc/self/ns/user")
    put_namespace(&out, b"/proc/self/ns/uts")
    put_file(&out, b"mount", b"/proc/self/mountinfo", NULL, 0)
    flush(&out)
    return 1 if out.failed else 0
