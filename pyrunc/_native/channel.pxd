# cython: cdivision=True, boundscheck=False
# What travels between Python, the spawner, the supervisor and init.
#
#   who -> whom             socket or pipe           message
#   Python -> a spare       SEQPACKET, long-lived    request {magic, version} + descriptors: plan, reply, fds...
#   supervisor -> spawner   SEQPACKET, for each      TAKEN: that was the last spare; its end is the other's death
#   supervisor -> Python    SEQPACKET, per request   record STARTED (+ pidfd, + the terminal's master), FAILED, EXITED
#   Python -> supervisor    the same                 command {KILL, signal}; closing it ends the container.
#                                                    To a shim after EXITED: FINISHED, nothing is left to be done
#   init -> supervisor      SEQPACKET, O_CLOEXEC     progress READY, FAILED, SYNC, FORKED, TERMINAL (+ its master's
#                                                    end); EOF is execve or death. Of pyrunc-oci also CREATED, PARTED, UNHELD
#   supervisor -> init      the same                 the number of the sync point that is done; GO after FORKED

from pyrunc._native.linux cimport *

cdef enum:
    REQUEST_MAGIC = 0x51525950
    CHANNEL_VERSION = 1
    MAX_FDS = 250

    RECORD_STARTED = 1
    RECORD_FAILED = 2
    RECORD_EXITED = 3

    COMMAND_KILL = 1
    COMMAND_FINISHED = 2

    WORD_TAKEN = 1

    PROGRESS_READY = 1
    PROGRESS_FAILED = 2
    PROGRESS_SYNC = 3
    PROGRESS_FORKED = 4
    PROGRESS_TERMINAL = 5
    PROGRESS_LISTENER = 6           # see oci_notify.pxd
    PROGRESS_CREATED = 7            # see oci_waiting.pxd
    PROGRESS_PARTED = 8
    PROGRESS_UNHELD = 9             # see oci_notify.pxd

    GO = 0                          # to the new process after FORKED
    STOP = 1

    # record.step of a failure outside the plan's steps
    FAILED_PLAN = 0xFFFFFFFF
    FAILED_FORK = 0xFFFFFFFE
    FAILED_CLONE = 0xFFFFFFFD
    FAILED_CHROOT = 0xFFFFFFFC
    FAILED_SHIM = 0xFFFFFFFB

    STAGES = 16
    # When a stage began. The supervisor and init stamp these; the plan's steps use 4..12.
    STAGE_HOST = 0
    STAGE_CLONE = 1
    STAGE_INIT = 3
    STAGE_EXEC = 13
    STAGE_CLEAN = 14
    STAGE_END = 15

cdef struct request:
    uint32_t magic
    uint32_t version

cdef struct command:
    uint32_t kind
    int32_t signal

cdef struct progress:
    uint32_t kind
    uint32_t step               # index of the failed step, number of the sync point, or pid of the new process
    int32_t error               # -errno
    uint32_t pad                # the failed step's operation, for who has no plan
    uint64_t stage_ns[STAGES]

cdef struct record:
    uint32_t kind
    uint32_t step
    int32_t error
    int32_t pid
    int32_t wait_status
    int32_t leftover            # -errno of a cgroup that could not be removed
    uint32_t ready              # whether READY was seen
    uint32_t oom_kills          # of the memory cgroup, where the plan names one
    uint64_t utime_us
    uint64_t stime_us
    uint64_t maxrss_bytes
    uint64_t overhead_us        # CPU time of the supervisor itself
    uint64_t stage_ns[STAGES]


cdef inline int send_with(int fd, void *message, size_t size, int passed) noexcept nogil:
    """Send one message, with a descriptor if *passed* is not negative; 0 or -errno."""
    return send_with_two(fd, message, size, passed, -1)


