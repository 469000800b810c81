# cython: cdivision=True, boundscheck=False
# The terminal of a program: a pair of the container's own devpts, whose other side goes to the supervisor.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.oci_relay cimport *
from pyrunc._native.openat2 cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *

cdef enum:
    PTMX_DEVICE = 0x502             # 5:2


cdef inline int open_master(int devpts) noexcept nogil:
    """The multiplexer in the root of the devpts at *devpts*; nothing that is mounted over it, and nothing else."""
    cdef statfs_t kind
    cdef stat_t status
    cdef int rc
    cdef int master
    if fstatfs(devpts, &kind) < 0:
        return -errno
    if kind.f_type != DEVPTS_MAGIC:
        return -EXDEV
    # Nothing can be made or renamed in a devpts, only mounted over: what is opened here is one of its own devices.
    master = c_openat2(devpts, b"ptmx", O_RDWR | O_NOCTTY, 0, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS)
    if master < 0:
        return master
    rc = <int>_rc(fstat(master, &status))
    if rc == 0 and (not S_ISCHR(status.st_mode) or status.st_rdev != PTMX_DEVICE):
        rc = -ENODEV
    if rc < 0:
        close(master)
        return rc
    return master


cdef inline int leave_newlines(int master) noexcept nogil:
    """Show "\\n" as it is: the terminal of whoever looks at this one turns it into "\\r\\n" already."""
    cdef termios_t attributes
    if tcgetattr(master, &attributes) < 0:
        return -errno
    attributes.c_oflag &= ~ONLCR
    return <int>_rc(tcsetattr(master, TCSANOW, &attributes))


cdef inline int terminal_step(walk *w, const plan_step *step) noexcept nogil:
    """Make a pair, keep the program's side, and give the other to the supervisor.

    The program's side is asked of the master (TIOCGPTPEER, Linux 4.13), never opened by a path. Without a devpts
    that the plan has made the step opens what is at /dev/pts: in a container that runs that may be anything by now.
    """
    cdef winsize_t size
    cdef progress message
    cdef int unlocked = 0
    cdef int devpts = -1
    cdef int master
    cdef int peer = -1
    cdef int rc
    if step.slot_a != <uint32_t>NONE:
        master = open_master(w.slots[step.slot_a])
    else:
        if w.header.flags & PLAN_EXEC:
            devpts = c_openat2(AT_FDCWD, b"/dev/pts", O_PATH | O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS)
        else:
            devpts = c_open_in_root(w.root, b"/dev/pts", O_PATH | O_DIRECTORY, 0)
        if devpts < 0:
            return devpts
        master = open_master(devpts)
        close(devpts)
    if master < 0:
        return master
    rc = <int>_rc(ioctl(master, TIOCSPTLCK, &unlocked))
    if rc == 0:
        peer = <int>_rc(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC))
        rc = peer
    if rc >= 0:
        memset(&size, 0, sizeof(size))
        size.ws_row = <unsigned short>step.n1
        size.ws_col = <unsigned short>step.n2
        rc = <int>_rc(ioctl(master, TIOCSWINSZ, &size))
    if rc == 0 and step.flags & F_TTY:
        rc = leave_newlines(master)
    if rc == 0 and step.n0:
        # Its group is that of terminals; only the user changes, as with runc.
        rc = <int>_rc(fchown(peer, <uid_t>step.n0, <gid_t>-1))
    if rc == 0:
        memset(&message, 0, sizeof(message))
        message.kind = PROGRESS_TERMINAL
        rc = send_with(w.progress_fd, &message, sizeof(message), master)
    close(master)
    if rc < 0:
        if peer >= 0:
            close(peer)
        return rc
    return put_slot(w, step.slot_b, peer)
