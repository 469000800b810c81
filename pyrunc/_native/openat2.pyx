# cython: language_level=3
"""Opening and making paths of a container inside its root, by descriptor."""

from pyrunc._native.errors cimport c_text, check

# The .pxd's constants are C's; these are Python's.
globals().update(
    AT_FDCWD=AT_FDCWD, RESOLVE_NO_XDEV=RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS=RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS=RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH=RESOLVE_BENEATH, RESOLVE_IN_ROOT=RESOLVE_IN_ROOT,
)


def openat2(int dirfd, bytes path not None, uint64_t flags, *, uint64_t mode=0, uint64_t resolve=0):
    """Open *path*, relative to the directory *dirfd*, under the rules *resolve* (``RESOLVE_*``).

    *flags* are those of open(2), without ignored or contradictory ones; *mode* only counts for a new file.
    The descriptor is close-on-exec. A race that the kernel reports by EAGAIN is tried again, 128 times at most.

    Raises OSError ELOOP (a symlink or magic link that *resolve* forbids), EXDEV (it leads outside, or to another
    mount), EINVAL (a flag), EAGAIN, and those of open(2).
    Source: openat2(2).
    """
    cdef const char *p = c_text(path)
    cdef int rc
    with nogil:
        rc = c_openat2(dirfd, p, flags, mode, resolve)
    return check(rc, "openat2", path)


def open_in_root(int root, bytes path not None, uint64_t flags, *, uint64_t resolve=0):
    """Open *path* as a process whose root is the directory *root* would, and without magic links.

    Neither "..", an absolute symlink nor a rename at the same time leads outside. *flags* are those of open(2)
    but O_CREAT; *resolve* adds further ``RESOLVE_*`` rules.

    Raises OSError as `openat2` does.
    Source: openat2(2), RESOLVE_IN_ROOT.
    """
    cdef const char *p = c_text(path)
    cdef int rc
    with nogil:
        rc = c_open_in_root(root, p, flags, resolve)
    return check(rc, "openat2", path)


def make_in_root(int root, bytes path not None, *, bint directory=True):
    """Make *path* inside the directory *root*: a directory (0755) or an empty file (0644), and its parents.

    Symlinks are followed inside the root; of one that dangles as the last component, what it names is made. What exists
    already is left as it is, whatever it is. Modes are subject to the umask.

    Raises OSError ENOENT (a dangling symlink on the way), ENOTDIR, EISDIR (*path* is empty or "/"), ELOOP (more than
    40 symlinks), ENAMETOOLONG (beyond 4095 bytes), EROFS, EACCES.
    """
    cdef const char *p = c_text(path)
    cdef char buffer[4096]
    cdef int rc
    with nogil:
        rc = c_make_in_root(root, p, directory, 0o755, buffer, sizeof(buffer))
    check(rc, "mkdirat" if directory else "openat", path)
