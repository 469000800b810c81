# cython: cdivision=True, boundscheck=False
# The plan: one flat, immutable buffer that says everything a start does.
#
#   header | steps (64 bytes each) | u32 argv[] | u32 env[] | blobs (8-aligned) | strings | shim (64 bytes, or none)
#   | oci, its hooks (plan_oci.pxd, or none)
#
# All numbers are native-endian. Strings are NUL-terminated and named by their offset in the
# string area, whose last byte is NUL: every offset inside it therefore ends. A *slot* is
# a numbered place for a descriptor: 0..fd_count-1 came with the request, others are filled
# by steps. Steps are grouped in sections: host (the supervisor, before clone), init (the child,
# in order, ending in execve), and one section for each sync point (the supervisor, while init waits).
#
# A plan with PLAN_EXEC joins a running container, in this order: its cgroups, its namespaces, what the program is
# to be (streams, limits, ids, capabilities), and only then a process that the container's processes can see.

from pyrunc._native.linux cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.plan_text cimport *

cdef enum:
    PLAN_MAGIC = 0x4E4C5950         # "PYLN"
    PLAN_VERSION = 7
    PLAN_MAX_SIZE = 16 << 20
    PLAN_MAX_STEPS = 8192
    PLAN_MAX_SLOTS = 2048
    PLAN_MAX_ARGS = 1 << 20
    PLAN_NAMESPACES = 0x7E020080    # CLONE_NEW*: all that header.clone_flags may hold

    # header.flags
    PLAN_QUIET = 1                  # one record at the end; no STARTED (a short run)
    PLAN_KEEP_RUNNING = 2           # the requester's death does not end the container
    PLAN_EXEC = 4                   # no container of its own: a program in one that runs

    # shim.flags
    SHIM_LISTEN = 1                 # behind the plan's descriptors the request carries a socket on which clients attach
    SHIM_CLIENT = 2                 # and then one that is attached from the start
    SHIM_STDIN = 4                  # the program's input is a pipe (or the terminal), not what came as slot 0
    SHIM_STDIN_ONCE = 8             # which ends with the first client that had it
    SHIM_TERMINAL = 16              # streams are a terminal, which init makes
    SHIM_HOLD = 32                  # output is nobody's until a client says BEGIN: the program is a runtime's
    SHIM_ALL = 63
    SHIM_STREAMS = 3                # slots 0..2: the shim puts its pipes there
    SHIM_MAX_WORDS = 64             # of the exit command, of its environment
    SHIM_MAX_HIERARCHIES = 32
    SHIM_MAX_FILES = 1000

    SECTION_HOST = 0
    SECTION_INIT = 1
    SECTION_SYNC = 2                # + the number of the sync point
    MAX_SYNC = 8
    SECTION_STAGE = 10              # the last: a process between supervisor and init, see stage.pxd

