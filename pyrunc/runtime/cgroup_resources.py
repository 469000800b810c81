"""OCI `linux.resources` to writes of cgroup files, for v1 and v2, but for devices.

A controller is in one hierarchy at a time, so each resource goes to whichever version has its controller; on
a hybrid host some may go to v1 and some to v2. Zero stands for "not set" where it does for runc and Docker
(limits, shares, quota, period, weights).

| OCI                     | cgroup v1                       | cgroup v2 and its conversion               |
|-------------------------|---------------------------------|--------------------------------------------|
| memory.limit            | memory.limit_in_bytes           | memory.max, -1 is `max`                    |
| memory.swap             | memory.memsw.limit_in_bytes     | memory.swap.max = swap - limit             |
| memory.reservation      | memory.soft_limit_in_bytes      | memory.low                                 |
| memory.swappiness       | memory.swappiness               | refused                                    |
| memory.disableOOMKiller | memory.oom_control              | refused where true                         |
| cpu.shares              | cpu.shares                      | cpu.weight, see `weight_of_shares`         |
| cpu.quota, cpu.period   | cpu.cfs_quota_us, …_period_us   | cpu.max                                    |
| cpu.burst, cpu.idle     | cpu.cfs_burst_us, cpu.idle      | cpu.max.burst, cpu.idle                    |
| cpu.realtime…           | cpu.rt_runtime_us, …_period_us  | refused                                    |
| cpu.cpus, cpu.mems      | cpuset.cpus, cpuset.mems        | the same                                   |
| pids.limit              | pids.max                        | the same                                   |
| blockIO.weight…         | blkio.bfq.weight…               | io.bfq.weight, or io.weight 1..10000       |
| blockIO.throttle…       | blkio.throttle.*_device         | io.max                                     |
| hugepageLimits          | hugetlb.S[.rsvd].limit_in_bytes | hugetlb.S[.rsvd].max                       |
| rdma                    | rdma.max                        | the same                                   |
| network                 | net_cls.classid, net_prio.…     | refused                                    |
| unified                 | refused                         | the file itself, last                      |

Source: OCI runtime-spec config-linux.md, "Control groups"; kernel Documentation/admin-guide/cgroup-v1/*.rst
and cgroup-v2.rst; the conversions are those of runc and crun (crun(1), "CGROUP v2").
"""

from __future__ import annotations

from _collections_abc import Mapping  # collections.abc would import all of collections

from pyrunc.runtime.cgroup_errors import InvalidResources, UnsupportedResource
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout
from pyrunc.runtime.cgroup_writes import FAIL, NEXT, ROOT, SKIP, Section, Writes

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.runtime.cgroup_writes import Current

_INT64 = (1 << 63) - 1
_UINT64 = (1 << 64) - 1

# Files of `unified` that move processes, change what the cgroup is, or stop it from starting: not resources.
_NO_RESOURCE = frozenset(
    (
        "cgroup.freeze",
        "cgroup.kill",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
        "cgroup.type",
    )
)


