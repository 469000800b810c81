"""From the flags of `pyrunc create` and `pyrunc run` to Docker's Config and HostConfig, as its client sends them.

What was not asked for is left out, where the client sends it empty. tests/cli/test_requests.py compares the two.
"""

from __future__ import annotations

from pyrunc.cli import flag_mounts, flag_values
from pyrunc.cli.flags import Refused
from pyrunc.errors import InvalidArgument

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

# flag -> key, for values that are sent as they are
_CONFIG = {
    "hostname": "Hostname", "domainname": "Domainname", "user": "User", "tty": "Tty", "interactive": "OpenStdin",
    "workdir": "WorkingDir", "stop_signal": "StopSignal",
}  # fmt: skip
_HOST = {
    "blkio_weight": "BlkioWeight", "blkio_weight_device": "BlkioWeightDevice", "cgroup_parent": "CgroupParent",
    "cgroupns": "CgroupnsMode", "cpu_period": "CpuPeriod", "cpu_quota": "CpuQuota",
    "cpu_rt_period": "CpuRealtimePeriod", "cpu_rt_runtime": "CpuRealtimeRuntime", "cpu_shares": "CpuShares",
    "cpus": "NanoCpus", "cpuset_cpus": "CpusetCpus", "cpuset_mems": "CpusetMems", "add_host": "ExtraHosts",
    "device_cgroup_rule": "DeviceCgroupRules", "device_read_bps": "BlkioDeviceReadBps",
    "device_read_iops": "BlkioDeviceReadIOps", "device_write_bps": "BlkioDeviceWriteBps",
    "device_write_iops": "BlkioDeviceWriteIOps", "dns": "Dns", "dns_option": "DnsOptions", "dns_search": "DnsSearch",
    "group_add": "GroupAdd", "ipc": "IpcMode", "memory": "Memory", "memory_reservation": "MemoryReservation",
    "memory_swap": "MemorySwap", "mount": "Mounts", "oom_kill_disable": "OomKillDisable",
    "oom_score_adj": "OomScoreAdj", "pid": "PidMode", "pids_limit": "PidsLimit", "privileged": "Privileged",
    "read_only": "ReadonlyRootfs", "rm": "AutoRemove", "runtime": "Runtime", "shm_size": "ShmSize",
    "userns": "UsernsMode", "uts": "UTSMode", "volume_driver": "VolumeDriver", "volumes_from": "VolumesFrom",
}  # fmt: skip
_MODES = {
    "pid": ("PID", ("", "host"), True), "uts": ("UTS", ("", "host"), False), "userns": ("USER", ("", "host"), False),
    "cgroupns": ("CGROUP", ("", "host", "private"), False),
}  # fmt: skip
_MOST_PORTS = 65535


