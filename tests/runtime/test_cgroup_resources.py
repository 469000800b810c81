"""linux.resources to writes, without a kernel: what is written, in which order, and what is refused."""

from typing import Any

import pytest

from pyrunc.runtime.cgroup_errors import InvalidResources, UnsupportedResource
from pyrunc.runtime.cgroup_files import clean_path
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout
from pyrunc.runtime.cgroup_resources import weight_of_shares
from pyrunc.runtime.cgroup_writes import NEXT, SKIP
from pyrunc.runtime.cgroups import CgroupPlan, plan_cgroup, plan_update


def v1_hierarchy(*controllers: str) -> Hierarchy:
    return Hierarchy("/cg/" + ",".join(controllers), "/", 1, controllers)


ALL_V1 = (
    *(v1_hierarchy(name) for name in ("cpu", "cpuset", "memory", "devices", "freezer", "blkio", "pids")),
    *(v1_hierarchy(name) for name in ("hugetlb", "rdma", "net_cls", "net_prio")),
)
ALL_V2 = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")
V1 = Layout("v1", ALL_V1)
V2 = Layout("v2", (Hierarchy("/cg", "/", 2, ALL_V2),))
HYBRID = Layout("hybrid", (*ALL_V1[:7], Hierarchy("/cg/unified", "/", 2, ("hugetlb",))))
BARE_V1 = Layout("v1", (v1_hierarchy("freezer"),))
BARE_V2 = Layout("v2", (Hierarchy("/cg", "/", 2, ()),))


def written(plan: CgroupPlan) -> list[tuple[str, str]]:
    return [
        (write.file, write.value)
        for directory in plan.dirs
        for write in directory.writes
        if not write.file.startswith("devices.")
    ]


def create(layout: Layout, resources: dict[str, Any]) -> list[tuple[str, str]]:
    return written(plan_cgroup(layout, "/pyrunc/x", resources))


def update(layout: Layout, resources: dict[str, Any], now: dict[str, str]) -> list[tuple[str, str]]:
    return written(plan_update(layout, "/pyrunc/x", resources, lambda _, file: now.get(file, "")))


# --- both versions, one row a resource

