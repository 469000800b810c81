# cython: cdivision=True, boundscheck=False
# SCMP_ACT_NOTIFY: how the listener of a filter comes to the agent that answers for it.
#
#   init -> front door    LISTENER: which number the descriptor is about to get; init waits for nothing yet, since
#                         every call that it makes behind seccomp(2) may be one that only the agent can answer
#   front door -> init    the step's number: it has taken the descriptor by pidfd_getfd(2)
#   init -> front door    UNHELD: init has given up its own
#   front door -> agent   the container process state, with the descriptor
#   front door -> init    the step's number: the agent has it
#
# From there on the agent alone has it: when it gives it up, whatever is notified fails, and init with it. As long as init
# held its own, it would wait for an answer for ever. A filter that notifies all lets init not even give it up: the first
# notification is served by the front door, which puts another file in the descriptor's place (Linux 5.9).
#
# Source: seccomp_unotify(2); linux/seccomp.h.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.oci_console cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.seccomp_install cimport *
from pyrunc._native.steps cimport *

cdef enum:
    LISTENER_PARTS = 9
    LISTENER_AGAIN_NS = 200000
    LISTENER_TRIES = 50000          # ten seconds for one call of init's
    LISTENER_PATIENCE_MS = 10000
    NOTICE_SIZE = 80                # struct seccomp_notif
    NOTICE_RECEIVE = 0xC0502100     # SECCOMP_IOCTL_NOTIF_RECV, ...
    NOTICE_ANSWER = 0xC0182101      # ..._SEND
    NOTICE_ADD_FD = 0x40182103      # ..._ADDFD
    NOTICE_CONTINUE = 1             # SECCOMP_USER_NOTIF_FLAG_CONTINUE
    NOTICE_SET_FD = 1               # SECCOMP_ADDFD_FLAG_SETFD

cdef struct notice_answer:          # struct seccomp_notif_resp
    uint64_t id
    int64_t value
    int32_t error
    uint32_t flags

cdef struct notice_file:            # struct seccomp_notif_addfd
    uint64_t id
    uint32_t flags
    uint32_t source
    uint32_t target
    uint32_t target_flags


cdef inline int listen_step(walk *w, const plan_step *step) noexcept nogil:
    """In init: install a filter that notifies, and see that the agent gets its listener."""
    cdef progress message
    cdef uint32_t answer = 0
    cdef int rc
    # What the kernel takes is the lowest free number.
    cdef int number = <int>_rc(fcntl(w.progress_fd, F_DUPFD_CLOEXEC, 0))
    if number < 0:
        return number
    close(number)
    memset(&message, 0, sizeof(message))
    message.kind = PROGRESS_LISTENER
    message.step = <uint32_t>(step - w.steps)
    message.error = number
    if send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL) < 0:
        return -errno
    rc = c_seccomp_install(w.data + w.header.blob_off + step.n0, <uint16_t>step.n1, <unsigned int>step.n2)
    if rc < 0:
        return rc
    # A filter may refuse these calls: then the descriptor stays until execve(2) closes it.
    if recv(w.progress_fd, &answer, sizeof(answer), 0) == sizeof(answer):
        close(rc)
        message.kind = PROGRESS_UNHELD
        if send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL) == sizeof(message):
            recv(w.progress_fd, &answer, sizeof(answer), 0)
    return 0


cdef inline int take_listener(int pidfd, int number) noexcept nogil:
    """The descriptor *number* of another process as soon as it has it; or -errno, ESRCH if it has ended before."""
    cdef timespec pause
    cdef int fd = -EBADF
    cdef int i
    pause.tv_sec = 0
    pause.tv_nsec = LISTENER_AGAIN_NS
    for i in range(LISTENER_TRIES):
        fd = <int>_rc(syscall(NR_pidfd_getfd, pidfd, number, 0))
        if fd != -EBADF:
            break
        nanosleep(&pause, NULL)
    return fd


