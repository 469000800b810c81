"""Children born in namespaces and cgroups, and processes that leave and join namespaces."""

import errno
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc._native import cgroup, namespaces
from tests.child import in_child, refused

CLONE_VM = 0x100


def test_a_clone_is_a_fork_with_a_pidfd() -> None:
    pid, pidfd = namespaces.clone3()
    if pid == 0:
        os._exit(7 if pidfd == -1 else 8)
    try:
        assert fcntl.fcntl(pidfd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert ended is not None
        assert (ended.si_pid, ended.si_status) == (pid, 7)
    finally:
        os.close(pidfd)


def test_a_clone_runs_the_handlers_of_register_at_fork() -> None:
    def child() -> None:
        seen: list[str] = []
        os.register_at_fork(
            before=lambda: seen.append("before"),
            after_in_parent=lambda: seen.append("parent"),
            after_in_child=lambda: seen.append("child"),
        )
        pid, _ = namespaces.clone3()
        if pid == 0:
            os._exit(seen != ["before", "child"])
        assert os.waitpid(pid, 0)[1] == 0
        assert seen == ["before", "parent"]

    in_child(child)


def test_a_clone_is_born_in_the_namespaces_asked_for() -> None:
    host = socket.gethostname()
    before = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("uts", "ipc", "net", "mnt", "cgroup")}

    def child() -> None:
        assert os.getpid() == 1
        socket.sethostname("elsewhere")
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        for kind, link in before.items():
            assert os.readlink(f"/proc/self/ns/{kind}") != link, kind

    in_child(
        child,
        namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWNET
        | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWCGROUP,
    )  # fmt: skip
    assert socket.gethostname() == host


def test_the_exit_signal_can_be_none() -> None:
    pid, pidfd = namespaces.clone3(exit_signal=0)
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)  # such a child shows only to __WALL
    assert os.waitpid(pid, 0x40000000)[0] == pid


def test_a_clone_is_born_in_a_cgroup() -> None:
    unified = unified_hierarchy()
    name = f"/pyrunc-test-{os.getpid()}"
    cgroup.make(unified, name.encode())
    directory = os.open(unified + name.encode(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        reading, writing = os.pipe()
        pid, pidfd = namespaces.clone3(cgroup_fd=directory)
        if pid == 0:
            os.write(writing, Path("/proc/self/cgroup").read_bytes())
            os._exit(0)
        os.close(writing)
        with open(reading) as pipe:
            assert f"0::{name}" in pipe.read().splitlines()
        os.waitpid(pid, 0)
        os.close(pidfd)
    finally:
        os.close(directory)
        cgroup.remove(unified, name.encode())


def unified_hierarchy() -> bytes:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split()
        if fields[fields.index(b"-") + 1] == b"cgroup2":
            return fields[4]
    pytest.skip("cgroup v2 is not mounted")


def test_clone3_refusals() -> None:
    before = os.listdir("/proc/self/fd")
    for flags in (CLONE_VM, 0x10000, 1 << 63):
        with refused(errno.EINVAL, "clone3"):
            namespaces.clone3(flags)
    with open("/dev/null") as null, refused(errno.EBADF, "clone3"):
        namespaces.clone3(cgroup_fd=null.fileno())
    with refused(errno.EINVAL, "clone3"):
        namespaces.clone3(namespaces.CLONE_NEWNS, exit_signal=-1)
    assert os.listdir("/proc/self/fd") == before


@contextmanager
def sleeper(flags: int) -> Iterator[int]:
    """The pidfd of a process in new namespaces, where the host is called "sleeper"."""
    reading, writing = os.pipe()
    pid, pidfd = namespaces.clone3(flags)
    if pid == 0:
        socket.sethostname("sleeper")
        os.write(writing, b"x")
        signal.pause()
        os._exit(0)
    os.read(reading, 1)
    try:
        yield pidfd
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (reading, writing, pidfd):
            os.close(fd)


def test_setns_by_pidfd_joins_several_at_once() -> None:
    both = namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWNET

    with sleeper(both) as pidfd:

        def child() -> None:
            net = os.readlink("/proc/self/ns/net")
            namespaces.setns(pidfd, both)
            assert socket.gethostname() == "sleeper"
            assert os.readlink("/proc/self/ns/net") != net

        in_child(child)


def test_setns_by_a_namespace_file() -> None:
    def child() -> None:
        own = socket.gethostname()
        home = os.open("/proc/self/ns/uts", os.O_RDONLY)
        namespaces.unshare(namespaces.CLONE_NEWUTS)
        socket.sethostname("elsewhere")
        with refused(errno.EINVAL, "setns"):
            namespaces.setns(home, namespaces.CLONE_NEWNET)
        namespaces.setns(home)
        assert socket.gethostname() == own

    in_child(child)


def test_setns_refusals() -> None:
    with refused(errno.EBADF, "setns"):
        namespaces.setns(-1)
    pid, pidfd = namespaces.clone3()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with refused(errno.ESRCH, "setns"):
        namespaces.setns(pidfd, namespaces.CLONE_NEWUTS)
    os.close(pidfd)


def test_unshare() -> None:
    def child() -> None:
        before = os.readlink("/proc/self/ns/ipc")
        namespaces.unshare(namespaces.CLONE_NEWIPC)
        assert os.readlink("/proc/self/ns/ipc") != before
        with refused(errno.EINVAL, "unshare"):
            namespaces.unshare(1)

    in_child(child)
