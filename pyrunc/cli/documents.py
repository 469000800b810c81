"""Images and containers as the documents that `inspect` shows, with the keys of the Docker Engine API v1.51."""

from collections.abc import Mapping
from typing import Any

from pyrunc.api import ContainerRecord, ImageDetails
from pyrunc.cli.values import NilMap, NilSlice, Struct
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


def container(found: ContainerRecord) -> Struct:
    """What `container inspect` shows."""
    running = found.state == "running"
    state = Struct(
        Status=found.state, Running=running, Paused=False, Restarting=False, OOMKilled=False, Dead=False, Pid=found.pid,
        ExitCode=found.exit_code, Error="", StartedAt=_time(found.started_ns), FinishedAt=_time(found.finished_ns),
    )  # fmt: skip
    return Named(
        Id=found.id,
        Created=_time(found.created_ns),
        Path=found.argv[0],
        Args=list(found.argv[1:]),
        State=state,
        Image=found.image_id,
        Name=f"/{found.name}",
        RestartCount=0,
        Driver=found.driver,
        Platform="linux",
        HostConfig=Struct(NetworkMode="none", AutoRemove=found.auto_remove),
        Config=_container_config(found),
    )


def _time(time_ns: int) -> str:
    return timestamp(time_ns) if time_ns else _ZERO_TIME


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


def _container_config(container: ContainerRecord) -> Struct:
    config = container.config
    found = Struct(
        Hostname=config.get("Hostname") or container.id[:12], Domainname=config.get("Domainname") or "",
        User=config.get("User") or "", Env=list(config.get("Env") or ()), Cmd=config.get("Cmd") or NilSlice(),
        Image=container.image, Volumes=_value("Volumes", config["Volumes"]) if config.get("Volumes") else NilMap(),
        WorkingDir=config.get("WorkingDir") or "", Entrypoint=config.get("Entrypoint") or NilSlice(),
        Labels=dict(config.get("Labels") or {}),
    )  # fmt: skip
    for key in ("ExposedPorts", "StopSignal", "Healthcheck"):
        if config.get(key):
            found[key] = _value(key, config[key])
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
