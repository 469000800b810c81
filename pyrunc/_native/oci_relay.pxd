# cython: cdivision=True, boundscheck=False
# What is typed and shown, between the caller's terminal and the program's, while a command runs in the foreground.
#
# The caller's terminal is raw meanwhile, but goes on to turn "\n" into "\r\n": so the program's own does not, as with
# runc (terminal.pxd). Every way out but SIGKILL restores it.

from pyrunc._native.linux cimport *

cdef extern from *:
    """
    #include <termios.h>
    """
    ctypedef struct termios_t "struct termios":
        unsigned int c_iflag
        unsigned int c_oflag
    unsigned int OPOST, ONLCR
    int TCSANOW
    void cfmakeraw(termios_t *attributes) nogil
    int tcgetattr(int fd, termios_t *attributes) nogil
    int tcsetattr(int fd, int when, const termios_t *attributes) nogil
    unsigned long TIOCGWINSZ

cdef enum:
    PUMP_ROOM = 4096
    LAST_WORDS_MS = 100             # what was written before the program's end appears within this

cdef struct pump:
    size_t start
    size_t end
    bint ended
    char room[PUMP_ROOM]

cdef struct relay:
    int master                      # of the program's terminal, or -1: nothing to relay
    int host                        # the caller's terminal
    bint opened                     # which was opened here
    bint raw
    termios_t before
    pump typed                      # from descriptor 0
    pump shown                      # to descriptor 1


cdef inline int caller_terminal(bint *opened) noexcept nogil:
    """The terminal that the caller sits at, where runc looks for it: one of the streams, or the controlling one; or -errno."""
    cdef termios_t attributes
    cdef int fd
    opened[0] = False
    for fd in range(2, -1, -1):
        if tcgetattr(fd, &attributes) == 0:
            return fd
    opened[0] = True
    return <int>_rc(openat(AT_FDCWD, b"/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY))


cdef inline void size_as_callers(int master) noexcept nogil:
    """Give the program's terminal the size of the caller's, before the program can ask for it."""
    cdef winsize_t size
    cdef bint opened
    cdef int host = caller_terminal(&opened)
    if host >= 0 and ioctl(host, TIOCGWINSZ, &size) == 0:
        ioctl(master, TIOCSWINSZ, &size)
    if host >= 0 and opened:
        close(host)


cdef inline void relay_resize(relay *r) noexcept nogil:
    """Give the program's terminal the size of the caller's."""
    cdef winsize_t size
    if r.master >= 0 and ioctl(r.host, TIOCGWINSZ, &size) == 0:
        ioctl(r.master, TIOCSWINSZ, &size)


cdef inline int relay_begin(relay *r, int master) noexcept nogil:
    """Take *master*, or -1 for none, and make the caller's terminal raw; 0 or -errno."""
    cdef termios_t raw
    memset(r, 0, sizeof(relay))
    r.master = master
    r.host = -1
    if master < 0:
        return 0
    r.host = caller_terminal(&r.opened)
    if r.host < 0:
        r.master = -1
        return r.host
    if tcgetattr(r.host, &r.before) < 0:
        return -errno
    relay_resize(r)
    fcntl(master, F_SETFL, O_NONBLOCK)
    raw = r.before
    cfmakeraw(&raw)
    raw.c_oflag |= OPOST
    if tcsetattr(r.host, TCSANOW, &raw) < 0:
        return -errno
    r.raw = True
    return 0


cdef inline void relay_watch(relay *r, pollfd *watch) noexcept nogil:
    """Fill three places of poll(2)."""
    watch[0].fd = watch[1].fd = watch[2].fd = -1
    watch[0].revents = watch[1].revents = watch[2].revents = 0
    if r.master < 0:
        return
    watch[0].fd = r.master
    watch[0].events = 0
    if r.shown.start == r.shown.end and not r.shown.ended:
        watch[0].events |= POLLIN
    if r.typed.start < r.typed.end:
        watch[0].events |= POLLOUT
    elif not r.typed.ended:
        watch[1].fd = 0
        watch[1].events = POLLIN
    if r.shown.start < r.shown.end:
        watch[2].fd = 1
        watch[2].events = POLLOUT
    if watch[0].events == 0:
        watch[0].fd = -1            # else its end would wake us again and again


cdef inline void pump_in(pump *p, int fd) noexcept nogil:
    cdef ssize_t got = read(fd, p.room, PUMP_ROOM)
    if got > 0:
        p.start = 0
        p.end = <size_t>got
    elif got == 0 or (errno != EAGAIN and errno != EINTR):
        p.ended = True              # of a terminal EIO: nobody has its other side open


cdef inline void pump_out(pump *p, int fd) noexcept nogil:
    cdef ssize_t done = write(fd, p.room + p.start, p.end - p.start)
    if done >= 0:
        p.start += <size_t>done
    elif errno != EAGAIN and errno != EINTR:
        p.start = p.end             # nobody wants it


cdef inline void relay_serve(relay *r, pollfd *watch) noexcept nogil:
    """Do what poll(2) has found."""
    if r.master < 0:
        return
    if watch[2].revents:
        pump_out(&r.shown, 1)
    if watch[1].revents:
        pump_in(&r.typed, 0)
    if watch[0].revents & POLLOUT and r.typed.start < r.typed.end:
        pump_out(&r.typed, r.master)
    if watch[0].revents & ~POLLOUT and r.shown.start == r.shown.end and not r.shown.ended:
        pump_in(&r.shown, r.master)


cdef inline void relay_end(relay *r) noexcept nogil:
    """Show what was written until the program's end, and give the caller's terminal back as it was."""
    cdef pollfd watch[3]
    r.typed.ended = True
    r.typed.start = r.typed.end
    while r.master >= 0:
        relay_watch(r, watch)
        if watch[0].fd < 0 and watch[2].fd < 0:
            break
        # Whoever else has it open may be silent for ever; what the reader of descriptor 1 takes is waited for.
        if poll(watch, 3, LAST_WORDS_MS if watch[2].fd < 0 else -1) == 0:
            break
        relay_serve(r, watch)
    if r.raw:
        tcsetattr(r.host, TCSANOW, &r.before)
    if r.opened and r.host >= 0:
        close(r.host)
    r.raw = r.opened = False
    r.master = -1
