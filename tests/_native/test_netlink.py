"""The loopback interface of a new network namespace."""

import errno
import socket

import pytest

from pyrunc._native import capability, namespaces, netlink
from tests.child import in_child, refused


def test_loopback_comes_up() -> None:
    def child() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            pytest.raises(OSError, match="unreachable"),
        ):
            udp.connect(("127.0.0.1", 9))
        netlink.link_up(1)
        netlink.link_up(1)
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()

    in_child(child, namespaces.CLONE_NEWNET)


def test_link_up_refusals() -> None:
    def child() -> None:
        with refused(errno.ENODEV, "netlink"):
            netlink.link_up(4242)
        capability.capset(0, 0, 0)
        with refused(errno.EPERM, "netlink"):
            netlink.link_up(1)

    in_child(child, namespaces.CLONE_NEWNET)
