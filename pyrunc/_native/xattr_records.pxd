# cython: cdivision=True, boundscheck=False
# Extended attributes, as PAX records tell them, set on a file.

from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy

from pyrunc._native.linux cimport *
from pyrunc._native.tar_member cimport tar_reader
from pyrunc._native.tar_text cimport *

cdef enum:
    XATTR_NAME_SIZE = 256  # of the kernel, with its NUL
    XATTR_BAD = -100100    # an answer beside -errno: a name or a value that cannot be one


cdef inline int _hex(char c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    c |= 0x20
    return c - c'a' + 10 if c'a' <= c <= c'f' else -1


cdef inline ssize_t _unescape(char *text, size_t size) noexcept nogil:
    """Turn %XX into bytes in place; the new size, or -1."""
    cdef size_t i = 0
    cdef size_t n = 0
    while i < size:
        if text[i] == c'%':
            if i + 2 >= size or _hex(text[i + 1]) < 0 or _hex(text[i + 2]) < 0:
                return -1
            text[n] = <char>(_hex(text[i + 1]) << 4 | _hex(text[i + 2]))
            i += 2
        else:
            text[n] = text[i]
        i += 1
        n += 1
    return <ssize_t>n


cdef inline void _unescape_gnu(char *text, size_t size) noexcept nogil:
    """Turn "%3D" and "%25" into "=" and "%" in place, all that GNU tar writes so in a name; it stays terminated.

    Docker writes names as they are, and none with "=": only a name that has one of these two as text suffers.
    """
    cdef size_t i = 0
    cdef size_t n = 0
    while i < size:
        text[n] = text[i]
        # The NUL at the end ends each comparison.
        if text[i] == c'%' and text[i + 1] == c'3' and text[i + 2] == c'D':
            text[n] = c'='
            i += 2
        elif text[i] == c'%' and text[i + 1] == c'2' and text[i + 2] == c'5':
            i += 2
        i += 1
        n += 1
    text[n] = 0


cdef inline int _digit64(char c) noexcept nogil:
    if c'A' <= c <= c'Z':
        return c - c'A'
    if c'a' <= c <= c'z':
        return c - c'a' + 26
    if c'0' <= c <= c'9':
        return c - c'0' + 52
    if c == c'+' or c == c'/':
        return 62 if c == c'+' else 63
    return -1


cdef inline ssize_t _from_base64(const char *text, size_t size, char *target) noexcept nogil:
    """How many bytes *text* stands for, written to *target*, or -1; padding may lack."""
    cdef uint32_t bits = 0
    cdef int count = 0
    cdef ssize_t n = 0
    cdef size_t i
    while size and text[size - 1] == c'=':
        size -= 1
    for i in range(size):
        if _digit64(text[i]) < 0:
            return -1
        bits = bits << 6 | <uint32_t>_digit64(text[i])
        count += 6
        if count >= 8:
            count -= 8
            target[n] = <char>(bits >> count & 0xFF)
            n += 1
    return n


cdef inline int _set_one(int fd, const char *path, const char *name, const void *value, size_t size, bint forgive,
                         uint64_t *skipped) noexcept nogil:
    """Set one attribute of *fd*, or of *path* where that is not NULL."""
    cdef int rc
    # Of an overlay's own, a layer could bring redirections to other directories of lower layers.
    if text_begins(name, strlen(name), b"trusted.overlay.") or text_begins(name, strlen(name), b"user.overlay."):
        rc = -EOPNOTSUPP
    elif path == NULL:
        rc = <int>_rc(fsetxattr(fd, name, value, size, 0))
    else:
        rc = <int>_rc(setxattr(path, name, value, size, 0))
    if rc == -EPERM and (forgive or (path != NULL and text_begins(name, strlen(name), b"user."))):
        # Symlinks and devices have no place for user's.
        rc = -EOPNOTSUPP
    if rc == -EOPNOTSUPP:
        skipped[0] += 1
        rc = 0
    return rc


cdef inline int _set_from(tar_reader *r, const tar_text *records, int fd, const char *path, bint forgive,
                          uint64_t *skipped) noexcept nogil:
    cdef char name[XATTR_NAME_SIZE]
    cdef const char *key = NULL
    cdef const char *value = NULL
    cdef char *decoded
    cdef size_t at = 0
    cdef size_t n = 0
    cdef size_t m = 0
    cdef size_t prefix
    cdef ssize_t size
    cdef int rc = 0
    # Well formed: the reader has been through them.
    while rc == 0 and tar_record(records.data, records.size, &at, &key, &n, &value, &m) == 1:
        if text_begins(key, n, b"SCHILY.xattr."):
            prefix = 13
        elif text_begins(key, n, b"LIBARCHIVE.xattr."):
            prefix = 17
        else:
            continue
        n -= prefix
        if n == 0 or n >= XATTR_NAME_SIZE or memchr(key + prefix, 0, n) != NULL:
            return XATTR_BAD
        memcpy(name, key + prefix, n)
        name[n] = 0
        if prefix == 13:
            _unescape_gnu(name, n)
            rc = _set_one(fd, path, name, value, m, forgive, skipped)
            continue
        # libarchive's form: the name as in a URL, the value in base 64. Source: libarchive, tar(5), "Pax".
        size = _unescape(name, n)
        decoded = <char *>malloc(m + 1)
        if decoded == NULL:
            return -ENOMEM
        m = <size_t>_from_base64(value, m, decoded)
        if size <= 0 or <ssize_t>m < 0 or memchr(name, 0, <size_t>size) != NULL:
            rc = XATTR_BAD
        else:
            name[size] = 0
            rc = _set_one(fd, path, name, decoded, m, forgive, skipped)
        free(decoded)
    return rc


cdef inline int clear_xattrs(int fd) noexcept nogil:
    """Remove the attributes that the open directory has from below: its entry says all of them.

    What overlayfs keeps there stays, and so does SELinux's label.
    """
    cdef char *names
    cdef const char *name
    cdef ssize_t at = 0
    cdef int rc = 0
    cdef ssize_t size = flistxattr(fd, NULL, 0)
    if size <= 0:
        return 0
    names = <char *>malloc(<size_t>size)
    if names == NULL:
        return -ENOMEM
    size = flistxattr(fd, names, <size_t>size)
    while rc == 0 and at < size:
        name = names + at
        at += <ssize_t>strlen(name) + 1
        if not (text_begins(name, strlen(name), b"trusted.overlay.")
                or text_begins(name, strlen(name), b"user.overlay.")
                or strcmp(name, b"security.selinux") == 0):
            rc = <int>_rc(fremovexattr(fd, name))
    free(names)
    return rc


cdef inline int set_xattrs(tar_reader *r, int fd, bint forgive, uint64_t *skipped) noexcept nogil:
    """Set the attributes of the present member on the open file, and count those it has no place for.

    With *forgive*, what needs a privilege is counted too.
    """
    cdef int rc = _set_from(r, &r.shared, fd, NULL, forgive, skipped)
    return rc if rc < 0 else _set_from(r, &r.records, fd, NULL, forgive, skipped)


cdef inline int set_node_xattrs(tar_reader *r, int fd, bint forgive, uint64_t *skipped) noexcept nogil:
    """The same for what *fd*, opened O_PATH, stands for: a symlink or a device."""
    cdef char path[32]
    cdef int rc
    snprintf(path, sizeof(path), b"/proc/self/fd/%d", fd)
    rc = _set_from(r, &r.shared, fd, path, forgive, skipped)
    return rc if rc < 0 else _set_from(r, &r.records, fd, path, forgive, skipped)
