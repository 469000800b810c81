"""What a HostConfig must be before a container is made of it: Docker's rules, in its words, and refusals by name."""

import os

from pyrunc.errors import InvalidArgument, Unsupported
from pyrunc.spec import capabilities

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

NO_NETWORKS = "networks do not exist yet"
REFUSED = {
    "Annotations": "annotations are for a runtime that reads them, and pyrunc's own reads none",
    "Cgroup": "containers share no cgroup",
    "CpuCount": "it is for Windows only",
    "CpuPercent": "it is for Windows only",
    "DeviceRequests": "devices of GPUs are not made; Devices adds any device",
    "IOMaximumBandwidth": "it is for Windows only",
    "IOMaximumIOps": "it is for Windows only",
    "Init": "there is no init to run inside yet",
    "Isolation": "it is for Windows only",
    "KernelMemory": "Linux has no limit of kernel memory since 6.1",
    "KernelMemoryTCP": "Linux has no limit of kernel memory since 6.1",
    "Links": NO_NETWORKS,
    "PortBindings": NO_NETWORKS,
    "PublishAllPorts": NO_NETWORKS,
    "StorageOpt": "the size of a container's own layer cannot be bounded",
}
_MIN_MEMORY = 6 << 20
_RESTARTS = ("no", "always", "unless-stopped", "on-failure")
_LOG_OPTIONS = ("max-size", "max-file")
_LOG_OPTIONS_OF_DOCKER = (
    "compress", "env", "env-regex", "labels", "labels-regex", "max-buffer-size", "mode", "tag",
)  # fmt: skip
_DRIVERS_OF_DOCKER = (
    "awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "journald", "local", "logentries", "splunk", "syslog",
)  # fmt: skip
_MODES: "dict[str, tuple[str, tuple[str, ...]]]" = {
    "PidMode": ("invalid PID mode", ("", "host", "container")),
    "IpcMode": ("invalid IPC mode", ("", "none", "private", "shareable", "host", "container")),
    "UTSMode": ("invalid UTS mode", ("", "host")),
    "CgroupnsMode": ("invalid cgroup namespace mode", ("", "private", "host")),
    "UsernsMode": ("invalid userns mode", ("", "host")),
}


def check(host_config: "Mapping[str, Any]", config: "Mapping[str, Any] | None" = None) -> None:
    """Refuse what Docker refuses, in its words, and what does not exist here, by its name.

    *config* is the caller's own Config, without the image's. Raises InvalidArgument, Unsupported.
    """
    for key, reason in REFUSED.items():
        if host_config.get(key) not in (None, "", 0, False, [], {}):
            raise Unsupported(f"{key}: {reason}")
    _check_memory(host_config)
    _check_cpu(host_config)
    weight = host_config.get("BlkioWeight") or 0
    if weight and not 10 <= weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    score = host_config.get("OomScoreAdj") or 0
    if not -1000 <= score <= 1000:
        raise InvalidArgument(f"Invalid value {score}, range for oom score adj is [-1000, 1000]")
    if (host_config.get("ShmSize") or 0) < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    _check_restart(host_config)
    check_log(host_config.get("LogConfig") or {})
    _check_modes(host_config, config or {})
    for key in ("CapAdd", "CapDrop"):
        for name in host_config.get(key) or ():
            if name.upper() != "ALL" and name.upper().removeprefix("CAP_") not in capabilities.NAMES:
                raise InvalidArgument(f'invalid {key}: unknown capability: "{name}"')
    for path in host_config.get("Tmpfs") or ():
        if not path.startswith("/"):
            raise InvalidArgument(f"invalid mount path: '{path}' mount path must be absolute")
    _check_health((config or {}).get("Healthcheck") or {})
    signal = (config or {}).get("StopSignal") or ""
    if signal and not signal.isdigit():
        from pyrunc.image.changes import check_signal  # an engine's part that few starts need

        check_signal(signal)


