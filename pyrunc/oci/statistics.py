"""What a container uses, from the files of its cgroups, in the shape of runc's `events --stats`.

| member             | cgroup v1                                   | cgroup v2                                    |
|--------------------|---------------------------------------------|----------------------------------------------|
| cpu                | cpuacct.usage…, cpuacct.stat, cpu.stat      | cpu.stat, cpu.pressure                       |
| cpuset             | cpuset.*                                    | -                                            |
| memory             | memory.*, memsw, kmem, kmem.tcp             | memory.current max peak stat swap.* pressure |
| pids               | pids.current, pids.max                      | the same                                     |
| blkio              | blkio.*_recursive, or blkio.throttle.*      | io.stat, io.pressure                         |
| hugetlb            | hugetlb.SIZE.*                              | hugetlb.SIZE.*, .events                      |

Times are nanoseconds. A member that is 0 is left out where runc leaves it out.
Source: kernel Documentation/admin-guide/cgroup-v1/*.rst and cgroup-v2.rst; runc-events(8).
"""

from __future__ import annotations

import os

from pyrunc.oci.container_cgroups import controller_directory, unified_directory

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.state import Container

_NO_LIMIT = (1 << 64) - 1
_CPUSET_FLAGS = (
    "cpu_exclusive",
    "mems",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)
_BLKIO = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioQueueRecursive", "io_queued_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioTimeRecursive", "time_recursive"),
    ("sectorsRecursive", "sectors_recursive"),
)
_IO_STAT = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "dbytes": ("ioServiceBytesRecursive", "Discard"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
    "dios": ("ioServicedRecursive", "Discard"),
}


def statistics(container: Container) -> dict[str, Any]:
    """The member `data` of one event of type stats. What the host has no controller for is empty."""
    v2 = unified_directory(container)
    where = {name: controller_directory(container, name) for name in _V1}
    found: dict[str, Any] = {
        "cpu": _cpu_v1(where) if where["cpu"] or where["cpuacct"] else _cpu_v2(v2),
        "cpuset": _cpuset(where["cpuset"]),
        "memory": _memory_v1(where["memory"]) if where["memory"] else _memory_v2(v2),
        "pids": _pids(where["pids"] or v2),
        "blkio": _blkio_v1(where["blkio"]) if where["blkio"] else _blkio_v2(v2),
        "hugetlb": _hugetlb(where["hugetlb"] or v2, 1 if where["hugetlb"] else 2),
        "intel_rdt": {},
        "network_interfaces": None,
    }
    return found


_V1 = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb")


def _text(directory: str, file: str) -> str:
    if not directory:
        return ""
    try:
        with open(f"{directory}/{file}", encoding="ascii") as opened:
            return opened.read()
    except OSError:
        # This kernel has no such file, or the cgroup is the root of a hierarchy.
        return ""


def _number(directory: str, file: str, of_max: int = 0) -> int:
    text = _text(directory, file).strip()
    return of_max if text == "max" else int(text) if text.lstrip("-").isdecimal() else 0


def _pairs(text: str) -> dict[str, int]:
    """The lines `name number` of a file."""
    words = (line.split() for line in text.splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdecimal()}


