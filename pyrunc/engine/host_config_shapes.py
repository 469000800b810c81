"""Which kind of value each key of Config and HostConfig has: whoever gives another is told so by its name."""

from pyrunc.engine.argument_checks import check_document
from pyrunc.engine.host_config import DEFAULTS
from pyrunc.engine.host_config_checks import REFUSED
from pyrunc.errors import InvalidArgument

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

_TEXT, _NUMBER, _TEXTS, _MAP, _LIST = "text", "an integer", "a list of texts", "an object", "a list"
_WORDS = "an object of texts"
_FLAG = "true or false"
_KINDS = {
    _TEXT: (
        "User", "WorkingDir", "Hostname", "Domainname", "StopSignal", "NetworkMode", "PidMode", "IpcMode", "UTSMode",
        "CgroupnsMode", "UsernsMode", "CgroupParent", "CpusetCpus", "CpusetMems", "VolumeDriver",
    ),
    _NUMBER: (
        "StopTimeout", "Memory", "MemorySwap", "MemoryReservation", "MemorySwappiness", "NanoCpus", "CpuShares",
        "CpuQuota", "CpuPeriod", "PidsLimit", "BlkioWeight", "OomScoreAdj", "ShmSize",
    ),
    _TEXTS: (
        "Env", "Cmd", "Entrypoint", "Binds", "VolumesFrom", "CapAdd", "CapDrop", "Dns", "DnsOptions", "DnsSearch",
        "ExtraHosts", "GroupAdd", "SecurityOpt", "DeviceCgroupRules", "MaskedPaths", "ReadonlyPaths",
    ),
    _WORDS: ("Labels", "Tmpfs", "Sysctls"),
    _MAP: ("Volumes", "ExposedPorts", "Healthcheck", "RestartPolicy", "LogConfig"),
    _LIST: ("Mounts", "Devices", "Ulimits", "ConsoleSize"),
    _FLAG: (
        "Tty", "OpenStdin", "StdinOnce", "AutoRemove", "Privileged", "ReadonlyRootfs", "OomKillDisable",
    ),
}  # fmt: skip
# Engine API v1.51, ContainerConfig and HostConfig.
CONFIG = frozenset((
    "Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty", "OpenStdin",
    "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Image", "Volumes", "WorkingDir", "Entrypoint",
    "NetworkDisabled", "MacAddress", "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell",
))  # fmt: skip
HOST_CONFIG = frozenset((*DEFAULTS, *REFUSED, "Mounts", "Tmpfs", "Sysctls", "MaskedPaths", "ReadonlyPaths"))
_KIND = {key: kind for kind, keys in _KINDS.items() for key in keys}
# What becomes a name in a database, which holds UTF-8.
_UNICODE = ("User", "Binds", "VolumesFrom", "Volumes", "Tmpfs")


def check(document: "Mapping[str, Any]", known: "Collection[str]" = ()) -> None:
    """Raise InvalidArgument for a key whose value is of a kind that it cannot have, or, if any are *known*, another."""
    check_document(document)
    unknown = [key for key in document if known and key not in known]
    if unknown:
        raise InvalidArgument(f"{unknown[0]!r:.100} is no key of Docker's {_name(known)}")
    for key, value in document.items():
        if value is None or key not in _KIND:
            continue
        kind = _KIND[key]
        if not _is(kind, value):
            raise InvalidArgument(f"{key} must be {kind}, not {value!r:.100}")
        if key in _UNICODE:
            for text in (value,) if isinstance(value, str) else value:
                _check_unicode(key, text)
    if document.get("ConsoleSize") and not (
        len(document["ConsoleSize"]) == 2 and all(_is(_NUMBER, each) for each in document["ConsoleSize"])
    ):
        raise InvalidArgument(f"ConsoleSize must be two integers, not {document['ConsoleSize']!r:.100}")


def _name(known: "Collection[str]") -> str:
    return "Config" if known is CONFIG else "HostConfig"


def _is(kind: str, value: object) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _NUMBER:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == _FLAG:
        return isinstance(value, bool)
    if kind in (_TEXTS, _LIST):
        return isinstance(value, list | tuple) and (kind == _LIST or _are_texts(value))
    return isinstance(value, dict) and _are_texts(value) and (kind == _MAP or _are_texts(value.values()))


def _are_texts(values: "Iterable[object]") -> bool:
    return all(isinstance(each, str) for each in values)


def _check_unicode(key: str, text: str) -> None:
    try:
        fits = "\0" not in text and text.encode() is not None
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise InvalidArgument(f"{key} must be UTF-8 without NUL characters, not {text!r:.100}")
