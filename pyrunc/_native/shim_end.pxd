# cython: cdivision=True, boundscheck=False
# The end of a shim: the log is whole, `status` is written, the owner is told; and where no owner takes note of the
# end, the plan's exit command does, exactly once.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.shim cimport *
from pyrunc._native.shim_attach cimport *
from pyrunc._native.shim_files cimport *
from pyrunc._native.shim_log cimport *
from pyrunc._native.shim_state cimport *
from pyrunc._native.steps cimport *

cdef enum:
    LINGER_MS = 60000               # how long a client may take nothing before it is given up


cdef inline void put_words(char **words, const char *at, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        words[i] = <char *>at
        at = next_text(at)
    words[count] = NULL


cdef inline void leave_cgroups(walk *w, shim *s) noexcept nogil:
    """Go from the shims' cgroups to the hierarchies' roots, and remove them after the last one."""
    cdef const char *hierarchy = text(w, s.plan.hierarchies)
    cdef int directory
    cdef uint32_t i
    for i in range(s.plan.hierarchy_count if s.moved else 0):
        directory = openat(AT_FDCWD, hierarchy, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if write_file_at(directory, b"tasks", b"0") == -ENOENT:
            write_file_at(directory, b"cgroup.procs", b"0")
        close(directory)
        if c_join_path(hierarchy, text(w, s.plan.cgroup), w.path, sizeof(w.path)) > 0:
            unlinkat(AT_FDCWD, w.path, AT_REMOVEDIR)
        c_cgroup_prune(hierarchy, text(w, s.plan.cgroup), w.path, sizeof(w.path))
        hierarchy = next_text(hierarchy)


cdef inline void end_clients(walk *w, shim *s, const line *end) noexcept nogil:
    """Tell whoever is attached how it ended. Who is slow gets the rest from a process for this alone: nobody waits for it."""
    cdef pollfd watch[MAX_CLIENTS]
    cdef int count
    cdef int i
    if s.listener >= 0:
        accept_clients(s)
        close(s.listener)
        s.listener = -1
    i = s.client_count
    while i > 0:
        i -= 1
        hear_client(w, s, &s.clients[i])        # its HELLO may just have come
        send_frame(w, s, &s.clients[i], FRAME_EXIT, end.text, end.size)
        if behind(&s.clients[i]) == 0:
            drop_client(s, i)
    if s.client_count == 0:
        return
    if fork() == 0:
        signal(SIGTERM, SIG_DFL)    # it holds nothing that counts
        leave_cgroups(w, s)
        # Descriptors but those of clients: the owner's end, the log.
        close_but_clients(s)
        while s.client_count > 0:
            count = watch_clients(s, watch)
            for i in range(count):
                watch[i].events = POLLOUT
            if poll(watch, <unsigned long>count, LINGER_MS) == 0:
                break
            i = count
            while i > 0:
                i -= 1
                if watch[i].revents:
                    send_spooled(s, &s.clients[i])
                    if behind(&s.clients[i]) == 0:
                        drop_client(s, i)
        _exit(0)
    while s.client_count > 0:
        drop_client(s, s.client_count - 1)


cdef inline void close_but_clients(shim *s) noexcept nogil:
    cdef int keep[3 + 2 * MAX_CLIENTS]
    cdef int i
    for i in range(3):
        keep[i] = i
    for i in range(s.client_count):
        keep[3 + 2 * i] = s.clients[i].fd
        keep[4 + 2 * i] = s.clients[i].spool
    s.input = -1
    close_all_but(keep, 3 + 2 * s.client_count)


cdef inline void exit_command(walk *w, shim *s, bint joined) noexcept nogil:
    """Become the plan's exit command, of which nothing is the container's or the requester's.

    *joined* says that the pid namespace of this process's children is another's.
    """
    cdef char *argv[SHIM_MAX_WORDS + 1]
    cdef char *env[SHIM_MAX_WORDS + 1]
    cdef int own
    if s.plan.exit_argc == 0:
        return
    leave_network(s)
    if joined:
        own = openat(AT_FDCWD, b"/proc/self/ns/pid", O_RDONLY | O_CLOEXEC)
        setns(own, CLONE_NEWPID)
    put_words(argv, text(w, s.plan.exit_argv), s.plan.exit_argc)
    put_words(env, text(w, s.plan.exit_env), s.plan.exit_envc)
    syscall(NR_close_range, 3, <unsigned int>0xFFFFFFFF, 0)
    heed_signals(True)
    execve(argv[0], argv, env)


cdef inline void shim_never(walk *w, shim *s, int reply_fd, record *report) noexcept nogil:
    """The container could not be started; its requester says so, or if that is dead, the exit command."""
    if send_with(reply_fd, report, sizeof(record), -1) < 0:
        exit_command(w, s, True)


cdef inline void prune_parents(walk *w, uint32_t made) noexcept nogil:
    """Remove the default parent of cgroups, if this was the last in it: no spawner may be there any more to do so."""
    cdef const plan_step *step
    cdef uint32_t i
    for i in range(made):
        step = &w.steps[i]
        if step.op == OP_CGROUP_MKDIR and step.flags & F_KEEP_PARENTS:
            c_cgroup_prune(text(w, step.s0), text(w, step.s1), w.path, sizeof(w.path))


cdef inline void shim_end(walk *w, shim *s, int reply_fd, record *report, uint32_t made, bint joined) noexcept nogil:
    """After the container is reaped and its cgroups are removed (*made*: the last step that made one)."""
    cdef line end
    cdef command message
    cdef ssize_t got
    shim_drain(w, s)                # what stragglers wrote before they were killed
    log_tails(s, ENDS)
    if not s.owner:
        prune_parents(w, made)      # where there is one its spawner does, at the end, and the next start finds them
    if w.running:
        describe_end(&end, report, s.log.dropped)
        if s.held_back and not s.owner:
            unlinkat(w.state_dir, b"running", 0)    # the container's program never was, and nobody is there to be told why
        else:
            replace_file(w.state_dir, b"status", b".status", &end)
        end_clients(w, s, &end)
    if s.owner and send_with(reply_fd, report, sizeof(record), -1) == 0:
        if not w.running:
            return                  # the requester knows that nothing was started
        while True:
            got = recv(reply_fd, &message, sizeof(message), 0)
            if got == sizeof(message) and message.kind == COMMAND_FINISHED:
                leave_cgroups(w, s)
                return
            if got == 0 or (got < 0 and errno != EINTR):
                break
    if s.owner:
        prune_parents(w, made)      # it has just gone
    leave_cgroups(w, s)
    exit_command(w, s, joined)
