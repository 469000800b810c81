# cython: cdivision=True, boundscheck=False
# The front door as a container's supervisor: `create` and `run`, from a plan to the exit code.
#
# It is init's parent itself, since containerd's shim and conmon are the subreapers to which init goes when `create`
# ends. What fails is undone first and then put into words by Python, as which this process ends.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup_end cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.container_init cimport *
from pyrunc._native.hearing cimport *
from pyrunc._native.host_steps cimport *
from pyrunc._native.killing cimport *
from pyrunc._native.loading cimport *
from pyrunc._native.oci_console cimport *
from pyrunc._native.oci_files cimport *
from pyrunc._native.oci_foreground cimport *
from pyrunc._native.oci_hooks cimport *
from pyrunc._native.oci_notify cimport *
from pyrunc._native.oci_python cimport *
from pyrunc._native.oci_readiness cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.oci_unit cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.process_stat cimport start_time
from pyrunc._native.signals cimport *
from pyrunc._native.steps cimport *
from pyrunc._native.supervisor cimport *

cdef struct oci_run:
    walk w
    oci_place *here
    const plan_oci *plan
    int plan_fd
    int directory                   # the state directory, locked; -1 before it is ours
    int signals                     # of hold_signals, where the program's end is waited for; else -1
    int interrupt                   # of watch_endings, as long as nothing runs that signals are passed on to; else -1
    readiness ready                 # what the program says at its NOTIFY_SOCKET
    int pid
    int pidfd
    uint32_t last_made              # behind the last step that made a cgroup
    oci_unit unit                   # of systemd, which made them
    bint created                    # init has said so, and is told in state.json
    bint started                    # its channel has ended behind READY
    bint pid_written
    int status                      # as of wait(2), once it is reaped
    bint reaped
    char time[TIME_ROOM]            # when it was created
    # Where it failed: a step's number, or a word; and why.
    const char *where
    uint32_t step
    int error
    uint32_t hook                   # which of its kind has failed, where one has


cdef inline void begin_run(oci_run *r, oci_place *here, int plan_fd) noexcept nogil:
    memset(r, 0, sizeof(oci_run))
    memset(r.w.slots, 0xFF, sizeof(r.w.slots))
    r.here = here
    r.plan_fd = plan_fd
    r.directory = r.signals = r.interrupt = r.pid = r.pidfd = -1
    begin_unit(&r.unit)
    r.ready.fd = -1
    r.w.hook_fd = -1
    r.w.stage_failed = 0
    r.w.channel = r.w.sock = r.w.root = r.w.cached_fd = r.w.state_dir = r.w.terminal = r.w.progress_fd = -1


cdef inline int fail(oci_run *r, const char *where, int error) noexcept nogil:
    """Note where the run has failed, at a step if *where* is NULL; the first failure is the one that is told."""
    if r.error == 0 and r.where == NULL:
        r.where = where
        r.error = error
    return error if error < 0 else -EIO


cdef inline int fail_step(oci_run *r, uint32_t step, int error) noexcept nogil:
    r.step = step
    return fail(r, NULL, error)


cdef inline bint inhabited(walk *w, const plan_step *step) noexcept nogil:
    """Whether somebody is in the cgroup that a step was to make, or below: what ends a container would end them, too."""
    cdef int directory = open_cgroup(w, step)
    cdef bint found = directory >= 0 and c_cgroup_walk(directory, WALK_LOOK) > 0
    close(directory)
    return found


cdef inline void raise_limit(walk *w) noexcept nogil:
    """Let there be as many descriptors as may be: each mount takes one until init attaches it."""
    cdef rlimit_t most
    if syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &w.files) < 0:
        w.files.rlim_max = 0
        return
    most.rlim_cur = most.rlim_max = w.files.rlim_max
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &most, NULL)


cdef inline int make_host_part(oci_run *r) noexcept nogil:
    """Walk the host section: cgroups, and what is opened on the host."""
    cdef walk *w = &r.w
    cdef const plan_step *step
    cdef plan_step left
    cdef bint made
    cdef uint32_t i
    cdef int rc
    for i in range(w.header.step_count):
        step = &w.steps[i]
        if step.section != SECTION_HOST:
            break
        if w.skip:
            w.skip = False
            continue
        made = False
        if step.op == OP_UNIT:
            rc = start_unit(w, &r.unit, i)
            if rc < 0:
                return fail_step(r, i, rc)
            continue
        rc = host_step(w, step, &made, 0)
        if rc == -EEXIST and step.op == OP_CGROUP_MKDIR:
            if r.unit.step == 0 and inhabited(w, step):
                return fail_step(r, i, -ENOTEMPTY)
            # What somebody has left there, or made for it: like one of our own, it goes with the container.
            left = step[0]
            left.flags |= <uint32_t>F_EXISTING
            rc = host_step(w, &left, &made, 0)
            made = True
        if made:
            r.last_made = i + 1
        if rc < 0 and not step.flags & F_OPTIONAL:
            return fail_step(r, i, rc)
    forget_file(w)
    return 0


