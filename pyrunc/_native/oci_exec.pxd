# cython: cdivision=True, boundscheck=False
# The front door as the supervisor of a further program in a running container.
#
# It waits for the program in the foreground, with the caller's terminal and signals passed on to it; detached it is
# gone when the program runs, which then is the child of whoever adopts orphans: containerd's shim, conmon.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.hearing cimport *
from pyrunc._native.oci_console cimport *
from pyrunc._native.oci_create cimport *
from pyrunc._native.oci_files cimport *
from pyrunc._native.oci_foreground cimport *
from pyrunc._native.oci_relay cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.steps cimport *


cdef inline int find_terminal(oci_run *r, int *console) noexcept nogil:
    """Where the program's terminal will go, before there is any: *console* is a connection to --console-socket."""
    cdef bint opened
    cdef int host
    console[0] = -1
    if not r.plan.flags & OCI_TERMINAL:
        return 0
    if r.plan.console_socket != <uint32_t>NONE:
        console[0] = connect_to(text(&r.w, r.plan.console_socket))
        return fail(r, b"console-socket", console[0]) if console[0] < 0 else 0
    if not r.plan.flags & OCI_DETACH:
        host = caller_terminal(&opened)
        if host < 0:
            return fail(r, b"tty", host)
        if opened:
            close(host)
    return 0


cdef inline bint hear_next(oci_run *r, record *report, int patience_ms) noexcept nogil:
    """Wait for the next word of the process that joins, or its end; False when there is nothing more to come."""
    cdef pollfd watch[2]
    watch[0].fd = r.w.progress_fd
    watch[1].fd = r.pidfd
    watch[0].events = watch[1].events = POLLIN
    watch[0].revents = watch[1].revents = 0
    if r.w.progress_fd < 0:
        return False
    if poll(watch, 2, patience_ms) < 0:
        return errno == EINTR
    if watch[0].revents:
        return hear(&r.w, -1, r.pid, r.pidfd, report)
    if watch[1].revents:
        hear_last(&r.w, -1, r.pid, r.pidfd, report)
        return False
    look(&r.w, r.pid)
    return True


cdef inline int start_program(oci_run *r, int console, int *master) noexcept nogil:
    """Follow the process that joins until the program runs; 0 or -errno. *master* is its terminal's, unless that was sent."""
    cdef walk *w = &r.w
    cdef record report
    cdef int rc
    master[0] = -1
    memset(&report, 0, sizeof(report))
    report.step = FAILED_PLAN
    while makes_terminal(w) and w.terminal < 0 and report.error == 0:
        if not hear_next(r, &report, -1):
            break
    if w.terminal >= 0 and console >= 0:
        rc = send_named(console, b"/dev/ptmx", w.terminal)
        pass_on(w)
        if rc < 0:
            return fail(r, b"console-socket", rc)
    if w.terminal >= 0:
        size_as_callers(w.terminal)
    master[0] = w.terminal
    w.terminal = -1                 # else it were closed when the program runs
    if report.error == 0:
        follow(w, -1, &r.pid, &r.pidfd, &report)
    while report.error == 0 and hear_next(r, &report, LOOK_MS if unheard(w, &report) else -1):
        pass
    if report.error == 0 and report.kind == RECORD_STARTED:
        return 0
    r.step = report.step
    if report.error and report.step < w.header.step_count:
        return fail(r, NULL, report.error)
    return fail(r, b"died", report.error)


cdef inline int oci_exec_plan(oci_run *r) noexcept nogil:
    """Run a program in a container, by a plan that was loaded; the exit code of the command."""
    cdef int console
    cdef int master = -1
    cdef int rc = find_terminal(r, &console)
    if rc == 0:
        rc = make_host_part(r)
    if rc == 0 and not r.plan.flags & OCI_DETACH:
        r.signals = hold_signals()
    if rc == 0:
        rc = clone_container(r)
    if rc == 0:
        rc = start_program(r, console, &master)
        if rc == 0:
            rc = tell_program(r)
        if rc == 0 and r.plan.flags & OCI_DETACH:
            return 0
        if rc == 0:
            rc = foreground(r.pid, r.pidfd, master, r.signals, &r.ready, &r.status)
            if rc == 0:
                return exit_code_of(r.status)
            fail(r, b"tty", rc)
        else:
            syscall(NR_pidfd_send_signal, r.pidfd, SIGKILL, NULL, 0)
            reap(r)
    # Nothing of the container is this process's to undo.
    r.pid = -1
    return give_up(r)
