"""Docker's Config and HostConfig, and the options of a Sandbox that they mean.

The two documents are what a container's row holds. What an option can say and Docker has no word for is a third,
*rest*: plain JSON with the names of SandboxOptions.

    SandboxOptions ── documents_of ──► (config, host_config, rest) ── options_of ──► SandboxOptions
"""

from pyrunc.engine.host_config_checks import NO_NETWORKS, check, check_log
from pyrunc.errors import InvalidArgument, Unsupported
from pyrunc.records import NamedTuple, dumps
from pyrunc.runtime.options import IdMap, Mount
from pyrunc.spec import defaults as spec_defaults

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pyrunc.runtime.options import SandboxOptions

__all__ = ["Log", "check", "defaults", "documents_of", "filled", "log_of", "options_of"]


class Log(NamedTuple):
    """How a container's output is kept: files of at most *max_bytes* (0: no limit), *max_files* of them."""

    max_bytes: int
    max_files: int


# HostConfig as Docker shows it, in its order; the values are those of a container for which nothing was asked.
DEFAULTS: "dict[str, Any]" = {
    "Binds": None, "ContainerIDFile": "", "LogConfig": {"Type": "json-file", "Config": {}}, "NetworkMode": "none",
    "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": False,
    "VolumeDriver": "", "VolumesFrom": None, "ConsoleSize": [0, 0], "CapAdd": None, "CapDrop": None,
    "CgroupnsMode": "private", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": None, "GroupAdd": None,
    "IpcMode": "private", "Cgroup": "", "Links": None, "OomScoreAdj": 0, "PidMode": "", "Privileged": False,
    "PublishAllPorts": False, "ReadonlyRootfs": False, "SecurityOpt": None, "UTSMode": "", "UsernsMode": "",
    "ShmSize": spec_defaults.SHM_BYTES, "Runtime": "pyrunc", "Isolation": "", "CpuShares": 0, "Memory": 0,
    "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0,
    "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
    "DeviceCgroupRules": None, "DeviceRequests": None, "MemoryReservation": 0, "MemorySwap": 0,
    "MemorySwappiness": None, "OomKillDisable": False, "PidsLimit": None, "Ulimits": [], "CpuCount": 0,
    "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
}  # fmt: skip
# What Docker shows only where it is set, and before which key.
_RARE = {"Mounts": "MaskedPaths", "Tmpfs": "UTSMode", "Sysctls": "Runtime"}
# HostConfig key -> option, for what both have as the same number or text; 0 and "" are "not given".
_SAME = {
    "Memory": "memory_bytes", "MemorySwap": "memory_swap_bytes", "MemoryReservation": "memory_reservation_bytes",
    "CpuShares": "cpu_shares", "CpuQuota": "cpu_quota_us", "CpuPeriod": "cpu_period_us",
    "CpuRealtimeRuntime": "cpu_rt_runtime_us", "CpuRealtimePeriod": "cpu_rt_period_us",
    "CpusetCpus": "cpuset_cpus", "CpusetMems": "cpuset_mems", "PidsLimit": "pids_limit",
    "BlkioWeight": "blkio_weight", "OomScoreAdj": "oom_score_adj",
    "OomKillDisable": "oom_kill_disable", "Privileged": "privileged",
}  # fmt: skip
_LISTS = {
    "CapAdd": "cap_add", "CapDrop": "cap_drop", "DeviceCgroupRules": "device_cgroup_rules", "Dns": "dns",
    "DnsOptions": "dns_options", "DnsSearch": "dns_search", "GroupAdd": "groups",
}  # fmt: skip
_MAPS = {"Sysctls": "sysctls", "Tmpfs": "tmpfs"}
_RATES = {
    "BlkioDeviceReadBps": ("read_bps", "Rate"), "BlkioDeviceWriteBps": ("write_bps", "Rate"),
    "BlkioDeviceReadIOps": ("read_iops", "Rate"), "BlkioDeviceWriteIOps": ("write_iops", "Rate"),
    "BlkioWeightDevice": ("blkio_weight_devices", "Weight"),
}  # fmt: skip
_NAMESPACES = {
    "PidMode": "pid", "IpcMode": "ipc", "UTSMode": "uts", "CgroupnsMode": "cgroupns", "NetworkMode": "network",
}  # fmt: skip
_HARMLESS = (("label", "disable"), ("apparmor", "unconfined"), ("seccomp", "builtin"))
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def defaults() -> "dict[str, Any]":
    """HostConfig of a container for which nothing was asked, with all keys that Docker shows."""
    return filled({})


