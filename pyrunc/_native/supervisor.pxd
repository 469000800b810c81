# cython: cdivision=True, boundscheck=False
# The supervisor: one per container, forked by the spawner. It validates the plan, makes the
# cgroups, clones init, reaps it, reports, and removes what it made.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.cgroup_home cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.container_init cimport *
from pyrunc._native.device_bpf cimport *
from pyrunc._native.killing cimport *
from pyrunc._native.loading cimport *
from pyrunc._native.openat2 cimport *
from pyrunc._native.overlay cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *
from pyrunc._native.unexecuted cimport *
from pyrunc._native.uproot cimport *

cdef enum:
    THAW_AGAIN_MS = 50


cdef inline int open_process(int pid) noexcept nogil:
    """The directory of a child of ours in the host's own procfs."""
    cdef char path[32]
    memcpy(path, b"/proc/", 6)
    put_number(path + 6, pid)
    return <int>_rc(openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC))


cdef inline int proc_write_step(walk *w, const plan_step *step, int pid) noexcept nogil:
    """Write a file of the waiting init, such as its id maps."""
    cdef int rc
    cdef int fd = open_process(pid)
    if fd < 0:
        return fd
    rc = write_at(fd, text(w, step.s0), text(w, step.s1))
    close(fd)
    return rc


cdef inline int userns_step(walk *w, const plan_step *step) noexcept nogil:
    """A user namespace with the given maps, kept by a descriptor: idmapped mounts name their maps so.

    It is born with a child that does nothing and goes at once; Linux has no other way.
    """
    cdef clone_args args
    cdef int directory
    cdef int status
    cdef int rc
    cdef int pid
    memset(&args, 0, sizeof(args))
    args.flags = <uint64_t>CLONE_NEWUSER
    args.exit_signal = <uint64_t>SIGCHLD
    pid = <int>_rc(syscall(NR_clone3, &args, sizeof(args)))
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        while True:
            poll(NULL, 0, -1)
    if pid < 0:
        return pid
    directory = open_process(pid)
    rc = directory
    if rc >= 0:
        rc = write_at(directory, b"uid_map", text(w, step.s0))
        if rc == 0:
            rc = write_at(directory, b"gid_map", text(w, step.s1))
        if rc == 0:
            rc = put_slot(w, step.slot_a, _rc(openat(directory, b"ns/user", O_RDONLY | O_CLOEXEC)))
        close(directory)
    kill(pid, SIGKILL)
    while wait4(pid, &status, 0, NULL) < 0 and errno == EINTR:
        pass
    return rc


cdef inline int host_step(walk *w, const plan_step *step, bint *made, int pid) noexcept nogil:
    cdef uint32_t op = step.op
    cdef const char *path
    cdef int created = 0
    cdef int home
    cdef int rc
    if op == OP_CGROUP_MKDIR:
        rc = c_cgroup_make(text(w, step.s0), text(w, step.s1), text(w, step.s2) if step.s2 != <uint32_t>NONE else NULL,
                           step.flags & F_CPUSET, step.flags & F_SEED_CPUSET, step.flags & F_EXISTING,
                           w.homes if step.flags & F_KEEP_PARENTS and step.s2 == <uint32_t>NONE else NULL, w.path, sizeof(w.path), &created)
        made[0] = created
        if rc < 0 or step.slot_a == <uint32_t>NONE:
            return rc
        rc = c_join_path(text(w, step.s0), text(w, step.s1), w.path, sizeof(w.path))
        if rc < 0:
            return rc
        home = c_at_home(w.homes, w.path, &path)
        return put_slot(w, step.slot_a, _rc(openat(home, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)))
    if op == OP_WRITE_AT:
        rc = write_at_step(w, step)
        w.skip = rc == 0 and step.flags & F_ALTERNATIVE
        return 0 if rc == -ENOENT and step.flags & (F_MISSING | F_ALTERNATIVE) else rc
    if op == OP_OPEN_AT:
        return put_slot(w, step.slot_b, _rc(openat(
            w.slots[step.slot_a], text(w, step.s0), <int>step.n0 | O_CLOEXEC | O_NOFOLLOW)))
    if op == OP_OPEN:
        home = c_at_home(w.homes, text(w, step.s0), &path)
        rc = <int>_rc(openat(home, path, <int>step.n0 | O_CLOEXEC))
        if rc == -ENOENT and home != AT_FDCWD:
            # Another may have removed the shared directory while it was empty, and a third have made it anew.
            c_leave_home(w.homes, home)
            rc = <int>_rc(openat(AT_FDCWD, text(w, step.s0), <int>step.n0 | O_CLOEXEC))
        return put_slot(w, step.slot_a, rc)
    if op == OP_DEVICE_BPF:
        return c_attach_device_program(w.slots[step.slot_a], w.data + w.header.blob_off + step.n0, <uint32_t>step.n1)
    if op == OP_USERNS:
        return userns_step(w, step)
    if op == OP_OVERLAY:
        return overlay_step(w, step)
    if op == OP_WRITE_PROC:
        return proc_write_step(w, step, pid)
    return shared_step(w, step)


