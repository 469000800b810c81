# cython: cdivision=True, boundscheck=False
# A network device of the host moves into a container's network namespace, with the addresses that it keeps
# (rtnetlink(7), netdevice(7); OCI runtime-spec config-linux.md "Network Devices").

from pyrunc._native.linux cimport *
from pyrunc._native.host_steps cimport *
from pyrunc._native.netlink cimport *
from pyrunc._native.plan cimport *
from pyrunc._native.steps cimport *

cdef extern from *:
    """
    struct pr_ifaddrmsg { unsigned char ifa_family, ifa_prefixlen, ifa_flags, ifa_scope; uint32_t ifa_index; };
    struct pr_rtattr { uint16_t rta_len, rta_type; };
    """
    ctypedef struct ifaddrmsg "struct pr_ifaddrmsg":
        unsigned char ifa_family
        unsigned char ifa_prefixlen
        unsigned char ifa_flags
        unsigned char ifa_scope
        uint32_t ifa_index
    ctypedef struct rtattr "struct pr_rtattr":
        uint16_t rta_len
        uint16_t rta_type

cdef enum:
    RTM_GETLINK = 18
    RTM_NEWADDR = 20
    RTM_GETADDR = 22
    NLM_F_DUMP = 0x300
    NLM_F_EXCL = 0x200
    NLM_F_CREATE = 0x400
    NLMSG_DONE = 3
    IFLA_IFNAME = 3
    IFLA_NET_NS_FD = 28
    IFA_CACHEINFO = 6
    IFA_FLAGS = 8
    IFA_F_PERMANENT = 0x80
    RT_SCOPE_UNIVERSE = 0
    MESSAGE_MAX = 1024              # of one address
    ANSWER_MAX = 32768              # what the kernel puts into one answer of a dump
    KEPT_MAX = 16384                # of all addresses of the device


cdef inline int net_socket(int namespace, int back) noexcept nogil:
    """A netlink socket of the network *namespace*; this process goes *back* to its own."""
    cdef int fd
    if setns(namespace, CLONE_NEWNET) < 0:
        return -errno
    fd = <int>_rc(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE))
    if setns(back, CLONE_NEWNET) < 0:
        close(fd)
        return -errno
    return fd


cdef inline void put_attribute(char *message, uint16_t kind, const void *value, uint16_t size) noexcept nogil:
    cdef nlmsghdr *header = <nlmsghdr *>message
    cdef rtattr *attribute = <rtattr *>(message + ((header.nlmsg_len + 3) & ~<uint32_t>3))
    attribute.rta_type = kind
    attribute.rta_len = <uint16_t>sizeof(rtattr) + size
    memcpy(<char *>attribute + sizeof(rtattr), value, size)
    header.nlmsg_len = ((header.nlmsg_len + 3) & ~<uint32_t>3) + attribute.rta_len


cdef inline int ask_kernel(int fd, const char *message, int *index) noexcept nogil:
    """Send one request; 0 or what the kernel's answer says. *index*, if given, becomes that of the link it describes."""
    cdef char answer[ANSWER_MAX]
    cdef nlmsghdr *header = <nlmsghdr *>answer
    cdef ssize_t got
    if send(fd, message, (<const nlmsghdr *>message).nlmsg_len, 0) < 0:
        return -errno
    got = recv(fd, answer, sizeof(answer), 0)
    if got < 0:
        return -errno
    if got < <ssize_t>(sizeof(nlmsghdr) + sizeof(int)):
        return -EPROTO
    if header.nlmsg_type == NLMSG_ERROR:
        return (<link_reply *>answer).error
    if index == NULL or header.nlmsg_type != RTM_NEWLINK or got < <ssize_t>sizeof(link_request):
        return -EPROTO
    index[0] = (<link_request *>answer).link.ifi_index
    return 0


cdef inline void link_message(char *message, uint16_t kind, uint16_t flags, int index) noexcept nogil:
    cdef link_request *request = <link_request *>message
    memset(message, 0, MESSAGE_MAX)
    request.header.nlmsg_len = sizeof(link_request)
    request.header.nlmsg_type = kind
    request.header.nlmsg_flags = <uint16_t>NLM_F_REQUEST | flags
    request.link.ifi_index = index


cdef inline int link_index(int fd, const char *name) noexcept nogil:
    cdef char message[MESSAGE_MAX]
    cdef int index = 0
    cdef int rc
    link_message(message, RTM_GETLINK, 0, 0)
    put_attribute(message, IFLA_IFNAME, name, <uint16_t>(strlen(name) + 1))
    rc = ask_kernel(fd, message, &index)
    return rc if rc < 0 else index


cdef inline bint keeps(const char *message, int index) noexcept nogil:
    """Whether an address is one of the device's that it has for good and everywhere."""
    cdef const nlmsghdr *header = <const nlmsghdr *>message
    cdef const ifaddrmsg *address = <const ifaddrmsg *>(message + sizeof(nlmsghdr))
    cdef const rtattr *attribute
    cdef uint32_t flags = address.ifa_flags
    cdef uint32_t at = sizeof(nlmsghdr) + sizeof(ifaddrmsg)
    if header.nlmsg_type != RTM_NEWADDR or address.ifa_index != <uint32_t>index or address.ifa_scope != RT_SCOPE_UNIVERSE:
        return False
    while at + sizeof(rtattr) <= header.nlmsg_len:
        attribute = <const rtattr *>(message + at)
        if attribute.rta_len < sizeof(rtattr):
            break
        if attribute.rta_type == IFA_FLAGS and attribute.rta_len >= sizeof(rtattr) + 4:
            memcpy(&flags, message + at + sizeof(rtattr), 4)
        at += (attribute.rta_len + 3) & ~<uint32_t>3
    return flags & IFA_F_PERMANENT


