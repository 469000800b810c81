# cython: cdivision=True, boundscheck=False
# Steps of the host section, which the supervisor walks before it clones init, and those of sync points.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.cgroup_end cimport *
from pyrunc._native.cgroup_home cimport *
from pyrunc._native.device_bpf cimport *
from pyrunc._native.namespaces cimport c_clone3
from pyrunc._native.numbers cimport put_decimal
from pyrunc._native.overlay cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.signals cimport *
from pyrunc._native.process_stat cimport *
from pyrunc._native.steps cimport *


cdef inline int open_process(int pid) noexcept nogil:
    """The directory of a child of ours in the host's own procfs."""
    cdef char path[32]
    memcpy(path, b"/proc/", 6)
    put_decimal(path + 6, <uint64_t>pid)
    return <int>_rc(openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC))


cdef enum:
    MAP_WORDS = 1024                # 340 rows of three numbers is what the kernel takes
    MAP_ROOM = 12288


cdef inline int map_tool_step(const char *tool, const char *value, int pid) noexcept nogil:
    """Have a set-user-id program, newuidmap(1), write the id map of init for a user who may not."""
    cdef const char *words[MAP_WORDS + 3]
    cdef char number[16]
    cdef char room[MAP_ROOM]
    cdef size_t length = strlen(value)
    cdef size_t count = 2
    cdef size_t i
    cdef bint within = False
    cdef int pidfd = -1
    cdef int status = 0
    cdef int child
    if length >= MAP_ROOM:
        return -E2BIG
    memcpy(room, value, length + 1)
    put_decimal(number, <uint64_t>pid)
    words[0] = tool
    words[1] = number
    for i in range(length):
        if room[i] == c' ' or room[i] == c'\n':
            room[i] = 0
            within = False
        elif not within:
            within = True
            if count == MAP_WORDS + 2:
                return -E2BIG
            words[count] = room + i
            count += 1
    words[count] = NULL
    child = c_clone3(0, SIGCHLD, -1, &pidfd)
    if child == 0:
        reset_signals()
        execve(tool, <char **>words, <char **>(words + count))
        _exit(127)
    if child < 0:
        return child
    while wait4(child, &status, 0, NULL) < 0:
        if errno != EINTR:
            status = -1
            break
    close(pidfd)
    return 0 if status == 0 else -EPERM


cdef inline int proc_write_step(walk *w, const plan_step *step, int pid) noexcept nogil:
    """Write a file of the waiting init, such as its id maps."""
    cdef int rc
    cdef int fd
    if step.s2 != <uint32_t>NONE:
        return map_tool_step(text(w, step.s2), text(w, step.s1), pid)
    fd = open_process(pid)
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


cdef inline int c_open_started(int pid, uint64_t started) noexcept nogil:
    """A pidfd of the process *pid* that was started at *started* (field 22 of its stat), or -ESRCH if it has ended.

    A number alone may have become another's (pidfd_open(2), Linux 5.3).
    """
    cdef char stat[STAT_ROOM]
    cdef pollfd watch
    cdef int pidfd = <int>_rc(syscall(NR_pidfd_open, pid, 0))
    if pidfd < 0:
        return pidfd
    watch.fd = pidfd
    watch.events = POLLIN
    watch.revents = 0
    # It is the number's owner for as long as it has not ended.
    if read_stat(pid, stat) and number_in_stat(stat, STAT_BORN) == started and poll(&watch, 1, 0) == 0:
        return pidfd
    close(pidfd)
    return -ESRCH


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
    if op == OP_PROCESS:
        return put_slot(w, step.slot_a, c_open_started(<int>step.n0, step.n1))
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
    """Remove, newest first, each cgroup that this supervisor made, and end who is still in it; the first failure or 0."""
    cdef const plan_step *step
    cdef uint32_t i
    cdef int first = 0
    cdef int rc
    i = last_made
    while i > 0:
        i -= 1
        step = &w.steps[i]
        if step.op == OP_CGROUP_MKDIR and not step.flags & F_EXISTING:
            rc = c_cgroup_remove(text(w, step.s0), text(w, step.s1), w.homes, True, w.path, sizeof(w.path))
            if rc < 0 and first == 0:
                first = rc
            if not step.flags & F_KEEP_PARENTS:
                c_cgroup_prune(text(w, step.s0), text(w, step.s1), w.path, sizeof(w.path))
    return first