cdef inline int remove_cgroups(walk *w, uint32_t last_made) noexcept nogil:
    """Remove, newest first, each cgroup that this supervisor made; the first failure or 0."""
    cdef const plan_step *step
    cdef uint32_t i
    cdef int first = 0
    cdef int rc
    i = last_made
    while i > 0:
        i -= 1
        step = &w.steps[i]
        if step.op == OP_CGROUP_MKDIR and not step.flags & F_EXISTING:
            rc = c_cgroup_remove(text(w, step.s0), text(w, step.s1), w.homes, w.path, sizeof(w.path))
            if rc < 0 and first == 0:
                first = rc
            if not step.flags & F_KEEP_PARENTS:
                c_cgroup_prune(text(w, step.s0), text(w, step.s1), w.path, sizeof(w.path))
    return first


cdef inline int run_sync(walk *w, uint32_t number, int pid, record *report) noexcept nogil:
    """Execute the steps of a sync point and let init go on."""
    cdef uint32_t i
    cdef bint made = False
    cdef int rc
    for i in range(w.header.step_count):
        if w.steps[i].section == SECTION_SYNC + number:
            rc = host_step(w, &w.steps[i], &made, pid)
            if rc < 0 and not w.steps[i].flags & F_OPTIONAL:
                report.step = i
                report.error = rc
                return rc
    return 0 if send(w.progress_fd, &number, sizeof(number), MSG_NOSIGNAL) == sizeof(number) else -EPIPE


cdef inline bint has_sync(walk *w) noexcept nogil:
    # Every sync point is served by a section (the validator sees to it), and those stand last.
    return w.steps[w.header.step_count - 1].section >= <uint32_t>SECTION_SYNC


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


cdef inline bint hear(walk *w, int reply_fd, int pid, int pidfd, record *report) noexcept nogil:
    """Take one message of init; False when there is no more to come."""
    cdef progress message
    cdef uint32_t answer = GO
    cdef int passed
    cdef int got = receive_one(w.progress_fd, &message, sizeof(message), &passed)
    if passed >= 0:
        # One, and only from init itself: whoever could look into the program's process shall not choose it.
        if got == sizeof(message) and message.kind == PROGRESS_TERMINAL and w.terminal < 0 and not w.forked and makes_terminal(w):
            w.terminal = passed
        else:
            close(passed)
    if got == sizeof(message) and message.kind == PROGRESS_TERMINAL:
        return True
    if got == sizeof(message):
        memcpy(&report.stage_ns[STAGE_INIT], &message.stage_ns[STAGE_INIT],
               (STAGE_EXEC - STAGE_INIT + 1) * sizeof(uint64_t))
        if message.kind == PROGRESS_READY:
            report.ready = 1
        elif message.kind == PROGRESS_FAILED:
            report.step = message.step
            report.error = message.error
        elif message.kind == PROGRESS_FORKED and w.header.flags & PLAN_EXEC and not w.forked:
            w.forked = <int>message.step
            send(w.progress_fd, &answer, sizeof(answer), MSG_NOSIGNAL)
        elif message.kind != PROGRESS_SYNC or run_sync(w, message.step, pid, report) < 0:
            syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
        return True
    if got == -EAGAIN or got == -EINTR:
        return True
    # EOF: execve closed init's end, or init died on the way.
    close(w.progress_fd)
    w.progress_fd = -1
    if report.ready and report.error == 0 and not w.header.flags & PLAN_QUIET:
        report.kind = RECORD_STARTED
        send_with_two(reply_fd, report, sizeof(record), pidfd, w.terminal)
        pass_on(w)
    return False