M = 1 << 20
CONVERSIONS: list[tuple[dict[str, Any], list[tuple[str, str]], list[tuple[str, str]]]] = [
    ({}, [], []),
    ({"memory": {}}, [], []),
    ({"memory": {"limit": 64 * M}}, [("memory.limit_in_bytes", "67108864")], [("memory.max", "67108864")]),
    (
        {"memory": {"limit": 64 * M, "swap": 96 * M, "reservation": 32 * M}},
        [
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "100663296"),
            ("memory.soft_limit_in_bytes", "33554432"),
        ],
        [("memory.swap.max", "33554432"), ("memory.max", "67108864"), ("memory.low", "33554432")],
    ),
    (
        {"memory": {"limit": 64 * M, "swap": 64 * M}},
        [("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "67108864")],
        [("memory.swap.max", "0"), ("memory.max", "67108864")],
    ),
    (
        {"memory": {"limit": 64 * M, "swap": -1}},
        [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "67108864")],
        [("memory.swap.max", "max"), ("memory.max", "67108864")],
    ),
    (
        {"memory": {"limit": -1}},
        [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")],
        [("memory.swap.max", "max"), ("memory.max", "max")],
    ),
    ({"memory": {"reservation": -1}}, [("memory.soft_limit_in_bytes", "-1")], [("memory.low", "max")]),
    ({"memory": {"disableOOMKiller": False, "limit": 0, "swap": 0}}, [], []),
    ({"cpu": {"shares": 1024}}, [("cpu.shares", "1024")], [("cpu.weight", "100")]),
    ({"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}}, [], []),
    (
        {"cpu": {"quota": 50000, "period": 100000}},
        [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")],
        [("cpu.max", "50000 100000")],
    ),
    ({"cpu": {"quota": 50000}}, [("cpu.cfs_quota_us", "50000")], [("cpu.max", "50000")]),
    ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")], [("cpu.max", "max")]),
    ({"cpu": {"period": 50000}}, [("cpu.cfs_period_us", "50000")], [("cpu.max", "max 50000")]),
    (
        {"cpu": {"quota": 50000, "burst": 20000}},
        [("cpu.cfs_quota_us", "50000"), ("cpu.cfs_burst_us", "20000")],
        [("cpu.max", "50000"), ("cpu.max.burst", "20000")],
    ),
    ({"cpu": {"idle": 1}}, [("cpu.idle", "1")], [("cpu.idle", "1")]),
    (
        {"cpu": {"idle": 0, "shares": 1024}},
        [("cpu.idle", "0"), ("cpu.shares", "1024")],
        [("cpu.idle", "0"), ("cpu.weight", "100")],
    ),
    (
        {"cpu": {"cpus": "0-2,7", "mems": "0"}},
        [("cpuset.cpus", "0-2,7"), ("cpuset.mems", "0")],
        [("cpuset.cpus", "0-2,7"), ("cpuset.mems", "0")],
    ),
    ({"pids": {"limit": 77}}, [("pids.max", "77")], [("pids.max", "77")]),
    ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
    ({"pids": {"limit": 0}}, [], []),
    (
        {"blockIO": {"weight": 10}},
        [("blkio.bfq.weight", "10")],
        [("io.bfq.weight", "10"), ("io.weight", "1")],
    ),
    (
        {"blockIO": {"weight": 1000, "weightDevice": [{"major": 8, "minor": 16, "weight": 500}]}},
        [("blkio.bfq.weight", "1000"), ("blkio.bfq.weight_device", "8:16 500")],
        [
            ("io.bfq.weight", "1000"),
            ("io.weight", "10000"),
            ("io.bfq.weight", "8:16 500"),
            ("io.weight", "8:16 4950"),
        ],
    ),
    (
        {
            "blockIO": {
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 700}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 300}],
            }
        },
        [
            ("blkio.throttle.read_bps_device", "8:0 600"),
            ("blkio.throttle.write_bps_device", "8:16 700"),
            ("blkio.throttle.read_iops_device", "8:0 0"),
            ("blkio.throttle.write_iops_device", "8:16 300"),
        ],
        [("io.max", "8:0 rbps=600 riops=max"), ("io.max", "8:16 wbps=700 wiops=300")],
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 209715200}]},
        [("hugetlb.2MB.limit_in_bytes", "209715200"), ("hugetlb.2MB.rsvd.limit_in_bytes", "209715200")],
        [("hugetlb.2MB.max", "209715200"), ("hugetlb.2MB.rsvd.max", "209715200")],
    ),
    (
        {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "rxe3": {"hcaObjects": 9}}},
        [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"), ("rdma.max", "rxe3 hca_object=9")],
        [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"), ("rdma.max", "rxe3 hca_object=9")],
    ),
    ({"aFieldOfTheFuture": {"x": 1}, "memory": {"future": 1}}, [], []),
]


@pytest.mark.parametrize(("resources", "v1", "v2"), CONVERSIONS, ids=lambda value: repr(value)[:60])
def test_conversion(resources: dict[str, Any], v1: list[tuple[str, str]], v2: list[tuple[str, str]]) -> None:
    assert create(V1, resources) == v1
    assert create(V2, resources) == v2


def test_v1_only_resources() -> None:
    resources = {
        "memory": {"swappiness": 0, "disableOOMKiller": True, "kernelTCP": 5 * M},
        "cpu": {"realtimeRuntime": 950000, "realtimePeriod": 1000000},
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
    }
    assert create(V1, resources) == [
        ("cpu.rt_period_us", "1000000"),
        ("cpu.rt_runtime_us", "950000"),
        ("memory.kmem.tcp.limit_in_bytes", "5242880"),
        ("memory.oom_control", "1"),
        ("memory.swappiness", "0"),
        ("net_cls.classid", "1048577"),
        ("net_prio.ifpriomap", "eth0 500"),
    ]