def filled(host_config: "Mapping[str, Any]") -> "dict[str, Any]":
    """*host_config* with what Docker adds when a container is made; this is what a row keeps and `inspect` shows."""
    given = {key: value for key, value in host_config.items() if value is not None}
    found: dict[str, Any] = {}
    for key, value in DEFAULTS.items():
        for rare, before in _RARE.items():
            if before == key and given.get(rare):
                found[rare] = given[rare]
        found[key] = value.copy() if isinstance(value, dict | list) else value
        if given.get(key) not in (None, "", [], {}, 0):
            found[key] = given[key]
    if given.get("Mounts"):
        found["Mounts"] = given["Mounts"]
    log = dict(found["LogConfig"])
    found["LogConfig"] = {"Type": log.get("Type") or "json-file", "Config": dict(log.get("Config") or {})}
    restart = found["RestartPolicy"]
    found["RestartPolicy"] = {
        "Name": restart.get("Name") or "no", "MaximumRetryCount": restart.get("MaximumRetryCount") or 0,
    }  # fmt: skip
    if found["NetworkMode"] == "default":
        found["NetworkMode"] = "none"  # the only one that every container can have
    if found["Memory"] > 0 and not found["MemorySwap"]:
        found["MemorySwap"] = 2 * found["Memory"]
    if given.get("MemorySwappiness") is not None:
        found["MemorySwappiness"] = None if given["MemorySwappiness"] == -1 else given["MemorySwappiness"]
    if found["PidsLimit"] is not None and found["PidsLimit"] <= 0:
        found["PidsLimit"] = None
    privileged = found["Privileged"]
    if privileged or "host" in (found["IpcMode"], found["PidMode"]):
        texts = list(found["SecurityOpt"] or ())
        found["SecurityOpt"] = texts if "label=disable" in texts else [*texts, "label=disable"]
    for key, value in (
        ("MaskedPaths", spec_defaults.masked_paths()), ("ReadonlyPaths", spec_defaults.READONLY_PATHS),
    ):  # fmt: skip
        own = None if privileged else list(value)
        found[key] = list(given[key]) if given.get(key) is not None else own
    return found


def log_of(host_config: "Mapping[str, Any]") -> Log | None:
    """How output is kept; None with the driver none. Raises InvalidArgument, Unsupported."""
    log = host_config.get("LogConfig") or {}
    settings = check_log(log)
    return None if log.get("Type") == "none" else Log(*settings)


def options_of(
    config: "Mapping[str, Any]", host_config: "Mapping[str, Any]", *, rest: "Mapping[str, Any] | None" = None,
    joined: "Mapping[str, str] | None" = None,
) -> "SandboxOptions":  # fmt: skip
    """The options that a container's documents mean.

    Not among them is what needs the engine: Binds, Mounts, VolumesFrom and the image's volumes. *joined* has what the
    modes ``container:NAME`` mean, by key: the path of a namespace for PidMode, IpcMode and NetworkMode, which may also
    stand in the place of the mode itself; for "Shm" the detached mount that is to be /dev/shm; for "Hostname" the
    name of the container whose network is shared. Raises InvalidArgument, Unsupported.
    """
    found: dict[str, Any] = _from_json(rest or {})
    found.update(_process(config, host_config))
    for key, option in _SAME.items():
        value = host_config.get(key)
        if value and not (key == "PidsLimit" and value < 0):
            found[option] = value
    if (host_config.get("MemorySwappiness") or 0) >= 0 and host_config.get("MemorySwappiness") is not None:
        found["memory_swappiness"] = host_config["MemorySwappiness"]
    if host_config.get("NanoCpus"):
        found["cpus"] = host_config["NanoCpus"] / 1e9
    if "memory_bytes" not in found:
        found.pop("memory_swap_bytes", None)  # -1 without a limit of memory is no limit at all
    for keys in (_LISTS, _MAPS):
        found.update({option: host_config[key] for key, option in keys.items() if host_config.get(key)})
    for key, (option, number) in _RATES.items():
        if host_config.get(key):
            found[option] = {entry["Path"]: entry[number] for entry in host_config[key]}
    if host_config.get("CgroupParent"):
        found["cgroup_parent"] = "/" + host_config["CgroupParent"].lstrip("/")
    if host_config.get("ReadonlyRootfs"):
        found["writable"] = "no"
    if host_config.get("Devices"):
        found["devices"] = [_device(entry) for entry in host_config["Devices"]]
    if host_config.get("ExtraHosts"):
        found["hosts"] = _hosts(host_config["ExtraHosts"])
    if host_config.get("Ulimits"):
        found["rlimits"] = {
            entry["Name"]: (entry.get("Soft") or 0, entry.get("Hard") or 0)
            for entry in host_config["Ulimits"]
        }
    found.update(_security(host_config))
    _isolate(found, host_config, joined or {})
    return found  # type: ignore[return-value]


