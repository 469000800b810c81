# cython: cdivision=True, boundscheck=False
# NOTIFY_SOCKET: what a program says of its readiness at the container's socket is told to the caller's, as by runc.
#
# The directory `notify` of the state directory is the container's /run/notify. For a `run` the front door serves the
# socket in it itself; for a container that waits for its start, `start` does (pyrunc/oci/notify.py).
#
#   program -> front door   lines NAME=VALUE
#   front door -> caller    a line READY=..., then MAINPID=<whom to watch>; nothing else that the program says
#
# Source: sd_notify(3); observed of runc 1.1.5.

from pyrunc._native.linux cimport *
from pyrunc._native.oci_system cimport *

cdef extern from *:
    int SO_SNDTIMEO

cdef enum:
    READINESS_ROOM = 4096
    READINESS_BURST = 16            # of messages that are taken at once
    READINESS_PATIENCE_S = 5        # for a caller that reads nothing

cdef struct readiness:
    int fd                          # the container's socket, or -1
    const char *caller              # the address of the caller's


cdef inline int readiness_begin(readiness *n, int directory, char **env, bint serves) noexcept nogil:
    """Make the directory below that of the state and, if it *serves* it itself, the socket in it; 0 or -errno."""
    cdef sockaddr_un address
    cdef int place
    cdef int rc
    if mkdirat(directory, b"notify", 0o755) < 0:
        return -errno
    n.caller = environment(env, b"NOTIFY_SOCKET")
    if not serves or n.caller == NULL:
        return 0
    place = <int>_rc(openat(directory, b"notify", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
    if place < 0:
        return place
    n.fd = <int>_rc(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0))
    rc = n.fd
    if rc >= 0:
        address_in(&address, place, b"notify.sock")
        rc = <int>_rc(bind(n.fd, &address, sizeof(address)))
    if rc >= 0:
        # Whoever the container's program is must reach it.
        rc = <int>_rc(fchmodat(place, b"notify.sock", 0o777, 0))
    close(place)
    return rc


cdef inline void tell_readiness(readiness *n, const char *line, size_t length, int main_pid) noexcept nogil:
    """Send a line to the caller's socket, and who is to be watched from now on; a caller that has gone is none."""
    cdef sockaddr_un address
    cdef timeval patience
    cdef iovec_t parts[2]
    cdef char number[24]
    cdef size_t room = strlen(n.caller)
    cdef int sock
    memset(&address, 0, sizeof(address))
    address.sun_family = <unsigned short>AF_UNIX
    if room >= sizeof(address.sun_path):
        return
    memcpy(address.sun_path, n.caller, room)
    if n.caller[0] == c'@':
        address.sun_path[0] = 0     # an abstract socket's, which ends where its length says
    sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    patience.tv_sec = READINESS_PATIENCE_S
    patience.tv_usec = 0
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience))
    if sock >= 0 and connect(sock, &address, <unsigned int>(sizeof(address.sun_family) + room)) == 0:
        parts[0].iov_base = <void *>line
        parts[0].iov_len = length
        piece(&parts[1], b"\n")
        if writev(sock, parts, 2) > 0:
            put_decimal(number, <uint64_t>main_pid)
            piece(&parts[0], b"MAINPID=")
            piece(&parts[1], number)
            number[parts[1].iov_len] = c'\n'
            parts[1].iov_len += 1
            writev(sock, parts, 2)
    close(sock)


cdef inline bint pass_lines(readiness *n, const char *words, size_t size, int main_pid) noexcept nogil:
    """Pass on what of one message is for the caller; whether it was that the program is ready."""
    cdef size_t begin = 0
    cdef size_t end
    cdef bint ready = False
    while begin < size:
        end = begin
        while end < size and words[end] != c'\n':
            end += 1
        if end - begin >= 6 and strncmp(words + begin, b"READY=", 6) == 0:
            tell_readiness(n, words + begin, end - begin, main_pid)
            ready = True
        begin = end + 1
    return ready


cdef inline bint readiness_serve(readiness *n, int main_pid) noexcept nogil:
    """Take the messages that have come; whether one was that the program is ready."""
    cdef char words[READINESS_ROOM]
    cdef ssize_t got
    cdef bint ready = False
    cdef int i
    if n.fd < 0:
        return False
    for i in range(READINESS_BURST):
        got = recv(n.fd, words, sizeof(words), 0)
        if got < 0:
            break
        ready = pass_lines(n, words, <size_t>got, main_pid) or ready
    return ready


cdef inline void readiness_wait(readiness *n, int pid, int pidfd) noexcept nogil:
    """Wait until the container, whose first process is *pid*, is ready or has ended."""
    cdef pollfd watch[2]
    watch[0].fd = n.fd
    watch[1].fd = pidfd
    watch[0].events = watch[1].events = POLLIN
    while n.fd >= 0:
        watch[0].revents = watch[1].revents = 0
        if poll(watch, 2, -1) < 0:
            if errno != EINTR:
                return
        elif readiness_serve(n, pid) or watch[1].revents:
            return
