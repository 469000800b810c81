# cython: cdivision=True, boundscheck=False
# One hook of an OCI runtime document, from its start to its end, for the front door and for init.
#
# What runc does with it is kept: the state goes to its standard input, what it writes is only told when it fails,
# and a hook that runs too long is killed. Unlike there its whole process group is, and nobody waits for what it has
# left behind with its output open. And what belongs to the creation of a container does not outlive its creator.
#
# Source: OCI runtime-spec config.md, "POSIX-platform Hooks".

from pyrunc._native.linux cimport *
from pyrunc._native.signals cimport *

cdef enum:
    HOOK_INHERITS = 0xFFFFFFFF      # hook_program.envc: the document does not mention `env`
    HOOK_OUT = 512                  # bytes that are kept of what it wrote at last
    HOOK_ERR = 1024
    HOOK_PATH = 1024

# Lists are texts one after another, as a plan has them.
cdef struct hook_program:
    const char *path
    const char *argv
    const char *env
    char **inherited                # its environment where the document does not mention any
    uint32_t argc                   # 0: its path is its name
    uint32_t envc
    uint32_t timeout_s              # 0: it may run as long as it likes
    int directory                   # where it begins, or -1: where its caller is
    bint in_init                    # init has umask 0, which no hook expects
    int container                   # a pidfd without whose process it is in vain, and ended; or -1
    int interrupt                   # a descriptor: once it can be read the hook is ended; or -1
    bint guarded                    # it ends with its caller, however that ends

# How it ended, as Python reads it too (pyrunc/oci/hooks.py). It went well where `failed` is 0.
cdef struct hook_end:
    uint32_t failed
    uint32_t index                  # which of its kind it was; the caller's
    uint32_t timeout_s
    int32_t error                   # -errno where it could not be started or waited for
    int32_t status                  # as of wait(2)
    uint32_t timed_out
    uint32_t out_size
    uint32_t err_size
    char out[HOOK_OUT]
    char err[HOOK_ERR]
    char path[HOOK_PATH]            # with its NUL, or the beginning of it


cdef inline void lay_texts(const char *texts, uint32_t count, char **pointers) noexcept nogil:
    """Point at each of *count* texts that stand one after another, and NULL behind."""
    cdef uint32_t i
    for i in range(count):
        pointers[i] = <char *>texts
        texts += strlen(texts) + 1
    pointers[count] = NULL


cdef inline bint keep_last(int fd, char *room, uint32_t most, uint32_t *size) noexcept nogil:
    """Read what is there, and keep the last of it; False at the end."""
    cdef char chunk[4096]
    cdef const char *at = chunk
    cdef uint32_t excess
    cdef ssize_t got = read(fd, chunk, sizeof(chunk))
    if got <= 0:
        return got < 0 and (errno == EAGAIN or errno == EINTR)
    if got > <ssize_t>most:
        at += got - most
        got = most
    if size[0] + <uint32_t>got > most:
        excess = size[0] + <uint32_t>got - most
        memmove(room, room + excess, size[0] - excess)
        size[0] -= excess
    memcpy(room + size[0], at, <size_t>got)
    size[0] += <uint32_t>got
    return True


cdef inline bint keep_stream(int number, int fd, hook_end *end) noexcept nogil:
    if number == 1:
        return keep_last(fd, end.out, HOOK_OUT, &end.out_size)
    return keep_last(fd, end.err, HOOK_ERR, &end.err_size)


cdef inline void hook_child(const hook_program *hook, char **argv, char **env, const int *ends, const int *go) noexcept nogil:
    """In the new process: become the hook. *ends* are its three streams, and where it says why it could not.

    A guarded one waits for the word on the pipe *go* that there is a guard, and its caller.
    """
    cdef char word
    cdef int error
    cdef int moved = 0
    cdef int fds[4]
    cdef int i
    reset_signals()
    setpgid(0, 0)
    if hook.guarded:
        close(go[1])
        if read(go[0], &word, 1) != 1:
            _exit(125)
    if hook.in_init:
        umask(0o022)
    if hook.directory >= 0:
        moved = <int>_rc(fchdir(hook.directory))
    for i in range(4):
        # Above where they go: one may have the number of another's place.
        fds[i] = fcntl(ends[i], F_DUPFD_CLOEXEC, 4)
        if fds[i] < 0:
            _exit(125)
    for i in range(3):
        dup2(fds[i], i)
    dup3(fds[3], 3, O_CLOEXEC)
    syscall(NR_close_range, 4, <unsigned int>0xFFFFFFFF, 0)
    if moved == 0:
        execve(hook.path, argv, env)
        moved = -errno
    error = -moved
    write(3, &error, sizeof(error))
    _exit(127)


