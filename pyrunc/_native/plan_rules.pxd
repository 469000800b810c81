# cython: cdivision=True, boundscheck=False
# What a plan has to be like before anything acts on it: every offset, count, slot, operation and flag, and their order.

from pyrunc._native.linux cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.plan_text cimport *


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
    cdef bint enters_mounts = False
    cdef bint drops_root = False
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
        if step.op == OP_SETNS:
            enters_mounts |= step.n0 == 0 or step.n0 & <uint64_t>CLONE_NEWNS != 0
        if step.op == OP_PIVOT_ROOT and step.n1 != 0:
            drops_root = True
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
    if drops_root and (enters_mounts or not h.clone_flags & <uint64_t>CLONE_NEWNS):
        return -EINVAL              # a root that others may have too
    if awaited & ~served:
        return -EINVAL              # init would wait for ever
    return 0 if seen_exec else -EINVAL


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
