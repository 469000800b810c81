# cython: language_level=3
"""Directories of control groups: made with their parents, removed with patience."""

from pyrunc._native.errors cimport c_text, check


def make(
    bytes hierarchy not None, bytes path not None, *, bytes enable=None, bint seed_cpuset=False, bint existing=False,
):
    """Make the cgroup *path* ("/a/b") below the mount point *hierarchy*, with its parents if need be.

    *enable*, such as b"+memory +pids", is written to cgroup.subtree_control of every directory above the
    last (v2). *seed_cpuset* copies cpuset.cpus and cpuset.mems from parent to child where they are empty (v1).
    A cgroup that is there already is refused, or opened with *existing*. Returns (descriptor of its directory,
    whether it is new).

    Raises OSError EEXIST, ENAMETOOLONG (beyond 4095 bytes), EBUSY or EINVAL (a controller cannot be enabled),
    ENOSPC.
    A cgroup that is made but cannot be seeded stays.
    Source: kernel Documentation/admin-guide/cgroup-v2.rst, "Controlling Controllers"; cgroup-v1/cpusets.rst.
    """
    cdef const char *h = c_text(hierarchy)
    cdef const char *p = c_text(path)
    cdef const char *e = NULL
    cdef char buffer[4096]
    cdef int made = 0
    cdef uint8_t made_parents = 0
    cdef int rc
    if enable is not None:
        e = c_text(enable)
    with nogil:
        rc = c_cgroup_make(h, p, e, seed_cpuset, existing, buffer, sizeof(buffer), &made, &made_parents)
    check(rc, "mkdir", hierarchy + path)
    return rc, bool(made)


def remove(bytes hierarchy not None, bytes path not None):
    """Remove one cgroup; one that is not there is no error, and its parents stay.

    A v1 cgroup stays busy for a moment after its last task is reaped: it is tried again for about a second.

    Raises OSError EBUSY (tasks or cgroups are inside), ENAMETOOLONG.
    Source: rmdir(2) on cgroupfs.
    """
    cdef const char *h = c_text(hierarchy)
    cdef const char *p = c_text(path)
    cdef char buffer[4096]
    cdef int rc
    with nogil:
        rc = c_cgroup_remove(h, p, buffer, sizeof(buffer))
    check(rc, "rmdir", hierarchy + path)