# The order is the ABI between pyrunc/runtime/plan.py and this file: plan.pyx names them.
cdef enum Op:
    # host
    OP_CGROUP_MKDIR                 # s0 hierarchy, s1 path, s2 controllers to enable (v2); slot a, if given: its directory
    OP_WRITE_AT                     # slot a: directory, s0 file, s1 value
    OP_OPEN_AT                      # slot a: directory, s0 file, n0 open flags -> slot b
    OP_OPEN                         # s0 host path, n0 open flags -> slot a
    OP_PROCESS                      # n0 a pid, n1 when it was started, in ticks since boot -> slot a: its pidfd
    OP_DEVICE_BPF                   # slot a: cgroup v2 directory, n0 blob offset, n1 instructions
    OP_USERNS                       # s0 uid_map, s1 gid_map: a user namespace of its own, for idmapped mounts -> slot a
    OP_OVERLAY                      # slots b..b+n0-1: layers, the lowest first; slot b+n0: the directory of s1 upper and s2 work;
                                    # s0 host directory, covered unseen; n1: volatile; n2: made as uid << 32 | gid -> slot a
    OP_WRITE_PROC                   # s0 file of /proc/<init>, s1 value (a sync section); s2, if given: the program that
                                    # writes it, called with init's pid and the value's words
    OP_NET_DEVICE                   # s0 network device of the host, s1 its name in init's namespace (a sync section)
    OP_UNIT                         # s0 the socket of systemd's manager, s1 a unit that it makes for the front door, n0 blob offset of plan_unit,
                                    # n1 its words of 8 bytes; s2 its properties, to be told
    # host or init
    OP_OPEN_TREE                    # s0 host path, or slot b if given -> slot a; F_RECURSIVE; F_CHARDEV: n0 rdev and n1 type (0: S_IFCHR) must match;
                                    # s1, if given: a directory in it, which neither a symlink nor ".." leads out of
    OP_NEW_MOUNT                    # s0 type, s1 options (n0 pairs), n1 mount attributes -> slot a
    OP_MOUNT_ATTR                   # slot a, n0 set, n1 clear, n2 propagation, F_RECURSIVE, slot b: user namespace
    OP_SETNS                        # slot a, n0 type
    # init
    OP_SYNC                         # n0 number: wait for the supervisor; n1: which is no more than the user whose process init is
    OP_JOIN_TASKS                   # slot a: an open `tasks`; s0, if given: the cpuset's directory, seeded if it turns out empty
    OP_UNSHARE                      # n0 flags
    OP_PROPAGATION                  # s0 path, n0 MS_ flags
    OP_ROOT_ATTACH                  # slot a: the root's mount, s0 host directory that it covers
    OP_ROOT_OVERLAY                 # s0 host directory that it covers, s1 options (n0 pairs, or 0: one text),
                                    # s2 directory the options are relative to -> slot a
    OP_COPY_UP                      # slot a: a fresh tmpfs, s0 path in the root: its directory's mode if n0, its contents if F_RECURSIVE
    OP_ATTACH                       # slot a: mount, s0 path in the root; F_CREATE, F_FILE, F_REAL; slot b, if given: a fresh mount, s1 a name in it
    OP_REMOUNT                      # s0 path in the root, where something is mounted; n0, n1, n2, F_RECURSIVE as for OP_MOUNT_ATTR
    OP_RECONFIGURE                  # slot a: a mount whose file system gets s1 options (n0 pairs); s0 its path, to be named
    OP_OWNER                        # slot a: a mount whose root gets n0 uid, n1 gid, n2 mode, NONE for each that stays; s0 as above
    OP_MKDIR                        # s0 path in the root, n0 mode; F_CREATE: with its parents, or there already
    OP_MKNOD                        # s0 path in the root, n0 mode with type, n1 dev, n2 uid << 32 | gid; slot a as for OP_SYMLINK
    OP_SYMLINK                      # s0 path in the root, s1 target; slot a, if given: a fresh mount, s0 a name in it
    OP_FILE                         # s0 path in the root, s1 content, n0 mode
    OP_MASK                         # s0 path in the root, slot a: tmpfs shared by masked directories
    OP_READONLY                     # s0 path in the root
    OP_PIVOT_ROOT                   # slot a: the root's mount; n0: it is moved over the old one
    OP_WRITE_PROCFS                 # slot a: a procfs of our own, s0 path in it, s1 value
    OP_HOSTNAME                     # s0
    OP_DOMAINNAME                   # s0
    OP_LOOPBACK_UP
    OP_RLIMIT                       # n0 resource, n1 soft, n2 hard
    OP_TERMINAL                     # slot a: a devpts, or what is at /dev/pts; n0 the owner of the program's side, n1 rows, n2 columns -> slot b;
                                    # F_TTY: "\n" stays what it is
    OP_STDIO                        # slot a -> descriptor n0; n1, if not 0: who gets it, + 1
    OP_SESSION                      # setsid; s0, if given: the name of its keyring; n0: without one of its own; F_TTY: descriptor 0 becomes the controlling terminal
    OP_NO_NEW_PRIVS
    OP_BOUNDING                     # n0 set of capabilities kept
    OP_USER                         # n0 uid, n1 gid, s0 supplementary groups: decimal list "1,2"; or, of very many,
                                    # n2: how many << 32 | blob offset of 32-bit numbers; F_EXISTING: they stay what they are
    OP_CAPABILITIES                 # n0 effective, n1 permitted, n2 inheritable; slot-free
    OP_AMBIENT                      # n0 set
    OP_UMASK                        # n0
    OP_SCHEDULER                    # n0 blob offset of a struct sched_attr, n1 its words of 8 bytes
    OP_IO_PRIORITY                  # n0 class and priority
    OP_PERSONALITY                  # n0 execution domain
    OP_MEMORY_POLICY                # n0 mode and flags, n1 blob offset of the nodes' mask, n2 its words of 8 bytes, or 0
    OP_AFFINITY                     # n0 blob offset of the CPUs' mask, n1 its words of 8 bytes
    OP_CHDIR                        # s0 path; must be inside the root
    OP_SECCOMP                      # n0 blob offset, n1 instructions, n2 flags
    OP_FORK                         # go on as a child of the supervisor's, born inside the pid namespace that was joined; F_TTY: as above
    OP_LOOKUP                       # s0 candidates (n1 of them): may the user n0 >> 32 of the group n0 and the groups s1 execute one?
                                    # n2: they are a search, which passes over what nobody could execute
    OP_WAIT_START                   # slot a, if given: the socket on which the start comes; else the supervisor goes on at once
    OP_HOOK                         # n0 index of the oci block's hook, which init executes itself
    OP_EXECVE                       # s0 candidates (n0 of them, NUL-separated)
    OP_COUNT

