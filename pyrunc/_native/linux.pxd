# The kernel's interface, declared once: constants, structs and syscall numbers.
#
# Headers differ (musl has no mount API, Debian 12's glibc has half of it), so what
# is newer than Linux 4.x is defined here when the header lacks it. Numbers from 424
# on are the same on every architecture.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <grp.h>
    #include <poll.h>
    #include <sched.h>
    #include <signal.h>
    #include <stddef.h>
    #include <stdio.h>
    #include <stdint.h>
    #include <string.h>
    #include <time.h>
    #include <unistd.h>
    #include <sys/sysinfo.h>
    #include <sys/epoll.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/mount.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/sendfile.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/sysmacros.h>
    #include <sys/types.h>
    #include <sys/xattr.h>
    #include <sys/uio.h>
    #include <sys/un.h>
    #include <sys/vfs.h>
    #include <sys/wait.h>

    #define PR_NR_pidfd_send_signal 424
    #define PR_NR_open_tree 428
    #define PR_NR_move_mount 429
    #define PR_NR_fsopen 430
    #define PR_NR_fsconfig 431
    #define PR_NR_fsmount 432
    #define PR_NR_fspick 433
    #define PR_NR_pidfd_open 434
    #define PR_NR_clone3 435
    #define PR_NR_close_range 436
    #define PR_NR_openat2 437
    #define PR_NR_pidfd_getfd 438
    #define PR_NR_mount_setattr 442
    #define PR_NR_fchmodat2 452

    struct pr_clone_args {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    };
    struct pr_open_how { uint64_t flags, mode, resolve; };
    struct pr_mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
    struct pr_cap_header { uint32_t version; int32_t pid; };
    struct pr_cap_data { uint32_t effective, permitted, inheritable; };
    struct pr_sock_fprog { uint16_t len; const void *filter; };

    #ifndef CLONE_INTO_CGROUP
    #define CLONE_INTO_CGROUP 0x200000000ULL
    #endif
    #ifndef CLONE_PIDFD
    #define CLONE_PIDFD 0x00001000
    #endif
    #ifndef CLONE_NEWCGROUP
    #define CLONE_NEWCGROUP 0x02000000
    #endif
    #ifndef CLONE_NEWTIME
    #define CLONE_NEWTIME 0x00000080
    #endif
    #ifndef F_ADD_SEALS
    #define F_ADD_SEALS 1033
    #define F_GET_SEALS 1034
    #endif
    #ifndef P_PIDFD
    #define P_PIDFD 3
    #endif
    #ifndef AT_RECURSIVE
    #define AT_RECURSIVE 0x8000
    #endif
    #ifndef SECCOMP_SET_MODE_FILTER
    #define SECCOMP_SET_MODE_FILTER 1
    #endif
    #ifndef SECCOMP_FILTER_FLAG_NEW_LISTENER
    #define SECCOMP_FILTER_FLAG_NEW_LISTENER 8
    #endif
    #ifndef TIOCGPTPEER
    #define TIOCGPTPEER _IO('T', 0x41)
    #endif
    #ifndef PR_CAP_AMBIENT
    #define PR_CAP_AMBIENT 47
    #define PR_CAP_AMBIENT_RAISE 2
    #define PR_CAP_AMBIENT_CLEAR_ALL 4
    #endif
    """
    ctypedef struct clone_args "struct pr_clone_args":
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
        uint64_t set_tid, set_tid_size, cgroup
    ctypedef struct open_how "struct pr_open_how":
        uint64_t flags, mode, resolve
    ctypedef struct mount_attr "struct pr_mount_attr":
        uint64_t attr_set, attr_clr, propagation, userns_fd
    ctypedef struct cap_header "struct pr_cap_header":
        uint32_t version
        int32_t pid
    ctypedef struct cap_data "struct pr_cap_data":
        uint32_t effective, permitted, inheritable
    ctypedef struct sock_fprog "struct pr_sock_fprog":
        uint16_t len
        const void *filter

    long NR_pidfd_send_signal "PR_NR_pidfd_send_signal"
    long NR_open_tree "PR_NR_open_tree"
    long NR_move_mount "PR_NR_move_mount"
    long NR_fsopen "PR_NR_fsopen"
    long NR_fsconfig "PR_NR_fsconfig"
    long NR_fsmount "PR_NR_fsmount"
    long NR_fspick "PR_NR_fspick"
    long NR_pidfd_open "PR_NR_pidfd_open"
    long NR_clone3 "PR_NR_clone3"
    long NR_close_range "PR_NR_close_range"
    long NR_openat2 "PR_NR_openat2"
    long NR_pidfd_getfd "PR_NR_pidfd_getfd"
    long NR_mount_setattr "PR_NR_mount_setattr"
    long NR_fchmodat2 "PR_NR_fchmodat2"
    long SYS_pivot_root, SYS_seccomp, SYS_capset, SYS_capget, SYS_bpf, SYS_setgroups
    long SYS_setresuid, SYS_setresgid, SYS_prlimit64, SYS_memfd_create, SYS_waitid, SYS_exit_group

    long syscall(long number, ...) nogil
    int errno

    ctypedef unsigned int mode_t
    ctypedef long off_t
    ctypedef int pid_t
    ctypedef unsigned int uid_t
    ctypedef unsigned int gid_t
    ctypedef unsigned long dev_t

    # files
    int O_RDONLY, O_WRONLY, O_RDWR, O_CLOEXEC, O_PATH, O_DIRECTORY, O_NOFOLLOW, O_CREAT, O_EXCL, O_NONBLOCK, O_NOCTTY
    int O_APPEND, O_TRUNC, O_TMPFILE, O_ACCMODE
    int AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_RECURSIVE
    int F_GET_SEALS, F_ADD_SEALS, F_GETFD, F_SETFD, FD_CLOEXEC, F_DUPFD_CLOEXEC, F_GETFL, F_SETFL
    int openat(int dirfd, const char *path, int flags, ...) nogil
    int close(int fd) nogil
    ssize_t read(int fd, void *buffer, size_t count) nogil
    ssize_t write(int fd, const void *buffer, size_t count) nogil
    int mkdirat(int dirfd, const char *path, mode_t mode) nogil
    int mknodat(int dirfd, const char *path, mode_t mode, dev_t dev) nogil
    off_t lseek(int fd, off_t offset, int whence) nogil
    int ftruncate(int fd, off_t length) nogil
    ssize_t sendfile(int out, int source, off_t *offset, size_t count) nogil
    ssize_t readlinkat(int dirfd, const char *path, char *buffer, size_t size) nogil
    int fchown(int fd, uid_t uid, gid_t gid) nogil
    int fchmod(int fd, mode_t mode) nogil
    int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags) nogil
    ssize_t fgetxattr(int fd, const char *name, void *value, size_t size) nogil
    ssize_t flistxattr(int fd, char *names, size_t size) nogil
    ssize_t getxattr(const char *path, const char *name, void *value, size_t size) nogil
    int unlinkat(int dirfd, const char *path, int flags) nogil
    int unlink(const char *path) nogil
    int link(const char *old_path, const char *new_path) nogil
    int rename(const char *old_path, const char *new_path) nogil
    int renameat(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path) nogil
    int symlinkat(const char *target, int dirfd, const char *path) nogil
    int fchownat(int dirfd, const char *path, uid_t uid, gid_t gid, int flags) nogil
    int fcntl(int fd, int command, ...) nogil
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE
    int fallocate(int fd, int mode, off_t offset, off_t length) nogil
    int dup2(int old, int new) nogil
    int SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE
    int O_NOATIME
    ssize_t pread(int fd, void *buffer, size_t count, off_t offset) nogil
    ssize_t listxattr(const char *path, char *list, size_t size) nogil
    int fremovexattr(int fd, const char *name) nogil
    unsigned int device_major "major"(dev_t device) nogil
    unsigned int device_minor "minor"(dev_t device) nogil
    int dup3(int old, int new, int flags) nogil
    int pipe2(int *fds, int flags) nogil
    int chdir(const char *path) nogil
    int fchdir(int fd) nogil
    int chroot(const char *path) nogil
    char *getcwd(char *buffer, size_t size) nogil
    mode_t umask(mode_t mask) nogil
    struct timespec:
        long tv_sec
        long tv_nsec
    ctypedef struct stat_t "struct stat":
        dev_t st_dev
        dev_t st_rdev
        unsigned long st_ino
        unsigned long st_nlink
        mode_t st_mode
        uid_t st_uid
        gid_t st_gid
        off_t st_size
        long st_blocks
        timespec st_atim
        timespec st_mtim
    int fstat(int fd, stat_t *result) nogil
    int fstatat(int dirfd, const char *path, stat_t *result, int flags) nogil
    int fchmodat(int dirfd, const char *path, mode_t mode, int flags) nogil
    long UTIME_OMIT
    int futimens(int fd, const timespec *times) nogil
    int utimensat(int dirfd, const char *path, const timespec *times, int flags) nogil
    int linkat(int old_dirfd, const char *old_path, int dirfd, const char *path, int flags) nogil
    ssize_t pwrite(int fd, const void *buffer, size_t count, off_t offset) nogil
    int setxattr(const char *path, const char *name, const void *value, size_t size, int flags) nogil
    dev_t makedev(unsigned int major, unsigned int minor) nogil
    bint S_ISDIR(mode_t mode) nogil
    bint S_ISCHR(mode_t mode) nogil
    bint S_ISREG(mode_t mode) nogil
    bint S_ISLNK(mode_t mode) nogil
    bint S_ISSOCK(mode_t mode) nogil
    bint S_ISFIFO(mode_t mode) nogil
    mode_t S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO, S_IFMT, S_IFDIR, S_IFLNK, S_IFSOCK
    ctypedef struct statfs_t "struct statfs":
        long f_type
    int fstatfs(int fd, statfs_t *result) nogil

    # processes
    int CLONE_FILES, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWNET, CLONE_NEWUSER, CLONE_NEWCGROUP, CLONE_NEWTIME
    int CLONE_PIDFD, CLONE_PARENT
    uint64_t CLONE_INTO_CGROUP
    pid_t fork() nogil
    pid_t getpid() nogil
    pid_t getppid() nogil
    pid_t setsid() nogil
    int setpgid(pid_t pid, pid_t group) nogil
    int sched_yield() nogil
    void _exit(int status) nogil
    int execve(const char *path, char *const *argv, char *const *envp) nogil
    int syncfs(int fd) nogil
    int unshare(int flags) nogil
    int setns(int fd, int nstype) nogil
    ctypedef struct sysinfo_t "struct sysinfo":
        unsigned short procs
    int sysinfo(sysinfo_t *info) nogil
    int prctl(int option, ...) nogil
    int PR_SET_DUMPABLE, PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_CAP_AMBIENT
    int PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL, PR_SET_NAME, PR_SET_CHILD_SUBREAPER
    int SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
    int WNOHANG, WEXITED, WNOWAIT, P_ALL, P_PID, P_PIDFD, CLD_EXITED
    ctypedef struct siginfo_t:
        int si_code
        int si_status
        int si_pid
    int waitid(int kind, unsigned int id, siginfo_t *info, int options) nogil
    struct timeval:
        long tv_sec
        long tv_usec
    ctypedef struct rusage_t "struct rusage":
        timeval ru_utime
        timeval ru_stime
        long ru_maxrss
    pid_t wait4(pid_t pid, int *status, int options, rusage_t *usage) nogil
    int getrusage(int who, rusage_t *usage) nogil
    int RUSAGE_SELF
    int kill(pid_t pid, int sig) nogil
    int setgroups(size_t count, const gid_t *groups) nogil
    int sethostname(const char *name, size_t length) nogil
    int setdomainname(const char *name, size_t length) nogil
    ctypedef struct rlimit_t "struct rlimit":
        unsigned long rlim_cur
        unsigned long rlim_max
    int setrlimit(int resource, const rlimit_t *limit) nogil
    int RLIMIT_NOFILE

    # signals
    int SIGKILL, SIGCHLD, SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGSYS, SIGXFSZ, SIG_SETMASK
    ctypedef void (*sighandler_t)(int) noexcept nogil
    sighandler_t SIG_DFL, SIG_IGN
    sighandler_t signal(int signum, sighandler_t handler) nogil

    # mounts
    int mount(const char *source, const char *target, const char *fstype, unsigned long flags, const void *data) nogil
    int umount2(const char *target, int flags) nogil
    unsigned long MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE
    int MNT_DETACH

    # memory
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) nogil
    int munmap(void *address, size_t length) nogil
    int MADV_DONTNEED, MADV_DONTFORK
    int madvise(void *address, size_t length, int advice) nogil
    void *memcpy(void *target, const void *source, size_t count) nogil
    void *memset(void *target, int byte, size_t count) nogil
    int memcmp(const void *a, const void *b, size_t count) nogil
    void *memchr(const void *text, int byte, size_t count) nogil
    void *memmove(void *to, const void *source, size_t count) nogil
    size_t strlen(const char *text) nogil
    int strcmp(const char *a, const char *b) nogil
    int strncmp(const char *a, const char *b, size_t count) nogil
    char *strchr(const char *text, int c) nogil
    char *strrchr(const char *text, int c) nogil

    # sockets
    int AF_UNIX, AF_INET, AF_NETLINK, SOCK_SEQPACKET, SOCK_STREAM, SOCK_RAW, SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, SCM_RIGHTS
    int MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, MSG_PEEK, MSG_DONTWAIT, MSG_TRUNC, MSG_CTRUNC
    ctypedef struct iovec_t "struct iovec":
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec_t *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message) nogil
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *header) nogil
    unsigned char *CMSG_DATA(cmsghdr *header) nogil
    size_t CMSG_SPACE(size_t length) nogil
    size_t CMSG_LEN(size_t length) nogil
    int socket(int domain, int type, int protocol) nogil
    int socketpair(int domain, int type, int protocol, int *fds) nogil
    int accept4(int socket, void *address, unsigned int *size, int flags) nogil
    ssize_t recvmsg(int fd, msghdr *message, int flags) nogil
    ssize_t sendmsg(int fd, const msghdr *message, int flags) nogil
    ssize_t send(int fd, const void *buffer, size_t length, int flags) nogil
    ssize_t recv(int fd, void *buffer, size_t length, int flags) nogil
    int SHUT_RD
    int shutdown(int fd, int how) nogil
    int ioctl(int fd, unsigned long request, ...) nogil

    # poll and time
    short POLLIN, POLLOUT, POLLHUP, POLLERR, POLLRDHUP
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms) nogil
    ctypedef union epoll_data "union epoll_data":
        int fd
    ctypedef struct epoll_event "struct epoll_event":
        uint32_t events
        epoll_data data
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    uint32_t EPOLLIN, EPOLLHUP, EPOLLERR
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event) nogil
    int epoll_wait(int epoll, epoll_event *events, int count, int timeout_ms) nogil
    int SO_RCVTIMEO
    int setsockopt(int fd, int level, int option, const void *value, unsigned int size) nogil
    int CLOCK_MONOTONIC, CLOCK_REALTIME
    int clock_gettime(int clock, timespec *result) nogil
    int nanosleep(const timespec *duration, timespec *rest) nogil

    # errors that the core treats apart
    int EINTR, EAGAIN, ENOENT, EEXIST, EBUSY, ENOTDIR, EISDIR, EACCES, EPERM, EINVAL, ENOEXEC, EPIPE, EPROTO
    int ENOSYS, ELOOP, EXDEV, E2BIG, ECONNABORTED, ENAMETOOLONG, ESRCH, ECHILD, EOPNOTSUPP, ENODEV, EMFILE, ENFILE, EBADF, EMSGSIZE, EFAULT
    int ENOMEM, EROFS, EIO, ENOSPC, ECONNRESET, ENOTEMPTY, ESTALE, ENODATA, ERANGE, ENXIO, ECANCELED, EREMOTEIO, ETIMEDOUT
    unsigned long TIOCSCTTY, TIOCSPTLCK, TIOCGPTPEER, TIOCSWINSZ, FIONREAD
    ctypedef struct winsize_t "struct winsize":
        unsigned short ws_row
        unsigned short ws_col
    long SYS_sched_setattr, SYS_sched_setaffinity, SYS_ioprio_set, SYS_personality, SYS_set_mempolicy
    long SYS_getcwd, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_keyctl, SYS_getdents64, SYS_statx, SYS_clone


cdef enum:
    # openat2(2), Linux 5.6
    RESOLVE_NO_XDEV = 0x01
    RESOLVE_NO_MAGICLINKS = 0x02
    RESOLVE_NO_SYMLINKS = 0x04
    RESOLVE_BENEATH = 0x08
    RESOLVE_IN_ROOT = 0x10
    # open_tree(2), move_mount(2), fsopen(2), Linux 5.2
    OPEN_TREE_CLONE = 1
    MOVE_MOUNT_F_EMPTY_PATH = 0x04
    MOVE_MOUNT_T_EMPTY_PATH = 0x40
    FSOPEN_CLOEXEC = 1
    FSMOUNT_CLOEXEC = 1
    FSPICK_CLOEXEC = 1
    FSPICK_EMPTY_PATH = 8
    FSCONFIG_SET_FLAG = 0
    FSCONFIG_SET_STRING = 1
    FSCONFIG_CMD_CREATE = 6
    FSCONFIG_CMD_RECONFIGURE = 7
    # mount_setattr(2), Linux 5.12
    MOUNT_ATTR_RDONLY = 0x00000001
    MOUNT_ATTR_NODEV = 0x00000004
    MOUNT_ATTR_IDMAP = 0x00100000
    MOUNT_ATTR_NOSYMFOLLOW = 0x00200000     # Linux 5.14
    # statx(2)
    STATX_INO = 0x100
    STATX_MNT_ID = 0x1000
    # memfd_create(2)
    SEAL_SEAL = 1
    SEAL_SHRINK = 2
    SEAL_GROW = 4
    SEAL_WRITE = 8
    # capset(2)
    CAPABILITY_VERSION_3 = 0x20080522
    # keyctl(2)
    KEYCTL_JOIN_SESSION_KEYRING = 1
    KEYCTL_SETPERM = 5
    KEYRING_PERMISSIONS = 0x3F1B0000    # a new session keyring's own, and the user's right to search
    # statfs(2)
    PROC_MAGIC = 0x9FA0
    DEVPTS_MAGIC = 0x1CD1
    # bpf(2)
    BPF_PROG_LOAD = 5
    BPF_PROG_ATTACH = 8
    BPF_PROG_TYPE_CGROUP_DEVICE = 15
    BPF_CGROUP_DEVICE = 6
    BPF_F_ALLOW_MULTI = 2


cdef inline uint64_t now_ns() noexcept nogil:
    """Monotonic time in nanoseconds (vDSO: no system call)."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef inline long _rc(long value) noexcept nogil:
    """The result of a system call as value or -errno."""
    return value if value >= 0 else -<long>errno
