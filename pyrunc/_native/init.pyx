# cython: cdivision=True, boundscheck=False, language_level=3
"""The entries of pyrunc-init and pyrunc-oci.

The same source is compiled three times: as this extension module, and, with its Python half and what the other one needs
discarded by the linker, as the freestanding executables. They are two, since each process with a spawner has a copy
of pyrunc-init in its memory, of which pyrunc-oci's part would be a third.
"""

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.drive cimport drive
from pyrunc._native.hello cimport hello
from pyrunc._native.lxc_init cimport become_lxc_init
from pyrunc._native.oci_front_door cimport front_door
from pyrunc._native.signals cimport reset_signals
from pyrunc._native.spawner cimport spawner


cdef inline bint called(const char *path, const char *name) noexcept nogil:
    """Whether the last component of *path* is *name*."""
    cdef size_t length = strlen(path)
    cdef size_t tail = strlen(name)
    if length < tail or strcmp(path + length - tail, name) != 0:
        return False
    return length == tail or path[length - tail - 1] == c'/'


cdef public int pyrunc_init_main(int argc, char **argv) noexcept nogil:
    """`pyrunc-init spawner [CGROUP...]`: serve the requests that arrive on descriptor 3. `pyrunc-init drive ...`: see drive.pxd.

    `pyrunc-init lxc-init PLAN SOCKET IN OUT ERRORS`: become the program of a container that LXC has made.

    Under the name `hello` it is the program of the image that ships, and holds no secret.
    """
    cdef int keep[4]
    if argc > 0 and called(argv[0], b"hello"):
        return hello()
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if argc >= 2 and strcmp(argv[1], b"spawner") == 0:
        reset_signals()
        keep[0] = 0
        keep[1] = 1
        keep[2] = 2
        keep[3] = 3
        close_all_but(keep, 4)
        return spawner(3, argv + 2)
    if argc == 7 and strcmp(argv[1], b"lxc-init") == 0:
        reset_signals()
        return become_lxc_init(argv + 2)
    if argc >= 2 and strcmp(argv[1], b"drive") == 0:
        return drive(argc, argv)
    return 64


cdef public int pyrunc_oci_main(int argc, char **argv) noexcept nogil:
    """`pyrunc-oci`, whatever it is called: the runtime that other engines call."""
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    return front_door(argc, argv)