cdef inline void follow(walk *w, int reply_fd, int *pid, int *pidfd, record *report) noexcept nogil:
    """In a plan that joins a container: wait until the process that was cloned has been succeeded by the program's.

    *pid* and *pidfd* are then the latter's. Where none comes, `supervise` reads why.
    """
    cdef pollfd watch[3]
    cdef uint32_t answer = STOP
    cdef int rc
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
    if not w.forked and w.progress_fd >= 0:
        hear(w, reply_fd, pid[0], pidfd[0], report)     # it may have said so just before its end
    if not w.forked:
        if w.progress_fd >= 0:
            send(w.progress_fd, &answer, sizeof(answer), MSG_NOSIGNAL)      # it may have been killed before it could
        return
    while wait4(pid[0], NULL, 0, NULL) < 0 and errno == EINTR:
        pass
    pid[0] = w.forked
    rc = <int>_rc(syscall(NR_pidfd_open, pid[0], 0))
    if rc < 0:
        kill(pid[0], SIGKILL)
        report.error = rc
        return
    close(pidfd[0])
    pidfd[0] = rc


cdef inline void supervise(walk *w, int reply_fd, int pid, int pidfd, record *report) noexcept nogil:
    """Serve init until it ends: its progress, the requester's commands, the requester's death."""
    cdef pollfd watch[4]
    cdef bint owner = True
    cdef int rc
    # A quiet plan without sync points is told at its end: what init said is read then, with no wake-up on the way.
    watch[0].fd = -1 if w.header.flags & PLAN_QUIET and not has_sync(w) else w.progress_fd
    watch[1].fd = reply_fd
    watch[2].fd = pidfd
    watch[0].events = POLLIN
    watch[1].events = POLLIN
    watch[2].events = POLLIN
    watch[3].fd = w.channel
    watch[3].events = 0             # only its end
    while True:
        watch[0].revents = 0
        watch[1].revents = 0
        watch[2].revents = 0
        watch[3].revents = 0
        rc = poll(watch, 4, THAW_AGAIN_MS if w.dying else -1)
        if rc < 0 and errno != EINTR:
            return
        if rc == 0:
            thaw(w)                 # it may have been frozen anew before it could die
        if watch[0].revents and not hear(w, reply_fd, pid, pidfd, report):
            watch[0].fd = -1
        if watch[1].revents and owner:
            if not obey(w, reply_fd, pidfd):
                owner = False
                watch[1].fd = -1
                if not w.header.flags & PLAN_KEEP_RUNNING:
                    kill_container(w, pidfd)
        if watch[3].revents:
            # The spawner was killed: a requester that still writes to it must see the end of its socket.
            close(w.sock)
            w.sock = -1
            watch[3].fd = -1
        if watch[2].revents:
            # Not before all that init said was read: its last word may be why it failed.
            while w.progress_fd >= 0 and hear(w, reply_fd, pid, pidfd, report):
                pass
            return


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


cdef inline uint32_t oom_kills(walk *w) noexcept nogil:
    """How many processes the memory limit has killed; 0 where the plan sets none."""
    cdef int slot
    if w.header.memory_slot == <uint32_t>NONE:
        return 0
    slot = w.slots[w.header.memory_slot]
    return c_read_counter(slot, b"memory.events" if w.header.memory_slot == w.header.cgroup_slot else b"memory.oom_control", b"oom_kill ")


