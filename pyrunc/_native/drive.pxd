# cython: cdivision=True, boundscheck=False
# What another runtime's container, or a further program in one, has for a parent: a shim's program, or a supervisor's.
#
#   pyrunc-init drive PLACE FILES FLAGS COUNTER  N CREATE...  N START...  N END...
#
# It has the runtime create a container and start it, as subreaper, says so to whoever waits for the start, and ends as
# the container does. The runtime's commands are lists of words behind their length; an empty one is left out. They
# begin in FILES, since an address of a socket has room for 107 bytes. What else it needs is in two directories:
#
#   PLACE/word        a fifo: who runs, as in `running`; or {"verb", "status", "errno"} of what has failed, and behind
#                     that what the runtime has written about it. A starter that does not read it any more has gone
#   PLACE/running     of a shim: who runs is the container's init from then on
#   PLACE/oom_killed  made if the file COUNTER says that a limit of memory has killed anyone
#   FILES/pid         the container's init, as CREATE has left it there
#   FILES/console     a socket on which CREATE sends the terminal that it makes

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport c_read_counter
from pyrunc._native.channel cimport *
from pyrunc._native.oci_files cimport bind, listen
from pyrunc._native.oci_foreground cimport *
from pyrunc._native.oci_relay cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.shim_files cimport *
from pyrunc._native.shim_state cimport FRAME_BEGIN, HEAD, TERMINAL_MS
from pyrunc._native.signals cimport *

cdef enum:
    # FLAGS
    DRIVE_SHIM = 1                  # a shim's program: its output is held back until it says BEGIN
    DRIVE_TERMINAL = 2              # its streams are a terminal, and so are the container's: another one
    DRIVE_LEASH = 4                 # it ends with its starter

    # the verb that has failed
    DRIVE_CREATE = 1
    DRIVE_START = 2
    DRIVE_OTHER = 3                 # not the runtime's: an errno

    DRIVE_USAGE = 64
    DRIVE_FAILED = 125
    DRIVE_WORDS = 2048              # of a runtime that are passed on
    CONSOLE_MS = 10000
    RUNNING_MS = 30000

cdef struct driven:
    int place
    int files
    int word
    int signals
    int console
    int master                      # of the container's terminal, or -1
    int pid                         # its init, once there is one
    int flags
    bint started                    # the word has been given
    const char *counter
    char **verbs[3]                 # create, start, end
    int verb                        # of what has failed
    int status


cdef inline bint drive_arguments(driven *d, int argc, char **argv) noexcept nogil:
    """Understand the command line; the lists of words are cut where they stand."""
    cdef long count
    cdef int at = 6
    cdef int i
    if argc < 9:
        return False
    d.flags = <int>parse_decimal(argv[4])
    d.counter = argv[5]
    for i in range(3):
        if at >= argc:
            return False
        count = parse_decimal(argv[at])
        if count < 0 or count > argc - at - 1:
            return False
        argv[at] = NULL
        d.verbs[i] = argv + at + 1
        at += <int>count + 1
    return at == argc


cdef inline bint readable_within(int fd, int timeout_ms) noexcept nogil:
    cdef pollfd watch
    watch.fd = fd
    watch.events = POLLIN
    watch.revents = 0
    return poll(&watch, 1, timeout_ms) > 0


cdef inline void pass_size(int master) noexcept nogil:
    cdef winsize_t size
    if ioctl(0, TIOCGWINSZ, &size) == 0 and (size.ws_row or size.ws_col):
        ioctl(master, TIOCSWINSZ, &size)


cdef inline int take_console(driven *d) noexcept nogil:
    """Take the master of the container's terminal, which the runtime sends just now."""
    cdef char name[PATH_ROOM]
    cdef int connection
    cdef int rc
    connection = <int>_rc(accept4(d.console, NULL, NULL, SOCK_CLOEXEC))
    if connection < 0:
        return connection
    rc = -ETIMEDOUT
    if readable_within(connection, CONSOLE_MS):
        rc = receive_one(connection, name, sizeof(name), &d.master)
    close(connection)
    return rc if rc < 0 else 0 if d.master >= 0 else -EPROTO


cdef inline int size_console(driven *d, int pid) noexcept nogil:
    """Take the terminal as soon as the runtime *pid* sends it: a program may ask for its size at once; 0 or -errno."""
    cdef pollfd watch[2]
    cdef int rc = 0
    watch[0].fd = d.console
    watch[1].fd = <int>_rc(syscall(NR_pidfd_open, pid, 0))
    watch[0].events = watch[1].events = POLLIN
    watch[0].revents = watch[1].revents = 0
    while poll(watch, 2, -1) < 0 and errno == EINTR:
        pass
    if watch[0].revents:
        rc = take_console(d)
    if rc == 0 and d.master >= 0:
        pass_size(d.master)
    close(watch[1].fd)
    return rc