cdef inline int kept_addresses(int fd, int index, char *kept) noexcept nogil:
    """Copy the messages of the device's lasting addresses to *kept*; how many bytes, or -errno."""
    cdef char message[MESSAGE_MAX]
    cdef char answer[ANSWER_MAX]
    cdef nlmsghdr *header = <nlmsghdr *>message
    cdef ssize_t got
    cdef ssize_t at
    cdef uint32_t length
    cdef int size = 0
    memset(message, 0, sizeof(message))
    header.nlmsg_len = sizeof(nlmsghdr) + sizeof(ifaddrmsg)
    header.nlmsg_type = RTM_GETADDR
    header.nlmsg_flags = <uint16_t>(NLM_F_REQUEST | NLM_F_DUMP)
    if send(fd, message, header.nlmsg_len, 0) < 0:
        return -errno
    while True:
        got = recv(fd, answer, sizeof(answer), 0)
        if got < 0:
            return -errno
        at = 0
        while at + <ssize_t>sizeof(nlmsghdr) <= got:
            header = <nlmsghdr *>(answer + at)
            length = header.nlmsg_len
            if length < sizeof(nlmsghdr) or <ssize_t>length > got - at:
                return -EPROTO
            if header.nlmsg_type == NLMSG_DONE:
                return size
            if header.nlmsg_type == NLMSG_ERROR:
                return (<link_reply *>header).error
            if keeps(answer + at, index):
                length = (length + 3) & ~<uint32_t>3
                if length > MESSAGE_MAX or size + <int>length > KEPT_MAX:
                    return -E2BIG
                memcpy(kept + size, header, length)
                size += <int>length
            at += <ssize_t>((length + 3) & ~<uint32_t>3)


cdef inline int add_addresses(int fd, int index, const char *kept, int size) noexcept nogil:
    cdef char message[MESSAGE_MAX]
    cdef nlmsghdr *header = <nlmsghdr *>message
    cdef const rtattr *attribute
    cdef uint32_t length
    cdef uint32_t from_
    cdef int at = 0
    cdef int rc
    while at < size:
        length = (<const nlmsghdr *>(kept + at)).nlmsg_len
        memset(message, 0, sizeof(message))
        memcpy(message, kept + at, sizeof(nlmsghdr) + sizeof(ifaddrmsg))
        header.nlmsg_len = sizeof(nlmsghdr) + sizeof(ifaddrmsg)
        header.nlmsg_flags = <uint16_t>(NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
        (<ifaddrmsg *>(message + sizeof(nlmsghdr))).ifa_index = <uint32_t>index
        from_ = sizeof(nlmsghdr) + sizeof(ifaddrmsg)
        while from_ + sizeof(rtattr) <= length:
            attribute = <const rtattr *>(kept + at + from_)
            if attribute.rta_len < sizeof(rtattr):
                break
            if attribute.rta_type != IFA_CACHEINFO:     # when it was made, and how long it is good: for ever
                put_attribute(message, attribute.rta_type, <const char *>attribute + sizeof(rtattr),
                              attribute.rta_len - <uint16_t>sizeof(rtattr))
            from_ += (attribute.rta_len + 3) & ~<uint32_t>3
        rc = ask_kernel(fd, message, NULL)
        if rc < 0 and rc != -EEXIST:
            return rc
        at += <int>((length + 3) & ~<uint32_t>3)
    return 0


cdef inline int move_device(int host, int container, int namespace, const char *name, const char *wanted) noexcept nogil:
    cdef char message[MESSAGE_MAX]
    cdef char kept[KEPT_MAX]
    cdef int size
    cdef int rc
    cdef int index = link_index(host, name)
    if index < 0:
        return index
    # The kernel moves first and renames then: what fails at the second would be left there.
    rc = link_index(container, wanted)
    if rc != -ENODEV:
        return rc if rc < 0 else -EEXIST
    size = kept_addresses(host, index, kept)
    if size < 0:
        return size
    link_message(message, RTM_NEWLINK, NLM_F_ACK, index)
    put_attribute(message, IFLA_NET_NS_FD, &namespace, sizeof(namespace))
    put_attribute(message, IFLA_IFNAME, wanted, <uint16_t>(strlen(wanted) + 1))
    rc = ask_kernel(host, message, NULL)
    if rc < 0:
        return rc
    index = link_index(container, wanted)
    if index < 0:
        return index
    rc = add_addresses(container, index, kept, size)
    if rc < 0:
        return rc
    link_message(message, RTM_NEWLINK, NLM_F_ACK, index)
    (<link_request *>message).link.ifi_flags = <unsigned int>IFF_UP
    (<link_request *>message).link.ifi_change = <unsigned int>IFF_UP
    return ask_kernel(container, message, NULL)


cdef inline int net_device_step(walk *w, const plan_step *step, int pid) noexcept nogil:
    """Move the host's device into the network namespace of the waiting init, under its new name, and set it up."""
    cdef int process = open_process(pid)
    cdef int own
    cdef int target
    cdef int host = -1
    cdef int container = -1
    cdef int rc
    if process < 0:
        return process
    target = <int>_rc(openat(process, b"ns/net", O_RDONLY | O_CLOEXEC))
    close(process)
    own = <int>_rc(openat(AT_FDCWD, b"/proc/self/ns/net", O_RDONLY | O_CLOEXEC))
    rc = target if target < 0 else own if own < 0 else 0
    if rc == 0:
        host = net_socket(w.host_net if w.host_net >= 0 else own, own)
        container = net_socket(target, own)
        rc = host if host < 0 else container if container < 0 else 0
    if rc == 0:
        rc = move_device(host, container, target, text(w, step.s0), text(w, step.s1))
    close(host)
    close(container)
    close(own)
    close(target)
    return rc
