"""What an engine says of itself and of its host: Docker's documents, with what is true of pyrunc in them.

Source: Docker Engine API v1.51, SystemInfo and SystemVersion. What only a daemon could know is empty or 0.
"""

import os
import platform
import socket
import time

from pyrunc.runtime.version import own_version
from pyrunc.spec.image import timestamp

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pyrunc.engine.parts import Parts

API_VERSION = "1.51"  # of the documents; there is no daemon that would speak it
RUNTIME = "pyrunc"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_STATES = {"running": "ContainersRunning", "restarting": "ContainersRunning", "paused": "ContainersPaused"}
# What a limit is called here, the controller that it needs, its file where not every kernel has it, Docker's warning.
_LIMITS = (
    ("MemoryLimit", "memory", "", "memory limit"),
    ("SwapLimit", "memory", "memory.memsw.limit_in_bytes", "swap limit"),
    ("KernelMemoryTCP", "memory", "memory.kmem.tcp.limit_in_bytes", ""),
    ("CpuCfsPeriod", "cpu", "cpu.cfs_period_us", "cpu cfs period"),
    ("CpuCfsQuota", "cpu", "cpu.cfs_quota_us", "cpu cfs quota"),
    ("CPUShares", "cpu", "", "cpu shares"),
    ("CPUSet", "cpuset", "", "cpuset"),
    ("PidsLimit", "pids", "", "pids limit"),
)


def version() -> "dict[str, Any]":
    """What `docker version` shows of the server; *PythonVersion* is in the place of Go's."""
    about = os.uname()
    details = {
        "ApiVersion": API_VERSION, "Arch": _arch(about.machine), "BuildTime": "", "Experimental": "false",
        "GitCommit": "", "GoVersion": "", "KernelVersion": about.release, "MinAPIVersion": API_VERSION, "Os": "linux",
        "PythonVersion": platform.python_version(),
    }  # fmt: skip
    return {
        "Platform": {"Name": "pyrunc, in this process"},
        "Components": [{"Name": "Engine", "Version": own_version(), "Details": details}],
        "Version": own_version(), "ApiVersion": API_VERSION, "MinAPIVersion": API_VERSION, "GitCommit": "",
        "GoVersion": "", "Os": "linux", "Arch": _arch(about.machine), "KernelVersion": about.release, "BuildTime": "",
        "PythonVersion": platform.python_version(),
    }  # fmt: skip


def info(parts: "Parts", states: "Iterable[str]") -> "dict[str, Any]":
    """What `docker info` shows of the server; *states* are those of all containers."""
    counts = {"ContainersRunning": 0, "ContainersPaused": 0, "ContainersStopped": 0}
    for state in states:
        counts[_STATES.get(state, "ContainersStopped")] += 1
    about, system = os.uname(), _os_release()
    limits, warnings, cgroup_version = _limits()
    return {
        "ID": "", "Containers": sum(counts.values()), **counts, "Images": len(parts.metadata.images()),
        "Driver": parts.snapshotter.name, "DriverStatus": [["Backing Filesystem", _filesystem(parts.root)]],
        "Plugins": {
            "Volume": ["local"], "Network": ["host", "none"], "Authorization": None, "Log": ["json-file", "none"],
        },
        **limits, "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward").strip() == "1", "Debug": False,
        "NFd": len(os.listdir("/proc/self/fd")), "NGoroutines": 0, "SystemTime": timestamp(time.time_ns()),
        "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": cgroup_version, "NEventsListener": 0,
        "KernelVersion": about.release, "OperatingSystem": system.get("PRETTY_NAME") or system.get("NAME") or "unknown",
        "OSVersion": system.get("VERSION_ID", ""), "OSType": "linux", "Architecture": about.machine,
        "IndexServerAddress": "", "RegistryConfig": None, "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "GenericResources": None,
        "DockerRootDir": parts.root, "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "Name": socket.gethostname(),
        "Labels": [], "ExperimentalBuild": False, "ServerVersion": own_version(),
        "Runtimes": {RUNTIME: {"path": _init_path()}, **_runtimes()}, "DefaultRuntime": RUNTIME,
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
            "RemoteManagers": None,
        },
        # Containers outlive whoever started them.
        "LiveRestoreEnabled": True, "Isolation": "", "InitBinary": "",
        "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin"], "CDISpecDirs": None, "Warnings": warnings or None,
    }  # fmt: skip


def _limits() -> "tuple[dict[str, bool], list[str], str]":
    """Which limits this host has, what Docker says of those that it has not, and the version of its cgroups."""
    from pyrunc.runtime import cgroup_layout

    layout = cgroup_layout.detect()
    found, warnings = {}, []
    for key, controller, file, words in _LIMITS:
        hierarchy = layout.of(controller)
        there = hierarchy is not None
        if hierarchy is not None and hierarchy.version == 1 and file:
            there = os.path.exists(os.path.join(hierarchy.mountpoint, file))
        elif hierarchy is not None and key == "KernelMemoryTCP":
            there = False
        found[key] = there
        if not there and words:
            warnings.append(f"WARNING: No {words} support")
    memory = layout.of("memory")
    found["OomKillDisable"] = memory is not None and memory.version == 1
    return found, warnings, "2" if layout.mode == "v2" else "1"


def _os_release() -> "Mapping[str, str]":
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _filesystem(root: str) -> str:
    """What kind of file system the directory *root*, or what is to hold it, is on. Source: proc_pid_mountinfo(5)."""
    while not os.path.exists(root):
        root = os.path.dirname(root)
    device = os.stat(root).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return "unknown"


def _init_path() -> str:
    """Where pyrunc-init is, "" where it was not built."""
    from pyrunc.errors import PyruncError
    from pyrunc.runtime import spawner

    try:
        return spawner.init_path()
    except (PyruncError, OSError):
        return ""


def _runtimes() -> "dict[str, dict[str, str]]":
    """The OCI runtimes, and the drivers of others, that containers can be started with here."""
    from pyrunc.drivers import registry

    return {name: {"path": path} for name, path in registry.exec_names().items()}


def _arch(machine: str) -> str:
    return _ARCHITECTURES.get(machine, machine)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