def _check_memory(host_config: "Mapping[str, Any]") -> None:
    limit, swap, reservation = (
        host_config.get(key) or 0 for key in ("Memory", "MemorySwap", "MemoryReservation")
    )
    if 0 < limit < _MIN_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if limit > 0 and 0 < swap < limit:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if limit == 0 and swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    swappiness = host_config.get("MemorySwappiness")
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if 0 < reservation < _MIN_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < limit < reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(host_config: "Mapping[str, Any]") -> None:
    nano, quota, period = (host_config.get(key) or 0 for key in ("NanoCpus", "CpuQuota", "CpuPeriod"))
    if nano > 0 and period > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano > 0 and quota > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    count = os.cpu_count() or 1
    if nano < 0 or nano > count * 10**9 or 0 < nano < 10**7:
        raise InvalidArgument(
            f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        )
    shares = host_config.get("CpuShares") or 0
    if shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({shares}): value must be a positive integer")
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidArgument(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    for key, word, what, place in (
        ("CpusetCpus", "cpuset cpus", "CPUs", "/sys/devices/system/cpu/online"),
        ("CpusetMems", "cpuset mems", "memory nodes", "/sys/devices/system/node/online"),
    ):
        text = host_config.get(key) or ""
        if text:
            _check_set(text, word, what, place)


def _check_set(text: str, word: str, what: str, place: str) -> None:
    try:
        wanted = _numbers(text)
    except ValueError:
        raise InvalidArgument(f"Invalid value {text} for {word}: invalid format: {text}") from None
    try:
        with open(place, encoding="ascii") as file:
            available = file.read().strip()
    except OSError:
        return  # a kernel without NUMA; the cgroup says no
    if not wanted <= _numbers(available):
        raise InvalidArgument(
            f"Requested {what} are not available - requested {text}, available: {available}"
        )


def _numbers(text: str) -> set[int]:
    """``0-2,5`` as numbers. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        first, last = int(low), int(high if dash else low)
        if last < first or last > 1 << 20:
            raise ValueError
        found.update(range(first, last + 1))
    return found


def _check_restart(host_config: "Mapping[str, Any]") -> None:
    policy = host_config.get("RestartPolicy") or {}
    name, count = policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0
    if name not in _RESTARTS:
        raise InvalidArgument(f"invalid restart policy '{name}'")
    if name != "on-failure" and count:
        raise InvalidArgument(f"maximum retry count cannot be used with restart policy '{name}'")
    if count < 0:
        raise InvalidArgument("maximum retry count cannot be negative")
    if name != "no" and host_config.get("AutoRemove"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def check_log(log: "Mapping[str, Any]") -> tuple[int, int]:
    """The largest size of one file of a log in bytes (0: no limit), and how many there are.

    Raises InvalidArgument, Unsupported.
    """
    driver, options = log.get("Type") or "json-file", log.get("Config") or {}
    if driver not in ("json-file", "none"):
        if driver in _DRIVERS_OF_DOCKER:
            raise Unsupported(f"LogConfig: {driver}: only json-file and none exist yet")
        raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    for key in sorted(options):
        if key in _LOG_OPTIONS_OF_DOCKER:
            raise Unsupported(f"LogConfig: {key}: only max-size and max-file exist yet")
        if key not in _LOG_OPTIONS or driver == "none":
            raise InvalidArgument(f"unknown log opt '{key}' for {driver} log driver")
    size, count = 0, 1
    if "max-size" in options:
        size = _size(options["max-size"])
        if size <= 0:
            raise InvalidArgument("max-size must be a positive number")
    if "max-file" in options:
        try:
            count = int(options["max-file"])
        except ValueError:
            words = f'strconv.Atoi: parsing "{options["max-file"]}": invalid syntax'
            raise InvalidArgument(words) from None
        if count < 1:
            raise InvalidArgument("max-file cannot be less than 1")
    return size, count


def _size(text: str) -> int:
    """``10m`` in powers of 1000."""
    digits = text.rstrip("kKmMgGtTpPiIbB ")
    unit = text[len(digits) :].strip().lower().removesuffix("b").removesuffix("i")
    try:
        return int(float(digits) * 1000 ** ("", "k", "m", "g", "t", "p").index(unit))
    except (ValueError, OverflowError):
        raise InvalidArgument(f"invalid size: '{text}'") from None


def _check_modes(host_config: "Mapping[str, Any]", config: "Mapping[str, Any]") -> None:
    for key, (words, known) in _MODES.items():
        value = host_config.get(key) or ""
        kind, colon, name = value.partition(":")
        if kind not in known or (kind == "container") != bool(name) or (colon and kind != "container"):
            raise InvalidArgument(f"{words}: {value}")
    network = host_config.get("NetworkMode") or ""
    kind, _, name = network.partition(":")
    if kind == "container":
        if not name:
            raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
        for key, words in (("Hostname", "hostname"), ("ExposedPorts", "port exposing")):
            if config.get(key):
                raise InvalidArgument(f"conflicting options: {words} and the container type network mode")
        for key, words in (("Dns", "dns"), ("ExtraHosts", "custom host-to-IP mapping")):
            if host_config.get(key):
                raise InvalidArgument(f"conflicting options: {words} and the network mode")
    elif network not in ("", "default", "none", "host"):
        raise Unsupported(f"NetworkMode: {network}: {NO_NETWORKS}; there are none, host and container:NAME")
    if host_config.get("UTSMode") == "host" and config.get("Hostname"):
        raise InvalidArgument("conflicting options: hostname and the UTS mode")


def _check_health(health: "Mapping[str, Any]") -> None:
    if health and (health.get("Test") or [""])[0] != "NONE":
        raise Unsupported("Healthcheck: health checks do not exist yet; NONE is possible")
