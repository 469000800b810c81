"""Namespaces do what the runtime counts on under whichever kernel this is."""

import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from . import linux, needs
from .child import in_child

pytestmark = [pytest.mark.vm, needs.root()]


@pytest.mark.parametrize("kind", ["uts", "ipc", "net", "cgroup", "mnt", "user"])
def test_namespace(kind: str) -> None:
    flag = {
        "uts": linux.CLONE_NEWUTS,
        "ipc": linux.CLONE_NEWIPC,
        "net": linux.CLONE_NEWNET,
        "cgroup": linux.CLONE_NEWCGROUP,
        "mnt": linux.CLONE_NEWNS,
        "user": linux.CLONE_NEWUSER,
    }[kind]
    before = os.readlink(f"/proc/self/ns/{kind}")
    in_child(lambda: _differs(kind, before), flag)
    assert os.readlink(f"/proc/self/ns/{kind}") == before


def _differs(kind: str, before: str) -> None:
    assert os.readlink(f"/proc/self/ns/{kind}") != before


def test_pid_namespace() -> None:
    def check() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if os.getpid() == 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0

    in_child(check, linux.CLONE_NEWPID)


@needs.namespace("time")
def test_time_namespace() -> None:
    def check() -> None:
        Path("/proc/self/timens_offsets").write_text("boottime 1000000 0")
        if (pid := os.fork()) == 0:
            os._exit(0 if float(Path("/proc/uptime").read_text().split()[0]) > 1_000_000 else 1)
        assert os.waitpid(pid, 0)[1] == 0

    in_child(check, linux.CLONE_NEWTIME)


def test_user_namespace_maps_a_range() -> None:
    ready, mapped = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready[1], b"x")
            os.read(mapped[0], 1)
            os.setuid(5)
            os.write(ready[1], str(os.getuid()).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready[1])
    try:
        assert os.read(ready[0], 1) == b"x"
        Path(f"/proc/{pid}/uid_map").write_text("0 100000 1000")
        os.write(mapped[1], b"x")
        assert os.read(ready[0], 8) == b"5"
        assert os.stat(f"/proc/{pid}").st_uid in (0, 100005)
        assert "\t100005\t" in Path(f"/proc/{pid}/status").read_text()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (ready[0], *mapped):
            os.close(fd)


def test_mqueue_belongs_to_the_ipc_namespace(tmp_path: Path) -> None:
    def check() -> None:
        linux.mount("mqueue", str(tmp_path), "mqueue")
        (tmp_path / "queue").touch()
        assert "QSIZE:0" in (tmp_path / "queue").read_text()

    in_child(check, linux.CLONE_NEWNS | linux.CLONE_NEWIPC)


def test_setns_by_pidfd_joins_several_namespaces_at_once(sleeper: int) -> None:
    reading, writing = os.pipe()
    flags = linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET
    pid = os.fork()
    if pid == 0:
        linux.unshare(flags)
        os.write(writing, b"x")
        signal.pause()
    try:
        os.read(reading, 1)

        def check() -> None:
            linux.setns(os.pidfd_open(pid), flags)
            for kind in ("uts", "ipc", "net"):
                assert os.readlink(f"/proc/self/ns/{kind}") == os.readlink(f"/proc/{pid}/ns/{kind}")
                assert os.readlink(f"/proc/self/ns/{kind}") != os.readlink(f"/proc/{sleeper}/ns/{kind}")

        in_child(check)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def test_veth_pair_across_namespaces() -> None:
    """RTM_NEWLINK that makes a pair in a new network namespace."""

    def attribute(kind: int, data: bytes) -> bytes:
        return (struct.pack("=HH", len(data) + 4, kind) + data).ljust((len(data) + 7) & ~3, b"\0")

    def check() -> None:
        peer = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, b"eth0\0")
        kind = attribute(18, attribute(1, b"veth") + attribute(2, attribute(1, peer)))
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, b"host0\0") + kind
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            sock.send(struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
            answer = sock.recv(4096)
        assert struct.unpack_from("=i", answer, 16)[0] == 0, os.strerror(
            -struct.unpack_from("=i", answer, 16)[0]
        )
        assert {"host0", "eth0"} <= {name for _, name in socket.if_nameindex()}

    in_child(check, linux.CLONE_NEWNET)