def weight_of_shares(shares: int) -> int:
    """Convert v1 cpu.shares (2..262144, default 1024) to v2 cpu.weight (1..10000, default 100).

    A curve through both ends and both defaults. The older line 1 + (shares - 2) * 9999 / 262142 gave 39 for
    the default, so that a container without a wish lost against everything else on the host.
    Source: runc 1.3.2 and crun 1.23 changed to this formula, opencontainers/runc issue 4772.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2  # a library to load, which few starts need

    exponent = log2(shares)
    return ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def resource_writes(layout: Layout, resources: Mapping[str, Any], current: Current | None = None) -> Writes:
    """Convert *resources* (the OCI object `linux.resources`; its devices are for cgroup_devices) for
    *layout*.

    With *current* they are for an existing cgroup: its values decide the order of writes, since the kernel
    compares each new value with the old one of its neighbour.
    Raises InvalidResources and UnsupportedResource. Unknown keys are ignored, as OCI demands.
    """
    writes = Writes(layout, current)
    whole = Section(resources, ROOT)
    for key, convert in _CONVERTERS:
        if whole.values.get(key):
            convert(writes, whole)
    return writes


def _memory(writes: Writes, whole: Section) -> None:
    memory = Section(whole.values["memory"], f"{ROOT}.memory")
    limit = memory.integer("limit", -1, _INT64) or 0
    swap = memory.integer("swap", -1, _INT64) or 0
    reservation = memory.integer("reservation", -1, _INT64) or 0
    swappiness = memory.integer("swappiness", 0, 100)
    kernel_tcp = memory.integer("kernelTCP", -1, _INT64) or 0
    for key in ("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"):
        memory.flag(key)  # useHierarchy is what every kernel does now
    if swap > 0 and limit > 0 and swap < limit:
        raise InvalidResources(f"{memory.name}.swap: memory+swap limit should be >= memory limit")
    if swap > 0 and limit == 0 and writes.current is None:
        raise InvalidResources(f"{memory.name}.swap: unable to set swap limit without memory limit")
    if memory.integer("kernel", -1, _INT64):
        # The kernel took it out of v2 and, with 5.16, out of v1; OCI: "NOT RECOMMENDED".
        writes.ignored.append(f"{memory.name}.kernel")
    hierarchy = writes.target("memory", "memory", "memory")
    if hierarchy.version == 2:
        if swappiness is not None:
            raise UnsupportedResource(f"{memory.name}.swappiness: cgroup v2 has nothing like it")
        if memory.flag("disableOOMKiller"):
            raise UnsupportedResource(f"{memory.name}.disableOOMKiller: cgroup v2 has nothing like it")
        if kernel_tcp:
            writes.ignored.append(f"{memory.name}.kernelTCP")
        _memory_v2(writes, hierarchy, memory, limit, swap, reservation)
        return
    if swap > 0 and limit == -1:
        raise InvalidResources(f"{memory.name}.swap: unable to set swap limit without memory limit")
    _memory_v1_limits(writes, hierarchy, limit, swap)
    if reservation:
        writes.put(hierarchy, "memory.soft_limit_in_bytes", reservation)
    if kernel_tcp:
        writes.put(hierarchy, "memory.kmem.tcp.limit_in_bytes", kernel_tcp)
    if memory.flag("disableOOMKiller"):
        writes.put(hierarchy, "memory.oom_control", 1)
    if swappiness is not None:
        writes.put(hierarchy, "memory.swappiness", swappiness)


def _memory_v1_limits(writes: Writes, hierarchy: Hierarchy, limit: int, swap: int) -> None:
    """Order the two limits so that memory <= memory+swap holds after each write, or else the kernel says
    EINVAL.
    """
    first: list[tuple[str, int, int]] = []
    if limit:
        first.append(("memory.limit_in_bytes", limit, FAIL))
    if swap or limit == -1:
        # No limit of memory and no word about swap means no limit of either. Without swap accounting
        # (swapaccount=0) there is no such file, and nothing to lift.
        first.append(("memory.memsw.limit_in_bytes", swap or -1, FAIL if swap > 0 else SKIP))
    if len(first) == 2:
        now = writes.read(hierarchy, "memory.limit_in_bytes")
        # Raised to at least the old memory limit, swap goes first; otherwise memory does, and is then below
        # the old memory+swap. A new cgroup has no limits, so that memory goes first but for "no limit".
        if first[1][1] == -1 or (now is not None and now < swap):
            first.reverse()
    for file, value, on_missing in first:
        writes.put(hierarchy, file, value, on_missing)


def _memory_v2(
    writes: Writes, hierarchy: Hierarchy, memory: Section, limit: int, swap: int, reservation: int
) -> None:
    if memory.flag("checkBeforeUpdate"):
        usage = writes.read(hierarchy, "memory.current") or 0
        if 0 < swap <= usage:
            raise InvalidResources(f"{memory.name}: rejecting memory+swap limit {swap} <= usage {usage}")
        if 0 < limit <= usage:
            raise InvalidResources(f"{memory.name}: rejecting memory limit {limit} <= usage {usage}")
    if swap == -1 or (swap == 0 and limit == -1):
        # Without swap in the kernel the file is missing, and then there is nothing to lift.
        writes.put(hierarchy, "memory.swap.max", "max", SKIP)
    elif swap > 0:
        base = limit or writes.read(hierarchy, "memory.max")
        if base is None:
            raise InvalidResources(f"{memory.name}.swap: unable to set swap limit without memory limit")
        if base > swap:
            raise InvalidResources(f"{memory.name}.swap: memory+swap limit should be >= memory limit")
        value = swap - base if base > 0 else swap
        writes.put(hierarchy, "memory.swap.max", value, FAIL if value else SKIP)
    if limit:
        writes.put(hierarchy, "memory.max", "max" if limit == -1 else limit)
    if reservation:
        writes.put(hierarchy, "memory.low", "max" if reservation == -1 else reservation)


def _cpu(writes: Writes, whole: Section) -> None:
    cpu = Section(whole.values["cpu"], f"{ROOT}.cpu")
    shares = cpu.integer("shares", 0, _UINT64) or 0
    idle = cpu.integer("idle", 0, 1)
    quota = cpu.integer("quota", -_INT64, _INT64) or 0
    burst = cpu.integer("burst", 0, _INT64)
    period = cpu.integer("period", 0, _UINT64) or 0
    runtime = cpu.integer("realtimeRuntime", -1, _INT64) or 0
    realtime_period = cpu.integer("realtimePeriod", 0, _UINT64) or 0
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidResources(f"{cpu.name}.period: must be 1000..1000000 µs, not {period}")
    if 0 < quota < 1000:
        raise InvalidResources(f"{cpu.name}.quota: must be at least 1000 µs, not {quota}")
    if burst and 0 < quota < burst:
        raise InvalidResources(f"{cpu.name}.burst: must not exceed the quota of {quota} µs, but is {burst}")
    if idle == 1 and shares:
        # The kernel refuses a weight for an idle group, whose weight is the least there is.
        writes.ignored.append(f"{cpu.name}.shares")
        shares = 0
    if shares or idle is not None or quota or period or burst is not None:
        hierarchy = writes.target("cpu", "cpu", "cpu")
        if idle is not None:
            writes.put(hierarchy, "cpu.idle", idle)
        if shares:
            _shares(writes, hierarchy, cpu, shares)
        _bandwidth(writes, hierarchy, -1 if quota < 0 else quota, period, burst)
    if runtime or realtime_period:
        hierarchy = writes.target("cpu.realtimeRuntime", "cpu", None)
        if realtime_period:
            writes.put(hierarchy, "cpu.rt_period_us", realtime_period)
        if runtime:
            writes.put(hierarchy, "cpu.rt_runtime_us", runtime)
    for key in ("cpus", "mems"):
        value = cpu.text(key)
        if value.strip("0123456789,-:/ "):
            raise InvalidResources(f"{cpu.name}.{key}: must be a list as 0-2,7, not {value!r}")
        if value:
            writes.put(writes.target(f"cpu.{key}", "cpuset", "cpuset"), f"cpuset.{key}", value)


def _shares(writes: Writes, hierarchy: Hierarchy, cpu: Section, shares: int) -> None:
    if hierarchy.version == 2:
        writes.put(hierarchy, "cpu.weight", weight_of_shares(shares))
        return
    # The kernel would take the nearest value instead and not say so.
    if shares < 2:
        raise InvalidResources(f"{cpu.name}.shares: the minimum allowed cpu-shares is 2")
    if shares > 262144:
        raise InvalidResources(f"{cpu.name}.shares: the maximum allowed cpu-shares is 262144")
    writes.put(hierarchy, "cpu.shares", shares)


def _bandwidth(writes: Writes, hierarchy: Hierarchy, quota: int, period: int, burst: int | None) -> None:
    """Order quota, period and burst: burst <= quota must always hold, and quota / period stay within the
    parent's.
    """
    if hierarchy.version == 2:
        files = [("cpu.max", _cpu_max(writes, hierarchy, quota, period))] if quota or period else []
        burst_file = "cpu.max.burst"
    else:
        files = [("cpu.cfs_period_us", str(period))] if period else []
        files += [("cpu.cfs_quota_us", str(quota))] if quota else []
        burst_file = "cpu.cfs_burst_us"
        period_now = writes.read(hierarchy, "cpu.cfs_period_us")
        if period_now is not None and period < period_now:
            # A shorter period raises the share that the old quota is, perhaps above the parent's.
            files.reverse()
    if burst is not None:
        lowered = burst <= (writes.read(hierarchy, burst_file) or 0)
        files.insert(0 if lowered and writes.current is not None else len(files), (burst_file, str(burst)))
    for file, value in files:
        writes.put(hierarchy, file, value)


def _cpu_max(writes: Writes, hierarchy: Hierarchy, quota: int, period: int) -> str:
    if quota == 0:
        # The kernel wants the quota in any case, and keeps the period where that is not written.
        quota = writes.read(hierarchy, "cpu.max") or -1
    limit = "max" if quota < 0 else str(quota)
    return f"{limit} {period}" if period else limit


def _pids(writes: Writes, whole: Section) -> None:
    limit = Section(whole.values["pids"], f"{ROOT}.pids").integer("limit", -_INT64, _INT64)
    if limit:
        hierarchy = writes.target("pids", "pids", "pids")
        writes.put(hierarchy, "pids.max", "max" if limit < 0 else limit)


_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps", "rbps"),
    ("throttleWriteBpsDevice", "write_bps", "wbps"),
    ("throttleReadIOPSDevice", "read_iops", "riops"),
    ("throttleWriteIOPSDevice", "write_iops", "wiops"),
)


def _device_number(entry: Section) -> str:
    major, minor = entry.integer("major", 0, 0xFFFFFFFF), entry.integer("minor", 0, 0xFFFFFFFF)
    if major is None or minor is None:
        raise InvalidResources(f"{entry.name}: needs major and minor")
    return f"{major}:{minor}"


def _weight(section: Section) -> int:
    if section.integer("leafWeight", 0, 0xFFFF):
        raise UnsupportedResource(
            f"{section.name}.leafWeight: needs the CFQ scheduler, which Linux 5.0 removed"
        )
    weight = section.integer("weight", 0, 0xFFFF) or 0
    if weight and not 10 <= weight <= 1000:
        raise InvalidResources(f"{section.name}.weight: must be 10..1000, not {weight}")
    return weight


def _block_io(writes: Writes, whole: Section) -> None:
    block = Section(whole.values["blockIO"], f"{ROOT}.blockIO")
    weights = [("", _weight(block))]
    weights += [(_device_number(entry), _weight(entry)) for entry in block.sections("weightDevice")]
    limits: list[tuple[str, str, str, int]] = []
    for key, v1, v2 in _THROTTLES:
        for entry in block.sections(key):
            rate = entry.integer("rate", 0, _UINT64)
            if rate is None:
                raise InvalidResources(f"{entry.name}: needs a rate")
            limits.append((_device_number(entry), v1, v2, rate))
    weights = [(device, weight) for device, weight in weights if weight]
    if not weights and not limits:
        return
    hierarchy = writes.target("blockIO", "blkio", "io")
    for device, weight in weights:
        if hierarchy.version == 1:
            file = "blkio.bfq.weight_device" if device else "blkio.bfq.weight"
            writes.put(hierarchy, file, f"{device} {weight}".strip())
        else:
            # BFQ's weights are OCI's; without BFQ there is io.weight, whose range is 1..10000.
            writes.put(hierarchy, "io.bfq.weight", f"{device} {weight}".strip(), NEXT)
            writes.put(hierarchy, "io.weight", f"{device} {1 + (weight - 10) * 9999 // 990}".strip())
    if hierarchy.version == 1:
        for device, v1, _, rate in limits:
            writes.put(hierarchy, f"blkio.throttle.{v1}_device", f"{device} {rate}")
        return
    by_device: dict[str, list[str]] = {}
    for device, _, v2, rate in limits:
        # Zero lifts a limit of v1, and is an error in v2.
        by_device.setdefault(device, []).append(f"{v2}={rate or 'max'}")
    for device, settings in by_device.items():
        writes.put(hierarchy, "io.max", f"{device} {' '.join(settings)}")


def _hugetlb(writes: Writes, whole: Section) -> None:
    for entry in whole.sections("hugepageLimits"):
        size, limit = entry.text("pageSize"), entry.integer("limit", 0, _UINT64)
        digits = size[:-2]
        if (
            size[-2:] not in ("KB", "MB", "GB")
            or not (digits.isascii() and digits.isdigit())
            or digits[0] == "0"
        ):
            raise InvalidResources(f"{entry.name}.pageSize: must be a size as 2MB, not {size!r}")
        if limit is None:
            raise InvalidResources(f"{entry.name}: needs a limit")
        hierarchy = writes.target("hugepageLimits", "hugetlb", "hugetlb")
        end = "limit_in_bytes" if hierarchy.version == 1 else "max"
        writes.put(hierarchy, f"hugetlb.{size}.{end}", limit)
        # Reservations are refused politely, faults by SIGBUS: OCI wants both limited where the kernel can
        # (5.7).
        writes.put(hierarchy, f"hugetlb.{size}.rsvd.{end}", limit, SKIP)


def _rdma(writes: Writes, whole: Section) -> None:
    devices = Section(whole.values["rdma"], f"{ROOT}.rdma")
    for device in devices.values:
        entry = Section(devices.values[device], f"{devices.name}.{device}")
        settings = []
        for key, name in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            limit = entry.integer(key, 0, 0xFFFFFFFF)
            if limit is not None:
                settings.append(f"{name}={limit}")
        if not settings or not device or device.split() != [device]:
            raise InvalidResources(f"{entry.name}: needs the name of a device, and hcaHandles or hcaObjects")
        writes.put(writes.target("rdma", "rdma", "rdma"), "rdma.max", f"{device} {' '.join(settings)}")


def _network(writes: Writes, whole: Section) -> None:
    network = Section(whole.values["network"], f"{ROOT}.network")
    class_id = network.integer("classID", 0, 0xFFFFFFFF)
    if class_id:
        writes.put(writes.target("network.classID", "net_cls", None), "net_cls.classid", class_id)
    for entry in network.sections("priorities"):
        name, priority = entry.text("name"), entry.integer("priority", 0, 0xFFFFFFFF)
        if name.split() != [name] or priority is None:
            raise InvalidResources(f"{entry.name}: needs the name of an interface and a priority")
        hierarchy = writes.target("network.priorities", "net_prio", None)
        writes.put(hierarchy, "net_prio.ifpriomap", f"{name} {priority}")


def _unified(writes: Writes, whole: Section) -> None:
    unified = Section(whole.values["unified"], f"{ROOT}.unified")
    hierarchy = writes.layout.v2
    if hierarchy is None:
        raise UnsupportedResource(f"{unified.name}: cannot use unified on cgroup v1")
    for file, value in unified.values.items():
        field = f"{unified.name}[{file!r}]"
        controller, dot, rest = file.partition(".")
        if not dot or not controller or not rest or not file.isascii() or not file.isprintable():
            raise InvalidResources(f"{field}: must be of the form CONTROLLER.PARAMETER")
        if "/" in file:
            raise InvalidResources(f"{field}: must be a file name (no slashes)")
        if file in _NO_RESOURCE:
            raise InvalidResources(f"{field}: is not a resource")
        if not isinstance(value, str) or "\0" in value:
            raise InvalidResources(f"{field}: must be a string, not {value!r}")
        # A pressure file is there without its controller.
        if controller != "cgroup" and rest != "pressure":
            if controller not in hierarchy.controllers:
                raise UnsupportedResource(f"{field}: no {controller} controller on cgroup v2 of this host")
            writes.needed.add(controller)
        # The kernel takes one line a write (io.max, rdma.max); a lone newline empties a list such as
        # cpuset.cpus.
        for line in value.splitlines() or ["\n"]:
            writes.put(hierarchy, file, line)


_CONVERTERS: tuple[tuple[str, Callable[[Writes, Section], None]], ...] = (
    ("memory", _memory),
    ("cpu", _cpu),
    ("pids", _pids),
    ("blockIO", _block_io),
    ("hugepageLimits", _hugetlb),
    ("rdma", _rdma),
    ("network", _network),
    ("unified", _unified),
)
