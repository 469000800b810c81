# cython: cdivision=True, boundscheck=False
# The container's first process, from clone to execve: it walks the init section of the
# plan. No allocation, no Python, nothing that could wait on the host.

from pyrunc._native.linux cimport *
from pyrunc._native.capability cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.copy_up cimport *
from pyrunc._native.joining cimport *
from pyrunc._native.mount cimport *
from pyrunc._native.mount_change cimport *
from pyrunc._native.netlink cimport *
from pyrunc._native.oci_hooks cimport *
from pyrunc._native.oci_notify cimport *
from pyrunc._native.oci_waiting cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.process_attributes cimport *
from pyrunc._native.root_steps cimport *
from pyrunc._native.seccomp_install cimport *
from pyrunc._native.steps cimport *
from pyrunc._native.terminal cimport *

cdef extern from *:
    void trap "__builtin_trap"() nogil


cdef inline int user_step(walk *w, const plan_step *step) noexcept nogil:
    """Become uid:gid with exactly the named groups; raw calls, since libc would signal threads."""
    cdef int rc = 0
    if step.flags & F_EXISTING:
        pass                        # an unprivileged user's groups, which nobody may change
    elif step.n2 != 0:
        rc = <int>_rc(syscall(SYS_setgroups, step.n2 >> 32, w.data + w.header.blob_off + <uint32_t>step.n2))
    else:
        rc = become_groups(text(w, step.s0))
    if rc < 0:
        return rc
    rc = <int>_rc(syscall(SYS_setresgid, step.n1, step.n1, step.n1))
    if rc < 0:
        return rc
    rc = <int>_rc(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    if rc == 0:
        rc = <int>_rc(syscall(SYS_setresuid, step.n0, step.n0, step.n0))
    if rc == 0:
        # a change of uid may have left the process dumpable by fs.suid_dumpable
        rc = <int>_rc(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    return rc


cdef inline int chdir_step(walk *w, const plan_step *step) noexcept nogil:
    """Enter the working directory and prove that it lies inside the root (CVE-2024-21626)."""
    cdef int rc = <int>_rc(chdir(text(w, step.s0)))
    if rc < 0:
        return rc
    # The raw call names an unreachable directory "(unreachable)/..."; libc's hides that as ENOENT.
    rc = <int>_rc(syscall(SYS_getcwd, w.path, sizeof(w.path)))
    if rc < 0:
        return rc
    return 0 if w.path[0] == c'/' else -EXDEV


cdef inline bint is_giveable(int fd, const stat_t *status) noexcept nogil:
    """Whether a stream may become another's: no terminal or device of the host's, and no file that is only read."""
    if S_ISREG(status.st_mode):
        return (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY
    return S_ISFIFO(status.st_mode) or S_ISSOCK(status.st_mode)


cdef inline void give_stream(int fd, uint64_t uid) noexcept nogil:
    """Let the program's user open its stream once more, as /dev/stdout; what cannot be given is let alone, as with runc."""
    cdef stat_t status
    if fstat(fd, &status) == 0 and status.st_uid != uid and is_giveable(fd, &status):
        fchown(fd, <uid_t>uid, <gid_t>-1)


cdef inline int stdio_step(walk *w, const plan_step *step) noexcept nogil:
    """Put a descriptor where the program expects it; the container's own /dev/null in place of the host's.

    The two do the same, but fchmod(2) on the host's would change the host's node.
    """
    cdef stat_t status
    cdef int rc
    cdef int own
    cdef int fd = w.slots[step.slot_a]
    if fstat(fd, &status) < 0:
        return -errno
    if is_null(&status):
        own = openat(AT_FDCWD, b"/dev/null", O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        if own >= 0:
            if fstat(own, &status) == 0 and is_null(&status):
                rc = dup2(own, <int>step.n0)
                rc = 0 if rc >= 0 else -errno
                close(own)
                return rc
            close(own)
    if fd == <int>step.n0:
        return <int>_rc(fcntl(fd, F_SETFD, 0))
    return 0 if dup2(fd, <int>step.n0) >= 0 else -errno


cdef inline int execve_step(walk *w, const plan_step *step) noexcept nogil:
    """Execute the first candidate that there is; like execvp, a refusal outweighs an absence."""
    cdef const char *candidate = text(w, step.s0)
    cdef uint64_t i
    cdef int rc = -ENOENT
    cdef int error
    for i in range(step.n0):
        execve(candidate, w.argv, w.env)
        error = -errno
        if error == -ENOENT or error == -ENOTDIR:
            if rc == -ENOENT:
                rc = error
        elif error == -EACCES:
            rc = error
        else:
            return error
        candidate += strlen(candidate) + 1
    return rc


cdef inline int join_step(walk *w, const plan_step *step) noexcept nogil:
    """Enter a v1 cgroup by "0": 40 times cheaper than the parent naming us, and safe for a single thread."""
    cdef timespec pause
    cdef int attempt
    cdef int rc = write_all(w.slots[step.slot_a], b"0")
    pause.tv_sec = 0
    pause.tv_nsec = 1000000
    for attempt in range(20):
        if rc != -ENOSPC or step.s0 == <uint32_t>NONE:
            break
        # A cpuset without cpus or mems: whoever made the parent did not set cgroup.clone_children, or not yet.
        rc = c_seed_below(text(w, step.s0))
        if rc == 0:
            rc = write_all(w.slots[step.slot_a], b"0")
        if rc == -ENOSPC:
            nanosleep(&pause, NULL)
    return rc


cdef inline int sync_step(walk *w, const plan_step *step) noexcept nogil:
    cdef progress message
    cdef uint32_t answer = 0
    memset(&message, 0, sizeof(message))
    message.kind = PROGRESS_SYNC
    message.step = <uint32_t>step.n0
    if step.n1:
        # Whose files in /proc are then the user's own.
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL) < 0:
        return -errno
    if recv(w.progress_fd, &answer, sizeof(answer), 0) != sizeof(answer) or answer != message.step:
        return -EPIPE
    return <int>_rc(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


cdef inline int session_step(walk *w, const plan_step *step) noexcept nogil:
    """Lead a new session, with a keyring of its own, and with descriptor 0 as its terminal if asked."""
    cdef long key
    cdef int rc = <int>_rc(setsid())
    if rc < 0 and rc != -EPERM:     # EPERM: leads one already
        return rc
    if step.n0 == 0:
        # The requester's session keyring, with the keys that it holds, would be the container's too.
        key = _rc(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL if step.s0 == <uint32_t>NONE else text(w, step.s0)))
        if key < 0 and key != -ENOSYS:
            return <int>key
        if key >= 0 and step.s0 != <uint32_t>NONE:
            # As with runc: whoever else is of this user may search it, as a program that joins the container by name.
            key = _rc(syscall(SYS_keyctl, KEYCTL_SETPERM, key, KEYRING_PERMISSIONS))
            if key < 0:
                return <int>key
    if step.flags & F_TTY:
        return <int>_rc(ioctl(0, TIOCSCTTY, 0))
    return 0


cdef inline int init_step(walk *w, const plan_step *step) noexcept nogil:
    cdef uint32_t op = step.op
    cdef rlimit_t limit
    cdef int rc
    if op == OP_ATTACH:
        return attach_step(w, step)
    if op == OP_COPY_UP:
        return c_copy_up(w.root, text(w, step.s0), w.slots[step.slot_a], step.n0 != 0, step.flags & F_RECURSIVE != 0)
    if op == OP_REMOUNT or op == OP_RECONFIGURE or op == OP_OWNER:
        return mount_change_step(w, step)
    if op == OP_MKDIR or op == OP_MKNOD or op == OP_SYMLINK or op == OP_FILE:
        return make_node_step(w, step)
    if op == OP_MASK:
        return mask_step(w, step)
    if op == OP_READONLY:
        return readonly_step(w, step)
    if op == OP_JOIN_TASKS:
        return join_step(w, step)
    if op == OP_UNSHARE:
        return <int>_rc(unshare(<int>step.n0))
    if op == OP_SYNC:
        return sync_step(w, step)
    if op == OP_PROPAGATION:
        return <int>_rc(mount(NULL, text(w, step.s0), NULL, step.n0, NULL))
    if op == OP_ROOT_ATTACH:
        return root_attach_step(w, step)
    if op == OP_ROOT_OVERLAY:
        return root_overlay_step(w, step)
    if op == OP_PIVOT_ROOT:
        return pivot_step(w, step)
    if op == OP_WRITE_PROCFS:
        return procfs_step(w, step)
    if op == OP_HOSTNAME:
        return <int>_rc(sethostname(text(w, step.s0), strlen(text(w, step.s0))))
    if op == OP_DOMAINNAME:
        return <int>_rc(setdomainname(text(w, step.s0), strlen(text(w, step.s0))))
    if op == OP_LOOPBACK_UP:
        return 0 if w.lo_is_up else c_link_up(1)
    if op == OP_RLIMIT:
        limit.rlim_cur = step.n1
        limit.rlim_max = step.n2
        return <int>_rc(syscall(SYS_prlimit64, 0, step.n0, &limit, NULL))
    if op == OP_TERMINAL:
        return terminal_step(w, step)
    if op == OP_STDIO:
        rc = stdio_step(w, step)
        if rc == 0 and step.n1:
            give_stream(<int>step.n0, step.n1 - 1)
        return rc
    if op == OP_SESSION:
        if w.files.rlim_max:        # before the document's own limits
            syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &w.files, NULL)
        return session_step(w, step)
    if op == OP_NO_NEW_PRIVS:
        return <int>_rc(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if op == OP_BOUNDING:
        return c_bounding_keep(step.n0)
    if op == OP_USER:
        return user_step(w, step)
    if op == OP_CAPABILITIES:
        return c_capset(step.n0, step.n1, step.n2)
    if op == OP_AMBIENT:
        return c_ambient(step.n0)
    if op == OP_HOOK:
        return oci_hook_step(w, step)
    if op == OP_LOOKUP:
        return lookup_step(w, step)
    if op == OP_WAIT_START:
        return wait_start_step(w, step)
    if op == OP_UMASK:
        umask(<mode_t>step.n0)
        return 0
    if OP_SCHEDULER <= op <= OP_AFFINITY:
        return attribute_step(w, step)
    if op == OP_CHDIR:
        return chdir_step(w, step)
    if op == OP_SECCOMP:
        if listens(step):
            return listen_step(w, step)
        return c_seccomp_install(w.data + w.header.blob_off + step.n0, <uint16_t>step.n1, <unsigned int>step.n2)
    return shared_step(w, step)


cdef inline int container_init(walk *w) noexcept nogil:
    """Walk the init section; returns an exit status only when a step failed."""
    cdef progress message
    cdef const plan_step *step
    cdef uint32_t i
    cdef uint32_t stage = STAGE_INIT
    cdef int rc = 0
    cdef bint mortal = w.header.oci_off != 0 and not w.header.flags & PLAN_EXEC
    cdef bint alone = False
    w.stage_ns[STAGE_INIT] = now_ns()
    # Until execve the supervisor's death is ours; after it its clean-up works by cgroup.
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    umask(0)
    w.homes = NULL                  # mounts of the host's namespace
    memset(&message, 0, sizeof(message))
    for i in range(w.header.step_count):
        step = &w.steps[i]
        if step.section != SECTION_INIT:
            continue
        if step.stage != stage:
            stage = step.stage
            w.stage_ns[stage] = now_ns()
        if step.op == OP_EXECVE:
            # a change of uid has cleared it, and a detached container outlives its supervisor
            prctl(PR_SET_PDEATHSIG, 0 if w.header.flags & PLAN_KEEP_RUNNING else SIGKILL, 0, 0, 0)
            close_for_exec(w)
            message.kind = PROGRESS_READY
            w.stage_ns[STAGE_EXEC] = now_ns()
            memcpy(message.stage_ns, w.stage_ns, sizeof(message.stage_ns))
            # Whoever has started a container that waited may be gone: it runs as it was told to.
            if send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL) < 0 and not alone:
                return 125
            rc = execve_step(w, step)
            if w.header.oci_off != 0:
                # Whoever has started it knows that it could be executed; the rest is for who reads its output.
                say_unexecuted(w, step, rc)
                return 1
        elif step.op == OP_FORK:
            rc = fork_step(w, step.flags & F_TTY)
        else:
            if step.op == OP_SETNS and w.header.flags & PLAN_EXEC:
                close_for_join(w, w.slots[step.slot_a])
            rc = init_step(w, step)
            if step.op == OP_WAIT_START:
                mortal = False
                alone = step.slot_a != <uint32_t>NONE
            elif step.op == OP_USER and mortal:
                prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)   # a change of uid has cleared it
        if rc < 0 and not step.flags & F_OPTIONAL:
            message.kind = PROGRESS_FAILED
            message.step = i
            message.error = rc
            message.pad = step.op
            memcpy(message.stage_ns, w.stage_ns, sizeof(message.stage_ns))
            send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL)
            return 127
    return 125


cdef inline void end_init(int status) noexcept nogil:
    """End, also behind a filter that refuses exit(2), on which _exit(3) would go round for ever."""
    syscall(SYS_exit_group, status)
    trap()
