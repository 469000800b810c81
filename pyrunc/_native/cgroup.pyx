# cython: language_level=3
"""Directories of control groups: made with their parents, removed with patience."""

from pyrunc._native.cgroup_end cimport *
from pyrunc._native.errors cimport c_text, check


cdef const char *c_path(bytes path) except NULL:
    """The path of a cgroup, which stays below its hierarchy."""
    if not path.startswith(b"/") or b".." in path.split(b"/"):
        raise ValueError(f"the path of a cgroup must be absolute and without '..': {path!r}")
    return c_text(path)


def make(
    bytes hierarchy not None, bytes path not None, *, bytes enable=None, bint cpuset=False, bint seed=False,
    bint existing=False,
):
    """Make the cgroup *path* ("/a/b") below the mount point *hierarchy*, with its parents if need be.

    *enable*, such as b"+memory +pids", is written to cgroup.subtree_control of every directory above the
    last (v2). In a *cpuset* hierarchy (v1) the new parents get cpuset.cpus and cpuset.mems from theirs, and with
    *seed* the cgroup itself does. A cgroup that is there already is refused, unless *existing*. Returns whether it is new.

    Raises ValueError for a *path* that is relative or has "..", OSError EEXIST, ENAMETOOLONG (beyond 4095 bytes), EBUSY or EINVAL (a controller cannot be enabled),
    ENOSPC.
    A cgroup that is made but cannot be seeded stays.
    Source: kernel Documentation/admin-guide/cgroup-v2.rst, "Controlling Controllers"; cgroup-v1/cpusets.rst.
    """
    cdef const char *h = c_text(hierarchy)
    cdef const char *p = c_path(path)
    cdef const char *e = NULL
    cdef char buffer[4096]
    cdef int made = 0
    cdef int rc
    if enable is not None:
        e = c_text(enable)
    with nogil:
        rc = c_cgroup_make(h, p, e, cpuset, seed, existing, NULL, buffer, sizeof(buffer), &made)
    check(rc, "mkdir", hierarchy + path)
    return bool(made)


def remove(bytes hierarchy not None, bytes path not None):
    """Remove one cgroup; one that is not there is no error, and its parents stay.

    A v1 cgroup stays busy for a moment after its last task is reaped: it is tried again for about a second.

    Raises OSError EBUSY (tasks or cgroups are inside), ENAMETOOLONG.
    Source: rmdir(2) on cgroupfs.
    """
    cdef const char *h = c_text(hierarchy)
    cdef const char *p = c_path(path)
    cdef char buffer[4096]
    cdef int rc
    with nogil:
        rc = c_cgroup_remove(h, p, NULL, False, buffer, sizeof(buffer))
    check(rc, "rmdir", hierarchy + path)
