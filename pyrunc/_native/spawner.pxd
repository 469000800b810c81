# cython: cdivision=True, boundscheck=False
# The spawner: one per Python process. It receives requests and forks supervisors, no more;
# a bad plan therefore costs a supervisor, never the spawner.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.supervisor cimport *


cdef inline int receive(int sock, request *message, int *fds) noexcept nogil:
    """One request; the number of its descriptors, -EPIPE at the end, or another -errno."""
    cdef msghdr header
    cdef iovec_t vector
    cdef cmsghdr *cmsg
    cdef uint64_t control[160]      # room for 253 descriptors, the kernel's limit
    cdef ssize_t got
    cdef int count = 0
    memset(&header, 0, sizeof(header))
    vector.iov_base = message
    vector.iov_len = sizeof(request)
    header.msg_iov = &vector
    header.msg_iovlen = 1
    header.msg_control = control
    header.msg_controllen = sizeof(control)
    got = recvmsg(sock, &header, MSG_CMSG_CLOEXEC)
    if got < 0:
        return -errno
    cmsg = CMSG_FIRSTHDR(&header)
    while cmsg != NULL:
        if cmsg.cmsg_level == SOL_SOCKET and cmsg.cmsg_type == SCM_RIGHTS:
            count = <int>((cmsg.cmsg_len - CMSG_LEN(0)) / sizeof(int))
            memcpy(fds, CMSG_DATA(cmsg), <size_t>count * sizeof(int))
        cmsg = CMSG_NXTHDR(&header, cmsg)
    if got == 0 and count == 0:
        return -EPIPE
    if got != sizeof(request) or header.msg_flags & (MSG_TRUNC | MSG_CTRUNC):
        message.magic = 0
    return count


cdef inline int spare(int sock, int taken, int host_net) noexcept nogil:
    """A supervisor forked ahead: it makes a network namespace, then waits for the one request that it will serve."""
    cdef request message
    cdef int fds[256]
    cdef char byte = 1
    cdef int count
    cdef int own_net = unshare(CLONE_NEWNET)
    while True:
        count = receive(sock, &message, fds)
        if count != -EINTR:
            break
    if count < 0:
        return 0
    signal(SIGPIPE, SIG_IGN)        # a spawner that was killed does not take its last container with it
    write(taken, &byte, 1)
    signal(SIGPIPE, SIG_DFL)
    close(taken)
    close(sock)
    if count < 2 or message.magic != REQUEST_MAGIC or message.version != CHANNEL_VERSION:
        return 1
    prctl(PR_SET_NAME, b"pyrunc-super", 0, 0, 0)
    return supervisor(fds[0], fds[1], fds + 2, <uint32_t>count - 2, host_net if own_net == 0 else -1)


cdef inline void last_one_out(char **directories) noexcept nogil:
    """Wait for the supervisors, which end with their requester, and remove the cgroups that they shared."""
    cdef int i = 0
    while wait4(-1, NULL, 0, NULL) > 0 or errno == EINTR:
        pass                        # SIGCHLD is ignored: returns when no child is left
    while directories[i] != NULL:
        unlinkat(AT_FDCWD, directories[i], AT_REMOVEDIR)
        i += 1


cdef inline int spawner(int sock, char **directories) noexcept nogil:
    """Keep one spare supervisor waiting until the Python process is gone.

    *directories*, a NULL-terminated list, are shared cgroups that go when nobody uses them any more.

    Requests go straight to the spare, so a bad one costs the spare and never the spawner; and
    what a start needs from the kernel whatever its plan says, a fork and an empty network
    namespace, has happened before it arrives.
    """
    cdef int taken[2]
    cdef char byte
    cdef pollfd watch[2]
    cdef int host_net
    cdef int pid
    cdef timespec pause
    prctl(PR_SET_NAME, b"pyrunc-spawner", 0, 0, 0)
    # What a terminal sends to the requester's process group, such as Ctrl-C, is not for those who clean up.
    setsid()
    signal(SIGCHLD, SIG_IGN)        # supervisors are reaped by the kernel; Python hears of them by socket
    host_net = openat(AT_FDCWD, b"/proc/self/ns/net", O_RDONLY | O_CLOEXEC)
    if host_net < 0:
        return 1
    pause.tv_sec = 0
    pause.tv_nsec = 10000000
    while True:
        pid = -1
        if pipe2(taken, O_CLOEXEC) == 0:
            pid = fork()
            if pid == 0:
                close(taken[0])
                _exit(spare(sock, taken[1], host_net))
            close(taken[1])
            if pid < 0:
                close(taken[0])
        if pid < 0:
            nanosleep(&pause, NULL) # out of processes, descriptors or memory: requests wait in the socket
            continue
        watch[0].fd = taken[0]
        watch[0].events = POLLIN
        watch[1].fd = sock
        watch[1].events = 0         # only its end: POLLHUP
        while True:
            watch[0].revents = 0
            watch[1].revents = 0
            if poll(watch, 2, -1) < 0:
                continue
            if watch[1].revents & (POLLHUP | POLLERR):
                last_one_out(directories)
                return 0
            if watch[0].revents:
                close(taken[0])     # a byte: taken; only its end: killed. Either way there is no spare now
                break