def _process(config: "Mapping[str, Any]", host_config: "Mapping[str, Any]") -> "dict[str, Any]":
    found: dict[str, Any] = {
        "env": dict(text.split("=", 1) for text in config.get("Env") or () if "=" in text)
    }
    for key, option in (("User", "user"), ("WorkingDir", "cwd")):
        if config.get(key):
            found[option] = config[key]
    if config.get("Tty"):
        found["tty"] = True
        found["console_size"] = tuple(host_config.get("ConsoleSize") or (0, 0))
    if host_config.get("UTSMode") != "host":
        for key, option in (("Hostname", "hostname"), ("Domainname", "domainname")):
            if config.get(key):
                found[option] = config[key]
    return found


def _device(entry: "Mapping[str, str]") -> str:
    host, inside = entry["PathOnHost"], entry.get("PathInContainer") or entry["PathOnHost"]
    if ":" in host + inside:
        raise Unsupported(f"Devices: {host}: a path with a colon")
    return f"{host}:{inside}:{entry.get('CgroupPermissions') or 'rwm'}"


def _hosts(texts: "Iterable[str]") -> "dict[str, list[str]]":
    found: dict[str, list[str]] = {}
    for text in texts:
        name, colon, address = text.partition(":")
        if not colon or not name:
            raise InvalidArgument(f'bad format for add-host: "{text}"')
        if address == "host-gateway":
            raise Unsupported(f"ExtraHosts: {text}: {NO_NETWORKS}")
        found.setdefault(name, []).append(address)
    return found


def _security(host_config: "Mapping[str, Any]") -> "dict[str, Any]":
    """The options of SecurityOpt, MaskedPaths and ReadonlyPaths; what begins as Docker's defaults stays a default."""
    found: dict[str, Any] = {}
    for text in host_config.get("SecurityOpt") or ():
        sign = "=" if "=" in text else ":"
        name, has_value, value = text.partition(sign)
        if name == "no-new-privileges" and (not has_value or value in _TRUE + _FALSE):
            found["no_new_privileges"] = not has_value or value in _TRUE
        elif name == "seccomp" and value == "unconfined":
            found["seccomp"] = value
        elif name == "seccomp" and value not in ("", "builtin"):
            found["seccomp"] = _profile(value)
        elif (name, value) in _HARMLESS:
            continue
        elif name in ("apparmor", "label") and has_value:
            raise Unsupported(f"SecurityOpt: {text}: neither AppArmor nor SELinux is supported yet")
        else:
            raise InvalidArgument(f'invalid --security-opt {2 if has_value else 1}: "{text}"')
    for key, option, own in (
        ("MaskedPaths", "masked_paths", spec_defaults.masked_paths()),
        ("ReadonlyPaths", "readonly_paths", spec_defaults.READONLY_PATHS),
    ):
        paths = host_config.get(key)
        if paths is not None and (tuple(paths) != own or host_config.get("Privileged")):
            found[option] = tuple(paths)
    return found


def _profile(text: str) -> "dict[str, Any]":
    import json

    try:
        found = json.loads(text)
    except ValueError as exc:
        raise InvalidArgument(f"Decoding seccomp profile failed: {exc}") from exc
    if not isinstance(found, dict):
        raise InvalidArgument("Decoding seccomp profile failed: it is no object")
    return found


def _isolate(found: "dict[str, Any]", host_config: "Mapping[str, Any]", joined: "Mapping[str, str]") -> None:
    """Namespaces, and what of /dev/shm follows from that of ipc."""
    for key, option in _NAMESPACES.items():
        mode = host_config.get(key) or ""
        if mode.startswith("container:"):
            if key not in joined:
                raise Unsupported(f"{key}: {mode}: nobody says which namespace that is")
            found[option] = joined[key]
        elif mode == "host" or mode.startswith("/") or (key, mode) == ("IpcMode", "none"):
            found[option] = mode
        elif key == "NetworkMode" and mode not in ("", "none", "default"):
            raise Unsupported(f"NetworkMode: {mode}: {NO_NETWORKS}; there are none, host and container:NAME")
    if joined.get("Hostname"):
        found["hostname"] = joined["Hostname"]
    ipc = host_config.get("IpcMode") or ""
    if "Shm" in joined:
        flags = ("rbind", "nosuid", "nodev", "noexec", "X-mount.detached")
        found["mounts"] = [*found.get("mounts", ()), Mount("/dev/shm", joined["Shm"], "bind", flags)]
    elif ipc.startswith("container:"):
        raise Unsupported(f"IpcMode: {ipc}: its /dev/shm is not shareable")
    if host_config.get("ShmSize") and ipc in ("", "private", "shareable"):
        found["shm_bytes"] = host_config["ShmSize"]


