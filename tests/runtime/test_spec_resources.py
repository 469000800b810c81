"""`linux.resources` of OCI documents, as the program sees them in the cgroup it is in, on v1 and on v2."""

import os
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import PyruncError
from pyrunc.runtime.cgroup_layout import detect
from tests import rootfs as rootfs_of
from tests.spec_run import bundle_spec, run_spec
from tests.vm import needs

M = 1 << 20
V2 = detect().mode == "v2"

pytestmark = [pytest.mark.vm, needs.root()]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rootfs_of.make(tmp_path_factory.mktemp("image") / "rootfs")


def document(resources: dict[str, Any]) -> dict[str, Any]:
    """With a view of the cgroups, and a name whose parent is the root, which has a budget for real time."""
    spec = bundle_spec(resources=resources, cgroupsPath=f"/pyrunc-test-{os.getpid()}")
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    spec["mounts"].append(
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    )
    return spec


def read(root: Path, resources: dict[str, Any], *files: str) -> list[str]:
    """What a program reads in these files of its own cgroup."""
    names = " ".join(f"/sys/fs/cgroup/{file}" for file in files)
    return run_spec(root, document(resources), f"cat {names}").splitlines()


def disk() -> dict[str, int]:
    """A block device that may be limited."""
    for entry in sorted(Path("/sys/block").iterdir()):
        if int((entry / "size").read_text()) > 0 and not entry.name.startswith(("loop", "ram", "zram")):
            major, minor = (entry / "dev").read_text().split(":")
            return {"major": int(major), "minor": int(minor)}
    pytest.skip("no block device here")


@pytest.mark.skipif(V2, reason="files of cgroup v1")
@pytest.mark.parametrize(("resources", "seen"), [
    ({"memory": {"limit": 64 * M, "swap": 96 * M, "reservation": 32 * M, "kernel": M, "useHierarchy": True}}, {
        "memory/memory.limit_in_bytes": 64 * M, "memory/memory.memsw.limit_in_bytes": 96 * M,
        "memory/memory.soft_limit_in_bytes": 32 * M,
    }),
    ({"memory": {"limit": -1, "swap": -1}}, {"memory/memory.limit_in_bytes": 0x7FFFFFFFFFFFF000}),
    ({"memory": {"limit": 64 * M, "swappiness": 7, "disableOOMKiller": True, "checkBeforeUpdate": True}}, {
        "memory/memory.swappiness": 7, "memory/memory.limit_in_bytes": 64 * M,
    }),
    ({"cpu": {"shares": 512, "quota": 20000, "period": 50000, "burst": 10000, "cpus": "0", "mems": "0"}}, {
        "cpu/cpu.shares": 512, "cpu/cpu.cfs_quota_us": 20000, "cpu/cpu.cfs_period_us": 50000,
        "cpu/cpu.cfs_burst_us": 10000, "cpuset/cpuset.cpus": 0, "cpuset/cpuset.mems": 0,
    }),
    ({"cpu": {"idle": 1}}, {"cpu/cpu.idle": 1}),
    ({"cpu": {"realtimePeriod": 500000, "realtimeRuntime": 2000}}, {
        "cpu/cpu.rt_period_us": 500000, "cpu/cpu.rt_runtime_us": 2000,
    }),
    ({"pids": {"limit": 21}}, {"pids/pids.max": 21}),
])  # fmt: skip
def test_v1(root: Path, resources: dict[str, Any], seen: dict[str, int]) -> None:
    if "realtimePeriod" in resources.get("cpu", {}) and not os.path.exists(
        "/sys/fs/cgroup/cpu/cpu.rt_runtime_us"
    ):
        pytest.skip("needs real-time groups")
    assert read(root, resources, *seen) == [str(value) for value in seen.values()]


@pytest.mark.skipif(V2, reason="files of cgroup v1")
def test_v1_limits_of_a_device(root: Path) -> None:
    device = disk()
    number = f"{device['major']}:{device['minor']}"
    resources = {"blockIO": {
        "throttleReadBpsDevice": [{**device, "rate": M}], "throttleWriteBpsDevice": [{**device, "rate": 2 * M}],
        "throttleReadIOPSDevice": [{**device, "rate": 30}], "throttleWriteIOPSDevice": [{**device, "rate": 40}],
    }}  # fmt: skip
    files = [
        f"blkio/blkio.throttle.{way}_device" for way in ("read_bps", "write_bps", "read_iops", "write_iops")
    ]
    assert read(root, resources, *files) == [f"{number} {rate}" for rate in (M, 2 * M, 30, 40)]


@pytest.mark.skipif(V2, reason="files of cgroup v1")
def test_v1_weights_of_bfq(root: Path) -> None:
    """A new cgroup has the file where the kernel has BFQ, whatever scheduler a device uses."""
    assert read(root, {"blockIO": {"weight": 321}}, "blkio/blkio.bfq.weight") == ["321"]


@pytest.mark.skipif(detect().of("hugetlb") is None, reason="needs the controller of huge pages")
def test_huge_pages_and_their_reservation(root: Path) -> None:
    hierarchy = detect().of("hugetlb")
    assert hierarchy is not None
    spec = document({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * M}]})
    # On a hybrid host the container's own view has v1 alone.
    spec["mounts"].append(
        {"destination": "/host", "type": "bind", "source": hierarchy.mountpoint, "options": ["rbind"]}
    )
    path = f"/host{spec['linux']['cgroupsPath']}"
    end = "limit_in_bytes" if hierarchy.version == 1 else "max"
    script = f"cat {path}/hugetlb.2MB.{end} {path}/hugetlb.2MB.rsvd.{end}"
    assert run_spec(root, spec, script).splitlines() == [str(4 * M)] * 2


