# cython: cdivision=True, boundscheck=False
# How the front door asks the planner for a plan, and when it does not.
#
#   front door -> planner   SEQPACKET   ask, then argc + envc words with their NULs; descriptors: working directory, bundle
#   planner -> front door   the same    answer PLAN (with the sealed plan) or DECLINE
#
# The planner's socket is called after the executable's place on its file system, in a directory of the caller's alone:
# /run/pyrunc-planner, or a user's own in XDG_RUNTIME_DIR. It saves time and is needed for nothing: if it is not there, is another's, does not answer in time, or says anything but what is expected,
# the front door becomes Python as if there were none. That also words every error; the planner words none.

from pyrunc._native.linux cimport *
from pyrunc._native.channel cimport receive_with
from pyrunc._native.loading cimport SEALS
from pyrunc._native.oci_arguments cimport *
from pyrunc._native.oci_python cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.plan_rules cimport plan_validate
from pyrunc._native.standing cimport *

cdef enum:
    PLANNER_MAGIC = 0x52504F50      # "POPR"
    PLANNER_VERSION = 2
    PLANNER_PATIENCE_MS = 300
    PLANNER_ROOM = 1 << 16          # of all words of a request
    PLANNER_NAMESPACES = 8
    PLAN_STREAMS = 3                # descriptors that such a plan counts on: 0, 1 and 2

    ANSWER_PLAN = 1
    ANSWER_DECLINE = 2

cdef struct planner_ask:
    uint32_t magic
    uint32_t version
    uint32_t plan_version
    uint32_t argc
    uint32_t envc
    uint32_t has_bundle
    uint64_t executable[4]          # device, inode, size, time of change in ns
    uint64_t root[2]                # device and inode of "/"
    uint64_t namespaces[PLANNER_NAMESPACES]     # inodes: mnt, user, pid, net, cgroup, uts, ipc, time
    uint64_t standing[STANDING_FACTS]

cdef struct planner_answer:
    uint32_t magic
    uint32_t kind


cdef inline bint matters(const char *variable) noexcept nogil:
    """Whether a variable of the environment can change what a plan says."""
    return (strncmp(variable, b"LISTEN_", 7) == 0 or strncmp(variable, b"PYRUNC_", 7) == 0
            or strncmp(variable, b"NOTIFY_SOCKET=", 14) == 0 or strncmp(variable, b"XDG_RUNTIME_DIR=", 16) == 0
            or strncmp(variable, b"PATH=", 5) == 0 or strncmp(variable, b"USER=", 5) == 0
            or strncmp(variable, b"DBUS_SESSION_BUS_ADDRESS=", 25) == 0)


cdef inline bint is_ones_own(const char *path) noexcept nogil:
    """Whether *path* leads to another thing in another process."""
    return path != NULL and (strncmp(path, b"/proc/self", 10) == 0 or strncmp(path, b"/proc/thread-self", 17) == 0
                             or strncmp(path, b"/dev/fd", 7) == 0 or strncmp(path, b"/dev/std", 8) == 0)


cdef inline bint reads_ones_own(oci_words *words) noexcept nogil:
    """Whether `exec` shall read what only this process can; of the program's own words some may look so, too."""
    cdef const char *value
    cdef int i
    if is_ones_own(words.root):
        return True
    for i in range(words.at, words.argc):
        if flag_is(words.argv[i], b"process", &value) or flag_is(words.argv[i], b"p", &value):
            if is_ones_own(value if value != NULL else words.argv[i + 1]):
                return True
    return False


cdef inline bint find_bundle(oci_words *words, const char **bundle) noexcept nogil:
    """The bundle of `create` and `run`, NULL for `exec`; False for a line that Python has to judge."""
    cdef const char *value
    bundle[0] = NULL
    if strcmp(words.verb, b"exec") == 0:
        return not reads_ones_own(words)
    bundle[0] = b"."
    while words.at < words.argc and words.argv[words.at][0] == c'-':
        if take_value(words, b"bundle", &value) or take_value(words, b"b", &value):
            if value[0] == 0 or is_ones_own(value):
                return False
            bundle[0] = value
        elif not (take_value(words, b"console-socket", &value) or take_value(words, b"pidfd-socket", &value)
                  or take_value(words, b"pid-file", &value) or take_value(words, b"preserve-fds", &value)
                  or take_switch(words, b"no-pivot") or take_switch(words, b"no-new-keyring")
                  or take_switch(words, b"detach") or take_switch(words, b"d") or take_switch(words, b"keep")
                  or take_switch(words, b"no-subreaper")):
            return False
    return words.at == words.argc - 1


