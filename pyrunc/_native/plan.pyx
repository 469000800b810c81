# cython: cdivision=True, boundscheck=False, language_level=3
"""The plan as Python sees it: names, numbers, the supervisor's own validator, and the way to the front door."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize

from pyrunc._native.linux cimport *
from pyrunc._native.errors cimport check
from pyrunc._native.oci_python cimport oci_place
from pyrunc._native.oci_seal cimport oci_seal
from pyrunc._native.oci_system cimport environ, put_decimal
from pyrunc._native.plan_rules cimport plan_validate
from pyrunc._native.sealed cimport c_sealed

# In the order of plan.pxd's Op.
STEP_NAMES = (
    "cgroup_mkdir", "write_at", "open_at", "open", "process", "device_bpf", "userns", "overlay", "write_proc", "net_device",
    "unit",
    "open_tree", "new_mount", "mount_attr", "setns",
    "sync", "join_tasks", "unshare", "propagation", "root_attach", "root_overlay", "copy_up", "attach", "remount",
    "reconfigure", "owner", "mkdir", "mknod", "symlink", "file", "mask", "readonly", "pivot_root", "write_procfs", "hostname", "domainname", "loopback_up", "rlimit",
    "terminal", "stdio", "session", "no_new_privs", "bounding", "user", "capabilities", "ambient", "umask",
    "scheduler", "io_priority", "personality", "memory_policy", "affinity",
    "chdir", "seccomp", "fork", "lookup", "wait_start", "hook", "execve",
)
assert len(STEP_NAMES) == OP_COUNT

FLAGS = {
    "recursive": F_RECURSIVE, "create": F_CREATE, "file": F_FILE, "real": F_REAL,
    "optional": F_OPTIONAL, "tty": F_TTY, "chardev": F_CHARDEV,
    "seed_cpuset": F_SEED_CPUSET, "cpuset": F_CPUSET, "existing": F_EXISTING,
    "missing": F_MISSING, "alternative": F_ALTERNATIVE, "keep_parents": F_KEEP_PARENTS, "proc": F_PROC,
}

MAGIC = PLAN_MAGIC
VERSION = PLAN_VERSION
MAX_SIZE = PLAN_MAX_SIZE
MAX_STEPS = PLAN_MAX_STEPS
MAX_SLOTS = PLAN_MAX_SLOTS
ABSENT = <unsigned int>NONE
FLAG_QUIET = PLAN_QUIET
FLAG_KEEP_RUNNING = PLAN_KEEP_RUNNING
FLAG_EXEC = PLAN_EXEC
FLAG_LISTEN = SHIM_LISTEN
FLAG_CLIENT = SHIM_CLIENT
FLAG_STDIN = SHIM_STDIN
FLAG_STDIN_ONCE = SHIM_STDIN_ONCE
FLAG_TERMINAL = SHIM_TERMINAL
FLAG_HOLD = SHIM_HOLD
FLAG_RUN = OCI_RUN
FLAG_OCI_EXEC = OCI_EXEC
FLAG_DETACH = OCI_DETACH
FLAG_KEEP = OCI_KEEP
FLAG_OCI_TERMINAL = OCI_TERMINAL
FLAG_NO_SUBREAPER = OCI_NO_SUBREAPER
FLAG_NO_NEW_KEYRING = OCI_NO_NEW_KEYRING
FLAG_NO_PIVOT = OCI_NO_PIVOT
FLAG_DEBUG = OCI_DEBUG
FLAG_NOTIFY = OCI_NOTIFY
HOST = SECTION_HOST
INIT = SECTION_INIT
SYNC = SECTION_SYNC
STAGE = SECTION_STAGE
HEADER_SIZE = sizeof(plan_header)
STEP_SIZE = sizeof(plan_step)
SHIM_SIZE = sizeof(plan_shim)
OCI_SIZE = sizeof(plan_oci)
HOOK_SIZE = sizeof(plan_oci_hook)
# The sync point at which a container's namespaces exist.
NAMESPACES = OCI_SYNC


cdef size_t c_sizes(list words) except? 0:
    """How many bytes *words* take with their NULs; ValueError for one inside."""
    cdef size_t size = 0
    for word in words:
        if b"\0" in <bytes>word:
            raise ValueError(f"argument or environment entry contains a NUL: {word.decode('utf-8', 'replace')!r}")
        size += <size_t>len(<bytes>word) + 1
    return size


cdef uint32_t c_place(list words, unsigned char *strings, uint32_t at, uint32_t *table) noexcept:
    """Append *words* at the offset *at* of the strings, list where they begin, and return where they end."""
    cdef const char *word_text
    cdef size_t size
    cdef Py_ssize_t i
    for i in range(len(words)):
        word_text = <bytes>words[i]
        size = <size_t>len(<bytes>words[i]) + 1
        memcpy(strings + at, word_text, size)
        if table != NULL:
            table[i] = at
        at += <uint32_t>size
    return at


cdef list c_encoded(words):
    return [(<str?>word).encode("utf-8", "surrogateescape") for word in words]


cdef uint32_t c_optional(text, uint32_t offset):
    return offset if text else <uint32_t>NONE


cdef c_oci(plan_oci *block, uint32_t offset, oci, list hooks, const uint32_t *table):
    """Fill in the oci block at *offset*, whose texts are at the offsets in *table*, in the order of `finish`."""
    cdef plan_oci_hook *entry
    cdef Py_ssize_t i
    block.flags = oci.flags
    block.state_dir = table[0]
    block.id = table[1]
    block.pid_file = c_optional(oci.pid_file, table[2])
    block.pidfd_socket = c_optional(oci.pidfd_socket, table[3])
    block.console_socket = c_optional(oci.console_socket, table[4])
    block.log = c_optional(oci.log, table[5])
    block.seccomp_listener = c_optional(oci.seccomp_listener, table[6])
    block.seccomp_metadata = c_optional(oci.seccomp_metadata, table[7])
    block.log_format = table[8]
    block.preserve_fds = oci.preserve_fds
    block.window = oci.rows << 16 | oci.columns
    block.bundle = c_optional(oci.bundle, table[9])
    table += 10
    for i in range(OCI_STATE_TEXTS):
        block.state[i] = table[i]
    table += OCI_STATE_TEXTS
    for i in range(OCI_HOOK_TEXTS):
        block.hook_state[i] = table[i]
    table += OCI_HOOK_TEXTS
    block.hook_count = <uint32_t>len(hooks)
    block.hooks_off = offset + <uint32_t>sizeof(plan_oci) if hooks else 0
    entry = <plan_oci_hook *>(<unsigned char *>block + sizeof(plan_oci))
    for hook in hooks:
        entry.kind = hook.kind
        entry.timeout_s = hook.timeout_s
        entry.path = table[0]
        entry.argc = <uint32_t>len(hook.argv)
        entry.argv = table[1] if entry.argc else 0
        i = len(hook.env or ())
        entry.envc = <uint32_t>NONE if hook.env is None else <uint32_t>i
        entry.env = table[1 + entry.argc] if i else 0
        table += 1 + entry.argc + <uint32_t>i
        entry += 1


def finish(bytes base not None, bytes marks not None, size_t execve_off, str container_id not None, argv, env, candidates,
           unsigned int flags, shim=None, oci=None):
    """The whole plan of one start from *base*: header, steps, blobs and the strings known so far.

    *marks* are pairs of 32-bit numbers, each a place of *base* and how much of *container_id* goes there;
    *execve_off* is where the step is whose paths are *candidates*; *flags* are the header's.
    *shim*, if given, makes the supervisor one; a pyrunc.runtime.plan.Shim. *oci* is a pyrunc.runtime.plan.Oci.
    Raises ValueError for text with a NUL or a plan beyond its bounds.
    """
    cdef bytes new = container_id.encode()
    cdef const char *identity = new
    cdef list arguments = c_encoded(argv)
    cdef list variables = c_encoded(env)
    cdef list paths = c_encoded(candidates)
    cdef list words = [] if shim is None else c_encoded((
        shim.state_dir, shim.log, shim.cgroup, *shim.exit_argv, *shim.exit_env, *shim.hierarchies))
    cdef list hooks = [] if oci is None else list(oci.hooks)
    cdef Py_ssize_t oci_word = len(words)
    cdef plan_shim *block
    cdef size_t oci_off = 0
    cdef size_t shim_off
    cdef const char *template = base
    cdef const char *places = marks
    cdef const uint32_t *place
    cdef const plan_header *before = <const plan_header *>template
    cdef plan_header *header
    cdef plan_step *step
    cdef plan_step *lookup
    cdef unsigned char *data
    cdef uint32_t *table
    cdef uint32_t at
    cdef size_t known = <size_t>len(base)
    cdef size_t end = known + c_sizes(arguments) + c_sizes(variables) + c_sizes(paths) + c_sizes(words)
    cdef size_t table_off = (end + 3) & ~<size_t>3
    cdef size_t size = table_off + 4 * <size_t>(len(arguments) + len(variables) + len(words))
    cdef Py_ssize_t i
    if oci is not None:
        words += c_encoded((
            oci.state_dir, oci.container_id, oci.pid_file, oci.pidfd_socket, oci.console_socket, oci.log,
            oci.seccomp_listener, oci.seccomp_metadata, oci.log_format, oci.bundle, *oci.state, *oci.hook_state))
        for hook in hooks:
            words += c_encoded((hook.path, *hook.argv, *(hook.env or ())))
        end = known + c_sizes(arguments) + c_sizes(variables) + c_sizes(paths) + c_sizes(words)
        table_off = (end + 3) & ~<size_t>3
        size = table_off + 4 * <size_t>(len(arguments) + len(variables) + len(words))
    if shim is not None:
        # Behind all tables; that of its own words is no part of the layout.
        shim_off = (size + 7) & ~<size_t>7
        size = shim_off + sizeof(plan_shim)
    if oci is not None:
        oci_off = (size + 7) & ~<size_t>7
        size = oci_off + sizeof(plan_oci) + sizeof(plan_oci_hook) * <size_t>len(hooks)
    if size > PLAN_MAX_SIZE:
        raise ValueError(f"arguments and environment of {size} bytes are more than a plan holds")
    if execve_off + sizeof(plan_step) > known or len(new) < 64:
        raise ValueError("no template of a plan")
    result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    data = <unsigned char *>PyBytes_AsString(result)
    memcpy(data, template, known)
    memset(data + end, 0, size - end)
    for i in range(len(marks) / 8):
        place = <const uint32_t *>places + 2 * i
        if <size_t>place[0] + place[1] <= known and place[1] <= 64:
            memcpy(data + place[0], identity, place[1])
    header = <plan_header *>data
    step = <plan_step *>(data + execve_off)
    table = <uint32_t *>(data + table_off)
    at = c_place(arguments, data + header.strings_off, <uint32_t>(known - before.strings_off), table)
    at = c_place(variables, data + header.strings_off, at, table + len(arguments))
    step.s0 = at
    step.n0 = <uint64_t>len(paths)
    at = c_place(paths, data + header.strings_off, at, NULL)
    for i in range(<Py_ssize_t>header.step_count):
        lookup = <plan_step *>(data + header.steps_off) + i
        if lookup.op == OP_LOOKUP:
            lookup.s0 = step.s0
            lookup.n1 = step.n0
            lookup.n2 = 0 if b"/" in <bytes>arguments[0] else 1
    header.size = <uint32_t>size
    header.flags = flags
    header.argv_off = <uint32_t>table_off
    header.argv_count = <uint32_t>len(arguments)
    header.env_off = <uint32_t>table_off + 4 * header.argv_count
    header.env_count = <uint32_t>len(variables)
    header.strings_size = <uint32_t>(end - before.strings_off)
    table += len(arguments) + len(variables)
    c_place(words, data + header.strings_off, at, table)
    if oci is not None:
        header.oci_off = <uint32_t>oci_off
        c_oci(<plan_oci *>(data + oci_off), <uint32_t>oci_off, oci, hooks, table + oci_word)
    if shim is not None:
        header.shim_off = <uint32_t>shim_off
        block = <plan_shim *>(data + shim_off)
        block.flags = shim.flags
        block.state_dir = table[0]
        block.log = table[1] if shim.log else <uint32_t>NONE
        block.log_files = shim.log_files
        block.log_bytes = shim.log_bytes
        block.cgroup = table[2] if shim.cgroup else <uint32_t>NONE
        i = 3
        block.exit_argc = <uint32_t>len(shim.exit_argv)
        block.exit_argv = table[i] if block.exit_argc else 0
        i += block.exit_argc
        block.exit_envc = <uint32_t>len(shim.exit_env)
        block.exit_env = table[i] if block.exit_envc else 0
        i += block.exit_envc
        block.hierarchy_count = <uint32_t>len(shim.hierarchies)
        block.hierarchies = table[i] if block.hierarchy_count else 0
        block.uid = shim.uid
        block.gid = shim.gid
        block.window = shim.rows << 16 | shim.columns
    return result


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


def hand_over(bytes front_door not None, bytes plan not None):
    """Become the front door at the path *front_door*, from where nobody can write it, with *plan* sealed in memory.

    Never returns; raises OSError.
    """
    cdef oci_place here
    cdef const char *path = front_door
    cdef const char *data = plan
    cdef size_t size = <size_t>len(plan)
    cdef char number[24]
    cdef const char *words[4]
    cdef int fd
    cdef int rc
    if <size_t>len(front_door) >= sizeof(here.exe):
        raise OSError(ENAMETOOLONG, "the front door's path is too long")
    with nogil:
        memcpy(here.exe, path, strlen(path) + 1)
        here.env = environ
        fd = c_sealed(b"pyrunc-plan", data, size)
        rc = fd
        if fd >= 0:
            # Inherited: the front door is told its number.
            fcntl(fd, F_SETFD, 0)
            put_decimal(number, <uint64_t>fd)
            words[0] = b"pyrunc-oci"
            words[1] = b":plan"
            words[2] = number
            words[3] = NULL
            rc = oci_seal(&here, path, -1, words)
        close(fd)
    check(rc, "execveat", front_door)