def documents(
    image: str, argv: list[str], flags: Mapping[str, Any], used: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and HostConfig of a container of *image*. Raises InvalidArgument in the client's words, Refused."""
    for name, (word, known, joins) in _MODES.items():
        if flags[name] not in known and not (joins and flags[name].partition(":")[0] == "container"):
            raise InvalidArgument(f"--{name}: invalid {word} mode")
    if not -1 <= flags["memory_swappiness"] <= 100:
        raise InvalidArgument(
            f"invalid value: {flags['memory_swappiness']}. Valid memory swappiness range is 0-100"
        )
    if flags["pull"] not in ("always", "missing", "never"):
        raise InvalidArgument(
            f'invalid pull option: \'{flags["pull"]}\': must be one of "always", "missing" or "never"'
        )
    if flags["pull"] == "always":
        raise Refused("--pull: always: there are no registries yet to pull from")
    binds, anonymous = flag_mounts.volumes(flags["volume"])
    config: dict[str, Any] = {
        "Image": image,
        **{key: flags[name] for name, key in _CONFIG.items() if flags[name]},
    }
    config.update(_streams(flags))
    variables = _lines(flags["env_file"], flag_values.file_variable) + flags["env"]
    labels = _lines(flags["label_file"], flag_values.file_label) + flags["label"]
    more = {
        "Env": variables, "Cmd": argv, "Volumes": anonymous, "ExposedPorts": _ports(flags["expose"]),
        "Labels": dict(text.partition("=")[::2] for text in labels),
    }  # fmt: skip
    config.update({key: value for key, value in more.items() if value})
    if "entrypoint" in used:
        config["Entrypoint"] = [flags["entrypoint"]]
    if "stop_timeout" in used:
        config["StopTimeout"] = flags["stop_timeout"]
    if flags["no_healthcheck"]:
        config["Healthcheck"] = {"Test": ["NONE"]}
    return config, _host_config(flags, binds)


def _host_config(flags: Mapping[str, Any], binds: list[str]) -> dict[str, Any]:
    host: dict[str, Any] = {key: flags[name] for name, key in _HOST.items() if flags[name]}
    if binds:
        host["Binds"] = binds
    for name, key in (("cap_add", "CapAdd"), ("cap_drop", "CapDrop")):
        if flags[name]:
            host[key] = _capabilities(flags[name])
    if flags["device"]:
        host["Devices"] = [_device(text) for text in flags["device"]]
    if flags["memory_swappiness"] != -1:
        host["MemorySwappiness"] = flags["memory_swappiness"]
    if flags["sysctl"]:
        host["Sysctls"] = dict(flags["sysctl"])
    if flags["tmpfs"]:
        host["Tmpfs"] = {
            path: options for path, _, options in (text.partition(":") for text in flags["tmpfs"])
        }
    if flags["ulimit"]:
        limits = {limit["Name"]: limit for limit in flags["ulimit"]}
        host["Ulimits"] = [limits[name] for name in sorted(limits)]
    host.update(_restart(flags))
    host.update(_log(flags))
    host.update(_security(flags["security_opt"]))
    mode = _network(flags["network"])
    return {**host, "NetworkMode": mode} if mode else host


def _streams(flags: Mapping[str, Any]) -> dict[str, bool]:
    """To what the client attaches: what -a names, else both outputs, and stdin with -i; to nothing with -d."""
    if flags.get("detach"):
        return {"AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "StdinOnce": False}
    named = flags["attach"]
    stdin = "stdin" in named or flags["interactive"]
    return {
        "AttachStdin": stdin, "AttachStdout": not named or "stdout" in named,
        "AttachStderr": not named or "stderr" in named, "StdinOnce": stdin and flags["interactive"],
    }  # fmt: skip


def _lines(paths: Iterable[str], read: Callable[[str], str | None]) -> list[str]:
    try:
        return [line for path in paths for line in flag_values.command_file(path, read)]
    except ValueError as exc:
        raise InvalidArgument(str(exc)) from exc


def _ports(texts: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        numbers, _, protocol = text.partition("/")
        first, dash, last = numbers.partition("-")
        low, high = _port(text, first), _port(text, last if dash else first)
        if low > high:
            raise InvalidArgument(f"invalid range format for --expose: {text}, error: invalid port range")
        found.update({f"{port}/{protocol or 'tcp'}": {} for port in range(low, high + 1)})
    return found


def _port(text: str, number: str) -> int:
    begin = f"invalid range format for --expose: {text}, error: "
    if not (number.isascii() and number.isdigit()):
        raise InvalidArgument(f'{begin}strconv.ParseUint: parsing "{number}": invalid syntax')
    if int(number) > _MOST_PORTS:
        raise InvalidArgument(f'{begin}strconv.ParseUint: parsing "{number}": value out of range')
    return int(number)


def _capabilities(names: Iterable[str]) -> list[str]:
    """Each once, with its prefix, sorted; ALL first."""
    full = {name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in names}
    both = sorted(full - {"CAP_ALL"})
    return ["ALL", *both] if any(name.upper() == "ALL" for name in names) else sorted(full)


def _device(text: str) -> dict[str, str]:
    """``host``, ``host:inside``, ``host:rwm`` or ``host:inside:rwm``."""
    parts = text.split(":")
    if len(parts) > 3:
        raise InvalidArgument(f"bad format for path: {text}")
    host, inside, access = parts[0], parts[0], "rwm"
    if len(parts) == 3:
        inside, access = parts[1], parts[2]
        if not _is_access(access):
            raise InvalidArgument(f"bad mode specified: {access}")
    elif len(parts) == 2 and _is_access(parts[1]):
        access = parts[1]
    elif len(parts) == 2:
        inside = parts[1]
    for path in (host, inside):
        if not path.startswith("/"):
            raise InvalidArgument(f"{path} is not an absolute path")
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access}


def _is_access(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def restart_policy(text: str) -> dict[str, Any]:
    """``NAME[:COUNT]`` as RestartPolicy. Raises InvalidArgument."""
    name, colon, count = text.partition(":")
    try:
        return {"Name": name, "MaximumRetryCount": int(count) if colon else 0}
    except ValueError:
        words = "invalid restart policy format: maximum retry count must be an integer"
        raise InvalidArgument(words) from None


def _restart(flags: Mapping[str, Any]) -> dict[str, Any]:
    policy = restart_policy(flags["restart"])
    if policy["Name"] in ("", "no") and not policy["MaximumRetryCount"]:
        return {}
    if flags["rm"]:
        raise InvalidArgument("conflicting options: cannot specify both --restart and --rm")
    return {"RestartPolicy": policy}


def _log(flags: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(text.partition("=")[::2] for text in flags["log_opt"])
    if flags["log_driver"] == "none" and options:
        raise InvalidArgument("invalid logging opts for driver none")
    if not options and not flags["log_driver"]:
        return {}
    return {"LogConfig": {"Type": flags["log_driver"], "Config": options}}


def _security(texts: Iterable[str]) -> dict[str, Any]:
    """SecurityOpt with the content of a profile, and the lists that systempaths=unconfined empties."""
    found: list[str] = []
    paths: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and name != "no-new-privileges" and ":" not in text:
            raise InvalidArgument(f'Invalid --security-opt: "{text}"')
        if text == "systempaths=unconfined":
            paths = {"MaskedPaths": [], "ReadonlyPaths": []}
        elif name == "seccomp" and value not in ("builtin", "unconfined"):
            found.append(f"seccomp={_profile(value)}")
        else:
            found.append(text)
    return {**({"SecurityOpt": found} if found else {}), **paths}


def _profile(path: str) -> str:
    import json

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as exc:
        words = (exc.strerror or str(exc)).lower() if isinstance(exc, OSError) else str(exc)
        raise InvalidArgument(f"opening seccomp profile ({path}) failed: open {path}: {words}") from exc
    try:
        return json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    except ValueError as exc:
        raise InvalidArgument(f"compacting json for seccomp profile ({path}) failed: {exc}") from exc


def _network(names: list[str]) -> str:
    if len(names) > 1:
        raise Refused("--network: networks do not exist yet; a container is on one at most")
    for name in names:
        if name not in ("none", "host", "default") and not name.startswith("container:"):
            raise Refused(
                f"--network: {name}: networks do not exist yet; there are none, host and container:NAME"
            )
        return name
    return ""
