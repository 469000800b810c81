# cython: cdivision=True, boundscheck=False
# The end of whatever runs in a tree of cgroups. A container that may write to its cgroups can make some of its own,
# move its processes there and freeze them, which SIGKILL alone does not undo on v1.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *

cdef enum:
    END_DIRECTORIES = 65536         # visited at most
    END_DEPTH = 16384               # below each other at most
    WALK_LOOK = 0                   # count cgroups that somebody is in
    WALK_THAW = 1
    WALK_KILL = 2                   # count processes, and thaw
    REMOVE_ATTEMPTS = 60            # of a cgroup that is busy: for a second or so
    END_ATTEMPT = 4                 # from here on its processes are killed, 3 ms after it was tried first


cdef inline const char *next_directory(int directory, off_t *position, char *entries, size_t size) noexcept nogil:
    """The name of the first directory in *directory* behind *position*, which moves there; NULL if there is none."""
    cdef long got
    cdef long at
    cdef const char *name
    if lseek(directory, position[0], SEEK_SET) < 0:
        return NULL
    while True:
        got = syscall(SYS_getdents64, directory, entries, size)
        if got <= 0:
            return NULL
        at = 0
        while at < got:             # inode, offset: 8 bytes each; length: 2; type: 1; name
            name = entries + at + 19
            memcpy(position, entries + at + 8, 8)
            if entries[at + 18] == 4 and strcmp(name, b".") != 0 and strcmp(name, b"..") != 0:
                return name
            at += (<unsigned char>entries[at + 16]) | (<unsigned char>entries[at + 17]) << 8


cdef inline bint somebody_is_in(int directory) noexcept nogil:
    cdef char first
    cdef ssize_t got
    cdef int fd = openat(directory, b"cgroup.procs", O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
    got = read(fd, &first, 1)
    close(fd)
    return got > 0


cdef inline int c_cgroup_end(int top, bint kill_all) noexcept nogil:
    """Thaw the cgroup *top* and all below it, with *kill_all* after SIGKILL to all in them; how many those were."""
    return c_cgroup_walk(top, WALK_KILL if kill_all else WALK_THAW)


cdef inline int c_cgroup_walk(int top, int what) noexcept nogil:
    """Do *what* in the cgroup *top* and all below it; how many were found.

    The walk goes by descriptor, and up again by "..": a v1 cgroup never gets another parent. *top* stays open.
    """
    # Not on the stack, which may be limited to less.
    cdef off_t *positions = <off_t *>mmap(NULL, END_DEPTH * sizeof(off_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef off_t first = 0
    cdef int most = END_DEPTH
    cdef char entries[2048]
    cdef const char *name = NULL
    cdef int found = 0
    cdef int depth = 0
    cdef int visited = 0
    cdef int next
    cdef int count
    cdef int at = <int>_rc(openat(top, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
    cdef bint entered = True
    if <void *>positions == MAP_FAILED:
        positions = &first
        most = 1
    while at >= 0:
        if entered:
            visited += 1
            positions[depth] = 0
            count = somebody_is_in(at) if what == WALK_LOOK else c_cgroup_kill(at) if what == WALK_KILL else 0
            found += count if count > 0 else 0
            if what != WALK_LOOK:
                write_file_at(at, b"freezer.state", b"THAWED")
        name = NULL
        if visited < END_DIRECTORIES and depth + 1 < most:
            name = next_directory(at, &positions[depth], entries, sizeof(entries))
        entered = name != NULL
        if entered:
            next = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
            if next < 0:            # removed meanwhile
                entered = False
                continue
            depth += 1
        elif depth == 0:
            break
        else:
            next = openat(at, b"..", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            depth -= 1
        close(at)
        at = next
    close(at)
    if most > 1:
        munmap(positions, END_DEPTH * sizeof(off_t))
    return found


cdef inline int c_cgroup_remove(const char *hierarchy, const char *path, cgroup_homes *homes, bint ending, char *buffer,
                                size_t size) noexcept nogil:
    """Remove one cgroup; a v1 cgroup stays busy for a moment after its last task is reaped.

    With *ending*, who is still in it then is killed: a program on its way into the container, which `pause` has caught
    in the freezer, or whom somebody has put there.
    """
    cdef timespec pause
    cdef const char *name
    cdef int home
    cdef int directory
    cdef int attempt
    cdef int rc = c_join_path(hierarchy, path, buffer, size)
    if rc < 0:
        return rc
    home = c_at_home(homes, buffer, &name)
    pause.tv_sec = 0
    pause.tv_nsec = 200000
    for attempt in range(REMOVE_ATTEMPTS):
        rc = <int>_rc(unlinkat(home, name, AT_REMOVEDIR))
        if rc != -EBUSY:
            break
        if ending and attempt >= END_ATTEMPT:
            directory = openat(AT_FDCWD, buffer, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
            if directory >= 0:
                c_cgroup_end(directory, True)
                close(directory)
        c_cgroup_empty(buffer)
        nanosleep(&pause, NULL)
        if pause.tv_nsec < 20000000:
            pause.tv_nsec *= 2
    return 0 if rc == -ENOENT else rc