cdef inline bint take_away(int listener, int number) noexcept nogil:
    """Serve the notification that waits: put another file in the place of *number* of who calls, which then goes on."""
    cdef uint64_t notice[NOTICE_SIZE / 8]
    cdef notice_file other
    cdef notice_answer answer
    cdef int file = <int>_rc(syscall(SYS_memfd_create, b"", MFD_CLOEXEC))
    memset(notice, 0, sizeof(notice))
    memset(&answer, 0, sizeof(answer))
    if file < 0 or ioctl(listener, NOTICE_RECEIVE, notice) < 0:
        close(file)
        return False
    other.id = answer.id = notice[0]
    other.flags = NOTICE_SET_FD
    other.source = <uint32_t>file
    other.target = <uint32_t>number
    other.target_flags = O_CLOEXEC
    answer.flags = NOTICE_CONTINUE
    ioctl(listener, NOTICE_ADD_FD, &other)
    close(file)
    return ioctl(listener, NOTICE_ANSWER, &answer) == 0


cdef inline void see_unheld(walk *w, int listener, int number) noexcept nogil:
    """Wait until init has given up its listener's descriptor *number*, which it is to do now, or cannot do any more."""
    cdef progress message
    cdef pollfd watch[2]
    watch[0].fd = listener
    watch[1].fd = w.progress_fd
    watch[0].events = watch[1].events = POLLIN
    watch[0].revents = watch[1].revents = 0
    poll(watch, 2, LISTENER_PATIENCE_MS)
    if watch[1].revents:
        # What else it says is not for here.
        if recv(w.progress_fd, &message, sizeof(message), MSG_PEEK | MSG_DONTWAIT) == sizeof(message) and message.kind == PROGRESS_UNHELD:
            recv(w.progress_fd, &message, sizeof(message), MSG_DONTWAIT)
    elif watch[0].revents & POLLIN:
        take_away(listener, number)


cdef inline int tell_step(walk *w, uint32_t step) noexcept nogil:
    """Tell init that a part of the step *step* is done; 0 or -errno."""
    return 0 if send(w.progress_fd, &step, sizeof(step), MSG_NOSIGNAL) == sizeof(step) else -EPIPE


cdef inline int oci_send_listener(walk *w, const progress *message, const char *status, int state_pid, int pid, int pidfd) noexcept nogil:
    """In the front door: serve LISTENER of the process *pid*; 0 or -errno.

    *status* and *state_pid* are the container's, which a program that joins it has not the pid of.
    Source: OCI runtime-spec config-linux.md, "The Container Process State".
    """
    cdef const plan_oci *block = plan_oci_of(w.data)
    cdef iovec_t parts[LISTENER_PARTS]
    cdef char number[24]
    cdef char state_number[24]
    cdef int sock
    cdef int fd
    cdef int rc
    if block == NULL or block.seccomp_listener == <uint32_t>NONE or block.seccomp_metadata == <uint32_t>NONE:
        return -EPROTO
    if message.step >= w.header.step_count or not listens(&w.steps[message.step]):
        return -EPROTO
    sock = connect_to(text(w, block.seccomp_listener))
    if sock < 0:
        return sock
    fd = take_listener(pidfd, message.error)
    rc = fd if fd < 0 else tell_step(w, message.step)
    if rc == 0:
        see_unheld(w, fd, message.error)
        put_decimal(number, <uint64_t>pid)
        put_decimal(state_number, <uint64_t>state_pid)
        piece(&parts[0], text(w, block.seccomp_metadata))
        piece(&parts[1], number)
        piece(&parts[2], b",\"state\":")
        piece(&parts[3], text(w, block.hook_state[0]))
        piece(&parts[4], status)
        piece(&parts[5], text(w, block.hook_state[1]))
        piece(&parts[6], state_number)
        piece(&parts[7], text(w, block.hook_state[2]))
        piece(&parts[8], b"}")
        rc = send_parts(sock, parts, LISTENER_PARTS, fd)
    close(fd)
    close(sock)
    return rc if rc < 0 else tell_step(w, message.step)


cdef inline bint listens(const plan_step *step) noexcept nogil:
    """Whether a step installs a filter with a listener."""
    return step.op == OP_SECCOMP and step.n2 & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