cdef enum:
    # step.flags
    F_RECURSIVE = 1
    F_CREATE = 2
    F_FILE = 4
    F_REAL = 8                      # no component may be a symlink; the object must be a directory
    F_OPTIONAL = 16                 # a missing object is no error
    F_TTY = 32
    F_CHARDEV = 64
    F_CPUSET = 128                  # a v1 cpuset: directories made above it get cpus and mems
    F_SEED_CPUSET = 256             # and so does this one, at once
    F_MISSING = 1024                # a file that the kernel lacks is no error
    F_ALTERNATIVE = 2048            # as F_MISSING; if it is there, the next step is the alternative and is skipped
    F_KEEP_PARENTS = 4096           # the directories above stay, whoever made them
    F_EXISTING = 512                # an existing cgroup is joined and not removed; an existing node that is the same is no error;
                                    # groups that are there stay
    F_PROC = 8192                   # what is in procfs may be covered
    F_ALL = 16383

    NEEDS_SLOT_A = 1
    NEEDS_SLOT_B = 2
    NEEDS_S0 = 4
    NEEDS_S1 = 8
    NEEDS_S2 = 16
    ON_HOST = 32
    IN_INIT = 64


cdef struct plan_step:
    uint16_t op
    uint16_t stage
    uint32_t flags
    uint32_t s0
    uint32_t s1
    uint32_t s2
    uint32_t section
    uint32_t slot_a
    uint32_t slot_b
    uint64_t n0
    uint64_t n1
    uint64_t n2
    uint64_t reserved

cdef struct plan_header:
    uint32_t magic
    uint32_t version
    uint32_t size
    uint32_t flags
    uint32_t step_count
    uint32_t steps_off
    uint32_t argv_off
    uint32_t argv_count
    uint32_t env_off
    uint32_t env_count
    uint32_t blob_off
    uint32_t blob_size
    uint32_t strings_off
    uint32_t strings_size
    uint32_t fd_count
    uint32_t cgroup_slot            # CLONE_INTO_CGROUP, or NONE
    uint64_t clone_flags
    uint32_t memory_slot            # the memory cgroup, whose OOM kills are reported, or NONE
    uint32_t shim_off               # a plan_shim, or 0: the supervisor ends with its requester
    uint32_t oci_off                # a plan_oci, or 0: no front door is the supervisor
    uint32_t reserved[11]

# Three calls to systemd, marshalled, one behind the other, each 8-aligned.
cdef struct plan_unit:
    uint32_t start_size             # the one that starts the unit ...
    uint32_t pid_at                 # ... and where in it its first process is told; 0: it has none
    uint32_t stop_size              # the one that stops it
    uint32_t reset_size             # the one that has it forgotten where it has failed

# What makes a supervisor a shim. Texts are offsets in the string area; lists are texts one after another.
cdef struct plan_shim:
    uint32_t flags
    uint32_t state_dir              # where `running` and `status` are written
    uint32_t log                    # the file in Docker's json-file format, or NONE
    uint32_t log_files              # how many there may be, at least 1
    uint64_t log_bytes              # how large one grows before the next is begun; 0: without end
    uint32_t exit_argv              # the program that takes note of the end where no owner does
    uint32_t exit_argc
    uint32_t exit_env
    uint32_t exit_envc
    uint32_t hierarchies            # mount points of cgroups ...
    uint32_t hierarchy_count
    uint32_t cgroup                 # ... in each of which the shim itself moves here; or NONE: it stays
    uint32_t uid                    # whose the pipes are, by the host's numbers
    uint32_t gid
    uint32_t window                 # rows << 16 | columns of the terminal