cdef inline const char *runtime_directory(oci_place *here) noexcept nogil:
    """XDG_RUNTIME_DIR of who is not the host's root; NULL for that one, and where there is none."""
    cdef stat_t status
    cdef const char *place = environment(here.env, b"XDG_RUNTIME_DIR")
    if place == NULL or place[0] != c'/':
        return NULL
    if geteuid() == 0 and (fstatat(AT_FDCWD, b"/proc/self/ns/user", &status, 0) < 0
                           or status.st_ino == <uint64_t>FIRST_USER_NAMESPACE):
        return NULL
    return place


cdef inline int open_planners(oci_place *here) noexcept nogil:
    """The directory of the planners' sockets, which must be nobody's but ours; -errno if there is to be no planner."""
    cdef stat_t status
    cdef char users[PATH_ROOM]
    cdef const char *place = environment(here.env, b"PYRUNC_OCI_PLANNER")
    cdef const char *runtime
    cdef int fd
    if place != NULL and place[0] == c'0' and place[1] == 0:
        return -ENOENT
    if place == NULL or place[0] != c'/':
        place = b"/run/pyrunc-planner"
        runtime = runtime_directory(here)
        if runtime != NULL:
            if join_two(users, sizeof(users), runtime, b"/pyrunc-planner") < 0:
                return -ENAMETOOLONG
            place = users
    fd = <int>_rc(openat(AT_FDCWD, place, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW))
    if fd < 0:
        return fd
    if fstat(fd, &status) < 0 or status.st_uid != geteuid() or status.st_mode & 0o022:
        close(fd)
        return -EPERM
    return fd


cdef inline size_t put_hex(char *at, uint64_t value) noexcept nogil:
    cdef const char *digits = b"0123456789abcdef"
    cdef int shift = 60
    cdef size_t length = 0
    while shift > 0 and value >> shift == 0:
        shift -= 4
    while shift >= 0:
        at[length] = digits[value >> shift & 15]
        length += 1
        shift -= 4
    at[length] = 0
    return length


cdef inline int say_who(planner_ask *ask, char *name) noexcept nogil:
    """Fill in what tells this process's world from another's, and the socket's *name*; 0 or -errno."""
    cdef stat_t status
    cdef const char *path
    cdef int i
    if fstatat(AT_FDCWD, b"/proc/self/exe", &status, 0) < 0:
        return -errno
    ask.executable[0] = status.st_dev
    ask.executable[1] = status.st_ino
    ask.executable[2] = <uint64_t>status.st_size
    ask.executable[3] = <uint64_t>status.st_mtim.tv_sec * 1000000000 + <uint64_t>status.st_mtim.tv_nsec
    i = <int>put_hex(name, status.st_dev)
    name[i] = c'-'
    put_hex(name + i + 1, status.st_ino)
    if fstatat(AT_FDCWD, b"/", &status, 0) < 0:
        return -errno
    ask.root[0] = status.st_dev
    ask.root[1] = status.st_ino
    for i in range(PLANNER_NAMESPACES):
        path = b"/proc/self/ns/mnt"
        if i == 1: path = b"/proc/self/ns/user"
        if i == 2: path = b"/proc/self/ns/pid"
        if i == 3: path = b"/proc/self/ns/net"
        if i == 4: path = b"/proc/self/ns/cgroup"
        if i == 5: path = b"/proc/self/ns/uts"
        if i == 6: path = b"/proc/self/ns/ipc"
        if i == 7: path = b"/proc/self/ns/time"
        # 0 where the kernel has none of this kind.
        ask.namespaces[i] = status.st_ino if fstatat(AT_FDCWD, path, &status, 0) == 0 else 0
    return c_standing(ask.standing)


cdef inline int put_words(planner_ask *ask, oci_words *words, char **env, char *room) noexcept nogil:
    """Gather the command line behind its name and the environment that matters; their size or -E2BIG."""
    cdef size_t size = 0
    cdef size_t length
    cdef const char *word
    cdef int i = 1
    cdef int e = 0
    ask.argc = 0
    ask.envc = 0
    while i < words.argc or env[e] != NULL:
        if i < words.argc:
            word = words.argv[i]
            i += 1
            ask.argc += 1
        else:
            word = env[e]
            e += 1
            if not matters(word):
                continue
            ask.envc += 1
        length = strlen(word) + 1
        if size + length > PLANNER_ROOM:
            return -E2BIG
        memcpy(room + size, word, length)
        size += length
    return <int>size


