# cython: cdivision=True, boundscheck=False
# What init says to the supervisor, and the requester's commands, while the container runs.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.host_steps cimport *
from pyrunc._native.killing cimport *
from pyrunc._native.oci_notify cimport *
from pyrunc._native.net_device cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.shim_files cimport *
from pyrunc._native.steps cimport *
from pyrunc._native.unexecuted cimport *

cdef enum:
    THAW_AGAIN_MS = 50
    SAID_LAST = 64                  # messages that are read of a process that has ended
    LOOK_MS = 50                    # how often who said READY is asked of the kernel, while its socket does not end
    ERROR_MOST = 4095               # above every errno


cdef inline int run_sync(walk *w, uint32_t number, int pid, record *report) noexcept nogil:
    """Execute the steps of a sync point and let init go on."""
    cdef uint32_t i
    cdef bint made = False
    cdef int rc
    if number >= <uint32_t>MAX_SYNC:
        return -EINVAL              # the sum below would be another section
    for i in range(w.header.step_count):
        if w.steps[i].section == SECTION_SYNC + number:
            if w.steps[i].op == OP_NET_DEVICE:
                rc = net_device_step(w, &w.steps[i], pid)
            else:
                rc = host_step(w, &w.steps[i], &made, pid)
            if rc < 0 and not w.steps[i].flags & F_OPTIONAL:
                report.step = i
                report.error = rc
                return rc
    return 0 if send(w.progress_fd, &number, sizeof(number), MSG_NOSIGNAL) == sizeof(number) else -EPIPE


cdef inline bint has_sync(walk *w) noexcept nogil:
    # Every sync point is served by a section (the validator sees to it), and those stand last but for the stage.
    cdef uint32_t i = w.header.step_count - 1
    while i > 0 and w.steps[i].section == <uint32_t>SECTION_STAGE:
        i -= 1
    return w.steps[i].section >= <uint32_t>SECTION_SYNC


cdef inline bint makes_terminal(walk *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.header.step_count):
        if w.steps[i].op == OP_TERMINAL:
            return True
    return False


cdef inline void pass_on(walk *w) noexcept nogil:
    """Keep no end of the terminal: it hangs up when its holder does."""
    if w.terminal >= 0:
        close(w.terminal)
    w.terminal = -1


cdef inline int joined(walk *w) noexcept nogil:
    """The init of the container that a plan joins by its number; 0 where it comes as a descriptor."""
    cdef uint32_t i
    for i in range(w.header.step_count):
        if w.steps[i].op == OP_PROCESS:
            return <int>w.steps[i].n0
    return 0


cdef inline bint hear(walk *w, int reply_fd, int pid, int pidfd, record *report) noexcept nogil:
    """Take one message of init; False when there is no more to come."""
    cdef progress message
    cdef uint32_t answer = GO
    cdef int passed
    cdef int rc = receive_one(w.progress_fd, &message, sizeof(message), &passed)
    if passed >= 0:
        # One, and only from init itself: whoever could look into the program's process shall not choose it.
        if rc == sizeof(message) and message.kind == PROGRESS_TERMINAL and w.terminal < 0 and not w.forked and makes_terminal(w):
            w.terminal = passed
        else:
            close(passed)
    if rc == sizeof(message) and message.kind == PROGRESS_TERMINAL:
        return True
    if rc == sizeof(message):
        memcpy(&report.stage_ns[STAGE_INIT], &message.stage_ns[STAGE_INIT],
               (STAGE_EXEC - STAGE_INIT + 1) * sizeof(uint64_t))
        if message.kind == PROGRESS_READY:
            report.ready = 1
        elif message.kind == PROGRESS_FAILED and message.step < w.header.step_count and -ERROR_MOST <= message.error < 0:
            report.step = message.step
            report.error = message.error
        elif message.kind == PROGRESS_FORKED and w.header.flags & PLAN_EXEC and not w.forked:
            w.forked = <int>message.step
            send(w.progress_fd, &answer, sizeof(answer), MSG_NOSIGNAL)
        elif message.kind == PROGRESS_LISTENER and w.header.flags & PLAN_EXEC and plan_oci_of(w.data) != NULL:
            rc = oci_send_listener(w, &message, b"running", joined(w), pid, pidfd)
            if rc < 0:
                report.step = message.step
                report.error = rc
                syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
            return True
        elif message.kind == PROGRESS_UNHELD:
            return True             # later than it was waited for, by an answer of the agent's
        elif message.kind != PROGRESS_SYNC or run_sync(w, message.step, pid, report) < 0:
            syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
        return True
    if rc == -EAGAIN or rc == -EINTR:
        return True
    # EOF: execve closed init's end, or init died on the way.
    close(w.progress_fd)
    w.progress_fd = -1
    if report.ready and report.error == 0 and not w.header.flags & PLAN_QUIET:
        if w.state_dir >= 0:
            # Before the requester knows: whoever it tells may look, and it may be killed.
            rc = write_running(w.state_dir, pid, getpid())
            if rc < 0:
                report.step = <uint32_t>FAILED_SHIM
                report.error = rc
                syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
                return False
            w.running = True
        report.kind = RECORD_STARTED
        if w.state_dir >= 0:
            send_with(reply_fd, report, sizeof(record), pidfd)      # a shim keeps the terminal
        else:
            send_with_two(reply_fd, report, sizeof(record), pidfd, w.terminal)
            pass_on(w)
    return False