cdef inline uint32_t plan_needs(uint32_t op) noexcept nogil:
    """What a step of this kind must have, and where it may stand; 0 for an unknown op."""
    if op == OP_CGROUP_MKDIR: return ON_HOST | NEEDS_S0 | NEEDS_S1
    if op == OP_WRITE_AT: return ON_HOST | NEEDS_SLOT_A | NEEDS_S0 | NEEDS_S1
    if op == OP_OPEN_AT: return ON_HOST | NEEDS_SLOT_A | NEEDS_SLOT_B | NEEDS_S0
    if op == OP_OPEN: return ON_HOST | NEEDS_SLOT_A | NEEDS_S0
    if op == OP_PROCESS: return ON_HOST | NEEDS_SLOT_A
    if op == OP_DEVICE_BPF: return ON_HOST | NEEDS_SLOT_A
    if op == OP_NET_DEVICE: return ON_HOST | NEEDS_S0 | NEEDS_S1
    if op == OP_UNIT: return ON_HOST | NEEDS_S0 | NEEDS_S1 | NEEDS_S2
    if op == OP_WRITE_PROC: return ON_HOST | NEEDS_S0 | NEEDS_S1
    if op == OP_USERNS: return ON_HOST | NEEDS_SLOT_A | NEEDS_S0 | NEEDS_S1
    if op == OP_OVERLAY: return ON_HOST | NEEDS_SLOT_A | NEEDS_SLOT_B | NEEDS_S0 | NEEDS_S1 | NEEDS_S2
    if op == OP_OPEN_TREE: return ON_HOST | IN_INIT | NEEDS_SLOT_A | NEEDS_S0
    if op == OP_NEW_MOUNT: return ON_HOST | IN_INIT | NEEDS_SLOT_A | NEEDS_S0 | NEEDS_S1
    if op == OP_MOUNT_ATTR: return ON_HOST | IN_INIT | NEEDS_SLOT_A
    if op == OP_SETNS: return ON_HOST | IN_INIT | NEEDS_SLOT_A
    if op == OP_SYNC or op == OP_UNSHARE or op == OP_LOOPBACK_UP or op == OP_RLIMIT or op == OP_FORK: return IN_INIT
    if op == OP_SESSION or op == OP_NO_NEW_PRIVS or op == OP_BOUNDING or op == OP_CAPABILITIES: return IN_INIT
    if op == OP_AMBIENT or op == OP_UMASK or op == OP_SECCOMP: return IN_INIT
    if OP_SCHEDULER <= op <= OP_AFFINITY: return IN_INIT
    if op == OP_JOIN_TASKS or op == OP_PIVOT_ROOT or op == OP_STDIO: return IN_INIT | NEEDS_SLOT_A
    if op == OP_PROPAGATION or op == OP_MKDIR or op == OP_MKNOD or op == OP_READONLY: return IN_INIT | NEEDS_S0
    if op == OP_HOSTNAME or op == OP_DOMAINNAME or op == OP_CHDIR or op == OP_EXECVE: return IN_INIT | NEEDS_S0
    if op == OP_USER: return IN_INIT | NEEDS_S0
    if op == OP_LOOKUP: return IN_INIT | NEEDS_S0 | NEEDS_S1
    if op == OP_WAIT_START or op == OP_HOOK: return IN_INIT
    if op == OP_TERMINAL: return IN_INIT | NEEDS_SLOT_B
    if op == OP_ROOT_ATTACH or op == OP_ATTACH or op == OP_COPY_UP or op == OP_MASK: return IN_INIT | NEEDS_SLOT_A | NEEDS_S0
    if op == OP_REMOUNT: return IN_INIT | NEEDS_S0
    if op == OP_OWNER: return IN_INIT | NEEDS_SLOT_A | NEEDS_S0
    if op == OP_RECONFIGURE: return IN_INIT | NEEDS_SLOT_A | NEEDS_S0 | NEEDS_S1
    if op == OP_SYMLINK or op == OP_FILE: return IN_INIT | NEEDS_S0 | NEEDS_S1
    if op == OP_ROOT_OVERLAY: return IN_INIT | NEEDS_SLOT_A | NEEDS_S0 | NEEDS_S1 | NEEDS_S2
    if op == OP_WRITE_PROCFS: return IN_INIT | NEEDS_SLOT_A | NEEDS_S0 | NEEDS_S1
    return 0


