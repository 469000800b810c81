# cython: cdivision=True, boundscheck=False
# What the front door leaves in the file system: the container's state directory with `state.json` and the socket on
# which its start comes, and the pid file.
#
# The directory is the claim of the id: whoever makes it has it. Its descriptor is locked until the container is
# created; state.json says "creating" before anything else is made, so that what is left of a front door that was
# killed can be found and removed.

from pyrunc._native.linux cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.steps cimport *

cdef extern from *:
    int listen(int fd, int backlog) nogil
    int LOCK_UN

cdef enum:
    DAY_S = 86400
    TIME_ROOM = 32                  # 2026-11-25T22:00:00.123456789Z
    NUMBER_ROOM = 24


cdef inline void put_padded(char *at, uint64_t value, int width) noexcept nogil:
    while width > 0:
        width -= 1
        at[width] = <char>(48 + value % 10)
        value = value / 10


cdef inline void put_rfc3339(char *at) noexcept nogil:
    """Now, in UTC, as RFC 3339 writes it, and a NUL.

    The year begins in March, so that the day that some have is its last (proleptic Gregorian calendar, from 1970 on).
    """
    cdef timespec now
    cdef uint64_t days
    cdef uint64_t era
    cdef uint64_t day
    cdef uint64_t year
    cdef uint64_t month
    cdef uint64_t rest
    clock_gettime(CLOCK_REALTIME, &now)
    days = <uint64_t>now.tv_sec / DAY_S + 719468        # from 0000-03-01 to 1970-01-01
    era = days / 146097                                 # of 400 years
    day = days % 146097
    year = (day - day / 1460 + day / 36524 - day / 146096) / 365
    day -= 365 * year + year / 4 - year / 100
    month = (5 * day + 2) / 153
    day -= (153 * month + 2) / 5
    year += 400 * era + (1 if month >= 10 else 0)
    month = month + 3 if month < 10 else month - 9
    rest = <uint64_t>now.tv_sec % DAY_S
    memcpy(at, b"0000-00-00T00:00:00.000000000Z", 31)
    put_padded(at, year, 4)
    put_padded(at + 5, month, 2)
    put_padded(at + 8, day + 1, 2)
    put_padded(at + 11, rest / 3600, 2)
    put_padded(at + 14, rest / 60 % 60, 2)
    put_padded(at + 17, rest % 60, 2)
    put_padded(at + 20, <uint64_t>now.tv_nsec, 9)


cdef inline int make_above(const char *path, char *room, size_t size) noexcept nogil:
    """Make the directories above *path*, for their owner alone; 0 or -errno."""
    cdef size_t length = strlen(path)
    cdef size_t i
    cdef int rc = 0
    if length >= size:
        return -ENAMETOOLONG
    memcpy(room, path, length + 1)
    for i in range(1, length):
        if room[i] == c'/':
            room[i] = 0
            rc = <int>_rc(mkdirat(AT_FDCWD, room, 0o700))
            room[i] = c'/'
            if rc < 0 and rc != -EEXIST:
                # One that cannot be made may be one that is there, in a directory where nobody may make any.
                if rc != -EROFS and rc != -EACCES and rc != -EPERM:
                    return rc
    return 0


cdef inline int claim_directory(walk *w, const char *path) noexcept nogil:
    """Make a container's state directory and lock it; its descriptor, or -EEXIST where another has it, or -errno."""
    cdef int fd
    cdef int rc = <int>_rc(mkdirat(AT_FDCWD, path, 0o711))
    if rc == -ENOENT:
        rc = make_above(path, w.path, sizeof(w.path))
        if rc == 0:
            rc = <int>_rc(mkdirat(AT_FDCWD, path, 0o711))
    if rc < 0:
        return rc
    fd = <int>_rc(openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW))
    if fd < 0:
        return fd
    # Whoever locks it before it says what it is for only looks.
    while flock(fd, LOCK_EX) < 0 and errno == EINTR:
        pass
    return fd


