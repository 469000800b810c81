# cython: cdivision=True, boundscheck=False
# Whoever is attached to a container: its output to them, their input to it, each at its own pace.
#
# A client that is slow holds up nobody and loses nothing: what its socket does not take is spooled on disk. Input is
# read from a client only while the program takes it.

from pyrunc._native.linux cimport *
from pyrunc._native.shim_state cimport *
from pyrunc._native.steps cimport *

cdef enum:
    BEHIND_MOST = 1 << 20           # a single client without a log holds the program up, as a pipe would
    PUNCH = 1 << 20                 # what was sent of a spool is given back in pieces of this size
    SQUEEZE_MS = 1000               # for a client that is behind while the disk is full
    FRAMES_MOST = 64                # of one client's, before others have their turn


cdef inline uint64_t behind(const client *c) noexcept nogil:
    """How much of what it wanted it has not got."""
    return c.spooled - c.sent


cdef inline int open_spool(walk *w, shim *s) noexcept nogil:
    """A file without a name beside the log, or in the state directory; its descriptor or -errno."""
    cdef int directory = w.state_dir
    cdef int fd
    cdef size_t length
    if s.plan.log != <uint32_t>NONE:
        length = strlen(text(w, s.plan.log))
        if length >= sizeof(w.path):
            return -ENAMETOOLONG
        memcpy(w.path, text(w, s.plan.log), length)
        while w.path[length - 1] != c'/':
            length -= 1
        w.path[length] = 0
        directory = <int>_rc(openat(AT_FDCWD, w.path, O_PATH | O_DIRECTORY | O_CLOEXEC))
        if directory < 0:
            return directory
    fd = <int>_rc(openat(directory, b".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600))
    if fd < 0:
        # A file system that has no such files.
        fd = <int>_rc(openat(directory, b".spool", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600))
        if fd >= 0:
            unlinkat(directory, b".spool", 0)
    if directory != w.state_dir:
        close(directory)
    return fd


cdef inline void close_spool(client *c) noexcept nogil:
    if c.spool >= 0:
        close(c.spool)
    c.spool = -1
    c.sent = c.spooled = 0


cdef inline void deafen(client *c) noexcept nogil:
    """It takes nothing more; what it has sent still counts."""
    close_spool(c)
    c.deaf = True


cdef inline void send_spooled(shim *s, client *c) noexcept nogil:
    """Send a piece of what is spooled; by way of the pages that records of the log are made in."""
    cdef ssize_t got
    cdef uint64_t before = c.sent / PUNCH
    s.worked = True
    got = pread(c.spool, s.space.records, CHUNK, <off_t>c.sent)
    if got <= 0:
        deafen(c)
        return
    got = send(c.fd, s.space.records, <size_t>got, MSG_NOSIGNAL | MSG_DONTWAIT)
    if got < 0:
        if errno != EAGAIN and errno != EINTR and errno != ENOMEM:
            deafen(c)
        return
    c.sent += <uint64_t>got
    if c.sent == c.spooled:
        close_spool(c)
    elif c.sent / PUNCH != before:
        fallocate(c.spool, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, <off_t>(c.sent / PUNCH * PUNCH))


cdef inline bint squeeze(shim *s, client *c, const char *data, size_t size) noexcept nogil:
    """No disk takes what a client is behind with: it has a moment, and no more in all, to take it. All others wait so long."""
    cdef pollfd watch
    cdef ssize_t got
    cdef uint64_t begin = now_ns()
    cdef uint64_t end = begin + SQUEEZE_MS * <uint64_t>1000000 - c.waited_ns
    cdef uint64_t now = begin
    watch.fd = c.fd
    watch.events = POLLOUT
    while size > 0:
        if now >= end or poll(&watch, 1, <int>((end - now) / 1000000) + 1) <= 0:
            return False
        if behind(c) > 0:
            send_spooled(s, c)
            if c.deaf:
                return False
        else:
            got = send(c.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
            if got < 0 and errno != EAGAIN and errno != EINTR:
                return False
            if got > 0:
                data += got
                size -= <size_t>got
        now = now_ns()
    c.waited_ns += now - begin
    return True


cdef inline void spool(walk *w, shim *s, client *c, const char *data, size_t size) noexcept nogil:
    cdef ssize_t got
    if c.deaf or size == 0:
        return
    if c.spool < 0:
        c.spool = open_spool(w, s)
        c.sent = c.spooled = 0
    while size > 0:
        got = pwrite(c.spool, data, size, <off_t>c.spooled) if c.spool >= 0 else -1
        if got <= 0:
            if got < 0 and errno == EINTR and c.spool >= 0:
                continue
            if not squeeze(s, c, data, size):
                deafen(c)           # half a frame is of no use to anybody
                c.mute = True
            return
        c.spooled += <uint64_t>got
        data += got
        size -= <size_t>got


cdef inline void send_frame(walk *w, shim *s, client *c, uint8_t kind, const char *data, size_t size) noexcept nogil:
    """Send a frame, or what of it the socket does not take now to the spool."""
    cdef char head[HEAD]
    cdef iovec_t vectors[2]
    cdef msghdr header
    cdef ssize_t got = 0
    cdef size_t done
    if c.deaf:
        return
    memset(head, 0, HEAD)
    head[0] = <char>kind
    head[4] = <char>(size >> 24)
    head[5] = <char>(size >> 16)
    head[6] = <char>(size >> 8)
    head[7] = <char>size
    if behind(c) == 0:
        memset(&header, 0, sizeof(header))
        vectors[0].iov_base = head
        vectors[0].iov_len = HEAD
        vectors[1].iov_base = <void *>data
        vectors[1].iov_len = size
        header.msg_iov = vectors
        header.msg_iovlen = 2
        got = sendmsg(c.fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT)
        if got < 0:
            if errno != EAGAIN and errno != EINTR and errno != ENOMEM:
                deafen(c)
                return
            got = 0
    done = <size_t>got
    if done < HEAD:
        spool(w, s, c, head + done, HEAD - done)
        done = HEAD
    spool(w, s, c, data + (done - HEAD), size - (done - HEAD))


cdef inline void to_clients(walk *w, shim *s, uint8_t kind, const char *data, size_t size) noexcept nogil:
    """Pass output on to all who want it."""
    cdef uint32_t wanted = WANTS_STDERR if kind == FRAME_STDERR else WANTS_STDOUT
    cdef int i
    for i in range(s.client_count):
        if s.clients[i].wants & wanted:
            send_frame(w, s, &s.clients[i], kind, data, size)


cdef inline bint held_up(const shim *s) noexcept nogil:
    """Whether the program's output waits for the only one who hears it."""
    cdef int hearing = 0
    cdef int i
    if s.log.fd >= 0:
        return False
    for i in range(s.client_count):
        if s.clients[i].wants & (WANTS_STDOUT | WANTS_STDERR) and not s.clients[i].deaf:
            hearing += 1
            if behind(&s.clients[i]) < BEHIND_MOST:
                return False
    return hearing == 1


cdef inline void add_client(shim *s, int fd) noexcept nogil:
    cdef client *c
    if s.clients == NULL:
        s.clients = <client *>mmap(NULL, MAX_CLIENTS * sizeof(client), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>s.clients == MAP_FAILED:
            s.clients = NULL
    if s.clients == NULL or s.client_count == MAX_CLIENTS or fcntl(fd, F_SETFL, O_NONBLOCK) < 0:
        close(fd)
        return
    c = &s.clients[s.client_count]
    memset(c, 0, sizeof(client))
    c.fd = fd
    c.spool = -1
    s.client_count += 1


cdef inline void accept_clients(shim *s) noexcept nogil:
    cdef int i
    cdef int fd
    for i in range(FRAMES_MOST):
        fd = accept4(s.listener, NULL, NULL, SOCK_CLOEXEC)
        if fd < 0:
            s.full = errno == EMFILE or errno == ENFILE or errno == ENOMEM
            return
        add_client(s, fd)


cdef inline void end_input(shim *s) noexcept nogil:
    """Close the program's input as soon as it has what is held for it; a terminal stays, for others to type on."""
    if s.plan.flags & SHIM_TERMINAL:
        return
    s.input_ends = True
    if s.input_held == s.input_done and s.input >= 0:
        close(s.input)
        s.input = -1


cdef inline void silence(shim *s, client *c) noexcept nogil:
    """It sends nothing more, and neither does the program get anything more where this was to be its only input."""
    c.mute = True
    if c.wants & WANTS_STDIN and not c.detached and s.plan.flags & SHIM_STDIN_ONCE:
        end_input(s)


cdef inline void write_input(shim *s) noexcept nogil:
    """Give the program what is held of its input, as much as it takes now."""
    cdef ssize_t got
    got = write(s.input, s.space.input + s.input_done, s.input_held - s.input_done)
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if got < 0:
        # It reads no more: as in a shell's pipe, no error.
        s.input_done = s.input_held
        if not s.plan.flags & SHIM_TERMINAL:
            close(s.input)
            s.input = -1
        return
    s.input_done += <uint32_t>got
    if s.input_done == s.input_held and s.input_ends:
        end_input(s)


cdef inline bint waits_for_program(const shim *s, const client *c) noexcept nogil:
    return c.left > 0 and s.input >= 0 and s.input_done < s.input_held and c.wants & WANTS_STDIN != 0


cdef inline bint take_input(shim *s, client *c) noexcept nogil:
    """Read a piece of a client's input for the program; False when there is none, or nobody takes it now."""
    cdef size_t most = c.left if c.left < INPUT_ROOM else INPUT_ROOM
    cdef bint wanted = s.input >= 0 and c.wants & WANTS_STDIN != 0 and not s.input_ends
    cdef char *room = s.space.records
    cdef ssize_t got
    if waits_for_program(s, c):
        return False
    s.worked = True
    # Where nothing is held there is room; what nobody takes goes the same way, to nowhere.
    if wanted:
        room = s.space.input
    got = recv(c.fd, room, most, MSG_DONTWAIT)
    if got <= 0:
        if got == 0 or (errno != EAGAIN and errno != EINTR):
            silence(s, c)
        return False
    c.left -= <uint32_t>got
    if wanted:
        s.input_done = 0
        s.input_held = <uint32_t>got
        write_input(s)
    return True


cdef inline uint32_t big_endian(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void act(walk *w, shim *s, client *c) noexcept nogil:
    """Do what a frame says whose head, and payload unless it is input, is there."""
    cdef uint8_t kind = c.head[0]
    cdef winsize_t size
    if kind == FRAME_STDIN:
        c.left = big_endian(c.head + 4)
    elif kind == FRAME_HELLO:
        c.greeted = True
        c.wants = big_endian(c.head + HEAD) & (WANTS_STDIN | WANTS_STDOUT | WANTS_STDERR)
        send_frame(w, s, c, FRAME_READY, NULL, 0)
    elif kind == FRAME_CLOSE_STDIN:
        if c.wants & WANTS_STDIN and s.plan.flags & SHIM_STDIN_ONCE:
            end_input(s)
    elif kind == FRAME_RESIZE:
        memset(&size, 0, sizeof(size))
        size.ws_row = <unsigned short>(c.head[HEAD] << 8 | c.head[HEAD + 1])
        size.ws_col = <unsigned short>(c.head[HEAD + 2] << 8 | c.head[HEAD + 3])
        if w.terminal >= 0:
            ioctl(w.terminal, TIOCSWINSZ, &size)
    elif kind == FRAME_DETACH:
        c.detached = True
    elif kind == FRAME_BEGIN:
        s.held_back = False
    c.have = 0


cdef inline int payload(const client *c) noexcept nogil:
    """How much besides its head must be there before a frame is acted on; -1 for what is no frame."""
    cdef uint32_t length = big_endian(c.head + 4)
    cdef uint8_t kind = c.head[0]
    if kind == FRAME_STDIN:
        return 0
    if kind == FRAME_HELLO and c.greeted:
        return -1                   # each is answered, and who takes no answers would fill the disk with them
    if kind == FRAME_HELLO or kind == FRAME_RESIZE:
        return 4 if length == 4 else -1
    return 0 if (kind == FRAME_CLOSE_STDIN or kind == FRAME_DETACH or kind == FRAME_BEGIN) and length == 0 else -1


cdef inline void hear_client(walk *w, shim *s, client *c) noexcept nogil:
    """Take what a client has sent, but of its input only what the program takes."""
    cdef ssize_t got
    cdef int more
    cdef int i
    for i in range(FRAMES_MOST):
        if c.mute:
            return
        if c.left > 0:
            if not take_input(s, c):
                return
            continue
        more = payload(c) if c.have >= HEAD else 0
        if c.have >= HEAD and more >= 0 and c.have == <uint32_t>(HEAD + more):
            act(w, s, c)
            continue
        if more < 0:
            c.mute = True
            deafen(c)
            return
        got = recv(c.fd, c.head + c.have, HEAD + <size_t>more - c.have, MSG_DONTWAIT)
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return
        if got <= 0:
            silence(s, c)
            return
        c.have += <uint32_t>got


cdef inline void drop_client(shim *s, int number) noexcept nogil:
    """Forget one that is gone; the last takes its place."""
    cdef client *c = &s.clients[number]
    close_spool(c)
    close(c.fd)
    s.full = False
    silence(s, c)
    s.client_count -= 1
    if number < s.client_count:
        memcpy(c, &s.clients[s.client_count], sizeof(client))


cdef inline int watch_clients(shim *s, pollfd *watch) noexcept nogil:
    """What there is to wait for; how many entries of *watch* that takes."""
    cdef client *c
    cdef int i
    for i in range(s.client_count):
        c = &s.clients[i]
        watch[i].revents = 0
        watch[i].events = POLLOUT if behind(c) > 0 else 0
        if not c.mute and not waits_for_program(s, c):
            watch[i].events |= POLLIN
        # The end of a socket would be told again and again, even where nothing is asked for.
        watch[i].fd = c.fd if watch[i].events or not waits_for_program(s, c) else -1
    return s.client_count


cdef inline void serve_clients(walk *w, shim *s, const pollfd *watch, int count) noexcept nogil:
    """Do what *watch*, as `watch_clients` has filled it, has found; from the last on, since those who go are replaced by it."""
    cdef client *c
    cdef int i = count
    while i > 0:
        i -= 1
        c = &s.clients[i]
        if watch[i].revents & (POLLOUT | POLLERR) and behind(c) > 0:
            send_spooled(s, c)
        if watch[i].revents & (POLLIN | POLLHUP | POLLERR):
            hear_client(w, s, c)
        if c.mute and (c.deaf or watch[i].revents & (POLLHUP | POLLERR)):
            drop_client(s, i)