cdef inline int run_verb(driven *d, char **words) noexcept nogil:
    """Run a command of the runtime to its end: its wait status, 0 if there is none, or -errno."""
    cdef int status = 0
    cdef int failed = 0
    cdef int pid
    if words[0] == NULL:
        return 0
    pid = fork()
    if pid == 0:
        reset_signals()
        fchdir(d.files)
        execve(words[0], words, environ)
        _exit(127)
    if pid < 0:
        return -errno
    if d.console >= 0 and d.master < 0:
        failed = size_console(d, pid)
    # Not any other: what the runtime has left behind may be the container's init, which has ended already.
    while wait4(pid, &status, 0, NULL) < 0:
        if errno != EINTR:
            return -errno
    return status if status else failed


cdef inline int drive_verb(driven *d, int verb) noexcept nogil:
    """Have the runtime create or start; 0, or -errno and what has failed."""
    cdef int rc = run_verb(d, d.verbs[verb - 1])
    if rc != 0:
        d.verb = verb
        d.status = rc if rc > 0 else 0
    return 0 if rc == 0 else -EIO if rc > 0 else rc


cdef inline int listen_for_console(driven *d) noexcept nogil:
    """Await a terminal on FILES/console, and let our own pass everything on as it is."""
    cdef sockaddr_un address
    cdef termios_t attributes
    cdef int rc
    d.console = <int>_rc(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))
    if d.console < 0:
        return d.console
    address_in(&address, d.files, b"console")
    rc = <int>_rc(bind(d.console, &address, sizeof(address)))
    if rc == 0:
        rc = <int>_rc(listen(d.console, 1))
    if rc == 0:
        rc = <int>_rc(tcgetattr(0, &attributes))
    if rc == 0:
        cfmakeraw(&attributes)
        rc = <int>_rc(tcsetattr(0, TCSANOW, &attributes))
    return rc


cdef inline int read_pid(driven *d) noexcept nogil:
    """The number in FILES/pid, or -errno."""
    cdef char text[32]
    cdef ssize_t length
    cdef int i = 0
    cdef int fd = <int>_rc(openat(d.files, b"pid", O_RDONLY | O_CLOEXEC))
    if fd < 0:
        return fd
    length = read(fd, text, sizeof(text) - 1)
    close(fd)
    while i < length and c'0' <= text[i] <= c'9':
        i += 1
    text[i] = 0
    i = <int>parse_decimal(text)
    return i if i > 0 else -EPROTO


cdef inline int tell_running(driven *d) noexcept nogil:
    """Say in the file that tells who runs that it is the container's init, and no more this process."""
    cdef timespec pause
    cdef int attempt
    cdef int fd = -1
    pause.tv_sec = 0
    pause.tv_nsec = 1000000
    for attempt in range(RUNNING_MS):
        fd = openat(d.place, b"running", O_PATH | O_CLOEXEC)
        if fd >= 0:
            break
        nanosleep(&pause, NULL)     # the shim is at it
    if fd < 0:
        return -ETIMEDOUT
    close(fd)
    return write_running(d.place, d.pid, getppid())


cdef inline int say_begin(driven *d) noexcept nogil:
    """Tell the shim that from now on all output is the container's program's."""
    cdef sockaddr_un address
    cdef char frame[HEAD]
    cdef int rc
    cdef int sock = <int>_rc(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))
    if sock < 0:
        return sock
    memset(frame, 0, HEAD)
    frame[0] = FRAME_BEGIN
    address_in(&address, d.place, b"attach")
    rc = <int>_rc(connect(sock, &address, sizeof(address)))
    if rc == 0:
        rc = 0 if send(sock, frame, HEAD, MSG_NOSIGNAL) == HEAD else -EPIPE
    close(sock)
    return rc


cdef inline int bring_up(driven *d) noexcept nogil:
    """From nothing to a container whose program runs; 0 or -errno."""
    cdef int rc = 0
    if d.flags & DRIVE_TERMINAL:
        rc = listen_for_console(d)
    if rc == 0:
        rc = drive_verb(d, DRIVE_CREATE)
    if rc == 0:
        rc = read_pid(d)
        if rc > 0:
            d.pid = rc
            rc = 0
    if rc == 0 and d.flags & DRIVE_TERMINAL and d.master < 0:
        rc = -EPROTO                # it has sent none
    if rc == 0 and d.flags & DRIVE_SHIM:
        rc = tell_running(d)
    if rc == 0:
        rc = drive_verb(d, DRIVE_START)
    if rc == 0 and d.flags & DRIVE_SHIM:
        rc = say_begin(d)
    return rc


cdef inline void take_down(driven *d) noexcept nogil:
    """End what has come up, but not all the way."""
    if d.pid > 0:
        kill(d.pid, SIGKILL)
        while wait4(d.pid, NULL, 0, NULL) < 0 and errno == EINTR:
            pass
        run_verb(d, d.verbs[2])