cdef inline int ask_planner(oci_place *here, oci_words *words) noexcept nogil:
    """Send the command line to the planner; the socket on which it answers, or -errno."""
    cdef planner_ask ask
    cdef ucred_t peer
    cdef unsigned int length = sizeof(peer)
    cdef msghdr header
    cdef iovec_t vector[2]
    cdef cmsghdr *cmsg
    cdef uint64_t control[8]
    cdef char name[64]
    cdef char *room
    cdef const char *bundle
    cdef int fds[2]
    cdef int count = 1
    cdef int sock
    cdef int rc
    cdef int directory = open_planners(here)
    if directory < 0:
        return directory
    memset(&ask, 0, sizeof(ask))
    rc = say_who(&ask, name)
    sock = connect_in(directory, name, SOCK_NONBLOCK) if rc == 0 else rc
    close(directory)
    if sock < 0:
        return sock
    room = <char *>anonymous(PLANNER_ROOM)
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 or peer.uid != geteuid() or room == NULL
            or not find_bundle(words, &bundle)):
        close(sock)
        return -EPERM
    rc = put_words(&ask, words, here.env, room)
    fds[0] = openat(AT_FDCWD, b".", O_PATH | O_DIRECTORY | O_CLOEXEC)
    fds[1] = -1
    if bundle != NULL:
        fds[1] = openat(AT_FDCWD, bundle, O_PATH | O_DIRECTORY | O_CLOEXEC)
        count = 2
    if rc < 0 or fds[0] < 0 or fds[count - 1] < 0:
        rc = rc if rc < 0 else -ENOENT
    else:
        ask.magic = PLANNER_MAGIC
        ask.version = PLANNER_VERSION
        ask.plan_version = PLAN_VERSION
        ask.has_bundle = <uint32_t>count - 1
        vector[0].iov_base = &ask
        vector[0].iov_len = sizeof(ask)
        vector[1].iov_base = room
        vector[1].iov_len = <size_t>rc
        memset(&header, 0, sizeof(header))
        memset(control, 0, sizeof(control))
        header.msg_iov = vector
        header.msg_iovlen = 2
        header.msg_control = control
        header.msg_controllen = CMSG_SPACE(<size_t>count * sizeof(int))
        cmsg = CMSG_FIRSTHDR(&header)
        cmsg.cmsg_level = SOL_SOCKET
        cmsg.cmsg_type = SCM_RIGHTS
        cmsg.cmsg_len = CMSG_LEN(<size_t>count * sizeof(int))
        memcpy(CMSG_DATA(cmsg), fds, <size_t>count * sizeof(int))
        rc = <int>_rc(sendmsg(sock, &header, MSG_NOSIGNAL | MSG_DONTWAIT))
    munmap(room, PLANNER_ROOM)
    close(fds[0])
    close(fds[1])
    if rc < 0:
        close(sock)
        return rc
    return sock


cdef inline int hear_planner(int sock) noexcept nogil:
    """The plan that the planner sends on *sock*, sealed and found valid; or -errno: go the other way."""
    cdef planner_answer answer
    cdef pollfd watch
    cdef uint64_t end = now_ns() + <uint64_t>PLANNER_PATIENCE_MS * 1000000
    cdef uint64_t now
    cdef int fds[256]
    cdef int count = 0
    cdef int got = -EAGAIN
    cdef int i
    watch.fd = sock
    watch.events = POLLIN
    while got == -EAGAIN or got == -EINTR:
        now = now_ns()
        if now >= end or poll(&watch, 1, <int>((end - now) / 1000000) + 1) == 0:
            break
        got = receive_with(sock, &answer, sizeof(answer), MSG_DONTWAIT, fds, &count)
    close(sock)
    i = count
    while i > 1:
        i -= 1
        close(fds[i])
    if count < 1:
        return -ENODATA
    if (count > 1 or got != <int>sizeof(answer) or answer.magic != PLANNER_MAGIC or answer.kind != ANSWER_PLAN
            or not is_plan(fds[0])):
        close(fds[0])
        return -EPROTO
    return fds[0]


cdef inline bint is_plan(int fd) noexcept nogil:
    """Whether *fd* is a plan that would not be refused; it is looked at again when it is carried out."""
    cdef stat_t status
    cdef void *data
    cdef int rc
    cdef int seals = fcntl(fd, F_GET_SEALS)
    if seals < 0 or seals & SEALS != SEALS or fstat(fd, &status) < 0:
        return False
    if status.st_size < <off_t>sizeof(plan_header) or status.st_size > PLAN_MAX_SIZE:
        return False
    data = mmap(NULL, <size_t>status.st_size, PROT_READ, MAP_PRIVATE, fd, 0)
    if data == MAP_FAILED:
        return False
    rc = plan_validate(<const unsigned char *>data, <uint64_t>status.st_size, PLAN_STREAMS)
    munmap(data, <size_t>status.st_size)
    return rc == 0
