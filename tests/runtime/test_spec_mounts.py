"""Mounts, names, kernel parameters and propagation of a document, as its container and runc's have them."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import errors
from tests.spec_run import bundle_spec, peer_run, run_spec

pytestmark = pytest.mark.usefixtures("host_unchanged")

Spec = dict[str, Any]


@pytest.fixture
def bundle(make_rootfs: Callable[[Path], Path], tmp_path: Path) -> Path:
    make_rootfs(tmp_path / "rootfs")
    return tmp_path


def with_mounts(*mounts: Spec, **linux: Any) -> Spec:
    spec = bundle_spec(**linux)
    spec["mounts"] += mounts
    return spec


def bind(destination: str, source: object, *options: str) -> Spec:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}


def both_refuse(bundle: Path, spec: Spec, words: str) -> None:
    """Here and in runc, with the same *words*."""
    with pytest.raises(errors.PyruncError) as failure:
        run_spec(bundle / "rootfs", spec, "true")
    assert words in str(failure.value)
    peer = peer_run(bundle, spec, "true")
    assert peer.code != 0
    assert words in peer.stderr.replace('\\"', '"')


# --- what covers /proc, and where the kernel's file systems go


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
@pytest.mark.parametrize("what", ["symlink", "file"])
def test_the_kernels_file_systems_want_ordinary_directories(bundle: Path, kind: str, what: str) -> None:
    place = bundle / "rootfs/place"
    if what == "symlink":
        place.symlink_to("/tmp")
    else:
        place.touch()
    mount = {"destination": "/place", "type": kind, "source": kind}
    both_refuse(bundle, with_mounts(mount), f'filesystem "{kind}" must be mounted on ordinary directory')


def test_nothing_is_mounted_inside_proc(bundle: Path) -> None:
    for path in ("/proc/sys", "/proc/version", "/proc/./sys//kernel"):
        with pytest.raises(
            errors.InvalidSpec, match=r'destination: "/proc/.*" cannot be mounted because it is inside /proc'
        ):
            run_spec(bundle / "rootfs", with_mounts(bind(path, "/tmp")), "true")
    peer = peer_run(bundle, with_mounts(bind("/proc/sys", "/tmp")), "true")
    assert 'proc/sys\\" cannot be mounted because it is inside /proc' in peer.stderr


def test_a_symlink_of_the_image_does_not_lead_a_mount_into_proc(bundle: Path) -> None:
    (bundle / "rootfs/way").symlink_to("/proc/sys")
    both_refuse(bundle, with_mounts(bind("/way", "/tmp")), "cannot be mounted because it is inside /proc")
    tmpfs = {"destination": "/way", "type": "tmpfs", "source": "tmpfs"}
    with pytest.raises(errors.StartError, match='"/way" cannot be mounted because it is inside /proc'):
        run_spec(bundle / "rootfs", with_mounts(tmpfs), "true")
    (bundle / "rootfs/file").symlink_to("/proc/version")
    with pytest.raises(errors.StartError, match='"/file" cannot be mounted because it is inside /proc'):
        run_spec(bundle / "rootfs", with_mounts(bind("/file", "/etc/hostname")), "true")


@pytest.mark.parametrize("name", ["uptime", "meminfo", "cpuinfo", "stat", "loadavg", "swaps", "diskstats"])
def test_files_that_lxcfs_covers_can_be_covered(bundle: Path, name: str) -> None:
    (bundle / "own").write_text("covered\n")
    spec = with_mounts(bind(f"/proc/{name}", bundle / "own"))
    assert run_spec(bundle / "rootfs", spec, f"cat /proc/{name}") == "covered\n"
    assert peer_run(bundle, spec, f"cat /proc/{name}").stdout == "covered\n"


def test_over_proc_itself_only_a_procfs_is_bound(bundle: Path) -> None:
    both_refuse(
        bundle, with_mounts(bind("/proc", "/tmp")), '/proc" cannot be mounted because it is not of type proc'
    )
    spec = with_mounts(bind("/proc", "/proc", "rbind"), maskedPaths=[], readonlyPaths=[])
    assert run_spec(bundle / "rootfs", spec, f"test -d /proc/{os.getpid()} && echo host") == "host\n"


# --- names


@pytest.mark.parametrize("kept", [True, False])
def test_a_document_without_a_host_name_keeps_the_hosts(bundle: Path, kept: bool) -> None:
    spec = bundle_spec()
    del spec["hostname"]
    if not kept:
        spec["linux"]["namespaces"] = [row for row in spec["linux"]["namespaces"] if row["type"] != "uts"]
    assert run_spec(bundle / "rootfs", spec, "hostname").strip() == os.uname().nodename
    assert peer_run(bundle, spec, "hostname").stdout.strip() == os.uname().nodename


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_a_name_needs_a_uts_namespace(bundle: Path, name: str) -> None:
    spec = bundle_spec()
    spec.pop("hostname")
    spec[name] = "other"
    spec["linux"]["namespaces"] = [row for row in spec["linux"]["namespaces"] if row["type"] != "uts"]
    words = f"unable to set {name} without a private UTS namespace"
    for path in ("", "/proc/self/ns/uts"):
        if path:
            spec["linux"]["namespaces"].append({"type": "uts", "path": path})
        with pytest.raises(errors.InvalidSpec, match=f"{name}: {words}"):
            run_spec(bundle / "rootfs", spec, "true")
    if name == "hostname":
        spec["linux"]["namespaces"].pop()
        assert words in peer_run(bundle, spec, "true").stderr


def test_a_domain_name(bundle: Path) -> None:
    spec = {**bundle_spec(), "domainname": "example.org"}
    assert run_spec(bundle / "rootfs", spec, "cat /proc/sys/kernel/domainname") == "example.org\n"


# --- kernel parameters


@pytest.mark.parametrize(("key", "without", "words"), [
    ("vm.swappiness", "", 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
    ("kernel.hostname", "", 'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field'),
    ("kernel.domainname", "uts", 'sysctl "kernel.domainname" is not in a separate kernel namespace'),
    ("net.ipv4.ip_forward", "network", 'sysctl "net.ipv4.ip_forward" not allowed in host network namespace'),
    ("kernel.msgmax", "ipc", 'sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace'),
    ("fs.mqueue.msg_max", "ipc", 'sysctl "fs.mqueue.msg_max" is not allowed in the hosts ipc namespace'),
    ("kernel.semaphore", "", 'sysctl "kernel.semaphore" is not in a separate kernel namespace'),
])  # fmt: skip
def test_parameters_of_the_host_are_refused_as_runc_does(
    bundle: Path, key: str, without: str, words: str
) -> None:
    spec = bundle_spec(sysctl={key: "1"})
    spec["linux"]["namespaces"] = [row for row in spec["linux"]["namespaces"] if row["type"] != without]
    if without == "uts":
        del spec["hostname"]
    if without == "ipc":
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "mqueue"]
    both_refuse(bundle, spec, words)


def test_parameters_by_either_separator(bundle: Path) -> None:
    wanted = {"net/ipv4/conf/lo/forwarding": "1", "net.ipv4.ip_default_ttl": "33", "kernel.shm_rmid_forced": "1",
              "kernel.domainname": "d"}  # fmt: skip
    files = "net/ipv4/conf/lo/forwarding net/ipv4/ip_default_ttl kernel/shm_rmid_forced kernel/domainname"
    script = f"cd /proc/sys; cat {files}"
    spec = bundle_spec(sysctl=wanted)
    assert run_spec(bundle / "rootfs", spec, script) == "1\n33\n1\nd\n"
    assert peer_run(bundle, spec, script).stdout == "1\n33\n1\nd\n"


def test_parameters_without_a_proc_in_the_document(bundle: Path) -> None:
    """Set all the same, by a procfs that nobody else sees."""
    spec = bundle_spec(sysctl={"net.ipv4.ip_default_ttl": "77"})
    spec["process"]["oomScoreAdj"] = 500
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] not in ("proc", "sysfs", "cgroup")]
    assert (
        run_spec(
            bundle / "rootfs",
            spec,
            "mount -t proc proc /proc; cat /proc/sys/net/ipv4/ip_default_ttl /proc/self/oom_score_adj; umount /proc",
        )
        == "77\n500\n"
    )


# --- the root


@pytest.mark.parametrize(
    "wanted", ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", None]
)
def test_how_the_root_propagates(bundle: Path, wanted: str | None) -> None:
    """As its own mountinfo has it; the mount namespace is the container's, so nothing goes out of it."""
    spec = bundle_spec(**({"rootfsPropagation": wanted} if wanted else {}))
    root = next(
        line
        for line in run_spec(bundle / "rootfs", spec, "cat /proc/self/mountinfo").splitlines()
        if " / / " in line or re.search(r" \S+ / ", line)
    )
    optional = root.split(" - ")[0].split()[6:]
    kinds = {field.split(":")[0] for field in optional}
    assert kinds == {"shared": {"shared"}, "rshared": {"shared"}, "unbindable": {"unbindable"}}.get(
        wanted or "", set()
    )


