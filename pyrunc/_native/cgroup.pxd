# cython: cdivision=True, boundscheck=False
# Directories of control groups, made and removed by descriptor below their hierarchy.

from pyrunc._native.linux cimport *


cdef inline int c_copy_file(int from_dir, int to_dir, const char *name) noexcept nogil:
    """Copy one small kernel file between two cgroups, if the target's is empty (v1 cpuset starts so)."""
    cdef char value[4096]
    cdef ssize_t length
    cdef ssize_t written
    cdef int fd = <int>_rc(openat(to_dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW))
    cdef int source
    if fd < 0:
        return fd
    length = read(fd, value, sizeof(value))
    if length > 1:
        close(fd)
        return 0
    source = <int>_rc(openat(from_dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW))
    if source < 0:
        close(fd)
        return source
    length = read(source, value, sizeof(value))
    close(source)
    written = write(fd, value, <size_t>length) if length > 0 else length
    if written < 0:
        written = -errno
    close(fd)
    return 0 if written >= 0 else <int>written


cdef inline int c_seed_cpuset(int parent, int child) noexcept nogil:
    cdef int rc = c_copy_file(parent, child, b"cpuset.cpus")
    return rc if rc < 0 else c_copy_file(parent, child, b"cpuset.mems")


cdef inline int c_cgroup_make(const char *hierarchy, const char *path, const char *enable, bint seed_cpuset,
                              bint existing, char *buffer, size_t size, int *made) noexcept nogil:
    """Make the cgroup *path* below *hierarchy* with its parents; returns a descriptor of its directory.

    *enable* is written to cgroup.subtree_control of every parent unless NULL (v2). *made* tells
    whether the last directory is new. An existing one is refused with -EEXIST unless *existing*.
    """
    cdef size_t i = 0
    cdef size_t start
    cdef size_t length = strlen(path)
    cdef int rc
    cdef int child
    cdef int fd
    cdef bint last
    cdef int parent = <int>_rc(open(hierarchy, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    made[0] = 0
    if parent < 0:
        return parent
    if length + 1 > size:
        close(parent)
        return -ENAMETOOLONG
    memcpy(buffer, path, length + 1)
    while length > 0 and buffer[length - 1] == c'/':
        length -= 1
        buffer[length] = 0
    while True:
        while buffer[i] == c'/':
            i += 1
        start = i
        if buffer[i] == 0:
            return parent
        while buffer[i] != 0 and buffer[i] != c'/':
            i += 1
        last = buffer[i] == 0
        buffer[i] = 0
        if enable != NULL:
            fd = <int>_rc(openat(parent, b"cgroup.subtree_control", O_WRONLY | O_CLOEXEC | O_NOFOLLOW))
            if fd >= 0:
                rc = 0 if write(fd, enable, strlen(enable)) >= 0 else -errno
                close(fd)
                if rc < 0:
                    close(parent)
                    return rc
        rc = <int>_rc(mkdirat(parent, buffer + start, 0o755))
        if rc == 0:
            made[0] = 1
        elif rc != -EEXIST or (last and not existing):
            close(parent)
            return rc
        else:
            made[0] = 0
        child = <int>_rc(openat(parent, buffer + start, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW))
        if child == -ENOENT and not last:
            # A finishing container removed the parent we just saw; make it again.
            i = start
            if not last:
                buffer[i + strlen(buffer + i)] = c'/'
            continue
        if child >= 0 and seed_cpuset:
            rc = c_seed_cpuset(parent, child)
            if rc < 0:
                close(child)
                child = rc
        close(parent)
        if child < 0:
            return child
        if last:
            return child
        buffer[i] = c'/'
        parent = child


cdef inline int c_cgroup_remove(const char *hierarchy, const char *path, char *buffer, size_t size) noexcept nogil:
    """Remove one cgroup; a v1 cgroup stays busy for a moment after its last task is reaped."""
    cdef timespec pause
    cdef int attempt
    cdef int rc = 0
    cdef size_t a = strlen(hierarchy)
    cdef size_t b = strlen(path)
    if a + b + 1 > size:
        return -ENAMETOOLONG
    memcpy(buffer, hierarchy, a)
    memcpy(buffer + a, path, b + 1)
    pause.tv_sec = 0
    pause.tv_nsec = 200000
    for attempt in range(60):
        rc = <int>_rc(unlinkat(AT_FDCWD, buffer, AT_REMOVEDIR))
        if rc != -EBUSY:
            break
        nanosleep(&pause, NULL)
        if pause.tv_nsec < 20000000:
            pause.tv_nsec *= 2
    return 0 if rc == -ENOENT else rc
