# cython: cdivision=True, boundscheck=False
# The little rtnetlink that a start needs: one interface comes up (rtnetlink(7)).

from pyrunc._native.linux cimport *

cdef extern from *:
    """
    struct pr_nlmsghdr { uint32_t nlmsg_len; uint16_t nlmsg_type, nlmsg_flags; uint32_t nlmsg_seq, nlmsg_pid; };
    struct pr_ifinfomsg { unsigned char ifi_family, pad; uint16_t ifi_type; int ifi_index; unsigned int ifi_flags, ifi_change; };
    struct pr_link_request { struct pr_nlmsghdr header; struct pr_ifinfomsg link; };
    struct pr_link_reply { struct pr_nlmsghdr header; int error; char rest[256]; };
    """
    ctypedef struct nlmsghdr "struct pr_nlmsghdr":
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
    ctypedef struct ifinfomsg "struct pr_ifinfomsg":
        unsigned char ifi_family
        int ifi_index
        unsigned int ifi_flags
        unsigned int ifi_change
    ctypedef struct link_request "struct pr_link_request":
        nlmsghdr header
        ifinfomsg link
    ctypedef struct link_reply "struct pr_link_reply":
        nlmsghdr header
        int error

# Spelled out, since musl's headers do not come with the kernel's.
cdef enum:
    NETLINK_ROUTE = 0
    RTM_NEWLINK = 16
    NLM_F_REQUEST = 1
    NLM_F_ACK = 4
    NLMSG_ERROR = 2
    IFF_UP = 1


cdef inline int c_link_up(int index) noexcept nogil:
    """Set interface *index* (1 is lo in every network namespace) up; 0 or -errno."""
    cdef link_request message
    cdef link_reply reply
    cdef ssize_t got
    cdef int fd = <int>_rc(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE))
    if fd < 0:
        return fd
    memset(&message, 0, sizeof(message))
    message.header.nlmsg_len = sizeof(message)
    message.header.nlmsg_type = <uint16_t>RTM_NEWLINK
    message.header.nlmsg_flags = <uint16_t>(NLM_F_REQUEST | NLM_F_ACK)
    message.link.ifi_index = index
    message.link.ifi_flags = <unsigned int>IFF_UP
    message.link.ifi_change = <unsigned int>IFF_UP
    got = send(fd, &message, sizeof(message), 0)
    if got >= 0:
        got = recv(fd, &reply, sizeof(reply), 0)
    if got < 0:
        got = -errno
    elif reply.header.nlmsg_type == NLMSG_ERROR:
        got = reply.error
    else:
        got = 0
    close(fd)
    return <int>got
