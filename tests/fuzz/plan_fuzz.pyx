# cython: cdivision=True, boundscheck=False, language_level=3
# A mutation engine around the plan's validator, for AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   plan_fuzz COUNT SEED FILE...
#
# Each of COUNT mutants of the seed plans in FILE... lies in a heap block of exactly its size. What the validator
# accepts is then walked by code of its own: every list and every string to its NUL, every blob to its end,
# every slot. So a read past the plan is seen wherever it happens. Ends with one line: how many mutants got which
# answer. Linked as pyrunc-init is: the Python half falls away.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport printf
from libc.stdlib cimport abort, free, malloc, strtoull
from libc.string cimport memcpy, memmove

from pyrunc._native.linux cimport AT_FDCWD, O_RDONLY, close, openat, read
from pyrunc._native.plan cimport *
from pyrunc._native.plan_rules cimport *
from pyrunc._native.plan_oci cimport *
from pyrunc._native.plan_text cimport *

cdef enum:
    MAX_SEEDS = 64
    MAX_SEED_SIZE = 1 << 18
    ANSWERS = 256                   # above every errno

cdef struct corpus:
    unsigned char *plans[MAX_SEEDS]
    uint32_t sizes[MAX_SEEDS]
    uint32_t count

cdef struct mutant:
    unsigned char *data             # MAX_SEED_SIZE bytes
    uint32_t size
    uint32_t fds


cdef inline uint64_t draw(uint64_t *state) noexcept nogil:
    """xorshift64*."""
    state[0] ^= state[0] >> 12
    state[0] ^= state[0] << 25
    state[0] ^= state[0] >> 27
    return state[0] * <uint64_t>2685821657736338717


cdef inline uint32_t below(uint64_t *state, uint32_t limit) noexcept nogil:
    return <uint32_t>((draw(state) >> 32) % limit) if limit else 0


