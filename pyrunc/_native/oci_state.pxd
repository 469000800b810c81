# cython: cdivision=True, boundscheck=False
# A container's state.json as the native verbs read it: what was written by ourselves, in the order in which we write it.
#
# Line by line it is what `state` prints; the last member, `pyrunc`, is one line of compact JSON for ourselves alone. No
# string of JSON holds a raw newline, so nothing that a user may have written can look like the beginning of a line.
# Whatever differs from what is expected here makes the verb Python's.

from pyrunc._native.linux cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.process_stat cimport *

cdef enum:
    STATE_MAX_SIZE = 16 << 20
    STATE_MAX_CGROUPS = 32

    STATUS_UNKNOWN = 0
    STATUS_CREATED = 1
    STATUS_RUNNING = 2
    STATUS_PAUSED = 3
    STATUS_STOPPED = 4

cdef struct oci_state:
    int root                        # the directory of all containers
    int directory                   # and of this one
    char *text                      # the file, with a NUL behind it
    size_t size
    char *shown                     # the end of what `state` prints: the comma before `pyrunc`
    char *pid_text
    char *status_text
    int pid
    uint64_t start_time
    bint own_pids
    int cgroup_count
    const char *cgroups[STATE_MAX_CGROUPS]
    const char *freezer             # "" for none
    const char *kill
    bint has_unit                   # systemd has made its cgroups
    int pidfd                       # the container's init, or -1 once it is dead
    int status


cdef inline char *after(char *at, const char *expected) noexcept nogil:
    """What follows *expected*, if *at* begins with it; else NULL."""
    cdef size_t length = strlen(expected)
    return at + length if at != NULL and strncmp(at, expected, length) == 0 else NULL


cdef inline char *after_number(char *at, uint64_t *value) noexcept nogil:
    cdef int digits = 0
    value[0] = 0
    if at == NULL:
        return NULL
    while c'0' <= at[0] <= c'9':
        value[0] = value[0] * 10 + <uint64_t>(at[0] - c'0')
        digits += 1
        at += 1
    return at if 0 < digits < 20 else NULL


cdef inline char *after_string(char *at, const char **value) noexcept nogil:
    """The text behind an opening quote, ended in place; NULL for one with an escape, which Python reads."""
    if at == NULL:
        return NULL
    value[0] = at
    while at[0] != c'"':
        if at[0] == 0 or at[0] == c'\\' or at[0] == c'\n':
            return NULL
        at += 1
    at[0] = 0
    return at + 1


cdef inline char *line_with(char *text, const char *start) noexcept nogil:
    """What follows *start* in the first line that begins with it, or NULL."""
    cdef size_t length = strlen(start)
    while text != NULL:
        if strncmp(text, start, length) == 0:
            return text + length
        text = strchr(text, c'\n')
        if text != NULL:
            text += 1
    return NULL


cdef inline bint read_own(oci_state *s, char *at) noexcept nogil:
    """Read the member `pyrunc` from its value on; False if it is not one that the native verbs serve."""
    cdef const char *word
    cdef uint64_t number
    at = after_number(after(at, b"{\"version\":1,\"start_time\":"), &s.start_time)
    at = after(at, b",\"native\":true,\"own_pids\":")
    s.own_pids = after(at, b"true") != NULL
    at = after(at, b"true" if s.own_pids else b"false")
    at = after(at, b",\"cgroups\":[")
    s.cgroup_count = 0
    while at != NULL and at[0] == c'{':
        if s.cgroup_count == STATE_MAX_CGROUPS:
            return False
        at = after_string(after(at, b"{\"path\":\""), &s.cgroups[s.cgroup_count])
        if at == NULL or s.cgroups[s.cgroup_count][0] != c'/':
            return False
        s.cgroup_count += 1
        at = after(after_number(after(at, b",\"version\":"), &number), b",\"controllers\":[")
        while at != NULL and at[0] == c'"':
            at = after_string(at + 1, &word)
            if at != NULL and at[0] == c',':
                at += 1
        at = after(at, b"]}")
        if at != NULL and at[0] == c',':
            at += 1
    at = after_string(after(at, b"],\"freezer\":\""), &s.freezer)
    at = after(after_string(after(at, b",\"kill\":\""), &s.kill), b",\"systemd\":")
    s.has_unit = after(at, b"null,") == NULL
    return at != NULL


