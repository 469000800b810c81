# cython: cdivision=True, boundscheck=False
# The container's log in Docker's json-file format: {"log":"…","stream":"stdout","time":"…"}, one record a line.
#
# A record that does not end in "\n" goes on in the next one of its stream. What cannot be written is dropped and
# counted, and never leaves half a record behind.

from pyrunc._native.linux cimport *
from pyrunc._native.numbers cimport put_decimal
from pyrunc._native.shim_files cimport *
from pyrunc._native.steps cimport *

cdef enum:
    LOG_ROOM = 32768                # what is gathered for one write(2)
    RECORD_MAX = 16384              # bytes of the program's in one record, as dockerd has it
    LINES = 0
    TAILS = 1
    ENDS = 2
    NAME_ROOM = 4128                # a path, and what tells older files from it

cdef struct shim_log:
    int fd                          # -1: no log
    const char *path
    uint64_t most                   # how large the file grows; 0: without end
    uint32_t files                  # how many are kept
    char *names                     # 2 * NAME_ROOM bytes
    char *room                      # LOG_ROOM bytes
    size_t held                     # in there
    uint64_t end                    # of the file
    uint64_t whole                  # where its last whole record ends
    uint64_t dropped
    bint torn                       # the beginning of the present record could not be written: nor is the rest

# One of the program's streams, and what was read of it without a newline yet.
cdef struct shim_stream:
    int fd
    const char *name
    char *room
    size_t held                     # in there, less than RECORD_MAX bytes


cdef inline void log_flush(shim_log *log) noexcept nogil:
    """Write what is held; what does not fit on the disk is dropped, by whole records."""
    cdef size_t done = 0
    cdef size_t i
    cdef ssize_t got
    while done < log.held:
        got = write(log.fd, log.room + done, log.held - done)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            break
        done += <size_t>got
    i = done
    while i > 0 and log.room[i - 1] != c'\n':
        i -= 1
    if i > 0:
        log.whole = log.end + i
    log.end += done
    if done < log.held:
        for i in range(done, log.held):
            if log.room[i] == c'\n':
                log.dropped += 1
        log.torn = log.room[log.held - 1] != c'\n'
        log.dropped += log.torn
        if ftruncate(log.fd, <off_t>log.whole) == 0:
            log.end = log.whole
    log.held = 0


cdef inline void log_put(shim_log *log, const char *data, size_t size) noexcept nogil:
    """Append to the present record."""
    cdef size_t part
    while size > 0 and not log.torn:
        part = LOG_ROOM - log.held
        if part > size:
            part = size
        memcpy(log.room + log.held, data, part)
        log.held += part
        data += part
        size -= part
        if log.held == LOG_ROOM:
            log_flush(log)


cdef inline int two_digits(char *at, int value) noexcept nogil:
    at[0] = <char>(48 + value / 10)
    at[1] = <char>(48 + value % 10)
    return 2


cdef inline size_t put_time(char *at, uint64_t now) noexcept nogil:
    """*now*, nanoseconds since 1970, as RFC 3339 has it in UTC, without zeros at the end; how long that is.

    Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    """
    cdef int64_t second = <int64_t>(now / 1000000000)
    cdef uint32_t fraction = <uint32_t>(now % 1000000000)
    cdef int64_t day = second / 86400 + 719468
    cdef int64_t era = day / 146097
    cdef int64_t of_era = day - era * 146097
    cdef int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365
    cdef int64_t of_year = of_era - (365 * year + year / 4 - year / 100)
    cdef int64_t month = (5 * of_year + 2) / 153        # from March on
    cdef int digits = 9
    cdef int i
    cdef size_t size = 0
    second = second % 86400
    of_year = of_year - (153 * month + 2) / 5 + 1       # day of the month
    year += era * 400 + (1 if month >= 10 else 0)
    month = month + 3 if month < 10 else month - 9
    size += two_digits(at, <int>(year / 100))
    size += two_digits(at + size, <int>(year % 100))
    at[size] = c'-'
    size += 1 + two_digits(at + size + 1, <int>month)
    at[size] = c'-'
    size += 1 + two_digits(at + size + 1, <int>of_year)
    at[size] = c'T'
    size += 1 + two_digits(at + size + 1, <int>(second / 3600))
    at[size] = c':'
    size += 1 + two_digits(at + size + 1, <int>(second / 60 % 60))
    at[size] = c':'
    size += 1 + two_digits(at + size + 1, <int>(second % 60))
    if fraction:
        while fraction % 10 == 0:
            fraction = fraction / 10
            digits -= 1
        at[size] = c'.'
        for i in range(digits):
            at[size + digits - i] = <char>(48 + fraction % 10)
            fraction = fraction / 10
        size += 1 + digits
    at[size] = c'Z'
    return size + 1


