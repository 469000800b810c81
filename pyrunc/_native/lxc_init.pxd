# cython: cdivision=True, boundscheck=False
# The first program that LXC executes in a container: it becomes the user's program, which so is the container's init.
#
# LXC itself would pass over whether the working directory is inside of the root (CVE-2024-21626: it enters it while
# it still has the host's directories open), adds to the environment, and says that a program could not be executed
# to nobody but its log. Who started LXC hears of it here:
#
#   this -> starter     FORKED, with the credentials of this process, which the kernel translates to the host's pid, and
#                       with the end of a pair, which has all that follows
#   starter -> this     GO: LXC's own monitor has ended, and this process has another parent
#   this -> starter     what a supervisor hears of its init: TERMINAL, READY, FAILED, execve's end of the pair
#
# LXC has its monitor's death end the container; that is taken back before, or else the monitor would wait for this
# process, and know how it ended, without anybody to tell.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.container_init cimport *
from pyrunc._native.loading cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *


cdef inline int descriptor_of(const char *digits) noexcept nogil:
    """The number of a descriptor, beyond the standard ones; -1 for anything else."""
    cdef int value = 0
    while c'0' <= digits[0] <= c'9' and value < 100000:
        value = value * 10 + digits[0] - c'0'
        digits += 1
    return value if digits[0] == 0 and value > 2 else -1


cdef inline int become_lxc_init(char **numbers) noexcept nogil:
    """Walk a plan, and report on a pair whose other end goes to a socket: an exit status, only if it could not.

    *numbers* are descriptors: the plan, the socket, and the container's streams. LXC's own are others: it writes its
    errors there, and gives them to the container's user.
    """
    cdef walk w
    cdef progress message
    cdef uint32_t answer = STOP
    cdef int ends[2]
    cdef int keep[8]
    cdef int plan_fd
    cdef int sock
    cdef int rc
    cdef int i
    for i in range(5):
        keep[i] = descriptor_of(numbers[i])
        if keep[i] < 0:
            return 64
    for i in range(3):
        keep[5 + i] = i             # until they are the program's, so that no other descriptor gets these numbers
    plan_fd = keep[0]
    sock = keep[1]
    memset(&w, 0, sizeof(w))
    memset(w.slots, 0xFF, sizeof(w.slots))
    for i in range(3):
        w.slots[i] = keep[2 + i]
    close_all_but(keep, 8)          # which sorts them
    w.channel = w.sock = w.root = w.cached_fd = w.state_dir = w.terminal = w.host_net = w.hook_fd = -1
    memset(&message, 0, sizeof(message))
    message.kind = PROGRESS_FAILED
    message.step = <uint32_t>FAILED_PLAN
    message.error = load_plan(&w, plan_fd, 3)
    close(plan_fd)
    if message.error == 0 and socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0:
        message.error = -errno
    if message.error != 0:
        send(sock, &message, sizeof(message), MSG_NOSIGNAL)
        return 127
    message.kind = PROGRESS_FORKED
    prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    rc = send_with(sock, &message, sizeof(message), ends[1])
    close(ends[1])
    close(sock)
    if rc < 0 or recv(ends[0], &answer, sizeof(answer), 0) != sizeof(answer) or answer != GO:
        return 127                  # who started it is gone: nobody would know who this is
    w.progress_fd = ends[0]
    w.root = openat(AT_FDCWD, b"/", O_PATH | O_DIRECTORY | O_CLOEXEC)
    return container_init(&w)
