"""A container as the document that Docker's API answers: ContainerInspectResponse of v1.51."""

import os

from pyrunc.engine import mount_specs
from pyrunc.spec.image import timestamp

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.engine import Engine

_ZERO_TIME = "0001-01-01T00:00:00Z"
# What stands between others only where it is set, and after which key.
_RARE_CONFIG = {
    "ExposedPorts": "AttachStderr", "Healthcheck": "Cmd", "ArgsEscaped": "Cmd", "StopSignal": "Labels",
    "StopTimeout": "Labels", "Shell": "Labels",
}  # fmt: skip
_ADDRESSES: "dict[str, Any]" = {
    "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPAddress": "",
    "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
}  # fmt: skip


def inspect(engine: "Engine", record: "ContainerRecord", *, size: bool = False) -> "dict[str, Any]":
    """The document of *record*; with *size* SizeRw and SizeRootFs too.

    Files that are made in memory have no path: ResolvConfPath and its like are empty.
    """
    argv = record.argv
    found: dict[str, Any] = {
        "Id": record.id, "Created": _time(record.created_ns), "Path": argv[0] if argv else "", "Args": list(argv[1:]),
        "State": _state(record), "Image": record.image_id, "ResolvConfPath": "", "HostnamePath": "", "HostsPath": "",
        "LogPath": record.log_path, "Name": f"/{record.name}", "RestartCount": record.restart_count,
        "Driver": record.driver, "Platform": "linux", "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "",
        "ExecIDs": None, "HostConfig": dict(record.host_config), "GraphDriver": {"Data": None, "Name": record.driver},
    }  # fmt: skip
    if size:
        from pyrunc.engine.container_sizes import sizes

        found["SizeRw"], found["SizeRootFs"] = sizes(engine, record)
    found["Mounts"] = mount_points(engine, record)
    found["Config"] = _config(record)
    found["NetworkSettings"] = _networks(record)
    return found


def mount_points(engine: "Engine", record: "ContainerRecord") -> "list[dict[str, Any]]":
    """What *record* mounts beside its root: volumes and binds."""
    host = record.host_config
    if not (record.config.get("Volumes") or any(host.get(key) for key in ("Binds", "Mounts", "VolumesFrom"))):
        return []  # nobody is asked
    return mount_specs.mount_points_of(engine._parts, record.id)  # noqa: SLF001 - the engine's own


def _state(record: "ContainerRecord") -> "dict[str, Any]":
    return {
        "Status": record.state, "Running": record.state in ("running", "paused", "restarting"),
        "Paused": record.state == "paused", "Restarting": record.state == "restarting",
        "OOMKilled": record.oom_killed, "Dead": record.state == "dead", "Pid": record.pid,
        "ExitCode": record.exit_code, "Error": record.error, "StartedAt": _time(record.started_ns),
        "FinishedAt": _time(record.finished_ns),
    }  # fmt: skip


def _config(record: "ContainerRecord") -> "dict[str, Any]":
    config = record.config
    found: dict[str, Any] = {}
    shared = record.host_config.get("NetworkMode") == "host"
    for key, fallback in (
        ("Hostname", os.uname().nodename if shared else record.id[:12]), ("Domainname", ""), ("User", ""),
        ("AttachStdin", False), ("AttachStdout", False),
        ("AttachStderr", False), ("Tty", False), ("OpenStdin", False), ("StdinOnce", False), ("Env", None),
        ("Cmd", None), ("Image", record.image), ("Volumes", None), ("WorkingDir", ""), ("Entrypoint", None),
        ("OnBuild", None), ("Labels", {}),
    ):  # fmt: skip
        found[key] = config.get(key) or fallback
        for rare, after in _RARE_CONFIG.items():
            if after == key and config.get(rare) is not None:
                found[rare] = config[rare]
    found["Image"] = record.image
    return found


def _networks(record: "ContainerRecord") -> "dict[str, Any]":
    mode = str(record.host_config.get("NetworkMode") or "none")
    found: dict[str, Any] = {
        "Bridge": "", "SandboxID": "", "SandboxKey": "", "Ports": {}, "HairpinMode": False, "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": None, "SecondaryIPv6Addresses": None, **_ADDRESSES,
        "Networks": {},
    }  # fmt: skip
    if mode in ("none", "host"):
        found["Networks"][mode] = {
            "IPAMConfig": None, "Links": None, "Aliases": None, "DriverOpts": None, "GwPriority": 0, "NetworkID": "",
            **_ADDRESSES, "DNSNames": None,
        }  # fmt: skip
    return found


def _time(time_ns: int) -> str:
    return timestamp(time_ns) if time_ns else _ZERO_TIME