cdef inline int clone_init(walk *w, int *pidfd, int host_net) noexcept nogil:
    """clone3 of init with the plan's namespaces, born inside its cgroup v2; 0 in the child.

    *host_net* is the host's network namespace if this process has left it for a fresh one. That one
    becomes the container's, unless a new user namespace must own it or the plan wants none.
    """
    cdef clone_args args
    memset(&args, 0, sizeof(args))
    args.flags = w.header.clone_flags | <uint64_t>CLONE_PIDFD
    if host_net >= 0:
        if args.flags & <uint64_t>CLONE_NEWNET and not args.flags & <uint64_t>CLONE_NEWUSER:
            args.flags &= ~<uint64_t>CLONE_NEWNET
            w.lo_is_up = True
        elif setns(host_net, CLONE_NEWNET) < 0:
            return -errno
    args.pidfd = <uint64_t>pidfd
    args.exit_signal = <uint64_t>SIGCHLD
    if w.header.cgroup_slot != <uint32_t>NONE:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = <uint64_t>w.slots[w.header.cgroup_slot]
    return <int>_rc(syscall(NR_clone3, &args, sizeof(args)))


cdef inline uint64_t microseconds(timeval *time) noexcept nogil:
    return <uint64_t>time.tv_sec * 1000000 + <uint64_t>time.tv_usec


cdef inline uint64_t own_cpu_us() noexcept nogil:
    cdef rusage_t usage
    if getrusage(RUSAGE_SELF, &usage) < 0:
        return 0
    return microseconds(&usage.ru_utime) + microseconds(&usage.ru_stime)


cdef inline bint has_joined(walk *w) noexcept nogil:
    """Whether the plan has brought this process itself into another's namespace, which it cannot leave."""
    cdef uint32_t i
    for i in range(w.header.step_count):
        if w.steps[i].section == SECTION_HOST and w.steps[i].op == OP_SETNS:
            return True
    return False


cdef inline bint supervisor(int plan_fd, int reply_fd, int *fds, uint32_t count, int channel, int sock,
                            int host_net, bint chrooted, cgroup_homes *homes) noexcept nogil:
    """One container from its plan to its end; whether this process may serve another.

    *fds* are the request's *count* further descriptors; *channel* leads to the spawner, *sock* is where
    requests come in; *host_net* is as clone_init has it; *chrooted* says that this process is in a chroot,
    which it leaves for good; *homes* stay from one container to the next. Afterwards descriptors are open that
    `close_all_but` must close.
    """
    cdef walk w
    cdef bint again
    w.data = NULL
    w.header = NULL
    w.argv = NULL
    w.channel = channel
    w.sock = sock
    w.homes = homes
    w.lo_is_up = False
    supervise_container(&w, plan_fd, reply_fd, fds, count, host_net, chrooted)
    again = w.sock >= 0 and not chrooted and (w.header == NULL or not has_joined(&w))
    # Nothing of one container, such as its environment, may be there when the next one comes.
    if w.data != NULL:
        munmap(<void *>w.data, w.data_size)
    if w.argv != NULL:
        munmap(w.argv, w.argv_size)
    return again


