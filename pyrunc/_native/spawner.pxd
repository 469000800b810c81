# cython: cdivision=True, boundscheck=False
# The spawner: one per Python process. It keeps spare supervisors, no more; requests go straight to
# them, so a bad plan costs a supervisor at most, never the spawner.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup_home cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.shim_state cimport *
from pyrunc._native.supervisor cimport *
from pyrunc._native.uproot cimport *

cdef enum:
    MAX_SPARES = 8                  # that wait after a burst; each holds a network namespace
    PATIENCE_S = 1                  # how long all but the first of them wait
    MAX_CHANNELS = 65536

    SPARE = 1
    SERVING = 2                     # and SHIM, shim.pxd: it is no supervisor any more

# What every supervisor does at the moment, by the number of its channel in the spawner; shared memory.
# A byte has one writer, the supervisor, until it is dead. So no count can go wrong, whoever is killed when.
cdef struct crew:
    uint32_t top                    # channels from here on were never used
    int pid[MAX_CHANNELS]           # whose they are
    bint chrooted                   # they all are
    char state[MAX_CHANNELS]


cdef inline uint32_t spares(crew *all, uint32_t but) noexcept nogil:
    """How many supervisors other than *but* wait for a request."""
    cdef uint32_t i
    cdef uint32_t found = 0
    for i in range(all.top):
        if i != but and all.state[i] == SPARE:
            found += 1
    return found


cdef inline bint spare_before(crew *all, uint32_t own) noexcept nogil:
    """Whether one with a lower number than *own* waits for a request."""
    cdef uint32_t i
    for i in range(own):
        if all.state[i] == SPARE:
            return True
    return False


cdef inline int spare(int sock, int channel, int host_net, crew *all, uint32_t own) noexcept nogil:
    """A supervisor between containers: with an empty network namespace, it waits for the next request.

    It serves one container at a time, and what it held for one is gone before the next: descriptors,
    memory and namespace. It wakes the spawner only when it was the last spare.
    """
    cdef request message
    cdef pollfd watch[2]
    cdef uint32_t word = WORD_TAKEN
    cdef int fds[256]
    cdef int count
    cdef int got
    cdef cgroup_homes homes
    cdef crew_place place
    cdef int own_net = fresh_network()
    # No process that is born here is to write there: a container's may look into one that joins it.
    madvise(all, sizeof(crew), MADV_DONTFORK)
    place.state = &all.state[own]
    place.memory = all
    place.size = sizeof(crew)
    homes.count = 0
    while True:
        got = receive_with(sock, &message, sizeof(message), 0, fds, &count)
        if got == -EINTR:
            continue
        if got == -EAGAIN:
            # PATIENCE_S without work: go, unless this is the first spare; that one waits for ever. Not the last: two
            # whose time is over at once would both see another.
            if spare_before(all, own):
                all.state[own] = 0
                return 0
            c_leave_home(&homes, -1)    # who wants to unmount a hierarchy need not wait for us
            watch[0].fd = sock
            watch[0].events = POLLIN
            watch[1].fd = channel
            watch[1].events = 0
            watch[1].revents = 0
            poll(watch, 2, -1)
            if watch[1].revents:
                return 0            # the spawner was killed; its successor has spares of its own
            continue
        if got < 0 or count < 0:
            return 0
        all.state[own] = SERVING
        if spares(all, own) == 0:
            send(channel, &word, sizeof(word), MSG_NOSIGNAL)
        if count >= 2 and got == sizeof(message) and message.magic == REQUEST_MAGIC and message.version == CHANNEL_VERSION:
            prctl(PR_SET_NAME, b"pyrunc-super", 0, 0, 0)
            if not supervisor(fds[0], fds[1], fds + 2, <uint32_t>count - 2, channel, sock,
                              host_net if own_net == 0 else -1, all.chrooted, &homes, place):
                return 0
            prctl(PR_SET_NAME, b"pyrunc-spawner", 0, 0, 0)
        if spares(all, own) >= MAX_SPARES:
            return 0
        # The requester has just been woken, maybe on this processor: its turn comes before the next one's network.
        sched_yield()
        close_others(sock, channel, host_net, &homes)
        own_net = fresh_network()
        all.state[own] = SPARE


cdef inline int fresh_network() noexcept nogil:
    """Move to a network namespace of our own, its loopback interface up; 0 or -errno."""
    cdef int rc = <int>_rc(unshare(CLONE_NEWNET))
    return rc if rc < 0 else c_link_up(1)


cdef inline void hung_up(crew *all, int epoll, int channel) noexcept nogil:
    """A supervisor has ended, or has become a shim, for which nobody waits."""
    # Expressly: a child that has just been forked holds the channel too, for a moment, and it would be heard of again.
    epoll_ctl(epoll, EPOLL_CTL_DEL, channel, NULL)
    close(channel)
    if all.state[channel] != SHIM and all.pid[channel] > 0:
        # SIGCHLD is ignored: this returns when it is gone, and fails then.
        while wait4(all.pid[channel], NULL, 0, NULL) < 0 and errno == EINTR:
            pass
    all.state[channel] = 0
    all.pid[channel] = 0


