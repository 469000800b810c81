# cython: cdivision=True, boundscheck=False, language_level=3
"""The requester's side of one start: its request, the supervisor's records, and the program's pipes.

Each object owns its descriptors from the call that makes them, so that no signal handler that raises, such as
Ctrl-C's, can come between a descriptor and its owner. What waits or asks the kernel does so without the GIL.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free, realloc

from pyrunc._native.channel cimport *
from pyrunc._native.errors cimport check
from pyrunc._native.linux cimport *
from pyrunc._native.sealed cimport c_sealed

cdef enum:
    CHUNK = 65536
    LOOK_UP_NS = 50000000           # how long signals wait while there is always something to read

NOTHING = 0                         # what `Pipes.wait` found
RECORD = 1
FED = 2


cdef inline void drop(int *fd) noexcept nogil:
    """Close *fd* once."""
    cdef int number = fd[0]
    fd[0] = -1
    if number >= 0:
        close(number)


cdef class Channel:
    """The plan of one start, and the socket on which its supervisor answers.

    *plan* goes into a sealed memfd; `plan` and `theirs` are what the request carries; `pidfd` is the container's
    init, and `terminal` the master of the program's, once a record has brought them. Raises OSError.
    Source: memfd_create(2), fcntl(2) "File sealing".
    """

    cdef readonly int plan
    cdef readonly int theirs
    cdef readonly int pidfd
    cdef readonly int terminal
    cdef int _ours
    cdef bint _done
    cdef object _record

    def __cinit__(self, bytes plan not None):
        cdef const char *data = plan
        cdef size_t size = len(plan)
        cdef int pair[2]
        cdef int rc
        self.plan = self.theirs = self.pidfd = self.terminal = self._ours = -1
        self._done = False
        with nogil:
            self.plan = c_sealed(b"pyrunc-plan", data, size)
            rc = 0
            if self.plan >= 0:
                rc = <int>_rc(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
                if rc == 0:
                    self._ours = pair[0]
                    self.theirs = pair[1]
        check(self.plan, "memfd_create")
        check(rc, "socketpair")

    def __dealloc__(self):
        self.drop_all()

    cdef void drop_all(self) noexcept nogil:
        drop(&self._ours)
        drop(&self.theirs)
        drop(&self.pidfd)
        drop(&self.terminal)
        drop(&self.plan)

    def fileno(self):
        """The descriptor that becomes readable when there is a record, or -1 after `close`."""
        return self._ours

    def sent(self):
        """The request has gone, or never will: only the supervisor shall hold the other end."""
        drop(&self.theirs)

    def receive(self, tuple names not None):
        """Wait for a record; None at the end, else its numbers, in channel.pxd's order but without `ready`.

        Behind them, when each stage of *names* began that did. Until `handled` it is the same record again, for a signal
        handler may raise before its numbers are anywhere. Raises OSError.
        """
        cdef record message
        cdef int fds[256]
        cdef int count
        cdef int got
        cdef int i
        cdef bint again = True
        if self._record is not None:
            return self._record
        while True:
            with nogil:
                got = receive_with(self._ours, &message, sizeof(message), 0, fds, &count)
            if got == -ECONNRESET and again:
                # The supervisor ended before it read a command of ours; its record is behind the error.
                again = False
            elif got == -EINTR:
                PyErr_CheckSignals()
            else:
                break
        check(got, "recvmsg")
        while count > 2:
            count -= 1
            close(fds[count])
        if count > 1:
            drop(&self.terminal)
            self.terminal = fds[1]
        if count > 0:
            drop(&self.pidfd)
            self.pidfd = fds[0]
        if got != sizeof(message):
            return None
        stages = {}
        for i in range(STAGES):
            if message.stage_ns[i] and i < len(names):
                stages[names[i]] = message.stage_ns[i]
        self._record = (
            message.kind, message.step, message.error, message.pid, message.wait_status, message.leftover,
            message.oom_kills, message.utime_us, message.stime_us, message.maxrss_bytes, message.overhead_us,
            stages,
        )
        return self._record

    def handled(self):
        """The next record, please."""
        self._record = None

    def hang_up(self):
        """Close the terminal; its program gets SIGHUP."""
        drop(&self.terminal)

    def kill(self, int signal):
        """Ask the supervisor to send *signal*; one that is gone is no error."""
        self.c_command(COMMAND_KILL, signal)

    def finished(self):
        """Tell a shim whose container has ended that nothing is left to be done."""
        self.c_command(COMMAND_FINISHED, 0)

    cdef int c_command(self, uint32_t kind, int signal) except -1:
        cdef command message
        message.kind = kind
        message.signal = signal
        cdef long rc
        while True:
            with nogil:
                rc = _rc(send(self._ours, &message, sizeof(message), MSG_NOSIGNAL))
            if rc != -EINTR:
                break
            PyErr_CheckSignals()
        # EBADF: another thread has seen the end meanwhile, and hung up.
        if rc != -EPIPE and rc != -ECONNRESET and rc != -EBADF:
            check(rc, "send")
        return 0

    def taken(self):
        """Whether a supervisor has taken the request: it has set the offset of the plan to 0."""
        return self._done or lseek(self.plan, 0, SEEK_CUR) == 0

    def started(self):
        """The plan has been carried out, and needs no memory here any more."""
        self._done = True
        drop(&self.plan)

    def close(self):
        """Hang up; a second time does nothing."""
        self.drop_all()


cdef inline int c_send_request(int sock, const int *fds, int count, int flags) noexcept nogil:
    cdef request message
    cdef msghdr header
    cdef iovec_t vector
    cdef cmsghdr *cmsg
    cdef uint64_t control[160]
    message.magic = REQUEST_MAGIC
    message.version = CHANNEL_VERSION
    memset(&header, 0, sizeof(header))
    memset(control, 0, sizeof(control))
    vector.iov_base = &message
    vector.iov_len = sizeof(message)
    header.msg_iov = &vector
    header.msg_iovlen = 1
    header.msg_control = control
    header.msg_controllen = CMSG_SPACE(<size_t>count * sizeof(int))
    cmsg = CMSG_FIRSTHDR(&header)
    cmsg.cmsg_level = SOL_SOCKET
    cmsg.cmsg_type = SCM_RIGHTS
    cmsg.cmsg_len = CMSG_LEN(<size_t>count * sizeof(int))
    memcpy(CMSG_DATA(cmsg), fds, <size_t>count * sizeof(int))
    return 0 if sendmsg(sock, &header, MSG_NOSIGNAL | flags) >= 0 else -errno


def send_request(int sock, descriptors, bint wait):
    """Send one request with its *descriptors* (plan, reply socket, then the plan's own) to a spawner's *sock*.

    Raises BrokenPipeError or ConnectionResetError when the spawner is dead, BlockingIOError when its queue is
    full and *wait* is False, and ValueError for more descriptors than one message takes.
    """
    cdef int fds[MAX_FDS]
    cdef int count = 0
    cdef int rc
    if len(descriptors) > MAX_FDS:
        raise ValueError(f"{len(descriptors)} descriptors are more than the {MAX_FDS} of one request")
    for fd in descriptors:
        fds[count] = fd
        count += 1
    while True:
        with nogil:
            rc = c_send_request(sock, fds, count, 0 if wait else MSG_DONTWAIT)
        if rc != -EINTR:
            break
        PyErr_CheckSignals()
    check(rc, "sendmsg")


cdef struct heap:
    char *data
    size_t size
    size_t room


cdef inline int take_in(int fd, heap *into, size_t most) noexcept nogil:
    """One read(2) of at most *most* bytes to the end of *into*; its result or -errno.

    -EAGAIN, though there was something: a program may open its own output for reading and be faster.
    """
    cdef void *more
    cdef ssize_t got
    if into.room - into.size < CHUNK:
        more = realloc(into.data, into.room + into.room / 2 + CHUNK)
        if more == NULL:
            return -ENOMEM
        into.data = <char *>more
        into.room += into.room / 2 + CHUNK
    got = read(fd, into.data + into.size, most if most < CHUNK else CHUNK)
    if got < 0:
        return -errno
    into.size += <size_t>got
    return <int>got


cdef class Pipes:
    """Input and output of one program: `theirs` are its three descriptors, the others ours.

    With *stdin* its input is a pipe that we write to, without waiting; else /dev/null. One for each start: a
    shared one would have to survive a close in another thread, and a host program that closes whatever is
    open, as one does that becomes a daemon. Raises OSError.
    """

    cdef readonly int input
    cdef readonly int output
    cdef readonly int errors
    cdef int _theirs[3]
    cdef heap _out
    cdef heap _err
    cdef bytes _stdin
    cdef const char *_data
    cdef size_t _size
    cdef size_t _sent

    def __cinit__(self, bytes stdin not None):
        cdef int pair[2]
        cdef int rc = 0
        self._stdin = stdin
        self._data = stdin
        self._size = len(stdin)
        self._sent = 0
        self.input = self.output = self.errors = self._theirs[0] = self._theirs[1] = self._theirs[2] = -1
        memset(&self._out, 0, sizeof(heap))
        memset(&self._err, 0, sizeof(heap))
        with nogil:
            if self._size:
                rc = <int>_rc(pipe2(pair, O_CLOEXEC))
                if rc == 0:
                    self._theirs[0] = pair[0]
                    self.input = pair[1]
                    rc = <int>_rc(fcntl(pair[1], F_SETFL, O_NONBLOCK))
            else:
                rc = <int>_rc(openat(AT_FDCWD, b"/dev/null", O_RDWR | O_CLOEXEC))
                self._theirs[0] = rc
            if rc >= 0:
                rc = <int>_rc(pipe2(pair, O_CLOEXEC))
            if rc >= 0:
                self.output = pair[0]
                self._theirs[1] = pair[1]
                rc = <int>_rc(fcntl(pair[0], F_SETFL, O_NONBLOCK))
            if rc >= 0:
                rc = <int>_rc(pipe2(pair, O_CLOEXEC))
            if rc >= 0:
                self.errors = pair[0]
                self._theirs[2] = pair[1]
                rc = <int>_rc(fcntl(pair[0], F_SETFL, O_NONBLOCK))
        check(rc, "pipe2")

    def __dealloc__(self):
        self.close_all()
        free(self._out.data)
        free(self._err.data)

    cdef void close_their_ends(self) noexcept nogil:
        cdef int i
        for i in range(3):
            drop(&self._theirs[i])

    cdef void close_all(self) noexcept nogil:
        self.close_their_ends()
        drop(&self.input)
        drop(&self.output)
        drop(&self.errors)

    @property
    def theirs(self):
        """The program's input, output and errors."""
        return self._theirs[0], self._theirs[1], self._theirs[2]

    def close_theirs(self):
        """Give up the container's ends.

        Until then the end of its output is not seen: one event less to wait for.
        """
        self.close_their_ends()

    def close_ours(self):
        """Close whatever is still open."""
        self.close_all()

    def shut_input(self):
        """Give the program the end of its input."""
        drop(&self.input)

    cdef int c_feed(self) noexcept nogil:
        """Write what the input's pipe takes now; 0 or -errno."""
        cdef size_t left = self._size - self._sent
        cdef ssize_t got = write(self.input, self._data + self._sent, left if left < CHUNK else CHUNK)
        if got >= 0:
            self._sent += <size_t>got
        elif errno == EPIPE:
            self._sent = self._size     # nobody reads it: as in a shell's pipe, no error
        elif errno != EAGAIN and errno != EINTR:
            return -errno
        return 0

    def feed(self):
        """Write what `input` takes now; False when there is no more to write, and it is to be closed."""
        cdef int rc
        with nogil:
            rc = self.c_feed()
        check(rc, "write")
        return self._sent < self._size

    def wait(self, int reply, deadline):
        """Read and feed until *reply* is readable (RECORD), all input is written (FED), or *deadline* has come (NOTHING).

        *deadline* is in monotonic seconds, or None; neither it nor a signal waits for a program that writes without
        end. Raises what a signal handler raises, and OSError.
        """
        cdef pollfd watch[4]
        cdef uint64_t end = 0 if deadline is None else <uint64_t>(<double>deadline * 1e9)
        cdef uint64_t now
        cdef uint64_t since
        cdef int timeout = -1
        cdef int what = 0
        cdef int rc
        watch[0].fd = reply
        watch[1].fd = self.output
        watch[2].fd = self.errors
        watch[3].fd = self.input
        watch[0].events = watch[1].events = watch[2].events = POLLIN
        watch[3].events = POLLOUT
        while True:
            with nogil:
                since = now_ns()
                while True:
                    now = now_ns()
                    if now - since > LOOK_UP_NS:
                        rc = -EINTR
                        break
                    if end:
                        timeout = 0
                        if end > now:
                            timeout = <int>((end - now + 999999) / 1000000)
                    rc = <int>_rc(poll(watch, 4, timeout))
                    if rc <= 0:
                        break
                    if watch[1].revents & POLLIN:
                        rc = take_in(self.output, &self._out, CHUNK)
                    if (rc >= 0 or rc == -EAGAIN) and watch[2].revents & POLLIN:
                        rc = take_in(self.errors, &self._err, CHUNK)
                    if (rc >= 0 or rc == -EAGAIN) and watch[3].revents:
                        rc = self.c_feed()
                    if rc < 0 and rc != -EAGAIN:
                        break
                    rc = 0
                    if watch[0].revents:
                        what = 1
                        break
                    if watch[3].revents and self._sent == self._size:
                        what = 2
                        break
                    if timeout == 0:
                        break
            if rc != -EINTR:
                break
            PyErr_CheckSignals()
        check(rc, "poll")
        return what

    def receive(self, int fd):
        """Take what *fd*, `output` or `errors`, holds; False at its end."""
        cdef heap *into = &self._out if fd == self.output else &self._err
        cdef int rc
        with nogil:
            rc = take_in(fd, into, CHUNK)
        return rc == -EAGAIN or check(rc, "read") > 0

    def drain(self):
        """Take what is left in the pipes of a container that has ended; all that it wrote.

        And no more: whom it gave an end of them may go on to write.
        """
        cdef int rc = 0
        cdef int left
        cdef int i
        with nogil:
            self.close_their_ends()
            for i in range(2):
                left = 0
                if (self.errors if i else self.output) >= 0:
                    rc = <int>_rc(ioctl(self.errors if i else self.output, FIONREAD, &left))
                while rc >= 0 and left > 0:
                    rc = take_in(self.errors if i else self.output, &self._err if i else &self._out, <size_t>left)
                    if rc == 0:
                        break
                    left -= rc
                if rc == -EAGAIN:
                    rc = 0
                if rc < 0:
                    break
        check(rc, "read")
        return self.written()

    def written(self):
        """What was taken so far: (output, errors)."""
        return (
            PyBytes_FromStringAndSize(self._out.data, <ssize_t>self._out.size) if self._out.size else b"",
            PyBytes_FromStringAndSize(self._err.data, <ssize_t>self._err.size) if self._err.size else b"",
        )