cdef inline int plan_validate(const unsigned char *data, uint64_t size, uint32_t fds) noexcept nogil:
    """0 if every offset, count, slot and op of the plan is in bounds; else -EINVAL or the like.

    A step is refused that stands where it may not, or uses a slot that no descriptor of the
    request and no earlier step can have filled out of range. What it *means* is not judged here.
    """
    cdef const plan_header *h = <const plan_header *>data
    cdef const plan_step *steps
    cdef const plan_step *step
    cdef const uint32_t *table
    cdef const char *strings
    cdef uint32_t needs
    cdef uint32_t i
    cdef uint32_t last_section = 0
    cdef bint seen_exec = False
    cdef bint joined = False
    cdef bint joins_mounts = False
    cdef bint forked = False
    cdef bint waited = False
    cdef bint seen_unit = False
    cdef uint32_t awaited = 0
    cdef uint32_t served = 0
    cdef uint32_t hooks = 0
    if size < sizeof(plan_header) or size > PLAN_MAX_SIZE:
        return -EMSGSIZE
    if h.magic != PLAN_MAGIC or h.version != PLAN_VERSION:
        return -EPROTO
    # Without a mount namespace of its own, or one that its stage joins, init's mounts would be the host's.
    if h.flags & <uint32_t>PLAN_EXEC:
        if h.clone_flags != 0:
            return -EINVAL
    elif h.clone_flags & ~<uint64_t>PLAN_NAMESPACES:
        return -EINVAL
    if h.size != size or h.fd_count > fds:
        return -EMSGSIZE
    if h.step_count == 0 or h.step_count > PLAN_MAX_STEPS or fds > PLAN_MAX_SLOTS:
        return -E2BIG
    if h.argv_count == 0 or h.argv_count > PLAN_MAX_ARGS or h.env_count > PLAN_MAX_ARGS:
        return -E2BIG
    if (h.steps_off | h.blob_off) & 7 or (h.argv_off | h.env_off) & 3:
        return -EINVAL
    if not _inside(h.steps_off, <uint64_t>h.step_count * sizeof(plan_step), size):
        return -EINVAL
    if not _inside(h.argv_off, <uint64_t>h.argv_count * 4, size) or not _inside(h.env_off, <uint64_t>h.env_count * 4, size):
        return -EINVAL
    if not _inside(h.blob_off, h.blob_size, size) or not _inside(h.strings_off, h.strings_size, size):
        return -EINVAL
    if h.strings_size == 0 or data[<uint64_t>h.strings_off + h.strings_size - 1] != 0:
        return -EINVAL
    if h.cgroup_slot != <uint32_t>NONE and h.cgroup_slot >= PLAN_MAX_SLOTS:
        return -EINVAL
    if h.memory_slot != <uint32_t>NONE and h.memory_slot >= PLAN_MAX_SLOTS:
        return -EINVAL
    if h.flags & ~<uint32_t>(PLAN_QUIET | PLAN_KEEP_RUNNING | PLAN_EXEC):
        return -EINVAL
    for i in range(11):
        if h.reserved[i] != 0:
            return -EINVAL
    if h.shim_off != 0:
        if not _shim_ok(data, size, fds - h.fd_count):
            return -EINVAL
    elif h.fd_count != fds:
        return -EMSGSIZE
    if h.oci_off != 0:
        # Its supervisor is the front door, whose own standard descriptors the program gets.
        if h.shim_off != 0 or fds != 3 or not oci_ok(data, size, h.oci_off, <const char *>data + h.strings_off, h.strings_size):
            return -EINVAL
        hooks = (<const plan_oci *>(data + h.oci_off)).hook_count
        served |= 1 << OCI_SYNC     # with no step at all: the hooks
    strings = <const char *>data + h.strings_off
    table = <const uint32_t *>(data + h.argv_off)
    for i in range(h.argv_count):
        if table[i] >= h.strings_size:
            return -EINVAL
    table = <const uint32_t *>(data + h.env_off)
    for i in range(h.env_count):
        if table[i] >= h.strings_size:
            return -EINVAL
    steps = <const plan_step *>(data + h.steps_off)
    for i in range(h.step_count):
        step = &steps[i]
        needs = plan_needs(step.op)
        if needs == 0 or step.section > <uint32_t>SECTION_STAGE or step.section < last_section:
            return -EINVAL
        last_section = step.section
        if step.section == <uint32_t>SECTION_STAGE:
            if not _may_stage(step):
                return -EINVAL
            if step.op == OP_SETNS and step.n0 & <uint64_t>CLONE_NEWNS:
                joins_mounts = True
        elif not needs & (IN_INIT if step.section == SECTION_INIT else ON_HOST):
            return -EINVAL
        if seen_exec and step.section == SECTION_INIT:
            return -EINVAL
        if step.stage >= 16:
            return -EINVAL
        if (step.slot_a >= PLAN_MAX_SLOTS) and (needs & NEEDS_SLOT_A or step.slot_a != <uint32_t>NONE):
            return -EINVAL
        if (step.slot_b >= PLAN_MAX_SLOTS) and (needs & NEEDS_SLOT_B or step.slot_b != <uint32_t>NONE):
            return -EINVAL
        if step.s0 >= h.strings_size and (needs & NEEDS_S0 or step.s0 != <uint32_t>NONE):
            return -EINVAL
        if step.s1 >= h.strings_size and (needs & NEEDS_S1 or step.s1 != <uint32_t>NONE):
            return -EINVAL
        if step.s2 >= h.strings_size and (needs & NEEDS_S2 or step.s2 != <uint32_t>NONE):
            return -EINVAL
        if step.flags & ~<uint32_t>F_ALL or step.reserved != 0 or not _operands_ok(h, step, strings):
            return -EINVAL
        if h.flags & <uint32_t>PLAN_EXEC:
            if not _may_join(step, strings, joined, forked):
                return -EINVAL
            joined |= step.op == OP_SETNS
            forked |= step.op == OP_FORK
        elif step.op == OP_FORK:
            return -EINVAL
        if step.op == OP_HOOK and step.n0 >= hooks:
            return -EINVAL
        if step.op == OP_UNIT:
            if seen_unit or h.oci_off == 0:
                return -EINVAL
            seen_unit = True
        if step.op == OP_WAIT_START:
            if waited or h.oci_off == 0:
                return -EINVAL
            waited = True
        if step.op == OP_EXECVE:
            seen_exec = True
        elif step.op == OP_SYNC:
            awaited |= 1 << step.n0
        if <uint32_t>SECTION_SYNC <= step.section < <uint32_t>SECTION_STAGE:
            # Only this, so that all that a host step leaves behind is made before init is cloned.
            if step.op != OP_WRITE_PROC and step.op != OP_NET_DEVICE:
                return -EINVAL
            served |= 1 << (step.section - <uint32_t>SECTION_SYNC)
        elif step.op == OP_NET_DEVICE or (step.op == OP_WRITE_PROC and step.section != <uint32_t>SECTION_STAGE):
            return -EINVAL
    if not h.flags & <uint32_t>PLAN_EXEC and not h.clone_flags & <uint64_t>CLONE_NEWNS and not joins_mounts:
        return -EINVAL
    if awaited & ~served:
        return -EINVAL              # init would wait for ever
    return 0 if seen_exec else -EINVAL


