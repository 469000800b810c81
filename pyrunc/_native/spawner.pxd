# cython: cdivision=True, boundscheck=False
# The spawner: one per Python process. It keeps spare supervisors, no more; requests go straight to
# them, so a bad plan costs a supervisor at most, never the spawner.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.supervisor cimport *

cdef enum:
    MAX_SPARES = 8                  # that wait after a burst; each holds a network namespace
    PATIENCE_S = 1                  # how long all but the last of them wait
    MAX_CHANNELS = 65536


cdef inline bint say(int channel, uint32_t word) noexcept nogil:
    return send(channel, &word, sizeof(word), MSG_NOSIGNAL) == sizeof(word)


cdef inline int ask(int channel, uint32_t word) noexcept nogil:
    """Say *word* to the spawner and wait: a descriptor or 0 is its consent, -1 means that we are not needed."""
    cdef int fds[256]
    cdef int count
    cdef uint32_t answer = 0
    cdef int got
    if not say(channel, word):
        return -1
    while True:
        got = receive_with(channel, &answer, sizeof(answer), fds, &count)
        if got != -EINTR:
            break
    if got != sizeof(answer) or answer != WORD_STAY:
        return -1
    return fds[0] if count == 1 else 0


cdef inline int spare(int sock, int channel, int host_net) noexcept nogil:
    """A supervisor between containers: with an empty network namespace, it waits for the next request.

    It serves one container at a time, and what it held for one is gone before the next: descriptors,
    memory and namespace. While it serves it does not hold the request socket, so that a requester
    whose spawner was killed is not left waiting for an answer.
    """
    cdef request message
    cdef pollfd watch
    cdef int fds[256]
    cdef int keep[6]
    cdef int count
    cdef int got
    cdef int own_net = unshare(CLONE_NEWNET)
    while True:
        got = receive_with(sock, &message, sizeof(message), fds, &count)
        if got == -EINTR:
            continue
        if got == -EAGAIN:
            # PATIENCE_S without work: go, unless this is the last spare; that one waits for ever.
            if ask(channel, WORD_IDLE) < 0:
                return 0
            watch.fd = sock
            watch.events = POLLIN
            poll(&watch, 1, -1)
            continue
        if got < 0 or count < 0:
            return 0
        say(channel, WORD_TAKEN)
        close(sock)
        if count >= 2 and got == sizeof(message) and message.magic == REQUEST_MAGIC and message.version == CHANNEL_VERSION:
            prctl(PR_SET_NAME, b"pyrunc-super", 0, 0, 0)
            if not supervisor(fds[0], fds[1], fds + 2, <uint32_t>count - 2, channel, host_net if own_net == 0 else -1):
                return 0
            prctl(PR_SET_NAME, b"pyrunc-spawner", 0, 0, 0)
        keep[0] = 0
        keep[1] = 1
        keep[2] = 2
        keep[3] = channel
        keep[4] = host_net
        close_all_but(keep, 5)
        own_net = unshare(CLONE_NEWNET)
        sock = ask(channel, WORD_DONE)
        if sock <= 0:
            return 0


cdef inline void last_one_out(char **directories) noexcept nogil:
    """Wait for the supervisors, which end with their requester, and remove the cgroups that they shared."""
    cdef int i = 0
    # The channels too: who is done now would ask for more work, and wait for us as we do for it.
    syscall(NR_close_range, 3, <unsigned int>0xFFFFFFFF, 0)
    while wait4(-1, NULL, 0, NULL) > 0 or errno == EINTR:
        pass                        # SIGCHLD is ignored: returns when no child is left
    while directories[i] != NULL:
        unlinkat(AT_FDCWD, directories[i], AT_REMOVEDIR)
        i += 1


