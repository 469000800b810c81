# cython: cdivision=True, boundscheck=False
# A command in the foreground: it waits for a program, passes on every signal that it gets, and relays the terminal.

from pyrunc._native.linux cimport *
from pyrunc._native.oci_readiness cimport *
from pyrunc._native.oci_relay cimport *

cdef extern from *:
    """
    #include <sys/signalfd.h>
    """
    ctypedef struct signalfd_siginfo "struct signalfd_siginfo":
        uint32_t ssi_signo
    long SYS_signalfd4
    int SFD_CLOEXEC, SFD_NONBLOCK, SIG_BLOCK
    int SIGWINCH, SIGURG


cdef inline int hold_signals() noexcept nogil:
    """Block all signals, and give a descriptor that tells of them; or -errno. What is cloned has to call reset_signals.

    So none gets lost that comes before there is a program to pass it on to.
    """
    cdef uint64_t mask = ~<uint64_t>0
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &mask, NULL, sizeof(mask))
    mask &= ~(<uint64_t>1 << (SIGPIPE - 1)) & ~(<uint64_t>1 << (SIGURG - 1))
    return <int>_rc(syscall(SYS_signalfd4, -1, &mask, sizeof(mask), SFD_CLOEXEC | SFD_NONBLOCK))


cdef inline int watch_endings() noexcept nogil:
    """A descriptor that can be read while a held signal waits that would end a program; or -errno. Nothing takes it there."""
    cdef uint64_t mask = (
        <uint64_t>1 << (SIGINT - 1) | <uint64_t>1 << (SIGTERM - 1) | <uint64_t>1 << (SIGHUP - 1) | <uint64_t>1 << (SIGQUIT - 1)
    )
    return <int>_rc(syscall(SYS_signalfd4, -1, &mask, sizeof(mask), SFD_CLOEXEC | SFD_NONBLOCK))


cdef inline void reap_others(int pid) noexcept nogil:
    """Of a subreaper: forget who has ended, but not *pid*."""
    cdef siginfo_t info
    while True:
        memset(&info, 0, sizeof(info))
        if waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 or info.si_pid <= 0 or info.si_pid == pid:
            return
        wait4(info.si_pid, NULL, WNOHANG, NULL)


cdef inline void pass_signals(int signals, int pid, int pidfd, relay *r) noexcept nogil:
    """Take the signals that have come, and pass them on."""
    cdef signalfd_siginfo info
    while read(signals, &info, sizeof(info)) == sizeof(info):
        if info.ssi_signo == <uint32_t>SIGCHLD:
            reap_others(pid)
        elif info.ssi_signo == <uint32_t>SIGWINCH and r.host >= 0:
            relay_resize(r)
        else:
            syscall(NR_pidfd_send_signal, pidfd, <int>info.ssi_signo, NULL, 0)


cdef inline int foreground(int pid, int pidfd, int master, int signals, readiness *ready, int *status) noexcept nogil:
    """Wait for the child *pid*, and give its *status* as of wait(2); 0 or -errno.

    *master* is its terminal's, or -1; *signals* is of hold_signals. The caller keeps both. Of a program that is
    *ready* this process is to be watched: it ends as the program does, and passes signals on.
    """
    cdef relay r
    cdef pollfd watch[6]
    cdef int rc = relay_begin(&r, master)
    while rc == 0:
        watch[0].fd = pidfd
        watch[1].fd = signals
        watch[5].fd = ready.fd
        watch[0].events = watch[1].events = watch[5].events = POLLIN
        watch[0].revents = watch[1].revents = watch[5].revents = 0
        relay_watch(&r, watch + 2)
        if poll(watch, 6, -1) < 0:
            if errno != EINTR:
                rc = -errno
            continue
        if watch[1].revents:
            pass_signals(signals, pid, pidfd, &r)
        relay_serve(&r, watch + 2)
        if watch[5].revents or watch[0].revents:
            readiness_serve(ready, getpid())
        if watch[0].revents:
            break
    relay_end(&r)
    if rc < 0:
        syscall(NR_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
    while wait4(pid, status, 0, NULL) < 0:
        if errno != EINTR:
            return -errno
    return rc


cdef inline int exit_code_of(int status) noexcept nogil:
    """What a shell makes of a wait status."""
    return status >> 8 & 0xFF if status & 0x7F == 0 else 128 + (status & 0x7F)
