# cython: cdivision=True, boundscheck=False
# Descriptors for the sockets that the caller names: a terminal's master for --console-socket, a pidfd for
# --pidfd-socket. The message's payload is the descriptor's name, as runc's is: "/dev/ptmx", "pidfd".
#
# Source: runc docs/terminals.md, "Detached Pass-Through"; recorded from runc 1.1.5.

from pyrunc._native.linux cimport *
from pyrunc._native.oci_system cimport *


cdef inline int connect_to(const char *path) noexcept nogil:
    """A stream connected to the unix socket *path*, however long that is; its descriptor or -errno."""
    cdef sockaddr_un address
    cdef char directory[4096]
    cdef char number[24]
    cdef const char *name = path
    cdef int parent = -1
    cdef int rc = 0
    cdef int fd
    memset(&address, 0, sizeof(address))
    address.sun_family = <unsigned short>AF_UNIX
    if strlen(path) < sizeof(address.sun_path):
        memcpy(address.sun_path, path, strlen(path))
    else:
        # An address has room for 107 bytes: through the directory, by its descriptor.
        name = strrchr(path, c'/')
        if name == NULL or name - path >= <ssize_t>sizeof(directory):
            return -ENAMETOOLONG
        memcpy(directory, path, <size_t>(name - path))
        directory[name - path] = 0
        if name == path:
            memcpy(directory, b"/", 2)
        parent = <int>_rc(openat(AT_FDCWD, directory, O_PATH | O_DIRECTORY | O_CLOEXEC))
        if parent < 0:
            return parent
        put_decimal(number, <uint64_t>parent)
        rc = join_two(address.sun_path, sizeof(address.sun_path), b"/proc/self/fd/", number)
        if rc >= 0:
            rc = join_two(address.sun_path, sizeof(address.sun_path), address.sun_path, name)
    fd = rc
    if rc >= 0:
        fd = <int>_rc(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))
    if fd >= 0:
        rc = <int>_rc(connect(fd, &address, sizeof(address)))
        if rc < 0:
            close(fd)
            fd = rc
    if parent >= 0:
        close(parent)
    return fd


cdef inline int send_parts(int sock, iovec_t *parts, int count, int passed) noexcept nogil:
    """Send *count* texts one after another, the first byte with the descriptor *passed*; 0 or -errno."""
    cdef msghdr header
    cdef uint64_t control[3]
    cdef cmsghdr *cmsg
    cdef ssize_t sent
    cdef int i = 0
    memset(&header, 0, sizeof(header))
    memset(control, 0, sizeof(control))
    header.msg_control = control
    header.msg_controllen = CMSG_SPACE(sizeof(int))
    cmsg = CMSG_FIRSTHDR(&header)
    cmsg.cmsg_level = SOL_SOCKET
    cmsg.cmsg_type = SCM_RIGHTS
    cmsg.cmsg_len = CMSG_LEN(sizeof(int))
    memcpy(CMSG_DATA(cmsg), &passed, sizeof(int))
    while i < count:
        header.msg_iov = parts + i
        header.msg_iovlen = <size_t>(count - i)
        sent = sendmsg(sock, &header, MSG_NOSIGNAL)
        if sent < 0 and errno != EINTR:
            return -errno
        if sent > 0:
            header.msg_control = NULL
            header.msg_controllen = 0
        while i < count and sent >= <ssize_t>parts[i].iov_len:
            sent -= <ssize_t>parts[i].iov_len
            i += 1
        if i < count and sent > 0:
            parts[i].iov_base = <char *>parts[i].iov_base + sent
            parts[i].iov_len -= <size_t>sent
    return 0


cdef inline int send_named(int sock, const char *name, int fd) noexcept nogil:
    """Send *fd* over a connected stream, with its *name* as payload; 0 or -errno."""
    cdef iovec_t payload
    piece(&payload, name)
    return send_parts(sock, &payload, 1, fd)


cdef inline int send_descriptor(const char *path, const char *name, int fd) noexcept nogil:
    """Send *fd* to whoever listens on the unix socket *path*, with its *name* as payload; 0 or -errno."""
    cdef int rc
    cdef int sock = connect_to(path)
    if sock < 0:
        return sock
    rc = send_named(sock, name, fd)
    close(sock)
    return rc
