# cython: cdivision=True, boundscheck=False
# What becomes of descriptors before a program runs, and how a further program gets into a running container.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *


cdef inline unsigned int first_closed(walk *w) noexcept nogil:
    """Behind the descriptors that the program gets: the standard ones, and those that the caller of pyrunc-oci passes on."""
    cdef const plan_oci *oci = plan_oci_of(w.data)
    return 3 + (oci.preserve_fds if oci != NULL else 0)


cdef inline void close_above(walk *w, int *keep, int count) noexcept nogil:
    """Close all but the program's descriptors and the *count* ones in *keep*, none of which is among them."""
    cdef unsigned int low = first_closed(w)
    cdef int least
    cdef int i
    while True:
        least = -1
        for i in range(count):
            if keep[i] >= <int>low and (least < 0 or keep[i] < least):
                least = keep[i]
        if least < 0:
            break
        if <unsigned int>least > low:
            syscall(NR_close_range, low, <unsigned int>least - 1, 0)
        low = <unsigned int>least + 1
    syscall(NR_close_range, low, <unsigned int>0xFFFFFFFF, 0)


cdef inline void close_for_exec(walk *w) noexcept nogil:
    """Close all but the program's descriptors and the channel, which closes at execve.

    O_CLOEXEC alone is too late: execve resolves its path first, and a symlink of the image, or a
    script's interpreter, could lead through /proc/self/fd of a cgroup to the host's root (CVE-2024-21626).
    """
    close_above(w, &w.progress_fd, 1)


cdef inline void close_for_join(walk *w, int target) noexcept nogil:
    """Close what no further step needs but *target*: nothing of the host but the request's descriptors goes into a container."""
    cdef int keep[MAX_FDS + 2]
    cdef uint32_t i
    keep[0] = w.progress_fd
    keep[1] = target
    for i in range(w.header.fd_count):
        keep[i + 2] = w.slots[i] if i < MAX_FDS else -1
    close_above(w, keep, 2 + (<int>w.header.fd_count if w.header.fd_count < MAX_FDS else MAX_FDS))


cdef inline int fork_step(walk *w, bint tty) noexcept nogil:
    """Go on as a new process inside the pid namespace that was joined, a child of the supervisor's; end the old one.

    The container's processes can see the new one, and one that holds CAP_SYS_PTRACE can look into it: so nothing
    is open, and no capability held, that the program will not have. It waits until the supervisor knows of it.
    With *tty* its descriptor 0 is its terminal, which the old one could not be without hanging it up at its end.
    clone(2), since filters that are in force already allow it more often than clone3(2), and read(2) likewise.
    """
    cdef progress message
    cdef uint32_t answer = STOP
    cdef int pid
    close_for_exec(w)
    pid = <int>_rc(syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL))
    if pid < 0:
        return pid
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if read(w.progress_fd, &answer, sizeof(answer)) != sizeof(answer) or answer != GO:
            _exit(125)
        setsid()                    # the old one led a session too, but no process leads its parent's
        return <int>_rc(ioctl(0, TIOCSCTTY, 0)) if tty else 0
    memset(&message, 0, sizeof(message))
    message.kind = PROGRESS_FORKED
    message.step = <uint32_t>pid
    memcpy(message.stage_ns, w.stage_ns, sizeof(message.stage_ns))
    send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL)
    _exit(0)