cdef inline int character(const unsigned char *at, size_t left) noexcept nogil:
    """How many bytes the character of UTF-8 at *at* has; 0 if there is none (RFC 3629)."""
    cdef unsigned char first = at[0]
    cdef unsigned char low = 0x80
    cdef unsigned char high = 0xBF
    cdef int size
    cdef int i
    if first < 0x80:
        return 1
    if 0xC2 <= first <= 0xDF:
        size = 2
    elif 0xE0 <= first <= 0xEF:
        size = 3
    elif 0xF0 <= first <= 0xF4:
        size = 4
    else:
        return 0
    if left < <size_t>size:
        return 0
    if first == 0xE0:
        low = 0xA0                  # else there were a shorter form
    elif first == 0xED:
        high = 0x9F                 # else a surrogate
    elif first == 0xF0:
        low = 0x90
    elif first == 0xF4:
        high = 0x8F                 # else beyond U+10FFFF
    if not low <= at[1] <= high:
        return 0
    for i in range(2, size):
        if at[i] & 0xC0 != 0x80:
            return 0
    return size


cdef inline size_t cut_character(const char *start, const char *end) noexcept nogil:
    """How many bytes before *end* begin a character that does not end there."""
    cdef size_t back
    cdef unsigned char byte
    for back in range(1, 4):
        if end - start < <ssize_t>back:
            return 0
        byte = <unsigned char>end[-<ssize_t>back]
        if byte >= 0xC0:
            return back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) and byte < 0xF5 else 0
        if byte < 0x80:
            return 0
    return 0


cdef inline void put_escaped(shim_log *log, const char *at, const char *end) noexcept nogil:
    """As Go's encoder of JSON writes a text: what HTML could misread is escaped, no UTF-8 becomes U+FFFD."""
    cdef const char *hexadecimal = b"0123456789abcdef"
    cdef const char *plain = at
    cdef unsigned char byte
    cdef char escape[6]
    cdef int size
    memcpy(escape, b"\\u00", 4)
    while at < end:
        byte = <unsigned char>at[0]
        size = 1
        if byte < 0x80:
            if byte >= 0x20 and byte != c'"' and byte != c'\\' and byte != c'<' and byte != c'>' and byte != c'&':
                at += 1
                continue
        else:
            size = character(<const unsigned char *>at, <size_t>(end - at))
            # U+2028 and U+2029 end a line for JavaScript.
            if size > 0 and not (size == 3 and byte == 0xE2 and <unsigned char>at[1] == 0x80 and <unsigned char>at[2] & 0xFE == 0xA8):
                at += size
                continue
        log_put(log, plain, <size_t>(at - plain))
        if size == 0:
            size = 1
            log_put(log, b"\\ufffd", 6)
        elif size == 3:
            log_put(log, b"\\u2028" if <unsigned char>at[2] == 0xA8 else b"\\u2029", 6)
        elif byte == c'"':
            log_put(log, b"\\\"", 2)
        elif byte == c'\\':
            log_put(log, b"\\\\", 2)
        elif byte == c'\n':
            log_put(log, b"\\n", 2)
        elif byte == c'\r':
            log_put(log, b"\\r", 2)
        else:
            escape[4] = hexadecimal[byte >> 4]
            escape[5] = hexadecimal[byte & 15]
            log_put(log, escape, 6)
        at += size
        plain = at
    log_put(log, plain, <size_t>(at - plain))


