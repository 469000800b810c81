# cython: cdivision=True, boundscheck=False
# The directory that most containers' cgroups share, in each hierarchy: a supervisor keeps it open from one
# container to the next. Five components and a mount less to walk for each of the four things done there.

from pyrunc._native.linux cimport *

cdef enum:
    MAX_HOMES = 16                  # hierarchies
    HOME_SIZE = 128
    HOME_FD = 40                    # from here on: a run of numbers, for which close_range(2) is called once

cdef struct cgroup_home:
    int fd
    size_t length
    char path[HOME_SIZE]

cdef struct cgroup_homes:
    int count
    cgroup_home home[MAX_HOMES]


cdef inline int c_at_home(cgroup_homes *homes, const char *path, const char **rest) noexcept nogil:
    """The open directory that *path* lies in, *rest* being what follows; else AT_FDCWD and the whole path."""
    cdef int i
    cdef cgroup_home *home
    rest[0] = path
    if homes != NULL:
        for i in range(homes.count):
            home = &homes.home[i]
            if strncmp(path, home.path, home.length) == 0 and path[home.length] == c'/' and path[home.length + 1] != 0:
                rest[0] = path + home.length + 1
                return home.fd
    return AT_FDCWD


cdef inline void c_keep_home(cgroup_homes *homes, const char *path) noexcept nogil:
    """Keep the directory above *path* open; without it all works too."""
    cdef cgroup_home *home
    cdef size_t length = strlen(path)
    cdef int fd
    while length > 0 and path[length - 1] != c'/':
        length -= 1
    if length < 2 or length > HOME_SIZE or homes.count == MAX_HOMES:
        return
    home = &homes.home[homes.count]
    home.length = length - 1
    memcpy(home.path, path, home.length)
    home.path[home.length] = 0
    fd = openat(AT_FDCWD, home.path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
    if fd >= 0:
        home.fd = fcntl(fd, F_DUPFD_CLOEXEC, HOME_FD)
        close(fd)
        if home.fd >= 0:
            homes.count += 1


cdef inline void c_leave_home(cgroup_homes *homes, int fd) noexcept nogil:
    """Close one that was removed meanwhile, or with -1 all of them."""
    cdef int i = homes.count
    while i > 0:
        i -= 1
        if fd < 0 or homes.home[i].fd == fd:
            close(homes.home[i].fd)
            homes.count -= 1
            if i < homes.count:
                memcpy(&homes.home[i], &homes.home[homes.count], sizeof(cgroup_home))