cdef inline size_t last_words(char *room, size_t size) noexcept nogil:
    """What a runtime that has failed has written, where that is a pipe from which nobody else reads."""
    cdef stat_t status
    cdef ssize_t got
    cdef int fd
    if fstat(2, &status) < 0 or status.st_mode & S_IFMT != S_IFIFO:
        return 0
    fd = openat(AT_FDCWD, b"/proc/self/fd/2", O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    got = read(fd, room, size)
    close(fd)
    return <size_t>got if got > 0 else 0


cdef inline void say_failure(driven *d, int error) noexcept nogil:
    cdef line word
    cdef char text[LINE_ROOM + DRIVE_WORDS]
    word.size = 0
    put_value(&word, b"verb", <uint64_t>d.verb if d.verb else DRIVE_OTHER)
    put_value(&word, b"status", <uint64_t>d.status)
    put_value(&word, b"errno", <uint64_t>-error)
    put_text(&word, b"}\n")
    memcpy(text, word.text, word.size)
    # At once: a pipe takes so much in one piece.
    write(d.word, text, word.size + last_words(text + word.size, DRIVE_WORDS))


cdef inline void say_running(driven *d) noexcept nogil:
    cdef line word
    describe_running(&word, d.pid, getppid())
    put_text(&word, b"\n")
    write(d.word, word.text, word.size)


cdef inline void give_up_streams() noexcept nogil:
    """Whoever waits for the end of the program's output, or its input's, does not wait for this process."""
    cdef int i
    cdef int null = openat(AT_FDCWD, b"/dev/null", O_RDWR | O_CLOEXEC)
    for i in range(3):
        dup2(null, i)
    close(null)


cdef inline void heed(driven *d, int pidfd) noexcept nogil:
    """Take the signals that have come. Who is told to end is the container: this waits for it."""
    cdef signalfd_siginfo info
    while read(d.signals, &info, sizeof(info)) == sizeof(info):
        if info.ssi_signo == <uint32_t>SIGCHLD:
            reap_others(d.pid)
        elif info.ssi_signo == <uint32_t>SIGWINCH and d.master >= 0:
            pass_size(d.master)
        elif info.ssi_signo == <uint32_t>SIGTERM and d.flags & DRIVE_LEASH:
            syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)


cdef inline void begin_relay(driven *d, relay *r) noexcept nogil:
    memset(r, 0, sizeof(relay))
    r.master = d.master
    r.host = 0
    if d.master >= 0:
        fcntl(d.master, F_SETFL, O_NONBLOCK)
        fcntl(0, F_SETFL, O_NONBLOCK)
        pass_size(d.master)


cdef inline int attend(driven *d) noexcept nogil:
    """Wait for the end of the container's init: its wait status."""
    cdef relay r
    cdef pollfd watch[6]
    cdef int status = 0
    cdef int found
    cdef int pidfd = <int>_rc(syscall(NR_pidfd_open, d.pid, 0))
    begin_relay(d, &r)
    watch[0].fd = pidfd
    watch[1].fd = d.signals
    watch[2].fd = d.word if d.flags & DRIVE_LEASH else -1
    watch[0].events = watch[1].events = POLLIN
    watch[2].events = 0             # only its end
    while pidfd >= 0:
        watch[0].revents = watch[1].revents = watch[2].revents = 0
        relay_watch(&r, watch + 3)
        found = poll(watch, 6, TERMINAL_MS if r.shown.ended else -1)
        if found < 0 and errno != EINTR:
            break
        if found == 0:
            r.shown.ended = False   # no process had the terminal open; another may have opened it
        if watch[1].revents:
            heed(d, pidfd)
        if watch[2].revents:
            syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
            watch[2].fd = -1
        relay_serve(&r, watch + 3)
        if watch[0].revents:
            break
    while wait4(d.pid, &status, 0, NULL) < 0 and errno == EINTR:
        pass
    relay_end(&r)
    return status


cdef inline int drive(int argc, char **argv) noexcept nogil:
    """The whole of it: the exit code of the container's program."""
    cdef driven d
    cdef int status
    cdef int rc
    memset(&d, 0, sizeof(d))
    d.master = d.console = -1
    if not drive_arguments(&d, argc, argv):
        return DRIVE_USAGE
    prctl(PR_SET_NAME, b"pyrunc-drive", 0, 0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if d.flags & DRIVE_LEASH:
        prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
    d.signals = hold_signals()
    d.place = openat(AT_FDCWD, argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC)
    d.files = openat(AT_FDCWD, argv[3], O_PATH | O_DIRECTORY | O_CLOEXEC)
    if d.signals < 0 or d.place < 0 or d.files < 0:
        return DRIVE_FAILED
    d.word = openat(d.place, b"word", O_WRONLY | O_NONBLOCK | O_CLOEXEC)
    if d.word < 0 and d.flags & DRIVE_LEASH:
        return DRIVE_FAILED
    rc = bring_up(&d)
    if rc < 0:
        take_down(&d)
        say_failure(&d, rc)
        return DRIVE_FAILED
    if d.master < 0:
        give_up_streams()
    else:
        close(d.console)
    say_running(&d)
    if not d.flags & DRIVE_LEASH:
        close(d.word)
    status = attend(&d)
    if d.counter[0] != 0 and c_read_counter(AT_FDCWD, d.counter, b"oom_kill ") > 0:
        close(openat(d.place, b"oom_killed", O_WRONLY | O_CREAT | O_CLOEXEC, 0o600))
    run_verb(&d, d.verbs[2])
    return exit_code_of(status)