cdef inline const plan_shim *plan_shim_of(const unsigned char *data) noexcept nogil:
    """The shim of a plan that was found valid, or NULL."""
    cdef uint32_t offset = (<const plan_header *>data).shim_off
    return <const plan_shim *>(data + offset) if offset else NULL


cdef inline const plan_oci *plan_oci_of(const unsigned char *data) noexcept nogil:
    """The oci block of a plan that was found valid, or NULL."""
    cdef uint32_t offset = (<const plan_header *>data).oci_off
    return <const plan_oci *>(data + offset) if offset else NULL


cdef inline bint _shim_ok(const unsigned char *data, uint64_t size, uint32_t fds) noexcept nogil:
    """Whether the plan's shim is in bounds, and the request carries *fds* descriptors for it."""
    cdef const plan_header *h = <const plan_header *>data
    cdef const plan_shim *s = <const plan_shim *>(data + h.shim_off)
    cdef const char *strings = <const char *>data + h.strings_off
    cdef uint32_t limit = h.strings_size
    if h.shim_off & 7 or not _inside(h.shim_off, sizeof(plan_shim), size):
        return False
    # One record at the end is for a requester that waits for it; and the streams' places are filled here.
    if h.flags & <uint32_t>PLAN_QUIET or h.fd_count < <uint32_t>SHIM_STREAMS or s.flags & ~<uint32_t>SHIM_ALL:
        return False
    if fds != (s.flags & <uint32_t>SHIM_LISTEN) + (s.flags & <uint32_t>SHIM_CLIENT) / 2:
        return False
    if s.state_dir >= limit or strings[s.state_dir] != c'/':
        return False
    if s.log != <uint32_t>NONE and (s.log >= limit or strings[s.log] != c'/' or not 1 <= s.log_files <= SHIM_MAX_FILES):
        return False
    if s.exit_argc > <uint32_t>SHIM_MAX_WORDS or s.exit_envc > <uint32_t>SHIM_MAX_WORDS or s.hierarchy_count > <uint32_t>SHIM_MAX_HIERARCHIES:
        return False
    if not _list_ends(strings, limit, s.exit_argv, s.exit_argc) or not _list_ends(strings, limit, s.exit_env, s.exit_envc):
        return False
    if s.exit_argc > 0 and strings[s.exit_argv] != c'/':
        return False
    if s.cgroup != <uint32_t>NONE and (s.cgroup >= limit or not _plain_path(strings + s.cgroup)):
        return False
    return _list_ends(strings, limit, s.hierarchies, s.hierarchy_count) and s.uid < <uint32_t>NONE and s.gid < <uint32_t>NONE


