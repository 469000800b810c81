# cython: cdivision=True, boundscheck=False
# The shim: a supervisor that outlives its requester. It holds the program's streams, writes the log, and serves
# whoever attaches.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.cgroup_home cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.hearing cimport *
from pyrunc._native.killing cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.shim_attach cimport *
from pyrunc._native.shim_log cimport *
from pyrunc._native.shim_state cimport *
from pyrunc._native.steps cimport *

cdef enum:
    DRAIN_MOST = 1 << 22            # of a terminal that somebody outside goes on to write to


cdef inline int make_pipe(walk *w, shim *s, uint32_t slot, int *ours) noexcept nogil:
    """A pipe for the stream *slot*: the program's end goes there, *ours* never waits."""
    cdef int pair[2]
    cdef int own = 1 if slot == 0 else 0
    if pipe2(pair, O_CLOEXEC) < 0:
        return -errno
    ours[0] = pair[own]
    # Another user than root may open its pipes once more, as /dev/stdout.
    if (s.plan.uid or s.plan.gid) and fchown(pair[1 - own], s.plan.uid, s.plan.gid) < 0:
        return -errno
    if fcntl(pair[own], F_SETFL, O_NONBLOCK) < 0:
        return -errno
    return put_slot(w, slot, pair[1 - own])