cdef inline bint read_state(oci_state *s) noexcept nogil:
    """Read and understand `state.json`; False if Python has to."""
    cdef stat_t status
    cdef ssize_t got
    cdef uint64_t number = 0
    cdef char *at
    cdef int fd = <int>_rc(openat(s.directory, b"state.json", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK))
    if fd < 0:
        return False
    if fstat(fd, &status) < 0 or not S_ISREG(status.st_mode) or not 0 < status.st_size < STATE_MAX_SIZE:
        close(fd)
        return False
    s.size = <size_t>status.st_size
    s.text = <char *>anonymous(s.size + 1)
    got = read(fd, s.text, s.size) if s.text != NULL else -1
    close(fd)
    # A NUL in it would end what is read here early.
    if got != <ssize_t>s.size or strlen(s.text) != s.size:
        return False
    at = line_with(s.text, b"  \"pyrunc\": ")
    s.pid_text = line_with(s.text, b"  \"pid\": ")
    s.status_text = after(line_with(s.text, b"  \"status\": "), b"\"created\",\n")
    if at == NULL or s.pid_text == NULL or s.status_text == NULL or not s.text < s.pid_text < s.status_text < at:
        return False
    s.status_text -= 11             # the value's place, its quotes too, is what is replaced
    s.shown = at - strlen(b"  \"pyrunc\": ") - 2
    if s.shown <= s.status_text or s.shown[0] != c',' or after(after_number(s.pid_text, &number), b",\n") == NULL:
        return False
    if number == 0 or number > 0x7FFFFFFF:
        return False
    s.pid = <int>number
    return read_own(s, at)


cdef inline bint is_frozen(const char *freezer) noexcept nogil:
    """Whether the freezer's directory says that its processes stand still, or are about to."""
    cdef char word[16]
    cdef ssize_t got
    cdef int fd
    cdef int directory
    if freezer[0] == 0:
        return False
    directory = openat(AT_FDCWD, freezer, O_PATH | O_DIRECTORY | O_CLOEXEC)
    if directory < 0:
        return False
    fd = openat(directory, b"freezer.state", O_RDONLY | O_CLOEXEC)
    if fd < 0:
        fd = openat(directory, b"cgroup.freeze", O_RDONLY | O_CLOEXEC)
    close(directory)
    if fd < 0:
        return False
    got = read(fd, word, sizeof(word))
    close(fd)
    return got > 0 and (word[0] == c'F' or word[0] == c'1')


cdef inline bint lives(int pid, uint64_t born, char *stat) noexcept nogil:
    """Whether the process *pid* is the one that was born then, and has not ended; *stat* is what the kernel says of it.

    A zombie with threads is a process whose first thread has ended alone.
    """
    cdef const char *at
    if not read_stat(pid, stat):
        return False
    at = strrchr(stat, c')')
    if at == NULL or at[1] != c' ' or at[2] == c'X' or at[2] == c'x':
        return False
    if at[2] == c'Z' and number_in_stat(stat, STAT_THREADS) <= 1:
        return False
    return number_in_stat(stat, STAT_BORN) == born


cdef inline void find_status(oci_state *s) noexcept nogil:
    """What the container does now; the file says only what it was born as.

    The process is opened by number, and then found to be the one that is meant: from there on no other can be it. That
    it was started nobody has to note, who could be killed before: the kernel knows whether it ever executed anything.
    One that criu has restored did not, and has no socket.
    """
    cdef char stat[STAT_ROOM]
    s.pidfd = <int>_rc(syscall(NR_pidfd_open, s.pid, 0))
    if s.pidfd < 0 or not lives(s.pid, s.start_time, stat):
        close(s.pidfd)
        s.pidfd = -1
        s.status = STATUS_STOPPED
    elif is_frozen(s.freezer):
        s.status = STATUS_PAUSED
    elif number_in_stat(stat, STAT_FLAGS) & PF_FORKNOEXEC and faccessat(s.directory, b"start", F_OK, 0) == 0:
        s.status = STATUS_CREATED
    else:
        s.status = STATUS_RUNNING


cdef inline int open_state(oci_state *s, const char *root, const char *id) noexcept nogil:
    """Open the directory of the container *id*; 0 or -errno."""
    memset(s, 0, sizeof(oci_state))
    s.pidfd = -1
    s.directory = -1
    s.root = <int>_rc(openat(AT_FDCWD, root, O_PATH | O_DIRECTORY | O_CLOEXEC))
    if s.root < 0:
        return s.root
    s.directory = <int>_rc(openat(s.root, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW))
    return s.directory if s.directory < 0 else 0


cdef inline bint lock_state(oci_state *s, const char *id, int how) noexcept nogil:
    """Wait until no other verb changes the container, but with LOCK_NB for none; False if it has been removed meanwhile."""
    cdef stat_t ours
    cdef stat_t named
    while flock(s.directory, LOCK_EX | how) < 0:
        if errno != EINTR:
            return False
    if fstat(s.directory, &ours) < 0 or fstatat(s.root, id, &named, AT_SYMLINK_NOFOLLOW) < 0:
        return False
    return ours.st_ino == named.st_ino and ours.st_dev == named.st_dev


cdef inline const char *status_name(int status) noexcept nogil:
    if status == STATUS_CREATED:
        return b"created"
    if status == STATUS_RUNNING:
        return b"running"
    if status == STATUS_PAUSED:
        return b"paused"
    return b"stopped"