@pytest.mark.parametrize(
    ("shares", "weight"),
    # What runc's and crun's own tables say for their formula since 1.3.2 and 1.23.
    [
        (2, 1),
        (1024, 100),
        (262144, 10000),
        (1, 1),
        (1 << 40, 10000),
        (2000, 170),
        (22000, 1204),
        (100, 17),
        (512, 59),
    ],
)
def test_shares_become_a_weight_that_keeps_the_ends_and_the_default(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


def test_weights_never_fall_when_shares_rise() -> None:
    weights = [weight_of_shares(shares) for shares in range(2, 262145, 7)]
    assert weights == sorted(weights)


def test_files_that_may_be_missing() -> None:
    plan = plan_cgroup(V2, "x", {"memory": {"limit": -1}, "blockIO": {"weight": 100}})
    flags = {write.file: write.on_missing for write in plan.dirs[0].writes if write.on_missing}
    # No swap in the kernel and none wanted: nothing to do. No BFQ: the next write is done in its place.
    assert flags == {"memory.swap.max": SKIP, "io.bfq.weight": NEXT}
    plan = plan_cgroup(
        V1, "x", {"hugepageLimits": [{"pageSize": "1GB", "limit": 0}], "memory": {"limit": -1}}
    )
    flags = {write.file: write.on_missing for one in plan.dirs for write in one.writes if write.on_missing}
    assert flags == {"memory.memsw.limit_in_bytes": SKIP, "hugetlb.1GB.rsvd.limit_in_bytes": SKIP}


def test_a_limit_that_was_asked_for_is_never_skipped() -> None:
    for layout in (V1, V2):
        plan = plan_cgroup(layout, "x", {"memory": {"limit": M, "swap": 2 * M}})
        assert not any(write.on_missing for one in plan.dirs for write in one.writes)


def test_ignored_fields_are_reported() -> None:
    resources = {"memory": {"kernel": M, "kernelTCP": M}, "cpu": {"idle": 1, "shares": 5}}
    assert plan_cgroup(V1, "x", resources).ignored == (
        "linux.resources.memory.kernel",
        "linux.resources.cpu.shares",
    )
    assert "linux.resources.memory.kernelTCP" in plan_cgroup(V2, "x", resources).ignored


# --- unified


def test_unified_is_written_last_line_by_line() -> None:
    resources = {
        "memory": {"limit": M},
        "unified": {
            "memory.high": "9",
            "io.max": "8:0 rbps=1\n8:16 wbps=2\n",
            "cpuset.cpus": "",
            "misc.max": "a 1",
        },
    }
    assert create(V2, resources) == [
        ("memory.max", "1048576"),
        ("memory.high", "9"),
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:16 wbps=2"),
        ("cpuset.cpus", "\n"),
        ("misc.max", "a 1"),
    ]


def test_unified_enables_its_controllers() -> None:
    plan = plan_cgroup(
        V2, "x", {"unified": {"misc.max": "a 1", "cgroup.max.depth": "3", "io.pressure": "x"}}, ()
    )
    assert plan.dirs[0].enable == ("misc",)


@pytest.mark.parametrize(
    ("layout", "file", "message"),
    [
        (V1, "memory.high", "unified: cannot use unified on cgroup v1"),
        (HYBRID, "memory.high", "unified['memory.high']: no memory controller on cgroup v2 of this host"),
        (V2, "nothing.max", "unified['nothing.max']: no nothing controller on cgroup v2 of this host"),
    ],
)
def test_unified_needs_its_controller(layout: Layout, file: str, message: str) -> None:
    with pytest.raises(UnsupportedResource) as caught:
        create(layout, {"unified": {file: "1"}})
    assert str(caught.value) == f"linux.resources.{message}"


FORBIDDEN = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "cgroup.kill", "cgroup.freeze"]
MALFORMED = [
    "../memory.high",
    "memory.high/../../x",
    "memory",
    ".max",
    "memory.",
    "memory.hi\ngh",
    "memory.\0",
]


@pytest.mark.parametrize("file", [*FORBIDDEN, *MALFORMED])
def test_unified_takes_only_names_of_resources(file: str) -> None:
    with pytest.raises(InvalidResources, match=r"^linux\.resources\.unified\["):
        create(V2, {"unified": {file: "1"}})


# --- v2: what must be enabled


def test_v2_enables_what_is_counted_and_what_is_limited() -> None:
    plan = plan_cgroup(V2, "/pyrunc/x", {"cpu": {"cpus": "0"}})
    assert plan.dirs[0].enable == ("cpuset", "cpu", "io", "memory", "pids")
    plan = plan_cgroup(V2, "/pyrunc/x", {"cpu": {"cpus": "0"}, "pids": {"limit": 1}}, account=())
    assert plan.dirs[0].enable == ("cpuset", "pids")
    assert plan_cgroup(BARE_V2, "/pyrunc/x", {}).dirs[0].enable == ()