def test_a_propagation_that_there_is_not(bundle: Path) -> None:
    both_refuse(
        bundle, bundle_spec(rootfsPropagation="sideways"), "rootfsPropagation=sideways is not supported"
    )


def test_masks_are_made_once_each(bundle: Path) -> None:
    spec = bundle_spec(
        maskedPaths=["/proc/version", "/proc/version", "/tmp", "/tmp", "/none"],
        readonlyPaths=["/etc", "/etc", "/none"],
    )
    (bundle / "rootfs/tmp/secret").touch()
    script = "cat /proc/version | wc -c; ls /tmp; touch /etc/x 2>/dev/null || echo refused; cat /proc/self/mountinfo"
    lines = run_spec(bundle / "rootfs", spec, script).splitlines()
    assert lines[:2] == ["0", "refused"]
    places = [line.split()[4] for line in lines[2:]]
    assert places.count("/proc/version") == places.count("/tmp") == places.count("/etc") == 1


# --- cgroups


@pytest.mark.parametrize("namespace", [True, False])
@pytest.mark.parametrize("writable", [True, False])
def test_a_container_sees_its_own_cgroups_and_no_others(
    bundle: Path, namespace: bool, writable: bool
) -> None:
    spec = bundle_spec()
    if not namespace:
        spec["linux"]["namespaces"] = [row for row in spec["linux"]["namespaces"] if row["type"] != "cgroup"]
    for mount in spec["mounts"]:
        if mount["type"] == "cgroup" and writable:
            mount["options"] = [option for option in mount["options"] if option != "ro"]
    place = "/sys/fs/cgroup" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "/sys/fs/cgroup/pids"
    script = f"cd {place}; grep -c . cgroup.procs; ls -d */ 2>/dev/null; mkdir x 2>&- && rmdir x && echo made; true"
    ours = run_spec(bundle / "rootfs", spec, script).split()
    # The shell and grep(1); no cgroup of anybody else's is below.
    assert ours == (["2", "made"] if writable else ["2"])
    assert peer_run(bundle, spec, script).stdout.split() == ours