def documents_of(options: "SandboxOptions") -> "tuple[dict[str, Any], dict[str, Any], dict[str, Any]]":
    """Config, HostConfig and rest of *options*; each has only what was given, and `filled` adds Docker's defaults."""
    left: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    config: dict[str, Any] = {}
    host: dict[str, Any] = {}
    for key, option in (
        ("User", "user"), ("WorkingDir", "cwd"), ("Hostname", "hostname"), ("Domainname", "domainname"),
    ):  # fmt: skip
        if option in left:
            config[key] = left.pop(option)
    if "env" in left:
        config["Env"] = [f"{key}={value}" for key, value in left.pop("env").items()]
    for key, option in (*_SAME.items(), ("MemorySwappiness", "memory_swappiness"), ("ShmSize", "shm_bytes")):
        if option in left:
            host[key] = left.pop(option)
    for key, option in _LISTS.items():
        if option in left:
            host[key] = list(left.pop(option))
    for key, option in (("MaskedPaths", "masked_paths"), ("ReadonlyPaths", "readonly_paths")):
        if option in left:
            host[key] = list(left.pop(option))
    for key, option in _MAPS.items():
        if option in left:
            host[key] = dict(left.pop(option))
    for key, (option, number) in _RATES.items():
        if option in left:
            host[key] = [{"Path": path, number: value} for path, value in left.pop(option).items()]
    if left.pop("tty", False):
        config["Tty"] = True
    if "console_size" in left:
        host["ConsoleSize"] = list(left.pop("console_size"))
    if "cpus" in left:
        host["NanoCpus"] = round(left.pop("cpus") * 1e9)
    if "cgroup_parent" in left:
        host["CgroupParent"] = left.pop("cgroup_parent")
    if left.get("writable") == "no":
        host["ReadonlyRootfs"] = bool(left.pop("writable"))
    if "devices" in left:
        host["Devices"] = [_device_entry(text) for text in left.pop("devices")]
    if "hosts" in left:
        host["ExtraHosts"] = [
            f"{name}:{address}"
            for name, given in left.pop("hosts").items()
            for address in ([given] if isinstance(given, str) else given)
        ]
    if "rlimits" in left:
        host["Ulimits"] = [_ulimit(name, value) for name, value in left.pop("rlimits").items()]
    security = _security_texts(left)
    if security:
        host["SecurityOpt"] = security
    for key, option in _NAMESPACES.items():
        if option in left and not left[option].startswith("/"):
            mode = left.pop(option)
            host[key] = "" if key in ("PidMode", "UTSMode") and mode == "private" else mode
    return config, host, _to_json(left)


def _device_entry(text: str) -> "dict[str, str]":
    host, *more = text.split(":")
    access = "rwm"
    if len(more) == 1 and more[0] and set(more[0]) <= set("rwm"):
        inside, access = host, more[0]
    else:
        inside = more[0] if more and more[0] else host
        access = more[1] if len(more) > 1 else access
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access}


def _ulimit(name: str, value: "int | tuple[int, int]") -> "dict[str, Any]":
    soft, hard = value if isinstance(value, tuple) else (value, value)
    return {"Name": name, "Hard": hard, "Soft": soft}


def _security_texts(left: "dict[str, Any]") -> list[str]:
    texts = []
    if "no_new_privileges" in left:
        texts.append("no-new-privileges" if left.pop("no_new_privileges") else "no-new-privileges=false")
    profile = left.pop("seccomp", "default")
    if profile != "default":
        texts.append(f"seccomp={profile if isinstance(profile, str) else dumps(dict(profile))}")
    return texts


def _to_json(left: "Mapping[str, Any]") -> "dict[str, Any]":
    """What is left, as JSON keeps it: tuples become lists."""
    found = dict(left)
    for option in ("mounts", "uid_maps", "gid_maps"):
        if option in found:
            found[option] = [
                [list(part) if isinstance(part, list | tuple) else part for part in entry]
                for entry in found[option]
            ]
    return found


def _from_json(rest: "Mapping[str, Any]") -> "dict[str, Any]":
    found = dict(rest)
    if "mounts" in found:
        found["mounts"] = [
            Mount(target, source, kind, tuple(flags)) for target, source, kind, flags in found["mounts"]
        ]
    for option in ("uid_maps", "gid_maps"):
        if option in found:
            found[option] = [IdMap(*entry) for entry in found[option]]
    return found