@pytest.mark.skipif(not V2, reason="files of cgroup v2: run ./dev vm")
@pytest.mark.parametrize(("resources", "seen"), [
    ({"memory": {"limit": 64 * M, "swap": 96 * M, "reservation": 32 * M, "kernel": M, "kernelTCP": M}}, {
        "memory.max": 64 * M, "memory.swap.max": 32 * M, "memory.low": 32 * M,
    }),
    ({"memory": {"limit": 64 * M, "swap": 64 * M}}, {"memory.swap.max": 0}),
    ({"memory": {"limit": 64 * M, "swap": -1, "disableOOMKiller": False}}, {"memory.swap.max": "max"}),
    ({"cpu": {"shares": 1024}}, {"cpu.weight": 100}), ({"cpu": {"shares": 2}}, {"cpu.weight": 1}),
    ({"cpu": {"shares": 262144}}, {"cpu.weight": 10000}),
    ({"cpu": {"quota": 20000, "period": 50000, "burst": 10000}}, {"cpu.max": "20000 50000", "cpu.max.burst": 10000}),
    ({"cpu": {"quota": -1, "period": 50000}}, {"cpu.max": "max 50000"}), ({"cpu": {"idle": 1}}, {"cpu.idle": 1}),
    ({"cpu": {"cpus": "0", "mems": "0"}}, {"cpuset.cpus": 0}), ({"pids": {"limit": -1}}, {"pids.max": "max"}),
    ({"pids": {"limit": 21}}, {"pids.max": 21}),
    ({"unified": {"memory.oom.group": "1", "memory.high": "33554432", "pids.max": "9"}, "pids": {"limit": 21}}, {
        "memory.oom.group": 1, "memory.high": 32 * M, "pids.max": 9,
    }),
])  # fmt: skip
def test_v2(root: Path, resources: dict[str, Any], seen: dict[str, object]) -> None:
    here = Path("/sys/fs/cgroup/pyrunc-test-probe")
    here.mkdir()
    try:
        if missing := [file for file in seen if not (here / file).exists()]:
            pytest.skip(f"this kernel has no {missing[0]}")
    finally:
        here.rmdir()
    assert read(root, resources, *seen) == [str(value) for value in seen.values()]


@pytest.mark.skipif(not V2, reason="files of cgroup v2: run ./dev vm")
@needs.cgroup_v2("io")
def test_v2_limits_of_a_device(root: Path) -> None:
    device = disk()
    resources = {"blockIO": {
        "throttleReadBpsDevice": [{**device, "rate": M}], "throttleWriteIOPSDevice": [{**device, "rate": 40}],
    }}  # fmt: skip
    (line,) = read(root, resources, "io.max")
    assert line == f"{device['major']}:{device['minor']} rbps={M} wbps=max riops=max wiops=40"


@pytest.mark.parametrize(("resources", "words"), [
    ({"network": {"classID": 1}}, "linux.resources.network.classID: (no net_cls controller on this host|cgroup v2)"),
    ({"network": {"priorities": [{"name": "eth0", "priority": 1}]}},
     "linux.resources.network.priorities: (no net_prio controller on this host|cgroup v2)"),
    ({"rdma": {"mlx5_1": {"hcaHandles": 3}}}, "linux.resources.rdma: no rdma controller on this host"),
    ({"blockIO": {"leafWeight": 100}}, "linux.resources.blockIO.leafWeight: needs the CFQ scheduler"),
    ({"unified": {"misc.max": "x 1"}}, r"linux.resources.unified\['misc.max'\]: no misc controller on cgroup v2"),
    ({"unified": {"cgroup.procs": "1"}}, r"linux.resources.unified\['cgroup.procs'\]: is not a resource"),
    ({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}, r"linux.resources.hugepageLimits\[0\].pageSize: must be"),
    ({"memory": {"limit": 64 * M, "swap": M}}, "linux.resources.memory.swap: memory.swap limit should be >= memory"),
    ({"memory": {"useHierarchy": 1}}, "linux.resources.memory.useHierarchy: must be true or false"),
    ({"memory": {"checkBeforeUpdate": "x"}}, "linux.resources.memory.checkBeforeUpdate: must be true or false"),
    ({"devices": [{"allow": True, "type": {}}]}, r"linux.resources.devices\[0\].type: must be one of"),
    ({"devices": [{"allow": True, "access": {}}]}, r"linux.resources.devices\[0\].access: must be made of"),
    ({"cpu": {"realtimeRuntime": 5, "shares": "x"}}, "linux.resources.cpu.shares: must be an integer"),
])  # fmt: skip
def test_what_this_host_cannot_do_is_refused_by_field(
    root: Path, resources: dict[str, Any], words: str
) -> None:
    with pytest.raises(PyruncError, match=words):
        run_spec(root, document(resources), "true")


@pytest.mark.skipif(not V2, reason="what cgroup v2 lacks: run ./dev vm")
@pytest.mark.parametrize(("resources", "words"), [
    ({"memory": {"swappiness": 5}}, "linux.resources.memory.swappiness: cgroup v2 has nothing like it"),
    ({"memory": {"disableOOMKiller": True}}, "linux.resources.memory.disableOOMKiller: cgroup v2 has nothing like it"),
    ({"cpu": {"realtimeRuntime": 5}}, "linux.resources.cpu.realtimeRuntime: cgroup v2 has nothing like it"),
])  # fmt: skip
def test_what_v2_lacks_is_refused_by_field(root: Path, resources: dict[str, Any], words: str) -> None:
    with pytest.raises(PyruncError, match=words):
        run_spec(root, document(resources), "true")
