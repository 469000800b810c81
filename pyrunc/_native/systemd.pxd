# cython: cdivision=True, boundscheck=False
# systemd's manager, asked over the socket that it keeps for its own tools: calls are marshalled by Python, sent here,
# and their answers understood as far as they matter. Where a call starts a job, that is waited for.
#
#   us        NUL, AUTH EXTERNAL, DATA, BEGIN, then the call
#   systemd   DATA, OK, then the answer, and signals to everybody: one of them is JobRemoved
#
# Source: D-Bus Specification, "Authentication Protocol", "Message Protocol"; org.freedesktop.systemd1(5).

from pyrunc._native.linux cimport *
from pyrunc._native.oci_console cimport connect_to
from pyrunc._native.oci_system cimport *

cdef enum:
    BUS_ROOM = 16384                # a message that is longer is none that matters
    BUS_TEXT = 1024
    BUS_PATIENCE_MS = 30000         # as long as runc waits
    BUS_MOST = 1 << 27              # of a message, by the specification

    BUS_RETURN = 2
    BUS_ERROR = 3
    BUS_SIGNAL = 4

# What came of a call.
cdef struct bus_end:
    char text[BUS_TEXT]             # the first string of the answer, the words of an error, or how the job ended
    char name[BUS_TEXT]             # the name of an error, or ""

cdef struct bus_message:
    int kind                        # 0 for one that was too long
    uint32_t answers                # the serial number of the call
    const char *member
    const char *error
    const char *signature
    const unsigned char *body
    size_t size


cdef inline int bus_wait(int sock, short events, uint64_t deadline_ns) noexcept nogil:
    """Wait until *sock* is ready for *events*; 0, -ETIMEDOUT or another -errno."""
    cdef pollfd watch
    cdef uint64_t now
    cdef int rc
    while True:
        now = now_ns()
        if now >= deadline_ns:
            return -ETIMEDOUT
        watch.fd = sock
        watch.events = events
        watch.revents = 0
        rc = poll(&watch, 1, <int>((deadline_ns - now) / 1000000) + 1)
        if rc > 0:
            return 0
        if rc < 0 and errno != EINTR:
            return -errno


cdef inline int bus_read(int sock, unsigned char *room, size_t size, uint64_t deadline_ns) noexcept nogil:
    """Read exactly *size* bytes; 0 or -errno."""
    cdef size_t done = 0
    cdef ssize_t got
    cdef int rc
    while done < size:
        rc = bus_wait(sock, POLLIN, deadline_ns)
        if rc < 0:
            return rc
        got = recv(sock, room + done, size - done, MSG_DONTWAIT)
        if got == 0:
            return -ECONNRESET
        if got < 0 and errno != EINTR and errno != EAGAIN:
            return -errno
        if got > 0:
            done += <size_t>got
    return 0