def test_hybrid_sends_each_resource_where_its_controller_is() -> None:
    plan = plan_cgroup(
        HYBRID, "x", {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "pids": {"limit": 2}}
    )
    by_mount = {one.mountpoint: one for one in plan.dirs}
    assert [write.file for write in by_mount["/cg/pids"].writes] == ["pids.max"]
    assert [write.file for write in by_mount["/cg/unified"].writes] == [
        "hugetlb.2MB.max",
        "hugetlb.2MB.rsvd.max",
    ]
    assert by_mount["/cg/unified"].enable == ("hugetlb",)
    assert plan_cgroup(HYBRID, "x", {}).dirs[-1].enable == ()


def test_every_hierarchy_is_joined_and_v1_cpuset_is_seeded() -> None:
    plan = plan_cgroup(HYBRID, "/pyrunc/x/", {})
    assert [(one.mountpoint, one.path, one.version) for one in plan.dirs] == [
        (one.mountpoint, "pyrunc/x", one.version) for one in HYBRID.hierarchies
    ]
    assert [one.mountpoint for one in plan.dirs if one.seed_cpuset] == ["/cg/cpuset"]
    assert not any(one.seed_cpuset for one in plan_cgroup(V2, "x", {}).dirs)


def test_devices_are_controlled_once() -> None:
    for layout, by_v1 in ((V1, True), (HYBRID, True), (V2, False)):
        plan = plan_cgroup(layout, "x", {"devices": [{"allow": False}]})
        files = {write.file for one in plan.dirs for write in one.writes}
        assert ("devices.deny" in files) == by_v1
        assert bool(plan.device_bpf) == (not by_v1)


# --- refusals


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"limit": M}}, "memory: no memory controller on this host"),
        ({"cpu": {"shares": 5}}, "cpu: no cpu controller on this host"),
        ({"cpu": {"cpus": "0"}}, "cpu.cpus: no cpuset controller on this host"),
        ({"pids": {"limit": 5}}, "pids: no pids controller on this host"),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]},
            "hugepageLimits: no hugetlb controller on this host",
        ),
        ({"rdma": {"a": {"hcaHandles": 1}}}, "rdma: no rdma controller on this host"),
    ],
)
def test_missing_controller_is_named(resources: dict[str, Any], message: str) -> None:
    for layout in (BARE_V1, BARE_V2, Layout("none", ())):
        with pytest.raises(UnsupportedResource) as caught:
            create(layout, resources)
        assert str(caught.value) == f"linux.resources.{message}"