cdef inline uint32_t get32(const unsigned char *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline void put32(unsigned char *at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef inline uint32_t interesting(uint64_t *state, const mutant *m) noexcept nogil:
    """A number at an edge: of the types, of the plan, of its tables."""
    cdef uint32_t kind = below(state, 14)
    if kind < 4:
        return below(state, 5) - 2
    if kind == 4:
        return <uint32_t>1 << below(state, 32)
    if kind == 5:
        return (<uint32_t>1 << below(state, 32)) - 1
    if kind == 6:
        return m.size + below(state, 9) - 4
    if kind == 7:
        return below(state, m.size + 1)
    if kind == 8:
        return below(state, OP_COUNT + 2)
    if kind == 9:
        return PLAN_MAX_SLOTS + below(state, 3) - 1
    if kind == 10:
        return PLAN_MAX_STEPS + below(state, 3) - 1
    if kind == 11:
        return get32(m.data + 4 * below(state, sizeof(plan_header) / 4))    # another field of the header
    if kind == 12:
        return get32(m.data + 52) + below(state, 9) - 4                     # strings_size
    return <uint32_t>draw(state)


cdef inline uint32_t place(uint64_t *state, const mutant *m, uint32_t align) noexcept nogil:
    """Where to change something: half of the time among header and steps, where numbers are."""
    cdef uint32_t end = m.size
    cdef uint32_t source
    cdef uint32_t kind = below(state, 5)
    if kind == 4 and get32(m.data + 76) and m.size >= sizeof(plan_shim):
        return m.size - sizeof(plan_shim) + below(state, sizeof(plan_shim) / align) * align   # where finish() puts it
    if kind == 4 and get32(m.data + 80) and get32(m.data + 80) < m.size:
        source = get32(m.data + 80)
        return (source + below(state, m.size - source)) / align * align                       # oci, and its hooks
    if kind == 0:
        end = sizeof(plan_header)
    elif kind == 1:
        end = sizeof(plan_header) + get32(m.data + 16) % 256 * <uint32_t>sizeof(plan_step)
    if end > m.size:
        end = m.size
    return below(state, end / align) * align


cdef inline void mutate(uint64_t *state, mutant *m, const corpus *seeds) noexcept nogil:
    """One change; the size stays at least that of a header."""
    cdef uint32_t kind = below(state, 12)
    cdef uint32_t other = below(state, seeds.count)
    cdef uint32_t at
    cdef uint32_t source
    cdef uint32_t length
    if kind == 0:
        m.data[place(state, m, 1)] ^= <unsigned char>(1 << below(state, 8))
    elif kind == 1:
        m.data[place(state, m, 1)] = <unsigned char>draw(state)
    elif kind == 2 or kind == 3:
        put32(m.data + place(state, m, 4), interesting(state, m))
    elif kind == 4:
        at = place(state, m, 4)
        put32(m.data + at, get32(m.data + at) + below(state, 71) - 35)
    elif kind == 5:
        m.size = sizeof(plan_header) + below(state, m.size - <uint32_t>sizeof(plan_header) + 1)     # truncated
    elif kind == 6:
        length = below(state, 64)                                           # extended by what lay there
        if m.size + length <= MAX_SEED_SIZE:
            m.size += length
    elif kind == 7 or kind == 8:
        length = 1 + below(state, 192)                                      # spliced with another seed
        at = place(state, m, 8)
        source = below(state, seeds.sizes[other]) & <uint32_t>~7
        if length > m.size - at:
            length = m.size - at
        if length > seeds.sizes[other] - source:
            length = seeds.sizes[other] - source
        memcpy(m.data + at, seeds.plans[other] + source, length)
    elif kind == 9:
        at = place(state, m, 8)                                             # one step over another
        source = place(state, m, 8)
        length = sizeof(plan_step)
        if at + length <= m.size and source + length <= m.size:
            memmove(m.data + at, m.data + source, length)
    elif kind == 10:
        at = place(state, m, 1)                                             # a string loses its end
        while at < m.size and m.data[at] != 0:
            at += 1
        if at < m.size:
            m.data[at] = c'/'
    else:
        m.data[m.size - 1] = <unsigned char>below(state, 2)


cdef inline uint32_t carried(const mutant *m) noexcept nogil:
    """How many descriptors a request with this plan says that it carries."""
    cdef uint32_t offset = get32(m.data + 76)
    cdef uint32_t flags = 0
    if offset and m.size >= sizeof(plan_shim) and offset <= m.size - sizeof(plan_shim):
        flags = get32(m.data + offset)
    return get32(m.data + 56) + (flags & SHIM_LISTEN) + (flags & SHIM_CLIENT) / 2


cdef inline uint64_t touch_text(const char *text, const char *end, uint64_t count) noexcept nogil:
    """Read *count* strings to their NULs; the sum keeps the compiler from leaving it out."""
    cdef uint64_t total = 0
    while count > 0:
        if text >= end:
            abort()
        while text[0] != 0:
            total += <unsigned char>text[0]
            text += 1
            if text >= end:
                abort()
        text += 1
        count -= 1
    return total


cdef inline uint64_t touch_optional(const char *strings, uint32_t offset, const char *end) noexcept nogil:
    return touch_text(strings + offset, end, 1) if offset != <uint32_t>NONE else 0


cdef inline uint64_t touch(const unsigned char *data, uint64_t size, int *slots) noexcept nogil:
    """Walk an accepted plan as its walkers do, but only read."""
    cdef const plan_header *h = <const plan_header *>data
    cdef const char *strings = <const char *>data + h.strings_off
    cdef const char *end = strings + h.strings_size
    cdef const uint32_t *table
    cdef const plan_step *step
    cdef const plan_shim *s
    cdef const plan_oci *o
    cdef const plan_oci_hook *hook
    cdef uint64_t total = 0
    cdef uint64_t j
    cdef uint32_t i
    cdef uint32_t section = 0
    cdef uint32_t programs = 0
    if <const unsigned char *>end > data + size:
        abort()
    table = <const uint32_t *>(data + h.argv_off)
    for i in range(h.argv_count):
        total += touch_text(strings + table[i], end, 1)
    table = <const uint32_t *>(data + h.env_off)
    for i in range(h.env_count):
        total += touch_text(strings + table[i], end, 1)
    for i in range(h.step_count):
        step = &(<const plan_step *>(data + h.steps_off))[i]
        if step.section < section or step.op >= OP_COUNT or step.stage >= 16:
            abort()
        section = step.section
        if step.slot_a != <uint32_t>NONE:
            total += <uint64_t>slots[step.slot_a]
        if step.slot_b != <uint32_t>NONE:
            total += <uint64_t>slots[step.slot_b]
        if step.s0 != <uint32_t>NONE:
            total += touch_text(strings + step.s0, end, 1)
        if step.s1 != <uint32_t>NONE:
            total += touch_text(strings + step.s1, end, 1)
        if step.s2 != <uint32_t>NONE:
            total += touch_text(strings + step.s2, end, 1)
        if step.op == OP_NEW_MOUNT:
            total += touch_text(strings + step.s1, end, step.n0 * 2)
        elif step.op == OP_EXECVE:
            total += touch_text(strings + step.s0, end, step.n0)
            programs += 1
        elif step.op == OP_LOOKUP:
            total += touch_text(strings + step.s0, end, step.n1)
        elif step.op == OP_SECCOMP or step.op == OP_DEVICE_BPF:
            for j in range(step.n1 * 8):
                total += data[h.blob_off + step.n0 + j]
        elif step.op == OP_SCHEDULER or step.op == OP_AFFINITY:
            for j in range(step.n1 * 8):
                total += data[h.blob_off + step.n0 + j]
        elif step.op == OP_MEMORY_POLICY:
            for j in range(step.n2 * 8):
                total += data[h.blob_off + step.n1 + j]
        elif step.op == OP_USER and step.n2:
            for j in range((step.n2 >> 32) * 4):
                total += data[h.blob_off + <uint32_t>step.n2 + j]
    if h.shim_off:
        s = <const plan_shim *>(data + h.shim_off)
        total += s.log_bytes + s.window + touch_text(strings + s.state_dir, end, 1)
        if s.log != <uint32_t>NONE:
            total += touch_text(strings + s.log, end, 1)
        if s.cgroup != <uint32_t>NONE:
            total += touch_text(strings + s.cgroup, end, 1)
        total += touch_text(strings + s.exit_argv, end, s.exit_argc)
        total += touch_text(strings + s.exit_env, end, s.exit_envc)
        total += touch_text(strings + s.hierarchies, end, s.hierarchy_count)
    if h.oci_off:
        o = <const plan_oci *>(data + h.oci_off)
        total += touch_text(strings + o.state_dir, end, 1) + touch_text(strings + o.id, end, 1)
        total += touch_optional(strings, o.pid_file, end) + touch_optional(strings, o.pidfd_socket, end)
        total += touch_optional(strings, o.console_socket, end) + touch_optional(strings, o.log, end)
        total += touch_optional(strings, o.seccomp_listener, end) + touch_optional(strings, o.seccomp_metadata, end)
        total += touch_optional(strings, o.bundle, end)
        total += o.preserve_fds + o.window + touch_text(strings + o.log_format, end, 1)
        for i in range(OCI_STATE_TEXTS):
            total += touch_text(strings + o.state[i], end, 1)
        for i in range(OCI_HOOK_TEXTS):
            total += touch_text(strings + o.hook_state[i], end, 1)
        for i in range(o.hook_count):
            hook = &(<const plan_oci_hook *>(data + o.hooks_off))[i]
            total += hook.kind + hook.timeout_s + touch_text(strings + hook.path, end, 1)
            total += touch_text(strings + hook.argv, end, hook.argc)
            if hook.envc != <uint32_t>NONE:
                total += touch_text(strings + hook.env, end, hook.envc)
    if h.cgroup_slot != <uint32_t>NONE:
        total += <uint64_t>slots[h.cgroup_slot]
    if h.memory_slot != <uint32_t>NONE:
        total += <uint64_t>slots[h.memory_slot]
    if programs == 0:
        abort()
    return total


cdef inline int load(corpus *seeds, const char *path) noexcept nogil:
    cdef ssize_t got
    cdef uint32_t size = 0
    cdef unsigned char *data = <unsigned char *>malloc(MAX_SEED_SIZE / 2)
    cdef int fd = openat(AT_FDCWD, path, O_RDONLY)
    if fd < 0 or data == NULL or seeds.count == MAX_SEEDS:
        return -1
    while True:
        got = read(fd, data + size, MAX_SEED_SIZE / 2 - size)
        if got <= 0:
            break
        size += <uint32_t>got
    close(fd)
    seeds.plans[seeds.count] = data
    seeds.sizes[seeds.count] = size
    seeds.count += 1
    return 0 if size >= sizeof(plan_header) else -1


cdef public int plan_fuzz_main(int argc, char **argv) noexcept nogil:
    cdef corpus seeds
    cdef mutant m
    cdef uint64_t answers[ANSWERS]
    cdef uint64_t count
    cdef uint64_t state
    cdef uint64_t i
    cdef uint64_t total = 0
    cdef uint32_t chosen
    cdef uint32_t changes
    cdef unsigned char *block
    cdef int slots[PLAN_MAX_SLOTS]
    cdef int rc
    if argc < 4:
        return 64
    count = strtoull(argv[1], NULL, 10)
    state = strtoull(argv[2], NULL, 10) * 2 + 1
    seeds.count = 0
    for rc in range(3, argc):
        if load(&seeds, argv[rc]) < 0:
            return 66
    for rc in range(ANSWERS):
        answers[rc] = 0
    for rc in range(PLAN_MAX_SLOTS):
        slots[rc] = rc
    m.data = <unsigned char *>malloc(MAX_SEED_SIZE)
    for i in range(MAX_SEED_SIZE):
        m.data[i] = 0
    for i in range(count):
        chosen = below(&state, seeds.count)
        m.size = seeds.sizes[chosen]
        memcpy(m.data, seeds.plans[chosen], m.size)
        m.fds = carried(&m)
        changes = 1 + below(&state, 6)
        while changes > 0:
            mutate(&state, &m, &seeds)
            changes -= 1
        # Most mutants shall get past the first look at the header.
        if below(&state, 8):
            put32(m.data, PLAN_MAGIC)
            put32(m.data + 4, PLAN_VERSION)
            put32(m.data + 8, m.size)
        if below(&state, 8):
            m.fds = carried(&m)
        if below(&state, 512) == 0:
            m.size = below(&state, sizeof(plan_header))     # not even a header
        block = <unsigned char *>malloc(m.size)
        memcpy(block, m.data, m.size)
        rc = plan_validate(block, m.size, m.fds)
        if rc > 0 or rc <= -ANSWERS:
            abort()
        answers[-rc] += 1
        if rc == 0:
            total += touch(block, m.size, slots)
        free(block)
    printf(b"total=%llu", total)
    for rc in range(ANSWERS):
        if answers[rc]:
            printf(b" %d=%llu", rc, answers[rc])
    printf(b"\n")
    return 0
