# cython: cdivision=True, boundscheck=False
# What only the OCI front door asks of the kernel.

from pyrunc._native.linux cimport *
from pyrunc._native.numbers cimport *

cdef extern from *:
    """
    #include <sys/file.h>
    #include <sys/un.h>
    #ifndef MFD_CLOEXEC
    #define MFD_CLOEXEC 1
    #define MFD_ALLOW_SEALING 2
    #endif
    #define PR_MFD_EXEC 0x10
    """
    char **environ
    int MFD_CLOEXEC, MFD_ALLOW_SEALING, PR_MFD_EXEC
    long SYS_execveat
    unsigned int geteuid() nogil
    int LOCK_EX, LOCK_SH, LOCK_NB
    int flock(int fd, int operation) nogil
    int F_OK
    int faccessat(int dirfd, const char *path, int mode, int flags) nogil
    ctypedef struct sockaddr_un "struct sockaddr_un":
        unsigned short sun_family
        char sun_path[108]
    ssize_t writev(int fd, const iovec_t *parts, int count) nogil
    int bind(int fd, const void *address, unsigned int size) nogil
    int connect(int fd, void *address, unsigned int size) nogil
    int SO_PEERCRED
    ctypedef struct ucred_t "struct ucred":
        int pid
        unsigned int uid
        unsigned int gid
    int getsockopt(int fd, int level, int option, void *value, unsigned int *size) nogil

cdef enum:
    MOUNT_ATTR_NOSUID = 0x00000002
    PATH_ROOM = 4096


cdef inline int join_two(char *buffer, size_t room, const char *first, const char *second) noexcept nogil:
    """*first* and *second* one behind the other, with a NUL; the length or -ENAMETOOLONG."""
    cdef size_t a = strlen(first)
    cdef size_t b = strlen(second)
    if a + b + 1 > room:
        return -ENAMETOOLONG
    memmove(buffer, first, a)
    memcpy(buffer + a, second, b + 1)
    return <int>(a + b)


cdef inline void *anonymous(size_t size) noexcept nogil:
    """Fresh memory, or NULL."""
    cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    return NULL if memory == MAP_FAILED else memory


cdef inline void forget_texts(char **texts) noexcept nogil:
    """Wipe the caller's environment: what goes into a container, where others may look into it, is no copy of secrets."""
    cdef size_t i = 0
    while texts[i] != NULL:
        memset(texts[i], 0, strlen(texts[i]))
        i += 1


cdef inline const char *environment(char **env, const char *name) noexcept nogil:
    """The value of the variable *name*, or NULL."""
    cdef size_t length = strlen(name)
    cdef size_t i = 0
    while env[i] != NULL:
        if strncmp(env[i], name, length) == 0 and env[i][length] == c'=':
            return env[i] + length + 1
        i += 1
    return NULL


cdef inline void piece(iovec_t *at, const char *words) noexcept nogil:
    at.iov_base = <void *>words
    at.iov_len = strlen(words)


cdef inline void address_in(sockaddr_un *address, int directory, const char *name) noexcept nogil:
    """Of the socket *name* in *directory*, by its descriptor: an address has room for 107 bytes, a path for more."""
    cdef size_t length
    memset(address, 0, sizeof(sockaddr_un))
    address.sun_family = <unsigned short>AF_UNIX
    memcpy(address.sun_path, b"/proc/self/fd/", 14)
    length = 14 + put_decimal(address.sun_path + 14, <uint64_t>directory)
    address.sun_path[length] = c'/'
    memcpy(address.sun_path + length + 1, name, strlen(name) + 1)


cdef inline int connect_in(int directory, const char *name, int flags) noexcept nogil:
    """Connect to the socket *name* in *directory*, however long its path is; the descriptor or -errno."""
    cdef sockaddr_un address
    cdef int rc
    cdef int sock = <int>_rc(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0))
    if sock < 0:
        return sock
    address_in(&address, directory, name)
    rc = <int>_rc(connect(sock, &address, sizeof(address)))
    if rc < 0:
        close(sock)
        return rc
    return sock