cdef inline int bus_write(int sock, const unsigned char *data, size_t size, uint64_t deadline_ns) noexcept nogil:
    cdef ssize_t done
    cdef int rc
    while size > 0:
        rc = bus_wait(sock, POLLOUT, deadline_ns)
        if rc < 0:
            return rc
        done = send(sock, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if done < 0 and errno != EINTR and errno != EAGAIN:
            return -errno
        if done > 0:
            data += done
            size -= <size_t>done
    return 0


cdef inline int bus_open(const char *path, uint64_t deadline_ns) noexcept nogil:
    """A connection to the socket *path* on which calls can be made; its descriptor or -errno.

    Who we are systemd asks the kernel: no name of a user is told.
    """
    cdef unsigned char line[128]
    cdef size_t length = 0
    cdef int rc
    cdef int sock = connect_to(path)
    if sock < 0:
        return sock
    rc = bus_write(sock, <const unsigned char *>b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", 29, deadline_ns)
    while rc == 0:
        # Byte by byte: what is behind the last line is the first message.
        rc = bus_read(sock, line + length, 1, deadline_ns)
        if rc < 0:
            break
        if line[length] == c'\n':
            if length >= 2 and line[0] == c'O' and line[1] == c'K':
                return sock
            if length < 4 or memcmp(line, b"DATA", 4) != 0:
                rc = -EACCES
            length = 0
        elif length < sizeof(line) - 1:
            length += 1
    close(sock)
    return rc


cdef inline uint32_t bus_number(const unsigned char *at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef inline size_t bus_aligned(size_t at, size_t size) noexcept nogil:
    return (at + size - 1) & ~(size - 1)


cdef inline const char *bus_string(const unsigned char *data, size_t size, size_t *at) noexcept nogil:
    """The string at *at*, which moves behind it; NULL where there is none whole."""
    cdef size_t start = bus_aligned(at[0], 4)
    cdef size_t length
    if start + 4 > size:
        return NULL
    length = bus_number(data + start)
    start += 4
    if length >= size - start or data[start + length] != 0:
        return NULL
    at[0] = start + length + 1
    return <const char *>data + start


cdef inline bint bus_fields(const unsigned char *data, size_t size, bus_message *m) noexcept nogil:
    """Read the header's fields, *size* bytes from its 16th on; False where they are not as they should be."""
    cdef size_t at = 0
    cdef size_t length
    cdef const char *found
    cdef unsigned char field
    cdef unsigned char kind
    while True:
        at = bus_aligned(at, 8)
        if at >= size:
            return True
        # A byte, and a variant of one type: length 1, the type, NUL.
        if at + 4 > size or data[at + 1] != 1 or data[at + 3] != 0:
            return False
        field = data[at]
        kind = data[at + 2]
        at += 4
        if kind == c'u':
            at = bus_aligned(at, 4)
            if at + 4 > size:
                return False
            if field == 5:
                m.answers = bus_number(data + at)
            at += 4
        elif kind == c'g':
            length = data[at] if at < size else 0
            if at + length + 2 > size or data[at + length + 1] != 0:
                return False
            if field == 8:
                m.signature = <const char *>data + at + 1
            at += length + 2
        elif kind == c's' or kind == c'o':
            found = bus_string(data, size, &at)
            if found == NULL:
                return False
            if field == 3:
                m.member = found
            elif field == 4:
                m.error = found
        else:
            return False


cdef inline int bus_receive(int sock, unsigned char *room, uint64_t deadline_ns, bus_message *m) noexcept nogil:
    """Read the next message into *room* of BUS_ROOM bytes; 0 or -errno."""
    cdef size_t fields
    cdef size_t head
    cdef size_t total
    cdef size_t part
    cdef int rc = bus_read(sock, room, 16, deadline_ns)
    m.kind = 0
    m.answers = 0
    m.member = m.error = m.signature = b""
    if rc < 0:
        return rc
    if room[0] != c'l' or room[3] != 1:
        return -EPROTO
    fields = bus_number(room + 12)
    m.size = bus_number(room + 4)
    if fields > BUS_MOST or m.size > BUS_MOST:
        return -EPROTO
    head = bus_aligned(16 + fields, 8)
    total = head + m.size
    if total > BUS_ROOM:
        total -= 16
        while total > 0:
            part = total if total < BUS_ROOM else BUS_ROOM
            rc = bus_read(sock, room, part, deadline_ns)
            if rc < 0:
                return rc
            total -= part
        return 0
    rc = bus_read(sock, room + 16, total - 16, deadline_ns)
    if rc < 0:
        return rc
    if not bus_fields(room + 16, fields, m):
        return -EPROTO
    m.kind = room[1]
    m.body = room + head
    return 0


cdef inline void bus_keep(char *room, const char *words) noexcept nogil:
    cdef size_t length = strlen(words) if words != NULL else 0
    if length >= BUS_TEXT:
        length = BUS_TEXT - 1
    memcpy(room, words, length)
    room[length] = 0


cdef inline void bus_first_string(const bus_message *m, char *room) noexcept nogil:
    """The first string of a body, or that in the variant that comes first; else ""."""
    cdef size_t at = 0
    room[0] = 0
    if m.signature[0] == c'v' and m.size > 4 and m.body[0] == 1 and (m.body[1] == c's' or m.body[1] == c'o'):
        at = 3
    elif m.signature[0] != c's' and m.signature[0] != c'o':
        return
    bus_keep(room, bus_string(m.body, m.size, &at))


cdef inline bint bus_job(const bus_message *m, const char **job, const char **unit, const char **result) noexcept nogil:
    """Whether a message says that a job has ended: which, of which unit, and how."""
    cdef size_t at = 4
    if m.kind != BUS_SIGNAL or strcmp(m.member, b"JobRemoved") != 0 or strcmp(m.signature, b"uoss") != 0:
        return False
    job[0] = bus_string(m.body, m.size, &at)
    unit[0] = bus_string(m.body, m.size, &at) if job[0] != NULL else NULL
    result[0] = bus_string(m.body, m.size, &at) if unit[0] != NULL else NULL
    return result[0] != NULL


cdef inline int bus_call(int sock, const unsigned char *call, size_t size, const char *unit, uint64_t deadline_ns, bus_end *end) noexcept nogil:
    """Make the marshalled *call*, and with *unit*, whose job it starts, wait for that.

    0; -ECANCELED where the job did not end as "done"; -EEXIST, -ENOENT for a unit that exists, or does not; -EREMOTEIO for
    another error, all told by *end*; or another -errno.
    """
    cdef unsigned char room[BUS_ROOM]
    cdef char ended[BUS_TEXT]       # the job of the unit that was the last to end ...
    cdef char how[BUS_TEXT]         # ... and how
    cdef bus_message m
    cdef const char *job
    cdef const char *of
    cdef const char *result
    cdef bint answered = False
    cdef int rc
    end.text[0] = end.name[0] = ended[0] = 0
    if size < 16:
        return -EINVAL
    rc = bus_write(sock, call, size, deadline_ns)
    while rc == 0:
        rc = bus_receive(sock, room, deadline_ns, &m)
        if rc < 0:
            break
        if unit != NULL and bus_job(&m, &job, &of, &result) and strcmp(of, unit) == 0:
            bus_keep(ended, job)
            bus_keep(how, result)
        elif m.answers == bus_number(call + 8) and m.kind == BUS_ERROR:
            bus_first_string(&m, end.text)
            bus_keep(end.name, m.error)
            if strcmp(end.name, b"org.freedesktop.systemd1.UnitExists") == 0:
                return -EEXIST
            return -ENOENT if strcmp(end.name, b"org.freedesktop.systemd1.NoSuchUnit") == 0 else -EREMOTEIO
        elif m.answers == bus_number(call + 8) and m.kind == BUS_RETURN:
            bus_first_string(&m, end.text)
            if unit == NULL:
                return 0
            answered = True
        if answered and strcmp(ended, end.text) == 0:
            bus_keep(end.text, how)
            return 0 if strcmp(how, b"done") == 0 else -ECANCELED
    return rc


cdef inline uint64_t bus_deadline() noexcept nogil:
    return now_ns() + <uint64_t>BUS_PATIENCE_MS * 1000000


cdef inline int c_systemd_call(const char *path, const unsigned char *call, size_t size, const char *unit, bus_end *end) noexcept nogil:
    """`bus_call` on a connection of its own to the socket *path*."""
    cdef uint64_t deadline_ns = bus_deadline()
    cdef int rc
    cdef int sock = bus_open(path, deadline_ns)
    end.text[0] = end.name[0] = 0
    if sock < 0:
        return sock
    rc = bus_call(sock, call, size, unit, deadline_ns, end)
    close(sock)
    return rc
