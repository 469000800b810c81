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
    OP_PIVOT_ROOT                   # slot a: the root's mount; n0: it is moved over the old one; n1: a copy of its tree is as good
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


cdef inline const plan_shim *plan_shim_of(const unsigned char *data) noexcept nogil:
    """The shim of a plan that was found valid, or NULL."""
    cdef uint32_t offset = (<const plan_header *>data).shim_off
    return <const plan_shim *>(data + offset) if offset else NULL


cdef inline const plan_oci *plan_oci_of(const unsigned char *data) noexcept nogil:
    """The oci block of a plan that was found valid, or NULL."""
    cdef uint32_t offset = (<const plan_header *>data).oci_off
    return <const plan_oci *>(data + offset) if offset else NULL