@pytest.mark.parametrize(
    ("layout", "resources", "message"),
    [
        (BARE_V1, {"blockIO": {"weight": 10}}, "blockIO: no blkio controller on this host"),
        (BARE_V2, {"blockIO": {"weight": 10}}, "blockIO: no io controller on this host"),
        (BARE_V1, {"network": {"classID": 1}}, "network.classID: no net_cls controller on this host"),
        (V2, {"network": {"classID": 1}}, "network.classID: cgroup v2 has nothing like it"),
        (
            V2,
            {"network": {"priorities": [{"name": "a", "priority": 1}]}},
            "network.priorities: cgroup v2 has nothing like it",
        ),
        (V2, {"cpu": {"realtimeRuntime": 1}}, "cpu.realtimeRuntime: cgroup v2 has nothing like it"),
        (V2, {"memory": {"swappiness": 1}}, "memory.swappiness: cgroup v2 has nothing like it"),
        (
            V2,
            {"memory": {"disableOOMKiller": True}},
            "memory.disableOOMKiller: cgroup v2 has nothing like it",
        ),
        (
            V1,
            {"blockIO": {"leafWeight": 10}},
            "blockIO.leafWeight: needs the CFQ scheduler, which Linux 5.0 removed",
        ),
    ],
)
def test_what_a_version_cannot_do_is_refused(layout: Layout, resources: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedResource) as caught:
        create(layout, resources)
    assert str(caught.value) == f"linux.resources.{message}"


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": []}, None),
        ({"memory": [1]}, "memory: must be an object"),
        (
            {"memory": {"limit": "64M"}},
            "memory.limit: must be an integer of -1..9223372036854775807, not '64M'",
        ),
        (
            {"memory": {"limit": True}},
            "memory.limit: must be an integer of -1..9223372036854775807, not True",
        ),
        ({"memory": {"limit": -2}}, "memory.limit: must be an integer of -1..9223372036854775807, not -2"),
        ({"memory": {"limit": 1 << 63}}, "memory.limit: must be an integer of"),
        ({"memory": {"limit": 2 * M, "swap": M}}, "memory.swap: memory+swap limit should be >= memory limit"),
        ({"memory": {"swap": M}}, "memory.swap: unable to set swap limit without memory limit"),
        ({"memory": {"swappiness": 101}}, "memory.swappiness: must be an integer of 0..100, not 101"),
        (
            {"memory": {"disableOOMKiller": "yes"}},
            "memory.disableOOMKiller: must be true or false, not 'yes'",
        ),
        ({"cpu": {"shares": 1}}, "cpu.shares: the minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 262145}}, "cpu.shares: the maximum allowed cpu-shares is 262144"),
        ({"cpu": {"period": 999}}, "cpu.period: must be 1000..1000000 µs, not 999"),
        ({"cpu": {"quota": 999}}, "cpu.quota: must be at least 1000 µs, not 999"),
        (
            {"cpu": {"quota": 1000, "burst": 1001}},
            "cpu.burst: must not exceed the quota of 1000 µs, but is 1001",
        ),
        ({"cpu": {"idle": 2}}, "cpu.idle: must be an integer of 0..1, not 2"),
        ({"cpu": {"cpus": "all"}}, "cpu.cpus: must be a list as 0-2,7, not 'all'"),
        ({"cpu": {"mems": "0\n1"}}, "cpu.mems: must be one line"),
        ({"cpu": {"cpus": 3}}, "cpu.cpus: must be a string, not 3"),
        ({"blockIO": {"weight": 9}}, "blockIO.weight: must be 10..1000, not 9"),
        ({"blockIO": {"weightDevice": [{"weight": 10}]}}, "blockIO.weightDevice[0]: needs major and minor"),
        ({"blockIO": {"throttleReadBpsDevice": {}}}, "blockIO.throttleReadBpsDevice: must be a list"),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0}]}},
            "blockIO.throttleReadBpsDevice[0]: needs a rate",
        ),
        (
            {"hugepageLimits": [{"pageSize": "2M", "limit": 1}]},
            "hugepageLimits[0].pageSize: must be a size as 2MB, not '2M'",
        ),
        (
            {"hugepageLimits": [{"pageSize": "02MB", "limit": 1}]},
            "hugepageLimits[0].pageSize: must be a size as 2MB",
        ),
        (
            {"hugepageLimits": [{"pageSize": "../MB", "limit": 1}]},
            "hugepageLimits[0].pageSize: must be a size as 2MB",
        ),
        (
            {"hugepageLimits": [{"pageSize": "MB", "limit": 1}]},
            "hugepageLimits[0].pageSize: must be a size as 2MB",
        ),
        ({"hugepageLimits": [{"pageSize": "2MB"}]}, "hugepageLimits[0]: needs a limit"),
        ({"hugepageLimits": {"2MB": 1}}, "hugepageLimits: must be a list"),
        (
            {"rdma": {"a b": {"hcaHandles": 1}}},
            "rdma.a b: needs the name of a device, and hcaHandles or hcaObjects",
        ),
        ({"rdma": {"a": {}}}, "rdma.a: needs the name of a device, and hcaHandles or hcaObjects"),
        (
            {"network": {"priorities": [{"name": "e 0", "priority": 1}]}},
            "network.priorities[0]: needs the name of an interface and a priority",
        ),
        ({"unified": 3}, "unified: must be an object"),
        ({"devices": {}}, "devices: must be a list"),
    ],
)
def test_bad_values_are_named(resources: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert create(V1, resources) == []
        return
    layout = Layout("hybrid", (*ALL_V1, Hierarchy("/cg/unified", "/", 2, ())))
    with pytest.raises(InvalidResources) as caught:
        create(layout, resources)
    assert str(caught.value).startswith(f"linux.resources.{message}")


def test_swap_without_any_memory_limit_is_refused_as_the_kernel_would() -> None:
    with pytest.raises(InvalidResources, match="unable to set swap limit without memory limit"):
        create(V1, {"memory": {"limit": -1, "swap": M}})
    # v2 limits swap by itself.
    assert ("memory.swap.max", "1048576") in create(V2, {"memory": {"limit": -1, "swap": M}})


# --- updates


@pytest.mark.parametrize(
    ("old", "limit", "swap", "first"),
    [
        (64 * M, 128 * M, 256 * M, "memory.memsw.limit_in_bytes"),  # raised
        (64 * M, 32 * M, 48 * M, "memory.limit_in_bytes"),  # lowered below the old memory limit
        (64 * M, 32 * M, -1, "memory.memsw.limit_in_bytes"),
        (64 * M, -1, 0, "memory.memsw.limit_in_bytes"),
        ((1 << 63) - 4096, 64 * M, 96 * M, "memory.limit_in_bytes"),  # from no limit
    ],
)
def test_v1_memory_update_order(old: int, limit: int, swap: int, first: str) -> None:
    writes = update(V1, {"memory": {"limit": limit, "swap": swap}}, {"memory.limit_in_bytes": f"{old}\n"})
    assert writes[0][0] == first
    assert len(writes) == 2


def test_v2_swap_update_uses_the_memory_limit_that_is_set() -> None:
    now = {"memory.max": "1048576\n"}
    assert update(V2, {"memory": {"swap": 3 * M}}, now) == [("memory.swap.max", "2097152")]
    with pytest.raises(InvalidResources, match="memory\\+swap limit should be >= memory limit"):
        update(V2, {"memory": {"swap": 1}}, now)
    with pytest.raises(InvalidResources, match="unable to set swap limit without memory limit"):
        update(V2, {"memory": {"swap": M}}, {"memory.max": "max\n"})


def test_check_before_update_rejects_a_limit_below_usage() -> None:
    now = {"memory.current": "2000000\n"}
    for memory, words in (
        ({"limit": M}, "rejecting memory limit 1048576 <= usage 2000000"),
        ({"limit": M, "swap": M + 1}, "rejecting memory+swap limit 1048577 <= usage 2000000"),
    ):
        with pytest.raises(InvalidResources) as caught:
            update(V2, {"memory": {**memory, "checkBeforeUpdate": True}}, now)
        assert str(caught.value) == f"linux.resources.memory: {words}"
        assert update(V2, {"memory": memory}, now)
    assert update(V2, {"memory": {"limit": 4 * M, "checkBeforeUpdate": True}}, now)


def test_cpu_update_order_follows_what_is_set() -> None:
    now = {"cpu.cfs_period_us": "100000\n", "cpu.cfs_quota_us": "50000\n", "cpu.cfs_burst_us": "20000\n"}
    cpu = {"period": 50000, "quota": 25000}
    assert [file for file, _ in update(V1, {"cpu": cpu}, now)] == ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    cpu = {"period": 200000, "quota": 25000}
    assert [file for file, _ in update(V1, {"cpu": cpu}, now)] == ["cpu.cfs_period_us", "cpu.cfs_quota_us"]
    cpu = {"quota": 10000, "burst": 5000}
    assert [file for file, _ in update(V1, {"cpu": cpu}, now)] == ["cpu.cfs_burst_us", "cpu.cfs_quota_us"]
    cpu = {"quota": 90000, "burst": 70000}
    assert [file for file, _ in update(V1, {"cpu": cpu}, now)] == ["cpu.cfs_quota_us", "cpu.cfs_burst_us"]


def test_v2_period_update_keeps_the_quota() -> None:
    now = {"cpu.max": "50000 100000\n"}
    assert update(V2, {"cpu": {"period": 200000}}, now) == [("cpu.max", "50000 200000")]


def test_update_touches_only_what_it_names() -> None:
    plan = plan_update(V1, "x", {"pids": {"limit": 5}, "devices": [{"allow": False}]}, lambda *_: "")
    assert [one.mountpoint for one in plan.dirs] == ["/cg/pids"]
    assert plan.device_bpf == b""


# --- paths


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/pyrunc/x", "pyrunc/x"),
        ("pyrunc/x", "pyrunc/x"),
        ("//a///b/", "a/b"),
        ("/a:b:c", "a:b:c"),
        ("/..a", "..a"),
    ],
)
def test_paths(path: str, clean: str) -> None:
    assert clean_path(path) == clean


@pytest.mark.parametrize("path", ["", "/", "///", "/a/../b", "..", "a/.", "a\nb", "a/b\0", "/" + "x" * 256])
def test_paths_that_would_leave_or_cannot_exist_are_refused(path: str) -> None:
    with pytest.raises(InvalidResources, match=r"^linux\.cgroupsPath: "):
        plan_cgroup(V1, path, {})
