# cython: cdivision=True, boundscheck=False
# The spawner: one per Python process. It receives requests and forks supervisors, no more;
# a bad plan therefore costs a supervisor, never the spawner.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.supervisor cimport *


cdef inline int receive(int sock, request *message, int *fds) noexcept nogil:
    """One request; the number of its descriptors, -EPIPE at the end, or another -errno."""
    cdef msghdr header
    cdef iovec_t vector
    cdef cmsghdr *cmsg
    cdef uint64_t control[160]      # room for 253 descriptors, the kernel's limit
    cdef ssize_t got
    cdef int count = 0
    memset(&header, 0, sizeof(header))
    vector.iov_base = message
    vector.iov_len = sizeof(request)
    header.msg_iov = &vector
    header.msg_iovlen = 1
    header.msg_control = control
    header.msg_controllen = sizeof(control)
    got = recvmsg(sock, &header, MSG_CMSG_CLOEXEC)
    if got < 0:
        return -errno
    cmsg = CMSG_FIRSTHDR(&header)
    while cmsg != NULL:
        if cmsg.cmsg_level == SOL_SOCKET and cmsg.cmsg_type == SCM_RIGHTS:
            count = <int>((cmsg.cmsg_len - CMSG_LEN(0)) / sizeof(int))
            memcpy(fds, CMSG_DATA(cmsg), <size_t>count * sizeof(int))
        cmsg = CMSG_NXTHDR(&header, cmsg)
    if got == 0 and count == 0:
        return -EPIPE
    if got != sizeof(request) or header.msg_flags & (MSG_TRUNC | MSG_CTRUNC):
        message.magic = 0
    return count


cdef inline int spawner(int sock) noexcept nogil:
    """Serve requests until the Python process is gone."""
    cdef request message
    cdef int fds[256]
    cdef record refusal
    cdef int count
    cdef int pid
    cdef int i
    # Nobody else may look into what runs before execve, nor reopen this executable for writing.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    prctl(PR_SET_NAME, b"pyrunc-spawner", 0, 0, 0)
    signal(SIGCHLD, SIG_IGN)        # supervisors are reaped by the kernel; Python hears of them by socket
    while True:
        count = receive(sock, &message, fds)
        if count == -EINTR:
            continue
        if count < 0:
            return 0
        if count >= 2 and message.magic == REQUEST_MAGIC and message.version == CHANNEL_VERSION:
            pid = fork()
            if pid == 0:
                prctl(PR_SET_NAME, b"pyrunc-super", 0, 0, 0)
                _exit(supervisor(fds[0], fds[1], fds + 2, <uint32_t>count - 2))
            if pid < 0:
                memset(&refusal, 0, sizeof(refusal))
                refusal.kind = RECORD_FAILED
                refusal.step = FAILED_FORK
                refusal.error = -errno
                send_record(fds[1], &refusal, -1)
        for i in range(count):
            close(fds[i])
