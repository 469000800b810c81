"""Devices of a document, as they are in its container and in runc's."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import InvalidSpec, StartError
from tests.spec_run import bundle_spec, peer_run, run_spec

pytestmark = pytest.mark.usefixtures("host_unchanged")

Spec = dict[str, Any]
USER: Spec = {
    key: [{"containerID": 0, "hostID": 100000, "size": 65536}] for key in ("uidMappings", "gidMappings")
}


@pytest.fixture
def bundle(make_rootfs: Callable[[Path], Path], tmp_path: Path) -> Path:
    make_rootfs(tmp_path / "rootfs")
    return tmp_path


def with_devices(*devices: Spec, **linux: Any) -> Spec:
    spec = bundle_spec(devices=list(devices), **linux)
    spec["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    return spec


def in_user_namespace(spec: Spec) -> Spec:
    namespaces = [*spec["linux"]["namespaces"], {"type": "user"}]
    return {**spec, "linux": {**spec["linux"], **USER, "namespaces": namespaces}}


def table(listing: str) -> dict[str, tuple[str, ...]]:
    """Mode, owner, group and what follows (numbers or size) by name, of `ls -ln`."""
    rows = [line.split() for line in listing.splitlines() if line and line[0] in "bcdlp-"]
    found = {}
    for row in rows:
        size = row[4:6] if row[0][0] in "bc" else []
        found[row[-1] if "->" not in row else " ".join(row[-3:])] = (row[0], row[2], row[3], *size)
    return found


LISTED = (
    {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
    {"path": "/dev/pipe", "type": "p", "fileMode": 0o600, "uid": 7},
    {"path": "/dev/block", "type": "b", "major": 7, "minor": 0},
    {"path": "/dev/bus/usb/001", "type": "u", "major": 1, "minor": 5, "fileMode": 0o20444},
    {"path": "/dev/null", "type": "c", "major": 1, "minor": 5},
    {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o444},
    {"path": "/elsewhere/full", "type": "c", "major": 1, "minor": 7},
)


def test_every_kind_of_device_as_runc_makes_it(bundle: Path) -> None:
    spec = with_devices(*LISTED)
    script = "ls -ln /dev /dev/bus/usb /elsewhere"
    ours = table(run_spec(bundle / "rootfs", spec, script))
    # The size of the directories differs; names, modes, owners and numbers do not.
    assert ours["fuse"] == ("crw-r-----", "5", "6", "10,", "229")
    assert ours["pipe"] == ("prw-------", "7", "0")
    assert ours["block"] == ("brw-rw-rw-", "0", "0", "7,", "0")
    assert ours["001"] == ("cr--r--r--", "0", "0", "1,", "5")
    assert ours["null"] == (
        "crw-rw-rw-",
        "0",
        "0",
        "1,",
        "5",
    )  # what the document says comes before a default
    assert ours["zero"][0] == "cr--r--r--"
    assert ours["full"] == ("crw-rw-rw-", "0", "0", "1,", "7")
    peer = peer_run(bundle, spec, script)
    assert table(peer.stdout) == ours, peer.stderr


@pytest.mark.parametrize("user", [False, True], ids=["root", "user namespace"])
def test_the_hosts_ptmx_is_left_out_of_all_devices_of_the_host(bundle: Path, user: bool) -> None:
    spec = with_devices({"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2})
    if user:
        in_user_namespace(spec)
    script = "readlink /dev/ptmx"
    assert run_spec(bundle / "rootfs", spec, script) == "pts/ptmx\n" == peer_run(bundle, spec, script).stdout


def test_a_document_without_dev_gets_the_default_devices_in_its_root(bundle: Path) -> None:
    spec = with_devices()
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    script = "ls -ln /dev"
    peer = peer_run(bundle, spec, script)
    for path in (bundle / "rootfs/dev").iterdir():
        path.unlink()
    ours = run_spec(bundle / "rootfs", spec, script)
    assert table(ours) == table(peer.stdout)
    # and again, now that they are there
    assert table(run_spec(bundle / "rootfs", spec, script)) == table(ours)
    (bundle / "rootfs/dev/null").unlink()
    (bundle / "rootfs/dev/null").write_text("the image's own")
    assert run_spec(bundle / "rootfs", spec, "cat /dev/null") == "the image's own"


def test_nothing_is_made_in_a_dev_that_is_bound(bundle: Path) -> None:
    (bundle / "own").mkdir()
    spec = with_devices()
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    spec["mounts"].append({"destination": "/dev", "type": "bind", "source": "own", "options": ["bind"]})
    assert run_spec(bundle / "rootfs", spec, "ls /dev; exec 2>&1; exec >&-") == ""
    assert list((bundle / "own").iterdir()) == []


def test_what_is_there_already_must_be_the_same(bundle: Path) -> None:
    os.mknod(bundle / "rootfs/tmp/same", 0o020600, os.makedev(1, 3))
    os.mkfifo(bundle / "rootfs/tmp/pipe")
    same = {"path": "/tmp/same", "type": "c", "major": 1, "minor": 3}
    pipe = {"path": "/tmp/pipe", "type": "p"}
    script = "ls -ln /tmp"
    ours = run_spec(bundle / "rootfs", with_devices(same, pipe), script)
    assert table(ours)["same"] == ("crw-------", "0", "0", "1,", "3")
    assert table(peer_run(bundle, with_devices(same, pipe), script).stdout) == table(ours)
    for other in (
        {**same, "minor": 5},
        {**same, "type": "b"},
        {"path": "/bin/busybox", **same} | {"path": "/bin/busybox"},
    ):
        with pytest.raises(StartError, match=f"mknod {other['path']}: file exists"):
            run_spec(bundle / "rootfs", with_devices(other), "true")


def test_a_user_namespace_gets_the_hosts_nodes_and_fifos_of_its_own(bundle: Path) -> None:
    devices: tuple[Spec, ...] = (
        {"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600, "uid": 7, "gid": 8},
    )
    node = Path("/dev/loop0")
    if not node.is_block_device():
        devices = devices[1:]
    os.chown(bundle / "rootfs", 100000, 100000)
    for path in (bundle / "rootfs").rglob("*"):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    script = "ls -ln /dev; echo x > /dev/null; head -c 3 /dev/zero | wc -c; (echo hello > /dev/pipe &); cat /dev/pipe"
    ours = run_spec(bundle / "rootfs", in_user_namespace(with_devices(*devices)), script)
    assert ours.splitlines()[-2:] == ["3", "hello"]
    found = table("\n".join(ours.splitlines()[:-2]))
    assert found["pipe"] == ("prw-------", "7", "8")
    assert found["null"][0] == "crw-rw-rw-" and found["null"][3:] == ("1,", "3")
    if len(devices) == 2:
        assert found["loop0"][0][0] == "b" and found["loop0"][3:] == ("7,", "0")


def test_the_hosts_node_must_be_what_the_document_says(bundle: Path) -> None:
    spec = in_user_namespace(with_devices({"path": "/dev/full", "type": "c", "major": 1, "minor": 3}))
    with pytest.raises(StartError, match="/dev/full: no such device"):
        run_spec(bundle / "rootfs", spec, "true")
    spec = in_user_namespace(with_devices({"path": "/dev/full", "type": "b", "major": 1, "minor": 7}))
    with pytest.raises(StartError, match="/dev/full: no such device"):
        run_spec(bundle / "rootfs", spec, "true")


@pytest.mark.parametrize(("device", "words"), [
    ({"path": "/dev/x", "type": "z"}, r"linux.devices\[0\].type: unknown device type 'z'"),
    ({"path": "/dev/x"}, r"linux.devices\[0\].type"),
    ({"type": "p"}, r"linux.devices\[0\].path: must be absolute"),
    ({"path": "/dev/x", "type": "c", "major": -1}, r"linux.devices\[0\].major: must be an integer from 0 to 4095"),
    ({"path": "/dev/x", "type": "b", "minor": 1 << 20}, r"linux.devices\[0\].minor: must be an integer"),
])  # fmt: skip
def test_what_no_device_can_be(bundle: Path, device: Spec, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        run_spec(bundle / "rootfs", with_devices(device), "true")


def test_a_symlink_of_the_image_keeps_devices_inside(bundle: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (bundle / "rootfs/lead").symlink_to(victim)
    (bundle / "rootfs/there").symlink_to(victim / "node")
    device = {"type": "c", "major": 1, "minor": 3}
    with pytest.raises(StartError, match="mknod /lead/node: no such file"):
        run_spec(bundle / "rootfs", with_devices({**device, "path": "/lead/node"}), "true")
    with pytest.raises(StartError, match="mknod /there: file exists"):
        run_spec(bundle / "rootfs", with_devices({**device, "path": "/there"}), "true")
    assert list(victim.iterdir()) == []
