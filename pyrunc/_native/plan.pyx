# cython: cdivision=True, boundscheck=False, language_level=3
"""The plan's layout as Python sees it: names, numbers, and the supervisor's own validator."""

from pyrunc._native.linux cimport *

# In the order of plan.pxd's Op.
STEP_NAMES = (
    "cgroup_mkdir", "write_at", "open_at", "open", "device_bpf", "userns", "overlay", "write_proc",
    "open_tree", "new_mount", "mount_attr", "setns",
    "sync", "join_tasks", "unshare", "propagation", "root_attach", "root_overlay", "attach", "mkdir", "mknod", "symlink",
    "file", "mask", "readonly", "pivot_root", "write_procfs", "hostname", "domainname", "loopback_up", "rlimit",
    "stdio", "session", "no_new_privs", "bounding", "user", "capabilities", "ambient", "umask", "chdir",
    "seccomp", "execve",
)
assert len(STEP_NAMES) == OP_COUNT

FLAGS = {
    "recursive": F_RECURSIVE, "create": F_CREATE, "file": F_FILE, "real": F_REAL,
    "optional": F_OPTIONAL, "tty": F_TTY, "chardev": F_CHARDEV, "v2": F_V2,
    "seed_cpuset": F_SEED_CPUSET, "cpuset": F_CPUSET, "existing": F_EXISTING,
    "missing": F_MISSING, "alternative": F_ALTERNATIVE, "keep_parents": F_KEEP_PARENTS,
}

MAGIC = PLAN_MAGIC
VERSION = PLAN_VERSION
MAX_SIZE = PLAN_MAX_SIZE
MAX_STEPS = PLAN_MAX_STEPS
MAX_SLOTS = PLAN_MAX_SLOTS
ABSENT = <unsigned int>NONE
FLAG_QUIET = PLAN_QUIET
FLAG_KEEP_RUNNING = PLAN_KEEP_RUNNING
HOST = SECTION_HOST
INIT = SECTION_INIT
SYNC = SECTION_SYNC
HEADER_SIZE = sizeof(plan_header)
STEP_SIZE = sizeof(plan_step)


def validate(bytes data not None, unsigned int descriptors):
    """Judge a plan as the supervisor does.

    *data* is the whole plan, *descriptors* the number that its request carries besides plan
    and reply. Returns 0 or a negative errno: -EPROTO (magic, version), -EMSGSIZE (size,
    descriptors), -E2BIG (counts), -EINVAL (a step, an offset).
    """
    cdef const unsigned char *bytes_of_plan = data
    cdef uint64_t size = len(data)
    cdef int rc
    with nogil:
        rc = plan_validate(bytes_of_plan, size, descriptors)
    return rc
