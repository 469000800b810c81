"""Images and containers as the documents that `inspect` shows, with the keys of the Docker Engine API v1.51."""

from collections.abc import Mapping
from typing import Any

from pyrunc.api import ImageDetails
from pyrunc.cli.values import NIL, NilMap, NilSlice, Struct
from pyrunc.spec.image import timestamp

_ZERO_TIME = "0001-01-01T00:00:00Z"
_SETS = ("ExposedPorts", "Volumes")


class Named(Struct):
    """A document of Docker's, whose Go fields have other names than the keys: ID is Id."""

    aliases: Mapping[str, str] = {"ID": "Id"}


def image(details: ImageDetails) -> Struct:
    """What `image inspect` shows."""
    found, config = details.image, details.config
    history = config.get("history") or [{}]
    return Named(
        Id=found.id,
        RepoTags=list(found.references),
        RepoDigests=list(found.digests),
        Parent=found.parent,
        Comment=history[-1].get("comment") or "",
        Created=timestamp(found.created_ns) if found.created_ns else config.get("created") or _ZERO_TIME,
        DockerVersion="",
        Author=config.get("author") or "",
        Config=_image_config(config.get("config") or {}),
        Architecture=found.architecture,
        **({"Variant": config["variant"]} if config.get("variant") else {}),
        Os=found.os,
        Size=found.size,
        GraphDriver=Struct(Data=NilMap(), Name=details.driver),
        RootFS=Struct(Type="layers", Layers=list(details.layers)),
        Metadata=Struct(LastTagTime=timestamp(details.tagged_ns)),
    )


# What Go has as a map, and as a slice, in a container's document: they print otherwise, nil above all.
_MAPS = frozenset(
    ("Labels", "Volumes", "ExposedPorts", "Sysctls", "Tmpfs", "Config", "PortBindings", "StorageOpt", "Annotations",
     "Data", "Ports", "Networks", "DriverOpts", "Options")
)  # fmt: skip
_SLICES = frozenset(
    ("Binds", "VolumesFrom", "CapAdd", "CapDrop", "ExtraHosts", "GroupAdd", "Links", "SecurityOpt",
     "DeviceCgroupRules", "DeviceRequests", "Ulimits", "MaskedPaths", "ReadonlyPaths", "Env", "Cmd", "Entrypoint",
     "OnBuild", "ExecIDs", "SecondaryIPAddresses", "SecondaryIPv6Addresses", "Aliases", "DNSNames")
)  # fmt: skip
# Fields that JSON leaves out where they are empty, and a template may name all the same.
_UNSET: Mapping[str, Mapping[str, Any]] = {
    "": {"SizeRw": NIL, "SizeRootFs": NIL},
    "State": {"Health": NIL},
    "HostConfig": {
        "Mounts": NilSlice(), "Tmpfs": NilMap(), "Sysctls": NilMap(), "StorageOpt": NilMap(), "Annotations": NilMap(),
        "Init": NIL,
    },
    "Config": {
        "ExposedPorts": NilMap(), "Healthcheck": NIL, "StopSignal": "", "StopTimeout": NIL, "Shell": NilSlice(),
        "NetworkDisabled": False, "MacAddress": "", "ArgsEscaped": False,
    },
    "Mounts[]": {"Name": "", "Driver": ""},
}  # fmt: skip


def container(document: Mapping[str, Any]) -> Struct:
    """What `container inspect` shows of Docker's *document*."""
    found = Named(_fields(document))
    found.missing = _UNSET[""]
    return found


def _fields(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _typed(key, value, document) for key, value in document.items()}


def _typed(key: str, value: Any, parent: Mapping[str, Any]) -> Any:
    """*value* as the Go type that the field *key* of *parent* has."""
    is_map = key in _MAPS and not (key == "Config" and "HostConfig" in parent)
    if isinstance(value, Mapping):
        if is_map:
            return {name: _typed("", each, value) for name, each in value.items()}
        found = Struct(_fields(value))
        found.missing = _UNSET.get(key, {})
        if key == "State":
            found.unset = (NIL,)  # Health
        return found
    if isinstance(value, list):
        return [_typed(f"{key}[]", each, {}) for each in value]
    if value is None:
        return NilMap() if is_map else NilSlice() if key in _SLICES else NIL
    return value


def _image_config(config: Mapping[str, Any]) -> Struct:
    """What there is, in the order of Docker's type."""
    found = Struct()
    for key in ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd"):
        if config.get(key):
            found[key] = _value(key, config[key])
    for key in (
        "Volumes",
        "WorkingDir",
        "OnBuild",
        "Labels",
        "StopSignal",
        "Healthcheck",
        "Shell",
        "ArgsEscaped",
    ):
        if config.get(key):
            found[key] = _value(key, config[key])
    # Templates ask for these whether they are set or not.
    found.missing = _NIL
    return found


_NIL: Mapping[str, Any] = {
    "User": "", "ExposedPorts": NilMap(), "Env": NilSlice(), "Entrypoint": NilSlice(), "Cmd": NilSlice(),
    "Volumes": NilMap(), "WorkingDir": "", "OnBuild": NilSlice(), "Labels": NilMap(), "StopSignal": "",
    "Healthcheck": None, "Shell": NilSlice(),
}  # fmt: skip


def _value(key: str, value: Any) -> Any:
    if key in _SETS:
        return {name: Struct() for name in value}
    if key == "Healthcheck":
        return Struct(value)
    return value