cdef inline bint feed(int fd, iovec_t *pieces, int count, int *piece) noexcept nogil:
    """Write as much of the state as there is room for; False when all is written, or nobody reads it."""
    cdef ssize_t done
    while piece[0] < count:
        done = write(fd, pieces[piece[0]].iov_base, pieces[piece[0]].iov_len)
        if done < 0:
            return errno == EAGAIN or errno == EINTR
        pieces[piece[0]].iov_base = <char *>pieces[piece[0]].iov_base + done
        pieces[piece[0]].iov_len -= <size_t>done
        if pieces[piece[0]].iov_len == 0:
            piece[0] += 1
    return False


cdef inline int rest_ms(uint64_t deadline_ns) noexcept nogil:
    """How long poll(2) may wait until *deadline_ns*, at least 0; -1 for 0, which is never."""
    cdef uint64_t now = now_ns()
    if deadline_ns == 0:
        return -1
    if now >= deadline_ns:
        return 0
    if deadline_ns - now > <uint64_t>1000000 * 1000000:
        return 1000000
    return <int>((deadline_ns - now) / 1000000 + 1)


cdef inline void attend_hook(const hook_program *hook, int pid, int pidfd, int *ours, iovec_t *state, int pieces,
                             hook_end *end) noexcept nogil:
    """Feed and hear the hook until it ends or its time is over; *ours* are our ends of its streams."""
    cdef pollfd watch[6]
    cdef uint64_t deadline = 0
    cdef int piece = 0
    cdef int status = 0
    cdef int rc
    cdef int i
    if hook.timeout_s:
        deadline = now_ns() + <uint64_t>hook.timeout_s * 1000000000
    for i in range(3):
        watch[i].fd = ours[i]
        watch[i].events = POLLIN
        fcntl(ours[i], F_SETFL, O_NONBLOCK)
    watch[0].events = POLLOUT
    watch[3].fd = pidfd
    watch[4].fd = hook.container
    watch[5].fd = hook.interrupt
    watch[3].events = watch[4].events = watch[5].events = POLLIN
    while True:
        for i in range(6):
            watch[i].revents = 0
        rc = poll(watch, 6, rest_ms(deadline))
        if rc < 0 and errno != EINTR:
            end.error = -errno
            break
        if rc <= 0 and deadline and now_ns() >= deadline:
            end.timed_out = 1
            break
        if watch[0].revents and not feed(ours[0], state, pieces, &piece):
            # It reads until the end.
            close(ours[0])
            ours[0] = watch[0].fd = -1
        for i in range(1, 3):
            if watch[i].revents and not keep_stream(i, ours[i], end):
                watch[i].fd = -1
        if watch[3].revents:
            break
        if watch[4].revents:
            end.error = -ECANCELED
            break
        if watch[5].revents:
            end.error = -EINTR
            break
    if end.timed_out or end.error:
        kill(-pid, SIGKILL)
        kill(pid, SIGKILL)          # it may have left its group
    while wait4(pid, &status, 0, NULL) < 0:
        if errno != EINTR:
            end.error = -errno
            break
    end.status = status
    # What it wrote last; not what goes on writing, nor until whoever it left behind has ended.
    for i in range(1, 3):
        for rc in range(64):
            watch[0].fd = ours[i]
            watch[0].events = POLLIN
            if poll(watch, 1, 0) <= 0:
                break
            if not keep_stream(i, ours[i], end):
                break


cdef inline void guard(int caller, int pid, int pidfd) noexcept nogil:
    """In a process of its own: kill the hook *pid* and its group as soon as its *caller* is gone, but no hook that ended."""
    cdef uint64_t everything = ~<uint64_t>0
    cdef pollfd watch[2]
    cdef int i
    # The group's keys, which may end the caller, are no end of ours.
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &everything, NULL, sizeof(everything))
    watch[0].fd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3)
    watch[1].fd = fcntl(caller, F_DUPFD_CLOEXEC, 3)
    for i in range(3):
        close(i)
    for i in range(2):
        if watch[i].fd < 0:
            _exit(1)
        dup2(watch[i].fd, i)
        watch[i].fd = i
        watch[i].events = POLLIN
        watch[i].revents = 0
    syscall(NR_close_range, 2, <unsigned int>0xFFFFFFFF, 0)
    while poll(watch, 2, -1) < 0:
        pass
    if not watch[0].revents:        # it lives, so its number is its own, and its group's
        kill(-pid, SIGKILL)
        syscall(NR_pidfd_send_signal, 0, SIGKILL, NULL, 0)
    _exit(0)


