# cython: cdivision=True, boundscheck=False
# What init does between `create` and `start`: it proves that the program could be executed, says that the container is
# created, and waits.
#
#   init -> front door      CREATED: all is made
#   front door -> init      GO: state.json names it, and it may outlive the front door
#   init -> front door      PARTED: it does (create only: `run` needs no other to start it)
#   start -> init           a connection; init's further messages go there, and its end is execve's

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.joining cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.steps cimport *

cdef extern from *:
    int X_OK


cdef inline int lookup_step(walk *w, const plan_step *step) noexcept nogil:
    """0 if the program's user may execute one of the candidates, which init tries after the start; else why not.

    access(2) goes by the real ids, which for this moment are the program's: the effective ones, and with them all
    capabilities, stay. A refusal outweighs an absence, as for execvp(3).
    """
    cdef stat_t status
    cdef const char *candidate = text(w, step.s0)
    cdef uint32_t uid = <uint32_t>(step.n0 >> 32)
    cdef uint32_t gid = <uint32_t>step.n0
    cdef uint64_t i
    cdef int rc = -ENOENT
    cdef int error
    become_groups(text(w, step.s1))
    syscall(SYS_setresgid, gid, <uint32_t>-1, <uint32_t>-1)
    syscall(SYS_setresuid, uid, <uint32_t>-1, <uint32_t>-1)
    for i in range(step.n1):
        error = <int>_rc(faccessat(AT_FDCWD, candidate, X_OK, 0))
        if error == 0 or error == -EACCES:
            if fstatat(AT_FDCWD, candidate, &status, 0) == 0 and (S_ISDIR(status.st_mode) or not status.st_mode & 0o111):
                error = -ENOENT if step.n2 else -EACCES
        if error == 0:
            rc = 0
            break
        if error != -ENOENT and (error != -ENOTDIR or not step.n2):
            rc = error
        candidate += strlen(candidate) + 1
    syscall(SYS_setresuid, 0, <uint32_t>-1, <uint32_t>-1)
    syscall(SYS_setresgid, 0, <uint32_t>-1, <uint32_t>-1)
    return rc


cdef inline const char *why_unexecuted(int error) noexcept nogil:
    if error == -ENOENT: return b"no such file or directory"
    if error == -EACCES: return b"permission denied"
    if error == -ENOEXEC: return b"exec format error"
    if error == -E2BIG: return b"argument list too long"
    if error == -EINVAL: return b"invalid argument"
    if error == -EPERM: return b"operation not permitted"
    if error == -ENOMEM: return b"cannot allocate memory"
    if error == -ELOOP: return b"too many levels of symbolic links"
    return b"input/output error"


cdef inline const char *found_program(walk *w, const plan_step *step) noexcept nogil:
    """The candidate that could be executed as far as its mode goes: a name without a path is looked for."""
    cdef const char *candidate = text(w, step.s0)
    cdef uint64_t i
    for i in range(step.n0):
        if step.n0 == 1 or faccessat(AT_FDCWD, candidate, X_OK, 0) == 0:
            return candidate
        candidate += strlen(candidate) + 1
    return w.argv[0]


cdef inline void say_unexecuted(walk *w, const plan_step *step, int error) noexcept nogil:
    """Say on the program's standard error that it could not be executed, as runc does."""
    cdef iovec_t pieces[5]
    piece(&pieces[0], b"exec ")
    piece(&pieces[1], found_program(w, step))
    piece(&pieces[2], b": ")
    piece(&pieces[3], why_unexecuted(error))
    piece(&pieces[4], b"\n")
    writev(2, pieces, 5)


cdef inline void never_started(int number) noexcept nogil:
    _exit(2)


cdef inline void mind_signals(sighandler_t handler) noexcept nogil:
    """What to do when told to end: without a handler the first process of a pid namespace does not even hear of it.

    So `kill` ends a container that waits, as it does runc's, which gives this exit code too.
    """
    signal(SIGTERM, handler)
    signal(SIGINT, handler)
    signal(SIGHUP, handler)
    signal(SIGQUIT, handler)


cdef inline int wait_start_step(walk *w, const plan_step *step) noexcept nogil:
    """Say that the container is created; with a socket in slot a, go on when somebody connects to it.

    Only who may write to the socket's file can, which is its maker and root: no process of the container's is there
    yet. Nothing is open meanwhile but the program's descriptors and that socket.
    """
    cdef progress message
    cdef uint32_t answer = STOP
    cdef int keep[2]
    cdef int fd = -1
    memset(&message, 0, sizeof(message))
    message.kind = PROGRESS_CREATED
    memcpy(message.stage_ns, w.stage_ns, sizeof(message.stage_ns))
    if send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL) < 0:
        return -errno
    if recv(w.progress_fd, &answer, sizeof(answer), 0) != sizeof(answer) or answer != GO:
        return -EPIPE
    prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    if step.slot_a == <uint32_t>NONE:
        return 0
    keep[0] = w.slots[step.slot_a]
    keep[1] = w.progress_fd
    close_above(w, keep, 2)
    mind_signals(never_started)
    message.kind = PROGRESS_PARTED
    if send(w.progress_fd, &message, sizeof(message), MSG_NOSIGNAL) < 0:
        return -errno
    while fd < 0:
        fd = <int>_rc(accept4(keep[0], NULL, NULL, SOCK_CLOEXEC))
        if fd < 0 and fd != -EINTR and fd != -ECONNABORTED:
            return fd
    mind_signals(SIG_DFL)
    close(w.progress_fd)
    close(keep[0])
    w.slots[step.slot_a] = -1
    w.progress_fd = fd
    return 0
