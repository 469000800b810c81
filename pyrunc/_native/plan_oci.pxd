# cython: cdivision=True, boundscheck=False
# What makes the front door of pyrunc-oci a container's supervisor: where its state is kept, who is told of it, and
# the texts of which it puts state.json together. It never formats JSON: between the texts come numbers and words.
#
#   state.json   head pid status "created" middle <time> tail <start time> end
#   hooks' stdin head "created" middle pid tail

from pyrunc._native.linux cimport *
from pyrunc._native.plan_text cimport *

cdef enum:
    # oci.flags
    OCI_RUN = 1                     # create and start in one; without OCI_RUN and OCI_EXEC it is create
    OCI_EXEC = 2                    # the plan has PLAN_EXEC
    OCI_DETACH = 4                  # run, exec: do not wait for the program's end
    OCI_KEEP = 8                    # run: the state stays after the program's end
    OCI_TERMINAL = 16
    OCI_NO_SUBREAPER = 32
    OCI_NO_NEW_KEYRING = 64
    OCI_NO_PIVOT = 128
    OCI_DEBUG = 256                 # --debug, for who words an error
    OCI_NOTIFY = 512                # the state directory gets one for the socket of sd_notify(3)
    OCI_ALL = 1023

    OCI_SYNC = 1                    # the sync point at which the namespaces exist: prestart, createRuntime
    OCI_STATE_TEXTS = 5
    OCI_HOOK_TEXTS = 3
    OCI_MAX_HOOKS = 1024
    OCI_MAX_WORDS = 1 << 16         # of a hook
    OCI_MAX_PRESERVED = 1 << 20

    HOOK_PRESTART = 0
    HOOK_CREATE_RUNTIME = 1
    HOOK_CREATE_CONTAINER = 2
    HOOK_START_CONTAINER = 3
    HOOK_POSTSTART = 4
    HOOK_POSTSTOP = 5
    HOOK_KINDS = 6

# Texts are offsets in the string area; argv and env are texts one after another.
cdef struct plan_oci_hook:
    uint32_t kind
    uint32_t timeout_s              # 0: none
    uint32_t path
    uint32_t argv
    uint32_t argc                   # 0: its path is its name
    uint32_t env
    uint32_t envc                   # NONE: the document does not mention any, and it inherits one
    uint32_t reserved

cdef struct plan_oci:
    uint32_t flags
    uint32_t state_dir              # <root>/<id>
    uint32_t id
    uint32_t pid_file               # each of these may be NONE
    uint32_t pidfd_socket
    uint32_t console_socket
    uint32_t log
    uint32_t seccomp_listener       # the path of a socket that gets the filter's listener ...
    uint32_t seccomp_metadata       # ... with this text
    uint32_t log_format             # never NONE
    uint32_t preserve_fds           # how many descriptors from 3 on the program gets
    uint32_t window                 # rows << 16 | columns of the terminal
    uint32_t state[OCI_STATE_TEXTS]
    uint32_t hook_state[OCI_HOOK_TEXTS]
    uint32_t hooks_off              # plan_oci_hook[hook_count], 8-aligned; 0 without
    uint32_t hook_count
    uint32_t bundle                 # where the front door's own hooks run; NONE without hooks
    uint32_t reserved


cdef inline bint _text_or_none(uint32_t offset, uint32_t limit) noexcept nogil:
    return offset == <uint32_t>NONE or offset < limit


cdef inline bint _path_or_none(const char *strings, uint32_t offset, uint32_t limit) noexcept nogil:
    return offset == <uint32_t>NONE or (offset < limit and strings[offset] == c'/')


cdef inline bint oci_ok(const unsigned char *data, uint64_t size, uint32_t offset, const char *strings, uint32_t limit) noexcept nogil:
    """Whether the oci block at *offset* is in bounds; *limit* is the size of the string area."""
    cdef const plan_oci *o = <const plan_oci *>(data + offset)
    cdef const plan_oci_hook *hook
    cdef uint32_t last = 0
    cdef uint32_t i
    if offset & 7 or not _inside(offset, sizeof(plan_oci), size):
        return False
    if o.flags & ~<uint32_t>OCI_ALL or o.reserved != 0 or o.preserve_fds > <uint32_t>OCI_MAX_PRESERVED:
        return False
    if o.state_dir >= limit or strings[o.state_dir] != c'/' or o.id >= limit or not _plain_name(strings + o.id) or o.log_format >= limit:
        return False
    if not _path_or_none(strings, o.pid_file, limit) or not _path_or_none(strings, o.pidfd_socket, limit):
        return False
    if not _path_or_none(strings, o.console_socket, limit) or not _path_or_none(strings, o.log, limit):
        return False
    if not _path_or_none(strings, o.bundle, limit) or not _path_or_none(strings, o.seccomp_listener, limit) or not _text_or_none(o.seccomp_metadata, limit):
        return False
    for i in range(OCI_STATE_TEXTS):
        if o.state[i] >= limit:
            return False
    for i in range(OCI_HOOK_TEXTS):
        if o.hook_state[i] >= limit:
            return False
    if o.hook_count > <uint32_t>OCI_MAX_HOOKS or o.hooks_off & 7 or not _inside(o.hooks_off, o.hook_count * sizeof(plan_oci_hook), size):
        return False
    for i in range(o.hook_count):
        hook = &(<const plan_oci_hook *>(data + o.hooks_off))[i]
        # In the order of their kinds, so that those of one kind are found together.
        if hook.kind >= <uint32_t>HOOK_KINDS or hook.kind < last or hook.reserved != 0:
            return False
        last = hook.kind
        if hook.path >= limit or strings[hook.path] != c'/':
            return False
        if hook.argc > <uint32_t>OCI_MAX_WORDS or not _list_ends(strings, limit, hook.argv, hook.argc):
            return False
        if hook.envc != <uint32_t>NONE and (hook.envc > <uint32_t>OCI_MAX_WORDS or not _list_ends(strings, limit, hook.env, hook.envc)):
            return False
    return True
