"""Types of what Config and HostConfig have, so that a wrong one is refused before anything is made with it.

Source: Docker Engine API v1.51, ContainerConfig and HostConfig.
"""

from pyrunc.errors import InvalidArgument
from pyrunc.runtime.option_checks import refuse

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TEXTS, _OBJECTS, _PAIRS, _TEXT, _INTEGER, _FLAG = (
    "a list of texts", "a list of objects", "an object", "a text", "an integer", "true or false",
)  # fmt: skip
_CONFIG = {
    **dict.fromkeys(("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"), _TEXTS),
    **dict.fromkeys(("Labels", "Volumes", "ExposedPorts", "Healthcheck"), _PAIRS),
    **dict.fromkeys(("User", "WorkingDir", "Hostname", "Domainname", "StopSignal", "Image"), _TEXT),
    **dict.fromkeys(("Tty", "OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr"), _FLAG),
    "StopTimeout": _INTEGER,
}
_HOST = {
    **dict.fromkeys(
        (
            "Binds", "VolumesFrom", "CapAdd", "CapDrop", "SecurityOpt", "Dns", "DnsSearch", "DnsOptions", "ExtraHosts",
            "GroupAdd", "Links", "DeviceCgroupRules",
        ),
        _TEXTS,
    ),
    **dict.fromkeys(("Mounts", "Ulimits", "Devices"), _OBJECTS),
    **dict.fromkeys(("Tmpfs", "Sysctls", "RestartPolicy", "LogConfig", "PortBindings", "StorageOpt"), _PAIRS),
    **dict.fromkeys(
        (
            "Memory", "MemorySwap", "MemoryReservation", "KernelMemoryTCP", "MemorySwappiness", "NanoCpus", "CpuShares",
            "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime", "BlkioWeight", "PidsLimit", "ShmSize",
            "OomScoreAdj",
        ),
        _INTEGER,
    ),
    **dict.fromkeys(("AutoRemove", "Privileged", "ReadonlyRootfs", "OomKillDisable", "PublishAllPorts", "Init"), _FLAG),
    **dict.fromkeys(
        (
            "NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode", "CgroupnsMode", "CgroupParent", "CpusetCpus",
            "CpusetMems", "Runtime", "Isolation", "VolumeDriver",
        ),
        _TEXT,
    ),
}  # fmt: skip


def check_config(config: "Mapping[str, object]") -> None:
    """Raises InvalidArgument, which names the key of a Config that has no value of its type."""
    _check("config", config, _CONFIG)


def check_host_config(host_config: "Mapping[str, object]") -> None:
    """Raises InvalidArgument, which names the key of a HostConfig that has no value of its type."""
    _check("host_config", host_config, _HOST)


def _check(what: str, document: "Mapping[str, object]", types: "Mapping[str, str]") -> None:
    if not hasattr(document, "items"):
        raise refuse(what, "an object with Docker's keys", document)
    for key, value in document.items():
        wanted = types.get(key)
        if wanted is not None and value is not None and not _fits(value, wanted):
            raise refuse(f"{what}: {key}", wanted, value)


def _fits(value: object, wanted: str) -> bool:
    if wanted in (_TEXTS, _OBJECTS):
        kind = str if wanted == _TEXTS else dict
        return isinstance(value, list | tuple) and all(isinstance(each, kind) for each in value)
    if wanted == _INTEGER:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, dict if wanted == _PAIRS else str if wanted == _TEXT else bool)


def check_text(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no text."""
    if not isinstance(value, str):
        raise refuse(what, "a text", value)


def check_argv(what: str, value: object) -> None:
    """Raises InvalidArgument for what is no list of texts, and not None."""
    if value is not None and not (
        isinstance(value, list | tuple) and all(isinstance(each, str) and "\0" not in each for each in value)
    ):
        raise refuse(what, "a list of texts without NUL", value)


def pairs(filters: "Iterable[tuple[str, str]]") -> "list[tuple[str, str]]":
    """*filters* as a list. Raises InvalidArgument for what are no pairs of texts."""
    found = [] if isinstance(filters, str | dict) else list(filters)
    if isinstance(filters, str | dict) or not all(
        isinstance(each, tuple | list) and len(each) == 2 and all(isinstance(part, str) for part in each)
        for each in found
    ):
        raise InvalidArgument(f'filters must be pairs, such as ("status", "exited"), not {filters!r}')
    return found
