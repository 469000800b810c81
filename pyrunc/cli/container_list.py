"""`pyrunc ps`."""

from __future__ import annotations

import json

from pyrunc.cli import format as formats
from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, ellipsis, engine, say, short
from pyrunc.cli.values import NIL, Method
from pyrunc.cli.verb import verb

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.api import ContainerRecord


_TYPE = "*formatter.ContainerContext"
_HEADERS = {
    "ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS",
    "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
}  # fmt: skip
_TABLE = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
_COMMAND_LENGTH, _MOUNT_LENGTH = 20, 15


@verb(
    "ps", "List containers",
    Flag("-a --all", "", "Show all containers (default shows just running)"),
    Flag("-f --filter", "filter", "Filter output based on conditions provided"),
    Flag("--format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag("-n --last", "int", "Show n last created containers (includes all states)", default=-1),
    Flag("-l --latest", "", "Show the latest created container (includes all states)"),
    Flag("--no-trunc", "", "Don't truncate output"),
    Flag("-q --quiet", "", "Only display container IDs"),
    Flag("-s --size", "", "Display total file sizes"),
    brief=True,
)  # fmt: skip
def ps(
    all: bool, filter: list[tuple[str, str]], format: str, last: int, latest: bool, no_trunc: bool, quiet: bool,
    size: bool, arguments: list[str],
) -> None:  # fmt: skip
    """One line for each container, the latest first."""
    del arguments
    limit = max(last, 0) or (1 if latest and last == -1 else 0)
    found = engine().containers.list(all=all, filters=filter, limit=limit)
    template = format
    if format in ("", "table"):
        template = "{{.ID}}" if quiet else _TABLE + ("\t{{.Size}}" if size else "")
    current: dict[str, set[str]] = {}
    if found and (".Image" in template or "json" in template):
        current = {image.id: set(image.references) for image in engine().images.list(everything=True)}
    sized = size or (".Size" in template and not quiet)
    mounted = any(word in template for word in (".Mounts", ".LocalVolumes", "json"))
    lines = [
        _line(each, current.get(each.image_id), not no_trunc, sized, _mounts(each) if mounted else [])
        for each in found
    ]
    headers = {**_HEADERS, "Label": Method(_label_header)}
    try:
        say(formats.rows(template, lines, headers, _TYPE))
    except formats.TemplateError as exc:
        what = "execute" if " executing " in str(exc) else "parse"
        raise CommandError(f"failed to {what} template: {exc}") from exc


def _label_header(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("-", " ").replace("_", " ")


def _line(
    record: ContainerRecord, names: set[str] | None, cut: bool, sized: bool, mounts: list[str]
) -> formats.Row:
    command = " ".join(_word(word) for word in record.argv)
    labels = record.config.get("Labels") or {}
    listed = [ellipsis(name, _MOUNT_LENGTH) if cut else name for name in mounts]
    row = formats.Row(
        Command=json.dumps(ellipsis(command, _COMMAND_LENGTH) if cut else command, ensure_ascii=False),
        CreatedAt=units.stamp(record.created_ns), ID=short(record.id) if cut else record.id,
        Image=_image(record, names), Labels=",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        LocalVolumes=str(sum(not name.startswith("/") for name in mounts)), Mounts=",".join(listed),
        Names=record.name, Networks=_network(record), Platform=NIL, Ports="",
        RunningFor=units.ago(record.created_ns), Size=_size(record) if sized else "0B", State=record.state,
        Status=status(record),
    )  # fmt: skip
    row.missing = {"Label": Method(lambda name: str(labels.get(name, "")))}
    return row


def _word(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _mounts(record: ContainerRecord) -> list[str]:
    """The names of volumes, and the host's paths of what is bound."""
    from pyrunc.engine.inspecting import mount_points

    return [point.get("Name") or point.get("Source") or "" for point in mount_points(engine(), record)]


def _network(record: ContainerRecord) -> str:
    mode = str(record.host_config.get("NetworkMode") or "none")
    return "" if mode.startswith("container:") else mode


def _size(record: ContainerRecord) -> str:
    from pyrunc.engine.container_sizes import sizes

    written, whole = sizes(engine(), record)
    return f"{units.size(written, 3)} (virtual {units.size(whole, 3)})"


def _image(record: ContainerRecord, names: set[str] | None) -> str:
    """What it was asked for as, as long as that still means its image; else the image's id."""
    name = record.image
    if names is not None and (name in names or f"{name}:latest" in names):
        return name
    return short(record.image_id)


def status(record: ContainerRecord) -> str:
    """``Up 2 minutes (Paused)``, ``Exited (3) 1 second ago``, ``Created`` and the like, as Docker's daemon has them."""
    if record.state in ("running", "paused"):
        since = f"Up {units.duration(units.now() - record.started_ns / 1e9)}"
        return f"{since} (Paused)" if record.state == "paused" else since
    if record.state == "restarting":
        return f"Restarting ({record.exit_code}) {units.ago(record.finished_ns)}"
    if record.state == "removing":
        return "Removal In Progress"
    if record.state == "dead":
        return "Dead"
    if record.state == "created" or not record.finished_ns:
        return "Created"
    return f"Exited ({record.exit_code}) {units.ago(record.finished_ns)}"