cdef inline int shim_begin(walk *w, shim *s, int *fds, int host_net) noexcept nogil:
    """Part with the spawner and make what the program's streams lead to; 0 or -errno. *fds* are the request's for it."""
    cdef int rc
    memset(s, 0, sizeof(shim))
    s.host_net = host_net
    s.plan = plan_shim_of(w.data)
    s.owner = True
    s.held_back = s.plan.flags & SHIM_HOLD != 0
    s.listener = s.input = s.log.fd = s.streams[0].fd = s.streams[1].fd = -1
    s.streams[0].name = b"stdout"
    s.streams[1].name = b"stderr"
    prctl(PR_SET_NAME, b"pyrunc-shim", 0, 0, 0)
    setsid()
    umask(0o022)                    # init has one of its own; the exit command shall not have the requester's
    # From now on the spawner neither counts this process nor waits for it.
    w.crew.state[0] = SHIM
    munmap(w.crew.memory, w.crew.size)
    close(w.channel)
    close(w.sock)
    w.channel = w.sock = -1
    if s.plan.flags & SHIM_LISTEN:
        s.listener = fds[0]
        fcntl(s.listener, F_SETFL, O_NONBLOCK)
    rc = <int>_rc(chdir(b"/"))
    if rc == 0:
        w.state_dir = <int>_rc(openat(AT_FDCWD, text(w, s.plan.state_dir), O_PATH | O_DIRECTORY | O_CLOEXEC))
        rc = w.state_dir
    if rc >= 0 and s.plan.log != <uint32_t>NONE:
        s.log.path = text(w, s.plan.log)
        s.log.most = s.plan.log_bytes
        s.log.files = s.plan.log_files
        s.log.fd = rc = open_log(s.log.path, 0)
    if rc >= 0:
        s.space = <workspace *>mmap(NULL, sizeof(workspace), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>s.space == MAP_FAILED:
            return -errno
        s.log.room = s.space.records
        s.streams[0].room = s.space.output[0]
        s.streams[1].room = s.space.output[1]
        s.log.names = s.space.names
        if s.log.fd >= 0:
            log_resume(&s.log)
    if rc >= 0 and s.plan.flags & SHIM_CLIENT:
        add_client(s, fds[s.plan.flags & SHIM_LISTEN])
    if rc >= 0 and not s.plan.flags & SHIM_TERMINAL:
        if s.plan.flags & SHIM_STDIN:
            rc = make_pipe(w, s, 0, &s.input)
        if rc >= 0:
            rc = make_pipe(w, s, 1, &s.streams[0].fd)
        if rc >= 0:
            rc = make_pipe(w, s, 2, &s.streams[1].fd)
    return 0 if rc >= 0 else rc


cdef inline void enter_cgroup(walk *w, const char *hierarchy, const char *path) noexcept nogil:
    """Move this process to the cgroup *path* of one hierarchy, which is made if need be; without it all works too."""
    cdef int made
    cdef int directory
    cdef bint cpuset
    cdef int attempt
    cdef int rc
    if c_join_path(hierarchy, b"/cpuset.cpus", w.path, sizeof(w.path)) < 0:
        return
    directory = openat(AT_FDCWD, w.path, O_PATH | O_CLOEXEC)
    cpuset = directory >= 0         # v2 has no such file in its root
    close(directory)
    for attempt in range(MAKE_ATTEMPTS):
        rc = c_cgroup_make(hierarchy, path, NULL, cpuset, cpuset, True, NULL, w.path, sizeof(w.path), &made)
        if c_removed(rc):
            continue                # made, and gone before it could be seeded
        if rc < 0:
            return
        directory = openat(AT_FDCWD, w.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        if made:
            fsetxattr(directory, b"trusted.pyrunc", b"1", 1, 0)
        rc = write_file_at(directory, b"tasks", b"0")
        if rc == -ENOENT:
            rc = write_file_at(directory, b"cgroup.procs", b"0")
        if rc == -ENOSPC and c_seed_below(w.path) == 0:
            rc = write_file_at(directory, b"tasks", b"0")
        close(directory)
        if not c_removed(rc):
            return                  # else the last one to leave has just removed it


cdef inline const char *next_text(const char *at) noexcept nogil:
    return at + strlen(at) + 1


cdef inline void move(walk *w, shim *s) noexcept nogil:
    """Leave the requester's cgroups, with which it may be killed, and which it may want to remove."""
    cdef const char *hierarchy = text(w, s.plan.hierarchies)
    cdef uint32_t i
    if s.move_at == 0:
        return
    s.move_at = 0
    s.moved = True
    for i in range(s.plan.hierarchy_count):
        enter_cgroup(w, hierarchy, text(w, s.plan.cgroup))
        hierarchy = next_text(hierarchy)


cdef inline void leave_network(shim *s) noexcept nogil:
    """Go back from the network namespace that has become the container's."""
    if s.host_net >= 0:
        setns(s.host_net, CLONE_NEWNET)
        close(s.host_net)
    s.host_net = -1


cdef inline void shim_settle(walk *w, shim *s) noexcept nogil:
    """The container runs, and its requester knows: leave what is the requester's, or the container's."""
    cdef const plan_step *step
    cdef uint32_t i
    s.worked = True
    reserve_file(w.state_dir, b".status")
    leave_network(s)
    c_leave_home(w.homes, -1)
    for i in range(w.header.step_count):
        step = &w.steps[i]
        if step.section != SECTION_HOST:
            break
        if (step.op == OP_OPEN_TREE or step.op == OP_NEW_MOUNT or step.op == OP_OVERLAY or step.op == OP_USERNS
                or (step.op == OP_OPEN and not step.flags & F_EXISTING and step.slot_a != w.header.cgroup_slot)):
            close(w.slots[step.slot_a])
            w.slots[step.slot_a] = -1
    if s.plan.cgroup != <uint32_t>NONE:
        s.move_at = now_ns() + MOVE_MS * 1000000
        if not s.owner:
            move(w, s)


cdef inline void take_terminal(walk *w, shim *s) noexcept nogil:
    """The terminal that init has made is both of the program's streams."""
    cdef winsize_t size
    if w.terminal < 0 or s.streams[0].fd >= 0 or not s.plan.flags & SHIM_TERMINAL:
        return
    fcntl(w.terminal, F_SETFL, O_NONBLOCK)
    s.streams[0].fd = w.terminal
    if s.plan.flags & SHIM_STDIN:
        s.input = w.terminal
    if s.plan.window:
        memset(&size, 0, sizeof(size))
        size.ws_row = <unsigned short>(s.plan.window >> 16)
        size.ws_col = <unsigned short>s.plan.window
        ioctl(w.terminal, TIOCSWINSZ, &size)


cdef inline ssize_t take_output(walk *w, shim *s, int number, size_t most) noexcept nogil:
    """Pass on what one read(2) of *most* bytes gives; how much that was."""
    cdef shim_stream *stream = &s.streams[number]
    cdef ssize_t got
    cdef char *room = stream.room + stream.held
    s.worked = True
    got = read(stream.fd, room, most if most < CHUNK else CHUNK)
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return 0
    if got <= 0:
        if s.plan.flags & SHIM_TERMINAL:
            s.hung = True           # no process has it open; that is no end, for another may open it
        else:
            close(stream.fd)
            stream.fd = -1
            log_output(&s.log, stream, ENDS)
        return 0
    to_clients(w, s, <uint8_t>(FRAME_STDOUT + number), room, <size_t>got)
    if s.log.fd >= 0:
        stream.held += <size_t>got
        log_output(&s.log, stream, LINES)
        if stream.held > 0:
            # A program that fills buffers and writes those has only paused within a line.
            s.tail_at = now_ns() + TAIL_MS * 1000000
    return got


cdef inline void log_tails(shim *s, int what) noexcept nogil:
    cdef int i
    s.tail_at = 0
    for i in range(2):
        if s.streams[i].held > 0:
            log_output(&s.log, &s.streams[i], what)


cdef inline void shim_drain(walk *w, shim *s) noexcept nogil:
    """Take what the dead program has left in its streams, and no more: whom it gave an end of them may go on to write."""
    cdef int left
    cdef int i
    cdef ssize_t got
    if s.held_back:
        # It may have begun and ended before we looked.
        accept_clients(s)
        for i in range(s.client_count):
            hear_client(w, s, &s.clients[i])
        if s.held_back:
            return                  # these are words about its failure, which others have heard
    for i in range(2):
        left = 0
        if s.streams[i].fd < 0:
            continue
        if s.plan.flags & SHIM_TERMINAL:
            left = DRAIN_MOST       # a terminal does not know
        elif ioctl(s.streams[i].fd, FIONREAD, &left) < 0:
            continue
        while left > 0:
            got = take_output(w, s, i, <size_t>left)
            if got <= 0:
                break
            left -= <int>got


cdef inline void quiet(walk *w, shim *s) noexcept nogil:
    """Give back what memory there is only for work: the workspace, and the plan's pages, which are in its file."""
    if s.worked and s.input_done == s.input_held and s.streams[0].held + s.streams[1].held == 0:
        madvise(s.space, sizeof(workspace), MADV_DONTNEED)
        madvise(<void *>w.data, w.data_size, MADV_DONTNEED)
        s.worked = False


cdef inline int patience(walk *w, shim *s, const record *report) noexcept nogil:
    """After how many milliseconds there is something to do though nothing happens; -1: never."""
    if s.move_at:
        return MOVE_MS
    if unheard(w, report):
        return LOOK_MS
    if w.dying:
        return THAW_AGAIN_MS
    if s.tail_at:
        return TAIL_MS
    if s.hung:
        return TERMINAL_MS
    return QUIET_MS if s.worked or s.full else -1


cdef inline void serve_program(walk *w, shim *s, pollfd *watch) noexcept nogil:
    """Do what *watch* has found: two streams, the input, the listening socket, then clients."""
    cdef int i
    for i in range(2):
        if watch[i].revents and s.streams[i].fd >= 0:
            take_output(w, s, i, CHUNK)
    if watch[2].revents and s.input >= 0 and s.input_done < s.input_held:
        write_input(s)
    if watch[3].revents:
        accept_clients(s)


cdef inline void watch_program(shim *s, pollfd *watch) noexcept nogil:
    cdef bint wait = held_up(s) or s.hung or s.held_back
    cdef int i
    for i in range(2):
        watch[i].fd = -1 if wait else s.streams[i].fd
        watch[i].events = POLLIN
    watch[2].fd = s.input if s.input_done < s.input_held else -1
    watch[2].events = POLLOUT
    watch[3].fd = -1 if s.full else s.listener
    watch[3].events = POLLIN
    for i in range(4):
        watch[i].revents = 0


cdef inline void heed_signals(bint heed) noexcept nogil:
    """Whether signals end this process; init was born with their defaults.

    A reader that is gone, or a limit of files' sizes, is told by errno. And what asks all processes of a host, or of a
    service, to end is for the container's program: this one takes note of how that ends.
    """
    cdef int numbers[6]
    cdef int i
    numbers[0] = SIGPIPE
    numbers[1] = SIGXFSZ
    numbers[2] = SIGTERM
    numbers[3] = SIGINT
    numbers[4] = SIGHUP
    numbers[5] = SIGQUIT
    for i in range(6):
        signal(numbers[i], SIG_DFL if heed else SIG_IGN)


cdef inline void shim_serve(walk *w, shim *s, int reply_fd, int pid, int pidfd, record *report) noexcept nogil:
    """Serve init until it ends, as `supervise` does, the program's streams, and whoever is attached."""
    cdef pollfd watch[7 + MAX_CLIENTS]
    cdef timespec pause
    cdef int clients
    cdef int i
    cdef int rc
    heed_signals(False)
    watch[0].fd = w.progress_fd
    watch[1].fd = reply_fd
    watch[2].fd = pidfd
    for i in range(3):
        watch[i].events = POLLIN
    while True:
        for i in range(3):
            watch[i].revents = 0
        watch_program(s, watch + 3)
        clients = watch_clients(s, watch + 7)
        rc = poll(watch, <unsigned long>(7 + clients), patience(w, s, report))
        if rc < 0 and errno != EINTR:
            pause.tv_sec = 0
            pause.tv_nsec = 10000000
            nanosleep(&pause, NULL)     # no memory; whoever lives on it depends on this process
        if s.move_at and now_ns() >= s.move_at:
            move(w, s)
            continue
        if s.tail_at and now_ns() >= s.tail_at:
            log_tails(s, TAILS)
        if rc <= 0:
            if rc == 0:
                if w.dying:
                    thaw(w)
                if unheard(w, report):
                    look(w, pid)
                serve_clients(w, s, watch + 7, clients)     # who is to be dropped says nothing more
                quiet(w, s)
                s.hung = s.full = False
            continue
        if watch[0].revents:
            i = hear(w, reply_fd, pid, pidfd, report)
            take_terminal(w, s)
            if not i:
                watch[0].fd = -1
                if w.running:
                    shim_settle(w, s)
        if watch[1].revents and not obey(w, reply_fd, pidfd):
            s.owner = False
            watch[1].fd = -1
            move(w, s)
            if not w.header.flags & PLAN_KEEP_RUNNING:
                kill_container(w, pidfd)
        # Clients before newcomers: their entries are where they were.
        serve_clients(w, s, watch + 7, clients)
        serve_program(w, s, watch + 3)
        if watch[2].revents:
            # Both at once, where this process had to wait for its turn.
            if w.progress_fd >= 0:
                hear_last(w, reply_fd, pid, pidfd, report)
                if w.running:
                    shim_settle(w, s)
            take_terminal(w, s)
            shim_drain(w, s)
            return