cdef inline int fork_spare(int sock, int host_net, int epoll, rlimit_t *limit) noexcept nogil:
    """Fork a spare; our end of its channel, or -errno."""
    cdef epoll_event event
    cdef int pair[2]
    cdef int pid
    if socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0:
        return -errno
    event.events = EPOLLIN
    event.data.fd = pair[0]
    pid = -EMFILE
    if pair[0] < MAX_CHANNELS and epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event) == 0:
        pid = fork()
        if pid == 0:
            close_others(sock, pair[1], host_net)
            syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, limit, NULL)
            _exit(spare(sock, pair[1], host_net))
        if pid < 0:
            pid = -errno
    close(pair[1])
    if pid < 0:
        close(pair[0])
        return pid
    return pair[0]


cdef inline void close_others(int sock, int channel, int host_net) noexcept nogil:
    cdef int keep[6]
    keep[0] = 0
    keep[1] = 1
    keep[2] = 2
    keep[3] = sock
    keep[4] = channel
    keep[5] = host_net
    close_all_but(keep, 6)


cdef inline int spawner(int sock, char **directories) noexcept nogil:
    """Keep at least one spare supervisor waiting until the Python process is gone.

    *directories*, a NULL-terminated list, are shared cgroups that go when nobody uses them any more.

    What a start needs from the kernel whatever its plan says, a fork and an empty network namespace,
    has so happened before the request arrives. A supervisor that is done becomes a spare again,
    and some spares stay for a while after a burst.
    """
    cdef char waits[MAX_CHANNELS]   # by channel: whether its supervisor is a spare
    cdef epoll_event event
    cdef rlimit_t own
    cdef rlimit_t most
    cdef timespec pause
    cdef uint32_t word
    cdef int host_net
    cdef int epoll
    cdef int channel
    cdef int spares = 0
    prctl(PR_SET_NAME, b"pyrunc-spawner", 0, 0, 0)
    # What a terminal sends to the requester's process group, such as Ctrl-C, is not for those who clean up.
    setsid()
    signal(SIGCHLD, SIG_IGN)        # supervisors are reaped by the kernel; Python hears of them by socket
    host_net = openat(AT_FDCWD, b"/proc/self/ns/net", O_RDONLY | O_CLOEXEC)
    epoll = epoll_create1(EPOLL_CLOEXEC)
    event.events = 0                # only its end: EPOLLHUP
    event.data.fd = sock
    pause.tv_sec = PATIENCE_S
    pause.tv_nsec = 0
    if host_net < 0 or epoll < 0 or epoll_ctl(epoll, EPOLL_CTL_ADD, sock, &event) < 0:
        return 1
    if setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &pause, sizeof(pause)) < 0:
        return 1
    # Each container that runs takes one descriptor here; the containers have the requester's limit.
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &own)
    most.rlim_cur = own.rlim_max
    most.rlim_max = own.rlim_max
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &most, NULL)
    memset(waits, 0, sizeof(waits))
    pause.tv_sec = 0
    pause.tv_nsec = 10000000
    while True:
        while spares == 0:
            channel = fork_spare(sock, host_net, epoll, &own)
            if channel < 0:
                break
            waits[channel] = 1
            spares += 1
        # Out of processes, descriptors or memory: requests wait in the socket, and we try again.
        if epoll_wait(epoll, &event, 1, -1 if spares else 10) != 1:
            continue
        channel = event.data.fd
        if channel == sock:
            last_one_out(directories)
            return 0
        word = 0
        if recv(channel, &word, sizeof(word), MSG_DONTWAIT) < 0 and errno == EAGAIN:
            continue
        if word == WORD_TAKEN and waits[channel]:
            waits[channel] = 0
            spares -= 1
            continue
        if word == WORD_DONE and not waits[channel] and spares < MAX_SPARES:
            word = WORD_STAY
            if send_with(channel, &word, sizeof(word), sock) == 0:
                waits[channel] = 1
                spares += 1
                continue
        if word == WORD_IDLE and waits[channel] and spares == 1 and say(channel, WORD_STAY):
            continue
        # Killed, failed, or not needed.
        if waits[channel]:
            waits[channel] = 0
            spares -= 1
            if word == 0:
                nanosleep(&pause, NULL)     # the next one may fail as soon
        close(channel)