def _without_zeros(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def _cpu_v1(where: dict[str, str]) -> dict[str, Any]:
    accounts = where["cpuacct"]
    table = [line.split() for line in _text(accounts, "cpuacct.usage_all").splitlines()[1:]]
    spent = _pairs(_text(accounts, "cpuacct.stat"))
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    usage = _without_zeros(
        {
            "total": _number(accounts, "cpuacct.usage"),
            "percpu": [int(word) for word in _text(accounts, "cpuacct.usage_percpu").split()],
            "percpu_kernel": [int(row[2]) for row in table if len(row) == 3],
            "percpu_user": [int(row[1]) for row in table if len(row) == 3],
        }
    )
    usage["kernel"] = spent.get("system", 0) * tick_ns
    usage["user"] = spent.get("user", 0) * tick_ns
    stat = _pairs(_text(where["cpu"], "cpu.stat"))
    throttling = {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get("throttled_time", 0),
    }
    return {"usage": usage, "throttling": _without_zeros(throttling)}


def _cpu_v2(directory: str) -> dict[str, Any]:
    stat = _pairs(_text(directory, "cpu.stat"))
    usage = _without_zeros({"total": stat.get("usage_usec", 0) * 1000})
    usage["kernel"] = stat.get("system_usec", 0) * 1000
    usage["user"] = stat.get("user_usec", 0) * 1000
    throttling = {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get("throttled_usec", 0) * 1000,
    }
    return {"usage": usage, "throttling": _without_zeros(throttling), **_pressure(directory, "cpu")}


def _pressure(directory: str, controller: str) -> dict[str, Any]:
    """Pressure stall information, in the shape of runc 1.2; nothing where the kernel has none."""
    found: dict[str, dict[str, Any]] = {}
    for line in _text(directory, f"{controller}.pressure").splitlines():
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        averages: dict[str, Any] = {name: float(values.get(name, 0)) for name in ("avg10", "avg60", "avg300")}
        found[kind] = {**averages, "total": int(values.get("total", 0))}
    return {"psi": found} if found else {}


def _cpuset(directory: str) -> dict[str, Any]:
    found: dict[str, Any] = _without_zeros({"cpus": _list(_text(directory, "cpuset.cpus"))})
    for name in _CPUSET_FLAGS:
        if name == "mems":
            found.update(_without_zeros({"mems": _list(_text(directory, "cpuset.mems"))}))
        else:
            found[name] = _number(directory, f"cpuset.{name}")
    return found


def _list(text: str) -> list[int]:
    """The numbers of a list such as 0-2,7."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def _memory_v1(directory: str) -> dict[str, Any]:
    raw = _pairs(_text(directory, "memory.stat"))
    found: dict[str, Any] = _without_zeros({"cache": raw.get("cache", 0)})
    for name, part in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        found[name] = _entry(
            _number(directory, f"memory.{part}limit_in_bytes"),
            _number(directory, f"memory.{part}usage_in_bytes"),
            _number(directory, f"memory.{part}max_usage_in_bytes"),
            _number(directory, f"memory.{part}failcnt"),
        )
    return {**found, "raw": dict(sorted(raw.items()))} if raw else found


def _entry(limit: int, usage: int, peak: int, failures: int) -> dict[str, int]:
    return {"limit": limit, **_without_zeros({"usage": usage, "max": peak}), "failcnt": failures}


def _memory_v2(directory: str) -> dict[str, Any]:
    raw = _pairs(_text(directory, "memory.stat"))
    found: dict[str, Any] = _without_zeros({"cache": raw.get("file", 0)})
    usage = _number(directory, "memory.current")
    limit = _number(directory, "memory.max", _NO_LIMIT)
    failures = _pairs(_text(directory, "memory.events")).get("max", 0)
    found["usage"] = _entry(limit, usage, _number(directory, "memory.peak"), failures)
    # Memory and swap together, as cgroup v1 counts them.
    swap_limit = _number(directory, "memory.swap.max", _NO_LIMIT)
    both = _NO_LIMIT if _NO_LIMIT in (limit, swap_limit) else limit + swap_limit
    swap_failures = _pairs(_text(directory, "memory.swap.events")).get("max", 0)
    found["swap"] = _entry(both, usage + _number(directory, "memory.swap.current"), 0, swap_failures)
    # They have no limits of their own, and are counted in raw.
    found["kernel"] = found["kernelTCP"] = _entry(0, 0, 0, 0)
    if raw:
        found["raw"] = dict(sorted(raw.items()))
    return {**found, **_pressure(directory, "memory")}


def _pids(directory: str) -> dict[str, int]:
    return _without_zeros(
        {"current": _number(directory, "pids.current"), "limit": _number(directory, "pids.max")}
    )


def _blkio_v1(directory: str) -> dict[str, Any]:
    found = {}
    for member, file in _BLKIO:
        text = _text(directory, f"blkio.bfq.{file}") or _text(directory, f"blkio.{file}")
        if member in ("ioServiceBytesRecursive", "ioServicedRecursive") and not _blkio_rows(text):
            text = _text(directory, f"blkio.throttle.{file}")
        found[member] = _blkio_rows(text)
    return _without_zeros(found)


def _blkio_rows(text: str) -> list[dict[str, Any]]:
    """The lines `major:minor operation value`, or `major:minor value`; a total stands at the end."""
    rows = []
    for line in text.splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        if not colon or not words:
            continue
        operation = words[0] if len(words) == 2 else ""
        rows.append(_blkio_row(int(major), int(minor), operation, int(words[-1])))
    return rows


def _blkio_row(major: int, minor: int, operation: str, value: int) -> dict[str, Any]:
    return _without_zeros({"major": major, "minor": minor, "op": operation, "value": value})


def _blkio_v2(directory: str) -> dict[str, Any]:
    found: dict[str, Any] = {member: [] for member, _ in _BLKIO}
    for line in _text(directory, "io.stat").splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        for word in words if colon else ():
            key, _, value = word.partition("=")
            if key in _IO_STAT:
                member, operation = _IO_STAT[key]
                found[member].append(_blkio_row(int(major), int(minor), operation, int(value)))
    return {**_without_zeros(found), **_pressure(directory, "io")}


def _hugetlb(directory: str, version: int) -> dict[str, Any]:
    names = ("usage_in_bytes", "max_usage_in_bytes") if version == 1 else ("current", "")
    found = {}
    try:
        files = sorted(os.listdir(directory)) if directory else []
    except FileNotFoundError:
        files = []
    for file in files:
        prefix, size, last = [*file.split("."), "", ""][:3]
        if prefix != "hugetlb" or file != f"hugetlb.{size}.{last}" or last != names[0]:
            continue
        # Reservations are counted apart, and are what a limit refuses first (Linux 5.7).
        kind = f"{size}.rsvd" if os.path.exists(f"{directory}/hugetlb.{size}.rsvd.{last}") else size
        if version == 1:
            failures = _number(directory, f"hugetlb.{kind}.failcnt")
        else:
            failures = _pairs(_text(directory, f"hugetlb.{size}.events")).get("max", 0)
        peak = _number(directory, f"hugetlb.{kind}.{names[1]}") if names[1] else 0
        usage = _number(directory, f"hugetlb.{kind}.{names[0]}")
        found[size] = {**_without_zeros({"usage": usage, "max": peak}), "failcnt": failures}
    return found