cdef inline int begin_guard(int pid, int pidfd) noexcept nogil:
    """Start the guard of the hook *pid*; its own pid, or -1 where there is no need of one, or no room for it."""
    cdef int caller
    cdef int child
    if getpid() == 1:
        return -1                   # the kernel ends all of our pid namespace with us
    caller = <int>_rc(syscall(NR_pidfd_open, getpid(), 0))
    if caller < 0:
        return -1
    child = <int>_rc(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL))
    if child == 0:
        guard(caller, pid, pidfd)
    close(caller)
    return child


cdef inline bint run_hook(const hook_program *hook, iovec_t *state, int pieces, hook_end *end) noexcept nogil:
    """Run a hook to its end; whether it went well. *state*, the text for its standard input in *pieces*, is used up.

    The process has the caller's working directory, namespaces and credentials, and none of its descriptors.
    """
    cdef int pipes[8]               # for each stream and the word of a failed start: the end to read, to write
    cdef int theirs[4]
    cdef int ours[4]
    cdef int go[2]
    cdef char **pointers
    cdef char **env
    cdef size_t size
    cdef sighandler_t before
    cdef int pidfd = -1
    cdef int error = 0
    cdef int pid = -1
    cdef int watcher = -1
    cdef int i = 0
    memset(end, 0, sizeof(hook_end))
    memset(pipes, 0xFF, sizeof(pipes))
    go[0] = go[1] = -1
    end.timeout_s = hook.timeout_s
    while hook.path[i] != 0 and i < HOOK_PATH - 1:
        end.path[i] = hook.path[i]
        i += 1
    size = (<size_t>hook.argc + 3 + (0 if hook.envc == <uint32_t>HOOK_INHERITS else hook.envc)) * sizeof(char *)
    pointers = <char **>mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if <void *>pointers == MAP_FAILED:
        end.failed = 1
        end.error = -errno
        return False
    pointers[0] = <char *>hook.path
    pointers[1] = NULL
    if hook.argc:
        lay_texts(hook.argv, hook.argc, pointers)
    env = hook.inherited
    if hook.envc != <uint32_t>HOOK_INHERITS:
        env = pointers + hook.argc + 2
        lay_texts(hook.env, hook.envc, env)
    for i in range(4):
        if pipe2(pipes + 2 * i, O_CLOEXEC) < 0:
            end.error = -errno
            break
        ours[i] = pipes[2 * i]
        theirs[i] = pipes[2 * i + 1]
    if end.error == 0 and hook.guarded and pipe2(go, O_CLOEXEC) < 0:
        end.error = -errno
    if end.error == 0:
        ours[0] = pipes[1]
        theirs[0] = pipes[0]
        # clone(2), since a filter that is in force already allows it more often than clone3(2).
        pid = <int>_rc(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL))
        if pid == 0:
            hook_child(hook, pointers, env, theirs, go)
        if pid < 0:
            end.error = pid
    if pid > 0:
        for i in range(4):
            close(theirs[i])
            pipes[2 * i + (0 if i == 0 else 1)] = -1
        if hook.guarded:
            watcher = begin_guard(pid, pidfd)
            write(go[1], b"", 1)    # the NUL
        if read(ours[3], &error, sizeof(error)) == sizeof(error) and error > 0:
            end.error = -error
            while wait4(pid, NULL, 0, NULL) < 0 and errno == EINTR:
                pass
        else:
            before = signal(SIGPIPE, SIG_IGN)   # it need not read its state
            attend_hook(hook, pid, pidfd, ours, state, pieces, end)
            signal(SIGPIPE, SIG_IGN)            # where it is blocked, one that has come waits, and this forgets it
            signal(SIGPIPE, before)
            if ours[0] < 0:
                pipes[1] = -1
        if watcher > 0:
            kill(watcher, SIGKILL)
            while wait4(watcher, NULL, 0, NULL) < 0 and errno == EINTR:
                pass
        close(pidfd)
    close(go[0])
    close(go[1])
    for i in range(8):
        if pipes[i] >= 0:
            close(pipes[i])
    munmap(pointers, size)
    end.failed = end.error != 0 or end.timed_out != 0 or end.status != 0
    return not end.failed