cdef inline bint _may_join(const plan_step *step, const char *strings, bint joined, bint forked) noexcept nogil:
    """Whether a step may stand here in a plan with PLAN_EXEC: none that mounts or makes, and each in its order."""
    cdef uint32_t op = step.op
    if step.section != SECTION_INIT:
        return step.section == SECTION_HOST and (op == OP_OPEN or op == OP_PROCESS)
    if not joined:
        if op == OP_SETNS:
            return step.n0 & <uint64_t>CLONE_NEWNS and not step.n0 & ~<uint64_t>PLAN_NAMESPACES
        # One's own OOM score and labels, by the host's procfs; nothing else of it.
        if op == OP_WRITE_PROCFS:
            return strcmp(strings + step.s0, b"self/oom_score_adj") == 0 or strncmp(strings + step.s0, b"self/attr/", 10) == 0
        return op == OP_JOIN_TASKS or op == OP_AFFINITY
    if op == OP_FORK:
        return not forked
    if op == OP_EXECVE:
        return forked
    if op == OP_TERMINAL or op == OP_LOOKUP:
        return not forked           # the container's processes shall not see the other side, nor who has capabilities
    if op == OP_SESSION or op == OP_STDIO or op == OP_RLIMIT or op == OP_CHDIR or op == OP_NO_NEW_PRIVS or op == OP_SECCOMP:
        return True
    if OP_SCHEDULER <= op <= OP_AFFINITY:
        return True
    return op == OP_BOUNDING or op == OP_USER or op == OP_CAPABILITIES or op == OP_AMBIENT or op == OP_UMASK


cdef inline bint _words_ok(const plan_header *h, uint64_t offset, uint64_t words) noexcept nogil:
    """Whether *words* of 8 bytes are in the blobs at *offset*."""
    return offset & 7 == 0 and offset <= h.blob_size and words <= 65536 and words * 8 <= h.blob_size - offset


cdef inline bint _unit_ok(const plan_header *h, const plan_step *step) noexcept nogil:
    """Whether the calls of a unit are in the blob that the step names, and the pid's place is in the first one."""
    cdef const plan_unit *unit
    cdef uint64_t size = sizeof(plan_unit)
    if step.n1 < 2 or not _words_ok(h, step.n0, step.n1):
        return False
    unit = <const plan_unit *>(<const unsigned char *>h + h.blob_off + step.n0)
    if unit.start_size < 16 or unit.stop_size < 16 or unit.reset_size < 16:
        return False
    if unit.pid_at & 3 or (unit.pid_at != 0 and <uint64_t>unit.pid_at + 4 > unit.start_size):
        return False
    size += (<uint64_t>unit.start_size + 7) & ~<uint64_t>7
    size += (<uint64_t>unit.stop_size + 7) & ~<uint64_t>7
    size += (<uint64_t>unit.reset_size + 7) & ~<uint64_t>7
    return size == step.n1 * 8


cdef inline bint _may_stage(const plan_step *step) noexcept nogil:
    """Whether a step may stand in the stage: what must be done before init is born, and changes nobody else."""
    if step.op == OP_UNSHARE:
        return step.n0 == <uint64_t>CLONE_NEWTIME
    if step.op == OP_SETNS:
        return step.n0 != 0 and not step.n0 & ~<uint64_t>PLAN_NAMESPACES
    return step.op == OP_WRITE_PROC