cdef inline void last_one_out(crew *all, int epoll, char **directories) noexcept nogil:
    """Wait for the supervisors, which end with their requester, and remove the cgroups that they shared."""
    cdef epoll_event event
    cdef uint32_t word
    cdef uint32_t i = 0
    cdef ssize_t got
    # Who waits for a request, or asks for one when its container has ended, finds that there is nobody.
    for i in range(all.top):
        while all.pid[i]:
            if epoll_wait(epoll, &event, 1, -1) != 1:
                continue
            got = recv(event.data.fd, &word, sizeof(word), MSG_DONTWAIT)
            if got == 0 or (got < 0 and errno != EAGAIN):
                hung_up(all, epoll, event.data.fd)
    i = 0
    while directories[i] != NULL:
        unlinkat(AT_FDCWD, directories[i], AT_REMOVEDIR)
        i += 1


cdef inline int fork_spare(int sock, int host_net, int epoll, rlimit_t *limit, crew *all) noexcept nogil:
    """Fork a spare; 0 or -errno."""
    cdef epoll_event event
    cdef int pair[2]
    cdef int pid
    if socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0:
        return -errno
    event.events = EPOLLIN
    event.data.fd = pair[0]
    pid = -EMFILE
    if pair[0] < MAX_CHANNELS and epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event) == 0:
        if all.top <= <uint32_t>pair[0]:
            all.top = <uint32_t>pair[0] + 1
        all.state[pair[0]] = SPARE
        pid = fork()
        if pid == 0:
            close_others(sock, pair[1], host_net, NULL)
            syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, limit, NULL)
            _exit(spare(sock, pair[1], host_net, all, <uint32_t>pair[0]))
        if pid < 0:
            pid = -errno
            all.state[pair[0]] = 0
        else:
            all.pid[pair[0]] = pid
    close(pair[1])
    if pid < 0:
        close(pair[0])
        return pid
    return 0


cdef inline void close_others(int sock, int channel, int host_net, cgroup_homes *homes) noexcept nogil:
    cdef int keep[6 + MAX_HOMES]
    cdef int count = 6
    cdef int i
    keep[0] = 0
    keep[1] = 1
    keep[2] = 2
    keep[3] = sock
    keep[4] = channel
    keep[5] = host_net
    if homes != NULL:
        for i in range(homes.count):
            keep[count] = homes.home[i].fd
            count += 1
    close_all_but(keep, count)


cdef inline int spawner(int sock, char **directories) noexcept nogil:
    """Keep at least one spare supervisor waiting until the Python process is gone.

    *directories*, a NULL-terminated list, are shared cgroups that go when nobody uses them any more.

    What a start needs from the kernel whatever its plan says, a fork and an empty network namespace,
    has so happened before the request arrives. A supervisor that is done becomes a spare again,
    and some spares stay for a while after a burst.
    """
    cdef crew *all
    cdef epoll_event event
    cdef rlimit_t own
    cdef rlimit_t most
    cdef timespec pause
    cdef uint32_t word = 0
    cdef ssize_t got
    cdef int host_net
    cdef int epoll
    cdef int channel
    prctl(PR_SET_NAME, b"pyrunc-spawner", 0, 0, 0)
    # What a terminal sends to the requester's process group, such as Ctrl-C, is not for those who clean up.
    setsid()
    # What a supervisor leaves behind that was killed must not wait for somebody above to reap it: a pid namespace does
    # not end before all who were in it are gone.
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
    all = <crew *>mmap(NULL, sizeof(crew), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
    if <void *>all == MAP_FAILED:
        return 1
    all.chrooted = c_is_chrooted() == 1
    # Each supervisor takes one descriptor here; the containers have the requester's limit.
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &own)
    most.rlim_cur = own.rlim_max
    most.rlim_max = own.rlim_max
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &most, NULL)
    pause.tv_sec = 0
    pause.tv_nsec = 10000000
    while True:
        while spares(all, MAX_CHANNELS) == 0:
            if fork_spare(sock, host_net, epoll, &own, all) < 0:
                break
        # Out of processes, descriptors or memory: requests wait in the socket, and we try again.
        if epoll_wait(epoll, &event, 1, -1 if spares(all, MAX_CHANNELS) else 10) != 1:
            continue
        channel = event.data.fd
        if channel == sock:
            epoll_ctl(epoll, EPOLL_CTL_DEL, sock, NULL)
            close(sock)
            last_one_out(all, epoll, directories)
            return 0
        got = recv(channel, &word, sizeof(word), MSG_DONTWAIT)
        if got > 0 or (got < 0 and errno == EAGAIN):
            continue
        # Killed, failed, or not needed any more.
        if all.state[channel] == SPARE and spares(all, <uint32_t>channel) == 0:
            nanosleep(&pause, NULL)     # the next one may fail as soon
        hung_up(all, epoll, channel)
