# cython: cdivision=True, boundscheck=False
# What a shim keeps. An idle one must cost next to nothing: no heap, and pages of work that are given back.

from pyrunc._native.linux cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.shim_log cimport *

cdef enum:
    SHIM = 3                        # in the spawner's table, beside SPARE and SERVING
    CHUNK = 32768                   # of the program's output, for one read(2)
    INPUT_ROOM = 16384              # of its input: what it has not taken yet
    MOVE_MS = 5                     # what ends sooner is spared the change of cgroups, which costs as much
    TAIL_MS = 20                    # how long a line may take to be finished before it is logged as it is
    QUIET_MS = 1000                 # without work, after which pages are given back
    TERMINAL_MS = 300               # how often a terminal that no process has open is looked at
    MAX_CLIENTS = 512               # that are attached at once
    HEAD = 8                        # of a frame: kind, 0, 0, 0, length (big-endian)

    # Kinds of frames, from a client ...
    FRAME_STDIN = 0
    FRAME_HELLO = 16                # u32 (big-endian): what it wants
    FRAME_CLOSE_STDIN = 17
    FRAME_RESIZE = 18               # u16 rows, u16 columns
    FRAME_DETACH = 19
    FRAME_BEGIN = 22                # where output is held back: from here on it is the program's
    # ... and to it; those of the streams are Docker's
    FRAME_STDOUT = 1
    FRAME_STDERR = 2
    FRAME_EXIT = 20                 # the line of `status`
    FRAME_READY = 21                # from here on it misses nothing

    WANTS_STDIN = 1
    WANTS_STDOUT = 2
    WANTS_STDERR = 4

# Pages that are there only while there is work.
cdef struct workspace:
    char output[2][RECORD_MAX + CHUNK]
    char records[LOG_ROOM]
    char names[2 * NAME_ROOM]
    char input[INPUT_ROOM]

cdef struct client:
    int fd
    int spool                       # what its socket did not take, in a file without a name; or -1
    uint64_t sent                   # of it
    uint64_t spooled
    uint64_t waited_ns              # how long all others have waited for it
    uint32_t wants
    uint32_t left                   # of the input in its present frame
    uint8_t head[16]                # of its next one
    uint32_t have
    bint deaf                       # it takes nothing more
    bint mute                       # it sends nothing more
    bint detached
    bint greeted                    # it has said HELLO

cdef struct shim:
    const plan_shim *plan
    workspace *space
    client *clients                 # MAX_CLIENTS of them, once there is one
    int client_count
    bint worked                     # since pages were last given back
    bint owner                      # the requester is there
    uint64_t move_at                # when it shall leave the requester's cgroups; 0: never, or it has
    bint moved                      # it did
    bint full                       # no descriptor was left for another client
    bint hung                       # no process has the terminal open
    bint held_back                  # what was written up to now is not the container's program's
    int host_net                    # the host's network namespace, where this process has left it; else -1
    int listener
    int input                       # the program's, to write to; -1 without
    bint input_ends                 # when what is held of it is written
    uint32_t input_done             # of what is held, written already
    uint32_t input_held
    uint64_t tail_at                # when unfinished lines are logged; 0: there are none
    shim_log log
    shim_stream streams[2]