cdef inline void supervise_container(walk *w, int plan_fd, int reply_fd, int *fds, uint32_t count,
                                     int host_net, bint chrooted) noexcept nogil:
    cdef record report
    cdef rusage_t usage
    cdef uint64_t overhead_us
    cdef int keep[MAX_FDS + 16 + MAX_HOMES]
    cdef int pair[2]
    cdef int pidfd = -1
    cdef int pid = -1
    cdef int rc
    cdef int status = 0
    cdef bint made = False
    cdef uint32_t i
    cdef uint32_t last_made = 0
    cdef const plan_step *step
    # A fork without exec ignores O_CLOEXEC: other containers' pipes and secrets must not live on here.
    keep[0] = plan_fd
    keep[1] = reply_fd
    keep[2] = host_net
    keep[3] = 0
    keep[4] = 1
    keep[5] = 2                     # /dev/null all three, so that no slot takes their place
    keep[6] = w.channel
    keep[7] = w.sock
    for i in range(count):
        keep[i + 8] = fds[i]
    for i in range(<uint32_t>w.homes.count):
        keep[count + 8 + i] = w.homes.home[i].fd
    close_all_but(keep, <int>count + 8 + w.homes.count)
    signal(SIGCHLD, SIG_DFL)
    # The requester shares this file offset: where it is 0, its request was taken, whatever becomes of us.
    lseek(plan_fd, 0, SEEK_SET)
    overhead_us = own_cpu_us()
    memset(&report, 0, sizeof(report))
    memset(w.stage_ns, 0, sizeof(w.stage_ns))
    memset(w.slots, 0xFF, sizeof(w.slots))
    w.root = -1
    w.terminal = -1
    w.cached_fd = -1
    w.skip = False
    w.dying = False
    w.forked = 0
    report.stage_ns[STAGE_HOST] = now_ns()
    report.kind = RECORD_FAILED
    report.step = FAILED_CHROOT
    rc = c_uproot() if chrooted else 0
    if rc == 0:
        report.step = FAILED_PLAN
        rc = load_plan(w, plan_fd, count)
    close(plan_fd)
    if rc < 0:
        report.error = rc
        send_with(reply_fd, &report, sizeof(record), -1)
        return
    for i in range(count):
        w.slots[i] = fds[i]
    for i in range(w.header.step_count):
        step = &w.steps[i]
        if step.section != SECTION_HOST:
            break
        if w.skip:
            w.skip = False
            continue
        made = False
        rc = host_step(w, step, &made, 0)
        if made:
            last_made = i + 1
        if rc < 0 and not step.flags & F_OPTIONAL:
            report.step = i
            break
        rc = 0
    forget_file(w)
    report.stage_ns[STAGE_CLONE] = now_ns()
    if rc == 0:
        rc = <int>_rc(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
    if rc == 0:
        w.progress_fd = pair[1]
        report.step = FAILED_CLONE
        pid = clone_init(w, &pidfd, host_net)
        if pid == 0:
            close(reply_fd)
            close(w.channel)
            close(w.sock)
            close(pair[0])
            _exit(container_init(w))
        close(pair[1])
        w.progress_fd = pair[0]
        rc = pid if pid < 0 else 0
    if rc < 0:
        report.error = rc
        remove_cgroups(w, last_made)
        send_with(reply_fd, &report, sizeof(record), -1)
        return
    report.step = FAILED_PLAN       # with no error: init died without a word
    close_passed(w, count)
    if w.header.flags & PLAN_EXEC:
        follow(w, reply_fd, &pid, &pidfd, &report)
    report.pid = pid
    supervise(w, reply_fd, pid, pidfd, &report)
    if report.ready and c_died_of_seccomp(pid):
        rc = open_process(pid)
        report.ready = not c_never_executed(rc)
        close(rc)
    memset(&usage, 0, sizeof(usage))
    while wait4(pid, &status, 0, &usage) < 0 and errno == EINTR:
        pass
    report.stage_ns[STAGE_CLEAN] = now_ns()
    report.wait_status = status
    report.utime_us = microseconds(&usage.ru_utime)
    report.stime_us = microseconds(&usage.ru_stime)
    report.maxrss_bytes = <uint64_t>usage.ru_maxrss * 1024
    if not w.header.clone_flags & <uint64_t>CLONE_NEWPID:
        # No pid namespace dies with init: what it left behind is found by its cgroup.
        kill_stragglers(w)
    report.oom_kills = oom_kills(w)
    report.leftover = remove_cgroups(w, last_made)
    report.overhead_us = own_cpu_us() - overhead_us
    report.stage_ns[STAGE_END] = now_ns()
    report.kind = RECORD_EXITED if report.ready and report.error == 0 else RECORD_FAILED
    send_with(reply_fd, &report, sizeof(record), -1)
    if w.header.flags & PLAN_EXEC and not w.forked:
        while wait4(-1, NULL, 0, NULL) > 0 or errno == EINTR:
            pass                    # the process of which it could not tell any more


cdef inline void close_passed(walk *w, uint32_t count) noexcept nogil:
    """Give up the request's descriptors, so that a pipe's reader sees its end when init does."""
    cdef uint32_t i
    for i in range(count):
        if w.slots[i] >= 0:
            close(w.slots[i])
            w.slots[i] = -1