cdef inline bint _operands_ok(const plan_header *h, const plan_step *step, const char *strings) noexcept nogil:
    """Whether the operands that this kind of step has are ones that it can have."""
    cdef uint32_t op = step.op
    cdef const char *s0 = strings + step.s0
    if op == OP_OVERLAY:
        if not step.n0 or step.n0 >= PLAN_MAX_SLOTS or step.slot_b + step.n0 >= PLAN_MAX_SLOTS:
            return False
        return _plain_name(strings + step.s1) and _plain_name(strings + step.s2)
    if op == OP_NEW_MOUNT or op == OP_ROOT_OVERLAY or op == OP_RECONFIGURE:
        return step.n0 <= 4096 and _list_ends(strings, h.strings_size, step.s1, step.n0 * 2)
    if op == OP_EXECVE:
        return step.n0 != 0 and _list_ends(strings, h.strings_size, step.s0, step.n0)
    if op == OP_LOOKUP:
        return step.n1 != 0 and _list_ends(strings, h.strings_size, step.s0, step.n1) and _groups_ok(strings + step.s1)
    if op == OP_SECCOMP or op == OP_DEVICE_BPF:
        # classic BPF and eBPF alike: instructions of 8 bytes
        return 0 < step.n1 <= 65535 and _words_ok(h, step.n0, step.n1)
    if op == OP_SCHEDULER or op == OP_AFFINITY:
        if step.n1 == 0 or not _words_ok(h, step.n0, step.n1):
            return False
        # Of the structure the kernel reads as much as its first member says.
        return op == OP_AFFINITY or (<const uint32_t *>(<const unsigned char *>h + h.blob_off + step.n0))[0] == step.n1 * 8
    if op == OP_UNIT:
        return s0[0] == c'/' and _plain_name(strings + step.s1) and not step.flags and _unit_ok(h, step)
    if op == OP_MEMORY_POLICY:
        return step.n2 == 0 or _words_ok(h, step.n1, step.n2)
    if op == OP_USER:
        if step.n2 != 0 and (s0[0] != 0 or step.n2 >> 32 > 65536 or not _words_ok(h, <uint32_t>step.n2, ((step.n2 >> 32) + 1) >> 1)):
            return False
        return step.n0 < <uint64_t>NONE and step.n1 < <uint64_t>NONE and _groups_ok(s0)
    if op == OP_STDIO:
        return step.n0 <= 1023 and step.n1 <= <uint64_t>NONE
    if op == OP_TERMINAL:
        return step.n0 < <uint64_t>NONE and step.n1 <= 65535 and step.n2 <= 65535
    if op == OP_PROCESS:
        return 0 < step.n0 < <uint64_t>1 << 31
    if op == OP_SYNC:
        return step.n0 < MAX_SYNC
    if op == OP_NET_DEVICE:
        return 0 < strlen(s0) < 16 and 0 < strlen(strings + step.s1) < 16
    if op == OP_MKNOD or op == OP_SYMLINK or op == OP_MKDIR or op == OP_FILE:
        return _plain_path(s0) if step.slot_a == <uint32_t>NONE else _plain_name(s0)
    if op == OP_ATTACH and step.slot_b != <uint32_t>NONE:
        return _plain_path(s0) and step.s1 != <uint32_t>NONE and _plain_name(strings + step.s1)
    if op == OP_OPEN_TREE:
        return step.s1 == <uint32_t>NONE or _plain_path(strings + step.s1)
    if op == OP_OWNER:
        return step.n0 <= <uint64_t>NONE and step.n1 <= <uint64_t>NONE and (step.n2 <= 0o7777 or step.n2 == <uint64_t>NONE)
    if op == OP_REMOUNT or op == OP_MASK or op == OP_READONLY or op == OP_ATTACH or op == OP_COPY_UP:
        return _plain_path(s0)
    if op == OP_WRITE_AT or op == OP_OPEN_AT or op == OP_WRITE_PROC:
        return _plain_name(s0)
    if op == OP_CGROUP_MKDIR:
        # One that may fail could not be told from one that was made, at the time to remove it.
        return _plain_path(strings + step.s1) and strings[step.s1 + 1] != 0 and not step.flags & F_OPTIONAL
    return True
