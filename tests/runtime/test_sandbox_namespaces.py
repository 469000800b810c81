"""Each namespace is private unless the host's is asked for, and names and files say what was asked."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import InvalidArgument, StartError, Unsupported
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("host_unchanged")

KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")


def inside(run: Run, **options: Any) -> dict[str, str]:
    lines = run(
        "for kind in mnt pid net ipc uts cgroup user; do readlink /proc/self/ns/$kind; done", **options
    )
    return dict(zip(KINDS, lines.split(), strict=True))


def outside() -> dict[str, str]:
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}


def test_all_but_the_user_namespace_are_private_by_default(run: Run) -> None:
    found, host = inside(run), outside()
    assert {kind for kind in KINDS if found[kind] == host[kind]} == {"user"}


@pytest.mark.parametrize(("option", "kind"), [
    ("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("cgroupns", "cgroup"), ("network", "net"),
])  # fmt: skip
def test_one_namespace_of_the_host_on_request(run: Run, option: str, kind: str) -> None:
    found, host = inside(run, **{option: "host"}), outside()
    assert {name for name in KINDS if found[name] == host[name]} == {"user", kind}


def test_two_containers_share_nothing(rootfs: Path) -> None:
    """Both at once, since the kernel gives the number of a namespace that is gone to the next one."""
    with Sandbox(rootfs) as box, box.start(["sleep", "60"]) as one, box.start(["sleep", "60"]) as other:
        for kind in KINDS:
            links = {os.readlink(f"/proc/{process.pid}/ns/{kind}") for process in (one, other)}
            assert len(links) == (1 if kind == "user" else 2), kind


def test_the_program_is_process_1_and_sees_only_its_own(run: Run) -> None:
    assert run("echo $$ /proc/[0-9]*") == "1 /proc/1\n"


def test_with_the_hosts_processes_it_sees_them_and_leaves_none(run: Run) -> None:
    assert run(f"sleep 987 & ls -d /proc/{os.getpid()}", pid="host") == f"/proc/{os.getpid()}\n"


def test_a_network_of_its_own_has_only_a_loopback_that_is_up(run: Run) -> None:
    ping = "ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up"
    assert run(f"ls /sys/class/net; cat /sys/class/net/lo/flags; {ping}").split() == [
        "lo", "0x9", "up",
    ]  # fmt: skip


def test_the_network_by_path(run: Run, tmp_path: Path) -> None:
    child = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        path = f"/proc/{child.pid}/ns/net"
        assert inside(run, network=path)["net"] == os.readlink(path)
        # what is someone else's is not changed
        assert run("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", network=path) == "1024\n"
    finally:
        child.communicate(b"\n")
    assert inside(run, network="/proc/self/ns/net")["net"] == outside()["net"]
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"setns .*/file: invalid argument"):
        run("true", network=str(tmp_path / "file"))
    with pytest.raises(InvalidArgument, match=r"network: .*/none: no such file or directory"):
        run("true", network=str(tmp_path / "none"))
    with pytest.raises(Unsupported, match=r"network must be .* not 'bridge'"):
        run("true", network="bridge")


@pytest.mark.usefixtures("probe")
def test_queues_of_the_host_are_not_seen(run: Run) -> None:
    assert run("probe mqueue /own; ls /dev/mqueue") == "ok\nown\n"
    assert run("ls /dev/mqueue") == ""


def test_shared_memory_is_the_hosts_with_its_ipc_namespace(run: Run) -> None:
    name = f"pyrunc-test-{os.getpid()}"
    try:
        run(f"echo here > /dev/shm/{name}", ipc="host")
        assert Path(f"/dev/shm/{name}").read_text() == "here\n"
        assert run("ls /dev/shm") == ""
    finally:
        Path(f"/dev/shm/{name}").unlink()
    with pytest.raises(InvalidArgument, match="shm_bytes"):
        run("true", ipc="host", shm_bytes=1 << 20)


def test_the_cgroup_namespace_hides_where_the_container_is(run: Run) -> None:
    assert all(line.rsplit(":", 1)[1] == "/" for line in run("cat /proc/self/cgroup").split())
    assert re.search(r":/pyrunc/[0-9a-f]{64}\n", run("cat /proc/self/cgroup", cgroupns="host"))


def test_host_and_domain_name(run: Run, rootfs: Path) -> None:
    script = "hostname; echo $HOSTNAME; cat /etc/hostname /proc/sys/kernel/domainname"
    assert run(script, hostname="box", domainname="example.org").split() == [
        "box",
        "box",
        "box",
        "example.org",
    ]
    assert run("readlink /proc/self/exe; hostname", hostname="ä" * 32).endswith("ä" * 32 + "\n")  # 64 bytes
    with Sandbox(rootfs) as box:
        first, second = (box.run(["/bin/sh", "-c", script]).stdout.split()[:3] for _ in range(2))
    assert re.fullmatch(rb"[0-9a-f]{12}", first[0]) and len(set(first)) == len(set(second)) == 1
    assert first != second


def test_names_of_the_host(run: Run) -> None:
    host = os.uname().nodename
    script = "hostname; echo $HOSTNAME; cat /etc/hostname"
    assert run(script, uts="host").split() == [host] * 3
    assert run(script, network="host").split() == [host] * 3
    for option in ("hostname", "domainname"):
        with pytest.raises(InvalidArgument, match=f"{option}: cannot be set with uts='host'"):
            run("true", uts="host", **{option: "x"})  # type: ignore[arg-type]
    assert os.uname().nodename == host


def test_hosts_and_resolv_conf(run: Run) -> None:
    lines = run("cat /etc/hosts", hosts={"db": "10.0.0.5", "six": "fd00::1"}).splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-2:] == ["10.0.0.5\tdb", "fd00::1\tsix"]
    assert run("cat /etc/hosts", network="host") == Path("/etc/hosts").read_text()
    assert (
        run("cat /etc/resolv.conf", dns=["9.9.9.9", "2620:fe::fe"])
        == "nameserver 9.9.9.9\nnameserver 2620:fe::fe\n"
    )
    assert run("cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text()
    assert (
        run("echo more >> /etc/hosts && tail -1 /etc/hosts") == "more\n"
    )  # as in Docker, the container's own
    assert run("ls /etc", etc_files=False).split() == ["group", "passwd"]


@pytest.mark.parametrize("options", [
    {"hostname": "a b"}, {"hostname": "a\nb"}, {"hostname": "x" * 65}, {"domainname": "x\0"}, {"hosts": {"a": "b"}},
    {"hosts": {"a b": "1.2.3.4"}}, {"hosts": {"": "1.2.3.4"}}, {"dns": ["8.8.8.8\noptions x"]}, {"dns": "8.8.8.8"},
    {"pid": "container:x"}, {"ipc": "shareable"}, {"network": "/a/../b"},
])  # fmt: skip
def test_what_no_name_address_or_namespace_can_be(run: Run, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        run("true", **options)