cdef inline void hear_last(walk *w, int reply_fd, int pid, int pidfd, record *report) noexcept nogil:
    """Init is dead: take what it has said, and no more of whoever may hold its socket too."""
    if w.progress_fd >= 0:
        shutdown(w.progress_fd, SHUT_RD)
    while w.progress_fd >= 0 and hear(w, reply_fd, pid, pidfd, report):
        pass


cdef inline bint unheard(const walk *w, const record *report) noexcept nogil:
    """Whether init has said READY, and its socket has not ended yet."""
    return report.ready and w.progress_fd >= 0


cdef inline void look(walk *w, int pid) noexcept nogil:
    """Where whoever traces init holds its socket too, that does not end with execve(2); the kernel knows better."""
    cdef int process = open_process(pid)
    if process >= 0 and not c_never_executed(process):
        shutdown(w.progress_fd, SHUT_RD)
    close(process)


cdef inline void follow(walk *w, int reply_fd, int *pid, int *pidfd, record *report) noexcept nogil:
    """In a plan that joins a container: wait until the process that was cloned has been succeeded by the program's.

    *pid* and *pidfd* are then the latter's. Where none comes, `supervise` reads why.
    """
    cdef pollfd watch[3]
    cdef siginfo_t info
    cdef uint32_t answer = STOP
    cdef int rc
    cdef int i
    watch[0].fd = w.progress_fd
    watch[1].fd = reply_fd
    watch[2].fd = pidfd[0]
    watch[0].events = POLLIN
    watch[1].events = POLLIN
    watch[2].events = POLLIN
    watch[2].revents = 0
    while not watch[2].revents:
        watch[0].revents = 0
        watch[1].revents = 0
        rc = poll(watch, 3, THAW_AGAIN_MS if w.dying else -1)
        if rc < 0 and errno != EINTR:
            return
        if rc == 0:
            thaw(w)                 # who froze the container, maybe from inside, stops its cloning too
        if watch[0].revents and (not hear(w, reply_fd, pid[0], pidfd[0], report) or w.forked):
            watch[0].fd = -1        # the rest is the program's
        if watch[1].revents:
            if w.forked:
                w.dying = True      # the command is for the program; the old process has only to end
                watch[1].fd = -1
            elif not obey(w, reply_fd, pidfd[0]):
                kill_container(w, pidfd[0])
                watch[1].fd = -1
    w.dying = False
    for i in range(SAID_LAST):
        # It may have said so just before its end, behind what somebody has said for it who may look into it.
        if w.forked or w.progress_fd < 0 or not hear(w, reply_fd, pid[0], pidfd[0], report):
            break
    if not w.forked:
        if w.progress_fd >= 0:
            send(w.progress_fd, &answer, sizeof(answer), MSG_NOSIGNAL)      # it may have been killed before it could
        return
    while wait4(pid[0], NULL, 0, NULL) < 0 and errno == EINTR:
        pass
    pid[0] = w.forked
    # A child of ours that nobody has waited for keeps its number. Any other that somebody has named is not touched;
    # ours then dies with this process.
    rc = <int>_rc(waitid(P_PID, <unsigned int>pid[0], &info, WEXITED | WNOHANG | WNOWAIT)) if pid[0] > 0 else -ECHILD
    if rc < 0:
        close(w.sock)
        w.sock = -1
    else:
        rc = <int>_rc(syscall(NR_pidfd_open, pid[0], 0))
        if rc < 0:
            kill(pid[0], SIGKILL)
    if rc < 0:
        report.error = rc
        return
    close(pidfd[0])
    pidfd[0] = rc


cdef inline bint obey(walk *w, int reply_fd, int pidfd) noexcept nogil:
    """Take one command of the requester; False when it hung up."""
    cdef command message
    cdef ssize_t got = recv(reply_fd, &message, sizeof(message), MSG_DONTWAIT)
    if got == 0 or (got < 0 and errno != EAGAIN and errno != EINTR):
        return False
    if got == sizeof(message) and message.kind == COMMAND_KILL:
        if message.signal == SIGKILL:
            kill_container(w, pidfd)
        else:
            syscall(NR_pidfd_send_signal, pidfd, message.signal, NULL, 0)
    return True
