"""Network devices of the host that a document moves into its container (OCI config-linux.md "Network Devices")."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import InvalidSpec, StartError
from tests.spec_run import bundle_spec, run_spec

pytestmark = pytest.mark.usefixtures("host_unchanged")

Spec = dict[str, Any]


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def devices() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


@pytest.fixture
def device() -> Iterator[str]:
    """One end of a veth pair, with an MTU and lasting addresses of its own; the other end goes with it."""
    name, peer = f"pt{os.getpid()}a", f"pt{os.getpid()}b"
    try:
        ip(
            "link",
            "add",
            name,
            "mtu",
            "1400",
            "address",
            "02:00:00:00:00:99",
            "type",
            "veth",
            "peer",
            "name",
            peer,
        )
    except (FileNotFoundError, AssertionError) as exc:
        pytest.skip(f"no veth pairs here: {exc}")
    try:
        ip("address", "add", "10.99.1.2/24", "dev", name)
        ip("address", "add", "10.99.2.2/30", "broadcast", "10.99.2.3", "dev", name)
        ip("address", "add", "fd00:99::2/64", "dev", name, "nodad")
        ip("address", "add", "10.99.3.2/24", "dev", name, "valid_lft", "600", "preferred_lft", "600")
        ip("link", "set", peer, "up")
        yield name
    finally:
        subprocess.run(["ip", "link", "del", peer], capture_output=True, check=False)


SHOW = "ip link show dev {0}; ip address show dev {0}; ls /sys/class/net"


@pytest.mark.parametrize("user", [False, True])
def test_it_goes_with_the_container(rootfs: Path, device: str, user: bool) -> None:
    spec = bundle_spec(netDevices={device: {"name": "net0"}})
    if user:
        row = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"].update(uidMappings=row, gidMappings=row)
        spec["linux"]["namespaces"].append({"type": "user"})
    with (
        Sandbox.from_spec({**spec, "root": {"path": str(rootfs)}}, rootfs.parent) as box,
        box.start(["sleep", "60"]) as child,
    ):
        assert " net0:" in Path(f"/proc/{child.pid}/net/dev").read_text()
        assert device not in devices()
    assert device not in devices()


def test_what_it_keeps(rootfs: Path, device: str) -> None:
    text = run_spec(rootfs, bundle_spec(netDevices={device: {"name": "net0"}}), SHOW.format("net0"))
    for word in (
        "net0",
        "mtu 1400",
        "02:00:00:00:00:99",
        "10.99.1.2/24",
        "10.99.2.2/30 brd 10.99.2.3",
        "fd00:99::2/64",
    ):
        assert word in text
    assert "UP" in text.splitlines()[0]
    assert "10.99.3.2" not in text  # it was to expire
    assert text.split()[-2:] == ["lo", "net0"]
    assert device not in devices()


def test_without_a_name_it_keeps_its_own(rootfs: Path, device: str) -> None:
    assert device in run_spec(rootfs, bundle_spec(netDevices={device: {}}), SHOW.format(device)).split()


def test_into_a_namespace_by_path(rootfs: Path, device: str) -> None:
    """Which outlives the container, and so does the device there."""
    child = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        spec = bundle_spec(netDevices={device: {"name": "net0"}})
        for row in spec["linux"]["namespaces"]:
            if row["type"] == "network":
                row["path"] = f"/proc/{child.pid}/ns/net"
        assert "10.99.1.2/24" in run_spec(rootfs, spec, SHOW.format("net0"))
        # The name is taken now, by which the next one fails, and nothing has moved.
        other = f"pt{os.getpid()}b"
        again = bundle_spec(netDevices={other: {"name": "net0"}}, namespaces=spec["linux"]["namespaces"])
        with pytest.raises(StartError, match=f"cannot move the network device {other} to net0: file exists"):
            run_spec(rootfs, again, "true")
        assert other in devices()
    finally:
        child.communicate(b"\n")


def test_a_device_that_there_is_not_or_that_stays(rootfs: Path) -> None:
    with pytest.raises(StartError, match="cannot move the network device nosuch to net0: no such device"):
        run_spec(rootfs, bundle_spec(netDevices={"nosuch": {"name": "net0"}}), "true")
    with pytest.raises(StartError, match="cannot move the network device lo to lo1: invalid argument"):
        run_spec(rootfs, bundle_spec(netDevices={"lo": {"name": "lo1"}}), "true")


@pytest.mark.parametrize(("listed", "words"), [
    ({"eth0": {"name": "a/b"}}, r"linux.netDevices\['eth0'\]: invalid network device name 'a/b'"),
    ({"eth0": {"name": "x" * 16}}, "invalid network device name"), ({"": {}}, "invalid network device name ''"),
    ({"..": {}}, "invalid network device name"), ({"a b": {}}, "invalid network device name 'a b'"),
    ({"eth0": {"name": "eth%d"}}, "invalid network device name 'eth%d'"),
    ({"a": {"name": "net0"}, "b": {"name": "net0"}}, "'a' has the name 'net0' in the container too"),
])  # fmt: skip
def test_names_that_cannot_be(rootfs: Path, listed: Spec, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        run_spec(rootfs, bundle_spec(netDevices=listed), "true")


def test_the_hosts_network_takes_none(rootfs: Path) -> None:
    spec = bundle_spec(netDevices={"eth0": {}})
    spec["linux"]["namespaces"] = [row for row in spec["linux"]["namespaces"] if row["type"] != "network"]
    words = "linux.netDevices: unable to move network devices without a private NET namespace"
    with pytest.raises(InvalidSpec, match=words):
        run_spec(rootfs, spec, "true")
    spec["linux"]["namespaces"].append({"type": "network", "path": "/proc/self/ns/net"})
    with pytest.raises(InvalidSpec, match=words):
        run_spec(rootfs, spec, "true")