cdef inline int send_with_two(int fd, void *message, size_t size, int passed, int second) noexcept nogil:
    """As send_with, with *second* behind *passed* unless it is negative."""
    cdef msghdr header
    cdef iovec_t vector
    cdef uint64_t control[4]
    cdef size_t count = 2 if second >= 0 else 1
    cdef cmsghdr *cmsg
    memset(&header, 0, sizeof(header))
    memset(control, 0, sizeof(control))
    vector.iov_base = message
    vector.iov_len = size
    header.msg_iov = &vector
    header.msg_iovlen = 1
    if passed >= 0:
        header.msg_control = control
        header.msg_controllen = CMSG_SPACE(count * sizeof(int))
        cmsg = CMSG_FIRSTHDR(&header)
        cmsg.cmsg_level = SOL_SOCKET
        cmsg.cmsg_type = SCM_RIGHTS
        cmsg.cmsg_len = CMSG_LEN(count * sizeof(int))
        memcpy(CMSG_DATA(cmsg), &passed, sizeof(int))
        if second >= 0:
            memcpy(CMSG_DATA(cmsg) + sizeof(int), &second, sizeof(int))
    return 0 if sendmsg(fd, &header, MSG_NOSIGNAL) >= 0 else -errno


cdef inline int receive_into(int fd, void *message, size_t size, int flags, msghdr *header, void *control, size_t room) noexcept nogil:
    """Receive one message, and as many descriptors as *control*, of *room* bytes, has room for; its size or -errno."""
    cdef iovec_t vector
    cdef ssize_t got
    memset(header, 0, sizeof(msghdr))
    vector.iov_base = message
    vector.iov_len = size
    header.msg_iov = &vector
    header.msg_iovlen = 1
    header.msg_control = control
    header.msg_controllen = room
    got = recvmsg(fd, header, MSG_CMSG_CLOEXEC | flags)
    header.msg_iov = NULL
    return <int>got if got >= 0 else -errno


cdef inline int receive_with(int fd, void *message, size_t size, int flags, int *fds, int *count) noexcept nogil:
    """Receive one message and its descriptors, at most 253 (the kernel's limit); its size, or -errno.

    A message that was cut, or whose descriptors were, has the size 0, as the end has; *count* is -1 at the end.
    """
    cdef msghdr header
    cdef cmsghdr *cmsg
    cdef uint64_t control[160]
    cdef int got = receive_into(fd, message, size, flags, &header, control, sizeof(control))
    count[0] = 0
    if got < 0:
        return got
    cmsg = CMSG_FIRSTHDR(&header)
    while cmsg != NULL:
        if cmsg.cmsg_level == SOL_SOCKET and cmsg.cmsg_type == SCM_RIGHTS:
            count[0] = <int>((cmsg.cmsg_len - CMSG_LEN(0)) / sizeof(int))
            memcpy(fds, CMSG_DATA(cmsg), <size_t>count[0] * sizeof(int))
        cmsg = CMSG_NXTHDR(&header, cmsg)
    if got == 0 and count[0] == 0:
        count[0] = -1
    return got if not header.msg_flags & (MSG_TRUNC | MSG_CTRUNC) else 0


cdef inline int receive_one(int fd, void *message, size_t size, int *passed) noexcept nogil:
    """Take a message that is there, with at most one descriptor, -1 for none; its size or -errno."""
    cdef msghdr header
    cdef cmsghdr *cmsg
    cdef uint64_t control[4]
    # The kernel drops the descriptors that do not fit.
    cdef int got = receive_into(fd, message, size, MSG_DONTWAIT, &header, control, CMSG_LEN(sizeof(int)))
    passed[0] = -1
    if got < 0:
        return got
    cmsg = CMSG_FIRSTHDR(&header)
    if cmsg != NULL and cmsg.cmsg_level == SOL_SOCKET and cmsg.cmsg_type == SCM_RIGHTS:
        memcpy(passed, CMSG_DATA(cmsg), sizeof(int))
    return got


cdef inline void close_all_but(int *keep, int count) noexcept nogil:
    """Close every descriptor that is not in *keep*, which gets sorted (close_range(2), Linux 5.9)."""
    cdef int i
    cdef int j
    cdef int value
    cdef unsigned int low = 0
    for i in range(1, count):
        value = keep[i]
        j = i - 1
        while j >= 0 and keep[j] > value:
            keep[j + 1] = keep[j]
            j -= 1
        keep[j + 1] = value
    for i in range(count):
        if keep[i] < 0:
            continue
        if <unsigned int>keep[i] > low:
            syscall(NR_close_range, low, <unsigned int>keep[i] - 1, 0)
        low = <unsigned int>keep[i] + 1
    syscall(NR_close_range, low, <unsigned int>0xFFFFFFFF, 0)
