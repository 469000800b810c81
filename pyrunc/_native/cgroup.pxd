# cython: cdivision=True, boundscheck=False
# Directories of control groups, made and removed by descriptor below their hierarchy.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup_home cimport *


cdef enum:
    MAKE_ATTEMPTS = 256             # a parent that others remove again and again is made as often
    CPUSET_LEVELS = 32              # how far up one that has cpus and mems is looked for


cdef inline bint c_removed(int rc) noexcept nogil:
    """Whether a call failed because a directory on its way is gone, or is just going (kernfs says ENODEV then)."""
    return rc == -ENOENT or rc == -ENODEV


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


cdef inline int c_join_path(const char *hierarchy, const char *path, char *buffer, size_t size) noexcept nogil:
    """*hierarchy* followed by the absolute *path*; its length or -ENAMETOOLONG."""
    cdef size_t a = strlen(hierarchy)
    cdef size_t b = strlen(path)
    if a + b + 1 > size:
        return -ENAMETOOLONG
    memcpy(buffer, hierarchy, a)
    memcpy(buffer + a, path, b + 1)
    return <int>(a + b)


cdef inline int c_cgroup_parents(const char *hierarchy, const char *path, const char *enable, bint seed_cpuset,
                                 char *buffer, size_t size) noexcept nogil:
    """Make what is missing above the cgroup *path* and enable controllers on the way; 0 or -errno.

    What it makes bears a mark, so that whoever leaves it empty knows that it may go.
    *enable* is written to cgroup.subtree_control of every directory above the last (v2), unless NULL.
    """
    cdef size_t i
    cdef int rc
    cdef int child
    cdef int parent
    cdef int length = c_join_path(hierarchy, path, buffer, size)
    if length < 0:
        return length
    parent = <int>_rc(openat(AT_FDCWD, hierarchy, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    i = strlen(hierarchy)
    while parent >= 0:
        if enable != NULL:
            rc = write_file_at(parent, b"cgroup.subtree_control", enable)
            if rc < 0:
                close(parent)
                return rc
        i += 1
        while buffer[i] != 0 and buffer[i] != c'/':
            i += 1
        if buffer[i] == 0:
            close(parent)
            return 0
        buffer[i] = 0
        rc = <int>_rc(mkdirat(AT_FDCWD, buffer, 0o755))
        child = <int>_rc(openat(AT_FDCWD, buffer, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)) if rc == 0 or rc == -EEXIST else rc
        if rc == 0 and child >= 0:
            fsetxattr(child, b"trusted.pyrunc", b"1", 1, 0)
        if rc == 0 and child >= 0 and seed_cpuset:
            rc = c_seed_cpuset(parent, child)
            if rc == 0:
                # What is made below inherits cpus and mems: no start has to copy them again.
                rc = write_file_at(child, b"cgroup.clone_children", b"1")
            if rc < 0:
                close(child)
                child = rc
        close(parent)
        buffer[i] = c'/'
        parent = child
    return parent


cdef inline int write_file_at(int dirfd, const char *name, const char *value) noexcept nogil:
    cdef int rc
    cdef int fd = <int>_rc(openat(dirfd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW))
    if fd < 0:
        return fd
    rc = 0 if write(fd, value, strlen(value)) >= 0 else -errno
    close(fd)
    return rc


cdef inline int c_cgroup_make(const char *hierarchy, const char *path, const char *enable, bint cpuset,
                              bint seed, bint existing, cgroup_homes *homes, char *buffer, size_t size,
                              int *made) noexcept nogil:
    """Make the cgroup *path* below *hierarchy*, with its parents if need be; 0, or -errno.

    *made* tells whether it is new. An existing one is refused with -EEXIST unless *existing*.
    Of a v1 *cpuset* the parents are given cpus and mems, and with *seed* the cgroup itself.
    *homes*, if given, remember the directory above for the next one.
    """
    cdef int rc = c_join_path(hierarchy, path, buffer, size)
    cdef const char *name
    cdef int home = AT_FDCWD
    cdef int attempt
    made[0] = 0
    if rc < 0:
        return rc
    home = c_at_home(homes, buffer, &name)
    rc = <int>_rc(mkdirat(home, name, 0o755)) if enable == NULL else -ENOENT
    if home != AT_FDCWD and rc < 0:
        # Removed meanwhile, maybe: what its path says counts.
        c_leave_home(homes, home)
        home = AT_FDCWD
        rc = <int>_rc(mkdirat(AT_FDCWD, buffer, 0o755))
    for attempt in range(MAKE_ATTEMPTS):
        if not c_removed(rc):
            break
        # The first container below this parent, or the last one's end just removed it.
        rc = c_cgroup_parents(hierarchy, path, enable, cpuset, buffer, size)
        if rc == 0:
            rc = <int>_rc(mkdirat(AT_FDCWD, buffer, 0o755))
    if rc == 0:
        made[0] = 1
    elif rc != -EEXIST or not existing:
        return rc
    if homes != NULL and home == AT_FDCWD:
        c_keep_home(homes, buffer)
    return c_seed_below(buffer) if seed and made[0] else 0


cdef inline int c_seed_from_above(int directory, int levels) noexcept nogil:
    """Give an open cpuset what the one above it has, where it has nothing; that one first, if it is empty too.

    An empty one above may be for good: whoever made it was killed before it could fill it.
    """
    cdef char value[8]
    cdef int mems
    cdef int rc
    cdef int parent = <int>_rc(openat(directory, b"..", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    if parent < 0:
        return parent
    mems = openat(parent, b"cpuset.mems", O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
    if mems >= 0:
        # Of the two this is filled last. The root's is never empty.
        if read(mems, value, sizeof(value)) <= 1 and levels > 0:
            c_seed_from_above(parent, levels - 1)
        close(mems)
    rc = c_seed_cpuset(parent, directory)
    close(parent)
    return rc


cdef inline int c_seed_below(const char *directory) noexcept nogil:
    """Give the cpuset *directory* what the one above it has, where it has nothing."""
    cdef int rc
    cdef int fd = <int>_rc(openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW))
    if fd < 0:
        return fd
    rc = c_seed_from_above(fd, CPUSET_LEVELS)
    close(fd)
    return rc


cdef inline const char *first_directory(int directory, char *entries, size_t size) noexcept nogil:
    """The name of any one directory in *directory*, kept in *entries*; NULL if there is none (getdents64(2))."""
    cdef long got
    cdef long at
    cdef const char *name
    lseek(directory, 0, 0)
    while True:
        got = syscall(SYS_getdents64, directory, entries, size)
        if got <= 0:
            return NULL
        at = 0
        while at < got:             # inode, offset: 8 bytes each; length: 2; type: 1; name
            name = entries + at + 19
            if entries[at + 18] == 4 and strcmp(name, b".") != 0 and strcmp(name, b"..") != 0:
                return name
            at += (<unsigned char>entries[at + 16]) | (<unsigned char>entries[at + 17]) << 8


cdef inline void c_cgroup_empty(const char *path) noexcept nogil:
    """Remove what a container that may write to its cgroup has made below it, however deep."""
    cdef char entries[2048]
    cdef const char *name
    cdef int next
    cdef int move
    cdef int depth = 0
    cdef int at = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
    for move in range(4096):        # the caller tries again
        if at < 0:
            return
        name = first_directory(at, entries, sizeof(entries))
        if name == NULL and depth == 0:
            break
        if name != NULL and unlinkat(at, name, AT_REMOVEDIR) == 0:
            continue
        depth += 1
        if name == NULL:            # nothing is left here: up again
            name = b".."
            depth -= 2
        next = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        close(at)
        at = next
    close(at)


cdef inline void c_cgroup_prune(const char *hierarchy, const char *path, char *buffer, size_t size) noexcept nogil:
    """Remove the directories above the cgroup *path* that a start has made, as long as nobody uses them any more.

    It need not be this container's start: the last of those that share a parent removes it.
    """
    cdef char mark
    cdef int at = c_join_path(hierarchy, path, buffer, size)
    while at > 0:
        while at > 0 and buffer[at] != c'/':
            at -= 1
        buffer[at] = 0
        if getxattr(buffer, b"trusted.pyrunc", &mark, 1) != 1 or unlinkat(AT_FDCWD, buffer, AT_REMOVEDIR) < 0:
            return


cdef inline int c_cgroup_kill(int directory) noexcept nogil:
    """SIGKILL every process of one cgroup, by its own list; how many there were, or -errno."""
    cdef char text[4096]
    cdef ssize_t length
    cdef ssize_t i
    cdef int found = 0
    cdef int pid = 0
    cdef int fd = <int>_rc(openat(directory, b"cgroup.procs", O_RDONLY | O_CLOEXEC | O_NOFOLLOW))
    if fd < 0:
        return fd
    while True:
        length = read(fd, text, sizeof(text))
        if length <= 0:
            break
        for i in range(length):
            if text[i] == c'\n':
                if pid > 1:         # 0 is a process of another pid namespace
                    kill(pid, SIGKILL)
                found += 1
                pid = 0
            else:
                pid = pid * 10 + (text[i] - c'0')
    close(fd)
    return found


cdef inline uint32_t c_read_counter(int directory, const char *name, const char *key) noexcept nogil:
    """The number behind "*key*" at the start of a line of a cgroup's file; 0 if it is not there."""
    cdef char text[1024]
    cdef ssize_t length
    cdef ssize_t i = 0
    cdef size_t size = strlen(key)
    cdef uint32_t value = 0
    cdef int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
    if fd < 0:
        return 0
    length = read(fd, text, sizeof(text) - 1)
    close(fd)
    if length <= 0:
        return 0
    text[length] = 0
    while i + <ssize_t>size < length:
        if memcmp(text + i, key, size) == 0:
            i += <ssize_t>size
            while c'0' <= text[i] <= c'9':
                value = value * 10 + <uint32_t>(text[i] - c'0')
                i += 1
            return value
        while i < length and text[i] != c'\n':
            i += 1
        i += 1
    return 0
