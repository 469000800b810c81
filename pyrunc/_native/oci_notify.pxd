# cython: cdivision=True, boundscheck=False
# SCMP_ACT_NOTIFY: how the listener of a filter comes to the agent that answers for it.
#
#   init -> front door    LISTENER: which number the descriptor is about to get; init waits for nothing yet, since
#                         every call that it makes behind seccomp(2) may be one that only the agent can answer
#   front door -> agent   the container process state, with the descriptor, which pidfd_getfd(2) takes out of init
#   front door -> init    the step's number: the agent has it, and init gives up its own

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
    # A filter may refuse this call: then the descriptor stays until execve(2) closes it.
    if recv(w.progress_fd, &answer, sizeof(answer), 0) == sizeof(answer):
        close(rc)
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


cdef inline int oci_send_listener(walk *w, const progress *message, const char *status, int state_pid, int pid, int pidfd) noexcept nogil:
    """In the front door: serve LISTENER of the process *pid*; 0 or -errno.

    *status* and *state_pid* are the container's, which a program that joins it has not the pid of.
    Source: OCI runtime-spec config-linux.md, "The Container Process State".
    """
    cdef const plan_oci *block = plan_oci_of(w.data)
    cdef iovec_t parts[LISTENER_PARTS]
    cdef char number[24]
    cdef char state_number[24]
    cdef uint32_t answer = message.step
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
    rc = fd
    if fd >= 0:
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
    if rc >= 0:
        rc = 0 if send(w.progress_fd, &answer, sizeof(answer), MSG_NOSIGNAL) == sizeof(answer) else -EPIPE
    return rc


cdef inline bint listens(const plan_step *step) noexcept nogil:
    """Whether a step installs a filter with a listener."""
    return step.op == OP_SECCOMP and step.n2 & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
