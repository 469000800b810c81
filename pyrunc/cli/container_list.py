"""`pyrunc ps`, `pyrunc rm`."""

import json

from pyrunc.api import ContainerRecord
from pyrunc.cli import format as formats
from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import ERROR, complain, each, ellipsis, engine, formatted, say, short
from pyrunc.cli.verb import verb
from pyrunc.engine.image_filters import group, labelled
from pyrunc.errors import InvalidArgument, NotFound

_HEADERS = {
    "ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS",
    "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
}  # fmt: skip
_TABLE = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
_COMMAND_LENGTH = 20


@verb(
    "ps", "List containers",
    Flag("-a --all", "", "Show all containers (default shows just running)"),
    Flag("-f --filter", "filter", "Filter output by ancestor, exited, id, label, name or status"),
    Flag("--format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag("-n --last", "int", "Show n last created containers (includes all states)", default=-1),
    Flag("-l --latest", "", "Show the latest created container (includes all states)"),
    Flag("--no-trunc", "", "Don't truncate output"),
    Flag("-q --quiet", "", "Only display container IDs"),
    Flag("-s --size", refused="sizes of containers are not counted yet"),
)  # fmt: skip
def ps(
    all: bool, filter: list[tuple[str, str]], format: str, last: int, latest: bool, no_trunc: bool, quiet: bool,
    size: bool, arguments: list[str],
) -> None:  # fmt: skip
    """One line for each container that has a row, the latest first."""
    del size, arguments
    by = group(filter, ("ancestor", "exited", "id", "label", "name", "status"))
    wanted = last if last > 0 else 1 if latest else 0
    found = [each for each in engine().containers.list(all=True) if _passes(each, by)]
    if not (all or wanted or "status" in by or "exited" in by):
        found = [each for each in found if each.state == "running"]
    if wanted:
        found = found[:wanted]
    template = (
        "{{.ID}}" if quiet and format in ("", "table") else _TABLE if format in ("", "table") else format
    )
    current = {image.id: set(image.references) for image in engine().images.list(everything=True)}
    lines = [_line(each, current.get(each.image_id), not no_trunc) for each in found]
    say(formatted(lambda: formats.rows(template, lines, _HEADERS, "*formatter.ContainerContext")))


def _passes(container: ContainerRecord, by: dict[str, list[str]]) -> bool:
    def some(name: str, passes: "list[bool]") -> bool:
        return name not in by or any(passes)

    return (
        some("id", [container.id.startswith(value) for value in by.get("id", ())])
        and some("name", [value.removeprefix("/") in container.name for value in by.get("name", ())])
        and some("status", [value == container.state for value in by.get("status", ())])
        and some("exited", [value == str(container.exit_code) for value in by.get("exited", ())])
        and ("exited" not in by or container.state == "exited")
        and some("ancestor", [_image_id(value) == container.image_id for value in by.get("ancestor", ())])
        and labelled(container.config.get("Labels") or {}, by)
    )  # fmt: skip


def _image_id(name: str) -> str:
    try:
        return engine().images.get(name).id
    except (NotFound, InvalidArgument):
        return ""


def _line(container: ContainerRecord, names: "set[str] | None", cut: bool) -> formats.Row:
    command = " ".join(f"'{word}'" if " " in word else word for word in container.argv)
    labels = container.config.get("Labels") or {}
    command = json.dumps(ellipsis(command, _COMMAND_LENGTH) if cut else command, ensure_ascii=False)
    return formats.Row(
        Command=command, CreatedAt=units.stamp(container.created_ns), ID=short(container.id) if cut else container.id,
        Image=_image(container, names), Labels=",".join(f"{key}={value}" for key, value in labels.items()),
        LocalVolumes=str(len(container.config.get("Volumes") or ())), Mounts="", Names=container.name, Networks="none",
        Platform="linux", Ports="", RunningFor=units.ago(container.created_ns), Size="0B", State=container.state,
        Status=_status(container),
    )  # fmt: skip


def _image(container: ContainerRecord, names: "set[str] | None") -> str:
    """What it was asked for as, as long as that still means its image; else the image's id."""
    name = container.image
    if names is not None and (name in names or f"{name}:latest" in names):
        return name
    return short(container.image_id)


def _status(container: ContainerRecord) -> str:
    if container.state == "created":
        return "Created"
    if container.state == "running":
        return f"Up {units.duration(units.now() - container.started_ns / 1e9)}"
    return f"Exited ({container.exit_code}) {units.ago(container.finished_ns)}"


@verb(
    "rm CONTAINER [CONTAINER...]", "Remove one or more containers",
    Flag("-f --force", "", "Force the removal of a running container (uses SIGKILL)"),
    Flag("-l --link", refused="there are no links between containers"),
    Flag("-v --volumes", "", "Remove anonymous volumes associated with the container"),
    low=1, high=None,
)  # fmt: skip
def rm(force: bool, link: bool, volumes: bool, arguments: list[str]) -> int:
    """Remove containers, with their anonymous volumes in any case."""
    del link, volumes

    def remove(name: str) -> None:
        try:
            engine().containers.get(name).remove(force=force, volumes=True)
        except NotFound as exc:
            if not force:
                raise
            complain(f"{ERROR}{exc}")
        else:
            say(f"{name}\n")

    return each(arguments, remove)