cdef inline int listen_where_wanted(oci_run *r) noexcept nogil:
    """Put the socket on which the start comes where init looks for it."""
    cdef uint32_t i
    cdef int fd
    for i in range(r.w.header.step_count):
        if r.w.steps[i].op == OP_WAIT_START and r.w.steps[i].slot_a != <uint32_t>NONE:
            fd = listen_for_start(r.directory)
            if fd < 0:
                return fail(r, b"state", fd)
            return put_slot(&r.w, r.w.steps[i].slot_a, fd)
    return 0


cdef inline int clone_container(oci_run *r) noexcept nogil:
    """Start init; 0 or -errno."""
    cdef int pair[2]
    cdef int rc = <int>_rc(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
    if rc < 0:
        return fail(r, b"clone", rc)
    r.w.progress_fd = pair[1]
    r.pid = clone_init(&r.w, &r.pidfd, -1)
    if r.pid == 0:
        if r.signals >= 0:
            reset_signals()
        close(pair[0])
        close(r.directory)          # with the lock
        close(r.plan_fd)
        forget_texts(r.here.env)
        end_init(container_init(&r.w))
    close(pair[1])
    r.w.progress_fd = pair[0]
    let_unit_go(&r.unit)
    close_passed(&r.w, 0)
    if r.pid < 0 and r.w.stage_failed:
        return fail_step(r, r.w.stage_failed - 1, r.pid)
    return fail(r, b"clone", r.pid) if r.pid < 0 else 0


cdef inline int tell_program(oci_run *r) noexcept nogil:
    """Say who the program is, where the caller wants to know."""
    cdef int rc
    if r.plan.pid_file != <uint32_t>NONE:
        rc = write_pid_file(&r.w, text(&r.w, r.plan.pid_file), r.pid)
        if rc < 0:
            return fail(r, b"pid-file", rc)
        r.pid_written = True
    if r.plan.pidfd_socket != <uint32_t>NONE:
        rc = send_descriptor(text(&r.w, r.plan.pidfd_socket), b"pidfd", r.pidfd)
        if rc < 0:
            return fail(r, b"pidfd-socket", rc)
    return 0


cdef inline int tell_created(oci_run *r) noexcept nogil:
    """Init waits: say who it is in state.json and the pid file, and let it outlive us."""
    cdef uint32_t answer = GO
    cdef int rc
    rc = write_state(&r.w, r.plan, r.directory, b"created", r.time, r.pid, start_time(r.pid))
    if rc < 0:
        return fail(r, b"state", rc)
    r.created = True
    rc = tell_program(r)
    if rc < 0:
        return rc
    if send(r.w.progress_fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0:
        return fail(r, b"died", 0)
    return 0


cdef inline int hear_init(oci_run *r) noexcept nogil:
    """Take what init says until it is created (1), its program runs (2), or it has failed (-errno)."""
    cdef walk *w = &r.w
    cdef progress message
    cdef bint ready = False
    cdef int passed
    cdef int got
    while True:
        got = receive_waiting(w.progress_fd, r.interrupt, &message, sizeof(message), &passed)
        if got == -EINTR:
            continue
        if got == -ECANCELED:
            return fail(r, b"interrupted", got)
        if passed >= 0:
            if w.terminal < 0 and got == sizeof(message) and message.kind == PROGRESS_TERMINAL and makes_terminal(w):
                w.terminal = passed
                got = give_terminal(r)
                if got < 0:
                    return got
                continue
            close(passed)
        if got != sizeof(message):
            if ready and r.error == 0:
                return 2
            return fail(r, b"died", 0)
        if message.kind == PROGRESS_READY:
            ready = True
        elif message.kind == PROGRESS_UNHELD:
            continue                # later than it was waited for, by an answer of the agent's
        elif message.kind == PROGRESS_FAILED and message.step < w.header.step_count and -ERROR_MOST <= message.error < 0:
            return fail_step(r, message.step, message.error)
        elif message.kind == PROGRESS_SYNC:
            got = serve_sync(r, message.step)
            if got < 0:
                return got
        elif message.kind == PROGRESS_LISTENER:
            got = oci_send_listener(w, &message, b"creating", r.pid, r.pid, r.pidfd)
            if got < 0 and got != -ESRCH:       # init has ended, and what it said before is yet to be read
                return fail_step(r, message.step, got)
        elif message.kind == PROGRESS_CREATED and not r.created:
            got = tell_created(r)
            if got < 0:
                return got
        elif message.kind == PROGRESS_PARTED and r.created:
            return 1
        else:
            return fail(r, b"died", 0)


cdef inline int give_terminal(oci_run *r) noexcept nogil:
    """Send the terminal's other side to who asked for it, or keep it where the program's end is waited for."""
    cdef int rc
    if r.plan.console_socket == <uint32_t>NONE:
        # The program may ask for its size at once.
        size_as_callers(r.w.terminal)
        return 0
    rc = send_descriptor(text(&r.w, r.plan.console_socket), b"/dev/ptmx", r.w.terminal)
    pass_on(&r.w)
    return fail(r, b"console-socket", rc) if rc < 0 else 0


cdef inline int run_kind(oci_run *r, uint32_t kind, const char *status) noexcept nogil:
    """Run the hooks of one kind; 0 or how the first one failed."""
    cdef int rc = oci_run_hooks(&r.w, kind, status, r.pid, r.pidfd, r.interrupt, &r.hook)
    return fail(r, b"poststart" if kind == <uint32_t>HOOK_POSTSTART else b"hook", rc) if rc < 0 else 0


cdef inline int serve_sync(oci_run *r, uint32_t number) noexcept nogil:
    """Do what is due while init waits at a sync point: its steps, and where the namespaces exist the runtime's hooks."""
    cdef record report
    cdef int rc = 0
    if number == <uint32_t>OCI_SYNC:
        rc = run_kind(r, HOOK_PRESTART, b"creating")
        if rc == 0:
            rc = run_kind(r, HOOK_CREATE_RUNTIME, b"creating")
    if rc < 0:
        return rc
    memset(&report, 0, sizeof(report))
    rc = run_sync(&r.w, number, r.pid, &report)
    if rc < 0 and report.error < 0:
        return fail_step(r, report.step, report.error)
    return fail(r, b"died", 0) if rc < 0 else 0


cdef inline int receive_waiting(int fd, int interrupt, void *message, size_t size, int *passed) noexcept nogil:
    """Wait for a message, with at most one descriptor, -1 for none; its size or -errno: -ECANCELED after an *interrupt*."""
    cdef pollfd watch[2]
    watch[0].fd = fd
    watch[1].fd = interrupt
    watch[0].events = watch[1].events = POLLIN
    watch[0].revents = watch[1].revents = 0
    passed[0] = -1
    if poll(watch, 2, -1) < 0:
        return -errno
    if not watch[0].revents:
        return -ECANCELED
    return receive_one(fd, message, size, passed)


cdef inline void reap(oci_run *r) noexcept nogil:
    while not r.reaped:
        if wait4(r.pid, &r.status, 0, NULL) < 0 and errno == EINTR:
            continue
        r.reaped = True


cdef inline void end_container(oci_run *r) noexcept nogil:
    """After init's end: nothing of it is left running, and its cgroups are gone."""
    if r.pid > 0 and not r.w.header.clone_flags & <uint64_t>CLONE_NEWPID:
        kill_stragglers(&r.w)
    let_unit_go(&r.unit)
    remove_cgroups(&r.w, r.last_made)
    stop_unit(&r.w, &r.unit)


cdef inline int give_up(oci_run *r) noexcept nogil:
    """Undo what was done, and become Python to say why; an exit code if there is no Python."""
    cdef const char *words[8]
    cdef char numbers[6][NUMBER_ROOM]
    cdef uint32_t ignored
    if r.pid > 0 and not r.reaped:
        syscall(NR_pidfd_send_signal, r.pidfd, SIGKILL, NULL, 0)
        kill_container(&r.w, r.pidfd)
        reap(r)
    if r.where != NULL and strcmp(r.where, b"died") == 0 and oom_kills(&r.w) > 0:
        r.where = b"oom"
    if r.directory >= 0:
        end_container(r)
        if r.pid_written:
            unlinkat(AT_FDCWD, text(&r.w, r.plan.pid_file), 0)
        remove_state(AT_FDCWD, text(&r.w, r.plan.state_dir), r.directory)
        close(r.directory)
        # What other hooks have set up is taken down, as after `delete`; and what is told is what failed first.
        r.w.hook_report = NULL
        oci_run_hooks(&r.w, HOOK_POSTSTOP, b"stopped", 0, -1, -1, &ignored)
    if r.unit.text_fd >= 0:
        r.w.hook_fd = r.unit.text_fd        # no hook has run then
    fcntl(r.plan_fd, F_SETFD, 0)
    forget_signals()
    reset_signals()
    put_decimal(numbers[0], <uint64_t>r.plan_fd)
    put_decimal(numbers[1], r.step)
    put_decimal(numbers[2], <uint64_t>(-r.error))
    put_decimal(numbers[3], <uint64_t>r.status)
    put_decimal(numbers[4], r.hook)
    put_decimal(numbers[5], <uint64_t>(r.w.hook_fd + 1))
    if r.w.hook_fd >= 0:
        fcntl(r.w.hook_fd, F_SETFD, 0)
    words[0] = b":failed"
    words[1] = numbers[0]
    words[2] = r.where if r.where != NULL else numbers[1]
    words[3] = numbers[2]
    words[4] = numbers[3]
    words[5] = numbers[4]
    words[6] = numbers[5]
    words[7] = NULL
    return oci_python(r.here, words)


cdef inline int watch_signals(oci_run *r) noexcept nogil:
    """Where the program's end is waited for: signals are passed on to it, and its orphans adopted."""
    cdef bint opened = False
    cdef int tty
    if not r.plan.flags & OCI_RUN or r.plan.flags & OCI_DETACH:
        return 0
    if not r.plan.flags & OCI_NO_SUBREAPER:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if r.plan.flags & OCI_TERMINAL:
        # Before there is a program that would be without it.
        tty = caller_terminal(&opened)
        if tty < 0:
            return fail(r, b"tty", tty)
        if opened:
            close(tty)
    r.signals = hold_signals()
    if r.signals < 0:
        return fail(r, b"clone", r.signals)
    r.interrupt = watch_endings()
    return fail(r, b"clone", r.interrupt) if r.interrupt < 0 else 0


cdef inline int create_container(oci_run *r) noexcept nogil:
    """From nothing to a container that is created (1) or runs (2), or -errno."""
    cdef int rc
    r.directory = claim_directory(&r.w, text(&r.w, r.plan.state_dir))
    if r.directory < 0:
        return fail(r, b"exists" if r.directory == -EEXIST else b"state", r.directory)
    raise_limit(&r.w)
    put_rfc3339(r.time)
    rc = write_state(&r.w, r.plan, r.directory, b"creating", r.time, 0, 0)
    if rc < 0:
        return fail(r, b"state", rc)
    rc = oci_hooks_begin(&r.w)
    if rc < 0:
        return fail(r, b"bundle", rc)
    if r.plan.flags & OCI_NOTIFY:
        rc = readiness_begin(&r.ready, r.directory, r.here.env, r.plan.flags & OCI_RUN != 0)
        if rc < 0:
            return fail(r, b"state", rc)
    rc = listen_where_wanted(r)
    if rc == 0:
        rc = make_host_part(r)
    if rc == 0:
        rc = watch_signals(r)
    if rc == 0:
        rc = clone_container(r)
    if rc == 0:
        rc = hear_init(r)
    close(r.interrupt)
    r.interrupt = -1                # from now on signals are the program's
    if rc == 2:
        rc = run_kind(r, HOOK_POSTSTART, b"running")
    return rc


cdef inline bint lock_again(oci_run *r) noexcept nogil:
    """Lock the state directory; False if it was deleted meanwhile: then the id, and with it the cgroups, may be another's."""
    cdef stat_t ours
    cdef stat_t named
    while flock(r.directory, LOCK_EX) < 0 and errno == EINTR:
        pass
    if fstat(r.directory, &ours) < 0 or fstatat(AT_FDCWD, text(&r.w, r.plan.state_dir), &named, AT_SYMLINK_NOFOLLOW) < 0:
        return False
    return ours.st_ino == named.st_ino and ours.st_dev == named.st_dev


cdef inline int oci_create_plan(oci_run *r) noexcept nogil:
    """`create` or `run` of a plan that was loaded; the exit code of the command."""
    cdef int rc = create_container(r)
    if rc < 0:
        return give_up(r)
    # Whoever looks at the container from now on need not wait for its end.
    flock(r.directory, LOCK_UN)
    if r.signals < 0:
        readiness_wait(&r.ready, r.pid, r.pidfd)
        return 0
    rc = foreground(r.pid, r.pidfd, r.w.terminal, r.signals, &r.ready, &r.status)
    r.reaped = True
    if not lock_again(r):
        return exit_code_of(r.status)
    if rc < 0:
        fail(r, b"tty", rc)
        return give_up(r)
    end_container(r)
    if not r.plan.flags & OCI_KEEP:
        remove_state(AT_FDCWD, text(&r.w, r.plan.state_dir), r.directory)
        r.pid = 0                   # as the state of a stopped container has it
        if run_kind(r, HOOK_POSTSTOP, b"stopped") < 0:
            r.where = b"poststop"   # which is logged, and no failure
            r.directory = -1
            return give_up(r)
    return exit_code_of(r.status)
