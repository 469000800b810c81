# cython: cdivision=True, boundscheck=False
# The executable of whatever acts for a container can be written by nobody who gets hold of it (CVE-2019-5736).
#
# A container can make the runtime execute itself anew in there, or find it as /proc/<pid>/exe; opened for writing,
# that would be the host's file. So the front door first executes itself from a detached mount of its own that is
# read-only, whatever the file's mode says, and where it may not mount, from a sealed copy in memory.

from pyrunc._native.linux cimport *
from pyrunc._native.oci_python cimport *
from pyrunc._native.oci_system cimport *


cdef inline int c_read_only(const char *path) noexcept nogil:
    """The executable *path* on a read-only mount that is attached nowhere; its descriptor or -errno (open_tree(2), Linux 5.2)."""
    cdef mount_attr attr
    cdef int rc
    cdef int fd = <int>_rc(syscall(NR_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | O_CLOEXEC))
    if fd < 0:
        return fd
    memset(&attr, 0, sizeof(attr))
    attr.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    rc = <int>_rc(syscall(NR_mount_setattr, fd, b"", AT_EMPTY_PATH, &attr, sizeof(attr)))
    if rc < 0:
        close(fd)
        return rc
    return fd


cdef inline int c_sealed_copy(const char *path) noexcept nogil:
    """A sealed copy in memory of the executable *path*; its descriptor or -errno."""
    cdef ssize_t got = 1
    cdef int rc
    cdef int source = <int>_rc(openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC))
    # Linux 6.3 asks which memfds shall be executable; before, the flag is unknown.
    cdef int fd = <int>_rc(syscall(SYS_memfd_create, b"pyrunc-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING | PR_MFD_EXEC))
    if fd == -EINVAL:
        fd = <int>_rc(syscall(SYS_memfd_create, b"pyrunc-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING))
    if source < 0 or fd < 0:
        close(source)
        close(fd)
        return source if source < 0 else fd
    while got > 0:
        got = _rc(sendfile(fd, source, NULL, 1 << 20))
    close(source)
    rc = <int>got
    if rc == 0:
        rc = <int>_rc(fcntl(fd, F_ADD_SEALS, SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE))
    if rc < 0:
        close(fd)
        return rc
    return fd


cdef inline int oci_seal(oci_place *here, const char *path, int answer, const char **argv) noexcept nogil:
    """Execute the front door at *path* from where nobody writes, with the command line *argv*.

    It is given an open descriptor *answer*, or -1. Returns -errno if that fails. The new process is told where it lies on the host, since it cannot see that.
    """
    cdef char number[24]
    cdef const char **words
    cdef size_t count = 0
    cdef size_t i
    cdef int fd = c_read_only(path)
    if fd < 0:
        fd = c_sealed_copy(path)
    if fd < 0:
        return fd
    while argv[count] != NULL:
        count += 1
    words = <const char **>anonymous((count + 6) * sizeof(char *))
    if words == NULL:
        close(fd)
        return -ENOMEM
    put_decimal(number, <uint64_t>(answer + 1))
    words[0] = b"pyrunc-oci"
    words[1] = b":sealed"
    words[2] = here.exe
    words[3] = number
    for i in range(count):
        words[4 + i] = argv[i]
    if answer >= 0:
        fcntl(answer, F_SETFD, 0)
    i = <size_t>-_rc(syscall(SYS_execveat, fd, b"", words, here.env, AT_EMPTY_PATH))
    close(fd)
    return -<int>i