cdef inline int open_log(const char *path, int flags) noexcept nogil:
    """A regular file to append to, made if need be; its descriptor or -errno. A pipe would hold all up, once or at once."""
    cdef stat_t status
    cdef int rc
    cdef int fd = <int>_rc(openat(AT_FDCWD, path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | flags, 0o640))
    if fd < 0:
        return fd
    rc = <int>_rc(fstat(fd, &status))
    if rc == 0 and not S_ISREG(status.st_mode):
        rc = -EINVAL
    if rc < 0:
        close(fd)
        return rc
    return fd


cdef inline void log_resume(shim_log *log) noexcept nogil:
    """Go on behind the last whole record: a shim that was killed may have left a part of one, which is cut off."""
    cdef uint64_t part
    cdef ssize_t got
    log.end = <uint64_t>lseek(log.fd, 0, SEEK_END)
    log.whole = log.end
    while log.whole > 0:
        part = log.whole if log.whole < LOG_ROOM else LOG_ROOM
        got = pread(log.fd, log.room, part, <off_t>(log.whole - part))
        if got != <ssize_t>part:
            log.whole = log.end     # it cannot be read; leave it as it is
            break
        while part > 0 and log.room[part - 1] != c'\n':
            part -= 1
            log.whole -= 1
        if part > 0:
            break
    if log.whole < log.end and ftruncate(log.fd, <off_t>log.whole) == 0:
        log.end = log.whole


cdef inline char *older(shim_log *log, char *room, uint32_t number) noexcept nogil:
    """The log's name with `.number` behind it, or for 0 with `.new`."""
    cdef size_t length = strlen(log.path)
    memcpy(room, log.path, length)
    memcpy(room + length, b".new", 5)
    if number:
        put_decimal(room + length + 1, <uint64_t>number)
    return room


cdef inline void log_rotate(shim_log *log) noexcept nogil:
    """Begin the next file, under the log's name at every moment; who reads an older one goes on with it.

    The latest of the older ones is `.1`. Where there is but one, the new one replaces it.
    """
    cdef char *one = log.names
    cdef char *other = log.names + NAME_ROOM
    cdef uint32_t i = log.files
    cdef int fd = open_log(older(log, one, 0), O_TRUNC)
    if fd < 0:
        return                      # no room for another: this one goes on
    while i > 2:
        i -= 1
        rename(older(log, one, i - 1), older(log, other, i))
    if log.files > 1:
        older(log, other, 1)
        unlink(other)
        if link(log.path, other) < 0:
            rename(log.path, other)
    if rename(older(log, one, 0), log.path) < 0:
        unlink(one)
        close(fd)
        return
    close(log.fd)
    log.fd = fd
    log.end = log.whole = 0


cdef inline void log_record(shim_log *log, const char *stream, const char *at, const char *end, uint64_t now) noexcept nogil:
    cdef char tail[64]
    log.torn = False
    if log.most and log.end + log.held >= log.most:
        log_flush(log)
        if log.end >= log.most:
            log_rotate(log)
    log_put(log, b"{\"log\":\"", 8)
    put_escaped(log, at, end)
    log_put(log, b"\",\"stream\":\"", 12)
    log_put(log, stream, strlen(stream))
    log_put(log, b"\",\"time\":\"", 10)
    log_put(log, tail, put_time(tail, now))
    log_put(log, b"\"}\n", 3)


cdef inline void log_output(shim_log *log, shim_stream *stream, int what) noexcept nogil:
    """Log what is held of *stream*: whole lines, with TAILS an unfinished one too, with ENDS half a character too."""
    cdef char *at = stream.room
    cdef char *end = at + stream.held
    cdef char *stop
    cdef uint64_t now = realtime_ns()
    while at < end:
        stop = at + RECORD_MAX if end - at > RECORD_MAX else end
        stop = <char *>memchr(at, c'\n', <size_t>(stop - at))
        if stop != NULL:
            stop += 1
        elif end - at >= RECORD_MAX:
            stop = at + RECORD_MAX
            stop -= cut_character(at, stop)
        elif what == LINES:
            break
        else:
            stop = end
            if what != ENDS:
                stop -= cut_character(at, end)
            if stop == at:
                break
        log_record(log, stream.name, at, stop, now)
        at = stop
    stream.held = <size_t>(end - at)
    if at > stream.room:
        memmove(stream.room, at, stream.held)
    if log.held > 0:
        log_flush(log)
