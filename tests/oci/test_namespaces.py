"""Namespaces, network devices and refused mounts through the front door, where init has no supervisor that stays."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc.runtime import cgroup_layout
from tests.oci.bundles import Runtime, cgroups, document

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
LINKS = "for kind in mnt pid net uts ipc user time; do readlink /proc/self/ns/$kind; done"


@pytest.fixture
def spec(oci: Runtime) -> dict[str, Any]:
    return document(oci.rootfs, ["sleep", "100"])


@pytest.fixture
def pod() -> Iterator[int]:
    """A process in user and network namespaces that others are to join."""
    child = subprocess.Popen(["unshare", "-U", "-n", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child.pid}/{name}").write_text("0 100000 65536\n")
        yield child.pid
    finally:
        child.communicate(b"\n")


def links(pid: int) -> list[str]:
    return [
        os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "pid", "net", "uts", "ipc", "user", "time")
    ]


def test_a_created_container_with_clocks_and_ids_of_its_own(
    oci: Runtime, spec: dict[str, Any], tmp_path: Path
) -> None:
    spec["linux"]["namespaces"] += [{"type": "time"}, {"type": "user"}]
    spec["linux"].update(timeOffsets={"boottime": {"secs": 777}}, uidMappings=MAPS, gidMappings=MAPS)
    oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    pid = oci.state()["pid"]
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
    assert Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0] == "100000"
    oci.call("start", oci.id)
    oci.wait("running")
    assert "777" in Path(f"/proc/{pid}/timens_offsets").read_text().split()
    assert not set(links(pid)) & set(links(os.getpid()))
    done = oci.call("exec", oci.id, "sh", "-c", f"{LINKS}; id -u")
    assert done.stdout.split() == [*links(pid), "0"]
    oci.call("kill", oci.id, "KILL")
    oci.wait("stopped")


def test_a_container_in_a_pods_namespaces(
    oci: Runtime, spec: dict[str, Any], pod: int, tmp_path: Path
) -> None:
    kept = [row for row in spec["linux"]["namespaces"] if row["type"] != "network"]
    joined = [
        {"type": kind, "path": f"/proc/{pod}/ns/{link}"}
        for kind, link in (("user", "user"), ("network", "net"))
    ]
    spec["linux"]["namespaces"] = kept + joined
    oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    oci.call("start", oci.id)
    pid = oci.wait("running")["pid"]
    for link in ("user", "net"):
        assert os.readlink(f"/proc/{pid}/ns/{link}") == os.readlink(f"/proc/{pod}/ns/{link}")
    assert oci.call("exec", oci.id, "sh", "-c", LINKS).stdout.split() == links(pid)


def test_a_network_device_is_there_before_the_start_and_never_returns(
    oci: Runtime, spec: dict[str, Any], tmp_path: Path
) -> None:
    name, peer = f"po{os.getpid()}a", f"po{os.getpid()}b"
    try:
        subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", peer], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no veth pairs here: {exc}")
    try:
        subprocess.run(["ip", "address", "add", "10.98.1.2/24", "dev", name], check=True)
        spec["linux"]["netDevices"] = {name: {"name": "net0"}}
        oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
        assert " net0:" in Path(f"/proc/{oci.state()['pid']}/net/dev").read_text()
        assert name not in Path("/proc/self/net/dev").read_text()
        oci.call("start", oci.id)
        oci.wait("running")
        assert "10.98.1.2/24" in oci.call("exec", oci.id, "ip", "address", "show", "dev", "net0").stdout
        oci.call("kill", oci.id, "KILL")
        oci.wait("stopped")
        oci.call("delete", oci.id)
        assert name not in Path("/proc/self/net/dev").read_text()
    finally:
        subprocess.run(["ip", "link", "del", peer], capture_output=True, check=False)


@pytest.mark.parametrize(("change", "words"), [
    ({"timeOffsets": {"boottime": {"secs": -(10**9)}}}, "linux.timeOffsets: failed to write timens_offsets"),
    ({"netDevices": {"nosuch0": {}}}, "linux.netDevices: unable to move network device nosuch0 to nosuch0: no such"),
    ({"sysctl": {"vm.swappiness": "1"}}, 'sysctl \\"vm.swappiness\\" is not in a separate kernel namespace'),
])  # fmt: skip
@pytest.mark.parametrize("verb", ["create", "run"])
def test_what_is_refused_leaves_nothing(
    oci: Runtime, spec: dict[str, Any], tmp_path: Path, verb: str, change: dict[str, Any], words: str
) -> None:
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"].update(change)
    done = oci.call(verb, "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=1)
    assert words in done.stderr
    assert not oci.directory.exists()
    assert not cgroups(oci.id)


@pytest.mark.parametrize(("mount", "words"), [
    ({"destination": "/link", "type": "proc", "source": "proc"},
     'error mounting \\"proc\\" to rootfs at \\"/link\\": filesystem \\"proc\\" must be mounted on ordinary directory'),
    ({"destination": "/way", "type": "bind", "source": "/tmp", "options": ["bind"]},
     'error mounting \\"/tmp\\" to rootfs at \\"/way\\": \\"/way\\" cannot be mounted because it is inside /proc'),
])  # fmt: skip
def test_a_mount_is_refused_in_runcs_words(
    oci: Runtime, spec: dict[str, Any], tmp_path: Path, mount: dict[str, Any], words: str
) -> None:
    rootfs = tmp_path / "rootfs"
    for name in ("proc", "dev", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "link").symlink_to("/tmp")
    (rootfs / "way").symlink_to("/proc/sys")
    spec["root"]["path"] = str(rootfs)
    spec["mounts"].append(mount)
    done = oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=1)
    assert words in done.stderr


def test_it_is_in_hierarchies_that_only_have_a_name(
    oci: Runtime, spec: dict[str, Any], tmp_path: Path
) -> None:
    named = cgroup_layout.detect().named
    if not named:
        pytest.skip("no cgroup hierarchy without a controller is mounted")
    oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    lines = Path(f"/proc/{oci.state()['pid']}/cgroup").read_text().splitlines()
    for hierarchy in named:
        (line,) = [line for line in lines if f":name={hierarchy.name}:" in line]
        assert line.endswith(f"/pyrunc-test/{oci.id}")