cdef inline int write_pieces(int directory, const char *name, const char *temporary, iovec_t *pieces, int count, mode_t mode) noexcept nogil:
    """Make the file *name* of *pieces*: whoever looks finds all of it or what was there before; 0 or -errno."""
    cdef size_t wanted = 0
    cdef ssize_t done
    cdef int rc = 0
    cdef int i
    cdef int fd = -EEXIST
    # A file of our own: what stands there already may be linked, opened or awaited by somebody else.
    for i in range(2):
        fd = <int>_rc(openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode))
        if fd != -EEXIST:
            break
        unlinkat(directory, temporary, 0)
    if fd < 0:
        return fd
    for i in range(count):
        wanted += pieces[i].iov_len
    done = writev(fd, pieces, count)
    if done < 0:
        rc = -errno
    elif <size_t>done != wanted:
        rc = -ENOSPC
    close(fd)
    if rc == 0:
        rc = <int>_rc(renameat(directory, temporary, directory, name))
    if rc < 0:
        unlinkat(directory, temporary, 0)
    return rc


cdef inline int write_state(walk *w, const plan_oci *oci, int directory, const char *status, const char *created, int pid, uint64_t born) noexcept nogil:
    """Write state.json; *born* is when the process *pid* was, in ticks since boot, both 0 before there is one."""
    cdef char number[NUMBER_ROOM]
    cdef char ticks[NUMBER_ROOM]
    cdef iovec_t pieces[9]
    cdef int i
    put_decimal(number, <uint64_t>pid)
    put_decimal(ticks, born)
    for i in range(OCI_STATE_TEXTS):
        piece(&pieces[2 * i], text(w, oci.state[i]))
    piece(&pieces[1], number)
    piece(&pieces[3], status)
    piece(&pieces[5], created)
    piece(&pieces[7], ticks)
    return write_pieces(directory, b"state.json", b".state.json", pieces, 9, 0o600)


cdef inline int listen_for_start(int directory) noexcept nogil:
    """The socket `start` in the state directory, to which only the owner of the directory can connect."""
    cdef sockaddr_un address
    cdef mode_t before
    cdef int rc
    cdef int fd = <int>_rc(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0))
    if fd < 0:
        return fd
    address_in(&address, directory, b"start")
    before = umask(0o177)
    rc = <int>_rc(bind(fd, &address, sizeof(address)))
    umask(before)
    if rc == 0:
        rc = <int>_rc(listen(fd, 1))
    if rc < 0:
        close(fd)
        return rc
    return fd


cdef inline int write_pid_file(walk *w, const char *path, int pid) noexcept nogil:
    """Write the number *pid*, and nothing behind it, to *path*, by way of a hidden name beside it as runc does."""
    cdef char number[NUMBER_ROOM]
    cdef iovec_t pieces[1]
    cdef const char *leaf = strrchr(path, c'/')
    cdef size_t above = <size_t>(leaf - path) + 1
    cdef size_t length = strlen(path)
    if length + 2 > sizeof(w.path):
        return -ENAMETOOLONG
    memcpy(w.path, path, above)
    w.path[above] = c'.'
    memcpy(w.path + above + 1, path + above, length - above + 1)
    put_decimal(number, <uint64_t>pid)
    piece(&pieces[0], number)
    return write_pieces(AT_FDCWD, path, w.path, pieces, 1, 0o666)


cdef inline bint remove_state(int above, const char *name, int directory) noexcept nogil:
    """Give the id up: remove the state directory *name* in *above*, which is open as *directory*; False if it stays.

    `state.json` goes last, so that whoever is killed here can be followed.
    """
    cdef char entries[4096]
    cdef long got
    cdef long at
    cdef const char *entry
    cdef bint is_directory
    unlinkat(directory, b"start", 0)
    unlinkat(directory, b"notify/notify.sock", 0)
    lseek(directory, 0, SEEK_SET)
    while True:
        got = syscall(SYS_getdents64, directory, entries, sizeof(entries))
        if got <= 0:
            break
        at = 0
        while at < got:             # inode, offset: 8 bytes each; length: 2; type: 1; name
            entry = entries + at + 19
            is_directory = entries[at + 18] == 4
            if strcmp(entry, b".") != 0 and strcmp(entry, b"..") != 0 and strcmp(entry, b"state.json") != 0:
                unlinkat(directory, entry, AT_REMOVEDIR if is_directory else 0)
            at += (<unsigned char>entries[at + 16]) | (<unsigned char>entries[at + 17]) << 8
    unlinkat(directory, b"state.json", 0)
    return unlinkat(above, name, AT_REMOVEDIR) == 0
