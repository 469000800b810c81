# cython: cdivision=True, boundscheck=False
# The supervisor: one per container, forked by the spawner. It validates the plan, makes the
# cgroups, clones init, reaps it, reports, and removes what it made.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.cgroup_home cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.container_init cimport *
from pyrunc._native.hearing cimport *
from pyrunc._native.host_steps cimport *
from pyrunc._native.killing cimport *
from pyrunc._native.loading cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.shim cimport *
from pyrunc._native.shim_end cimport *
from pyrunc._native.stage cimport *
from pyrunc._native.steps cimport *
from pyrunc._native.unexecuted cimport *
from pyrunc._native.uproot cimport *


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
        rc = poll(watch, 4, THAW_AGAIN_MS if w.dying else LOOK_MS if unheard(w, report) and watch[0].fd >= 0 else -1)
        if rc < 0 and errno != EINTR:
            return
        if rc == 0 and w.dying:
            thaw(w)                 # it may have been frozen anew before it could die
        if rc == 0 and unheard(w, report):
            look(w, pid)
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
            hear_last(w, reply_fd, pid, pidfd, report)
            return


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
    becomes the container's, unless a user namespace must own it or the plan wants none.
    """
    cdef clone_args args
    memset(&args, 0, sizeof(args))
    args.flags = w.header.clone_flags | <uint64_t>CLONE_PIDFD
    w.host_net = host_net
    if host_net >= 0:
        if args.flags & <uint64_t>CLONE_NEWNET and not args.flags & <uint64_t>CLONE_NEWUSER and not stage_joins_user(w):
            args.flags &= ~<uint64_t>CLONE_NEWNET
            w.lo_is_up = True
        elif setns(host_net, CLONE_NEWNET) < 0:
            return -errno
        else:
            w.host_net = -1
    args.pidfd = <uint64_t>pidfd
    args.exit_signal = <uint64_t>SIGCHLD
    if w.header.cgroup_slot != <uint32_t>NONE:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = <uint64_t>w.slots[w.header.cgroup_slot]
    return clone_staged(w, &args) if has_stage(w) else <int>_rc(syscall(NR_clone3, &args, sizeof(args)))


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
                            int host_net, bint chrooted, cgroup_homes *homes, crew_place crew) noexcept nogil:
    """One container from its plan to its end; whether this process may serve another.

    *fds* are the request's *count* further descriptors; *channel* leads to the spawner, *sock* is where
    requests come in; *host_net* is as clone_init has it; *chrooted* says that this process is in a chroot,
    which it leaves for good; *homes* stay from one container to the next; *crew* is where the spawner sees what it
    does. Afterwards descriptors are open that `close_all_but` must close. A shim may end as another program.
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
    w.crew = crew
    w.files.rlim_max = 0            # the spawner has given it back
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
    cdef shim s
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
    w.cached_fd = -1
    w.state_dir = w.terminal = -1
    w.running = False
    w.skip = False
    w.dying = False
    w.forked = 0
    w.stage_failed = 0
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
    for i in range(w.header.fd_count):
        w.slots[i] = fds[i]
    if w.header.shim_off:
        rc = shim_begin(w, &s, fds + w.header.fd_count, host_net)
        if rc < 0:
            report.step = <uint32_t>FAILED_SHIM
            report.error = rc
            shim_never(w, &s, reply_fd, &report)
            return
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
        if w.stage_failed:
            report.step = w.stage_failed - 1
    if rc < 0:
        report.error = rc
        remove_cgroups(w, last_made)
        if w.header.shim_off:
            shim_never(w, &s, reply_fd, &report)
        else:
            send_with(reply_fd, &report, sizeof(record), -1)
        return
    report.step = FAILED_PLAN       # with no error: init died without a word
    close_passed(w, w.header.fd_count)
    if w.header.flags & PLAN_EXEC:
        follow(w, reply_fd, &pid, &pidfd, &report)
    report.pid = pid
    if w.header.shim_off:
        shim_serve(w, &s, reply_fd, pid, pidfd, &report)
    else:
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
    if not w.header.shim_off:
        send_with(reply_fd, &report, sizeof(record), -1)
    if w.header.flags & PLAN_EXEC and not w.forked:
        while wait4(-1, NULL, 0, NULL) > 0 or errno == EINTR:
            pass                    # the process of which it could not tell any more
    if w.header.shim_off:
        shim_end(w, &s, reply_fd, &report, last_made, has_joined(w))


cdef inline void close_passed(walk *w, uint32_t count) noexcept nogil:
    """Give up the request's descriptors, so that a pipe's reader sees its end when init does."""
    cdef uint32_t i
    for i in range(count):
        if w.slots[i] >= 0:
            close(w.slots[i])
            w.slots[i] = -1
