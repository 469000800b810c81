"""`pyrunc ps`."""

from __future__ import annotations

from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, complain, ellipsis, engine, say, short
from pyrunc.cli.table import align
from pyrunc.cli.verb import verb
from pyrunc.engine import one_command
from pyrunc.records import NamedTuple, quoted

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyrunc.api import ContainerRecord
    from pyrunc.cli.values import Method


_TYPE = "*formatter.ContainerContext"
_HEADERS = {
    "ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS",
    "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
}  # fmt: skip
_TABLE = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
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
    if quiet and format:
        complain("WARNING: Ignoring custom format, because both --format and --quiet are set.")
    template = _raw(quiet, size) if format == "raw" else "" if quiet else format
    limit = max(last, 0) or (1 if latest and last == -1 else 0)
    found = engine().containers.list(all=all, filters=filter, limit=limit)
    plain = template in ("", "table")
    if plain and quiet:
        say("".join(f"{short(each.id) if not no_trunc else each.id}\n" for each in found))
        return
    names: dict[str, set[str]] = {}
    if found and (plain or ".Image" in template or "json" in template):
        names = one_command.image_names(engine())
    sized = size or ".Size" in template
    lines = [_Line(each, names.get(each.image_id), not no_trunc, sized) for each in found]
    if plain:
        columns = (*_TABLE, "Size") if size else _TABLE
        rows = [
            [_HEADERS[name] for name in columns],
            *([_FIELDS[name](line) for name in columns] for line in lines),
        ]
        say(align("".join("\t".join(row) + "\n" for row in rows)))
    else:
        _say_formatted(template, lines)


def _raw(quiet: bool, size: bool) -> str:
    """The template that "raw" stands for."""
    if quiet:
        return "container_id: {{.ID}}"
    return (
        "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\n"
        "state:{{pad .State 1 0}}\nstatus:{{pad .Status 1 0}}\nnames: {{.Names}}\nlabels:{{pad .Labels 1 0}}\n"
        "ports:{{pad .Ports 1 0}}\n"
    ) + ("size: {{.Size}}\n" if size else "")


class _Line(NamedTuple):
    """A container, what its image is called (None: it is gone), whether to *cut* long texts, whether it is *sized*."""

    record: ContainerRecord
    names: set[str] | None
    cut: bool
    sized: bool


def _say_formatted(template: str, lines: Iterable[_Line]) -> None:
    """By a template of the user's; what interprets them is slow to import. Raises CommandError."""
    from pyrunc.cli import format as formats
    from pyrunc.cli.values import NIL, Method

    mounted = any(word in template for word in (".Mounts", ".LocalVolumes", "json"))
    rows = []
    for line in lines:
        fields = {name: read(line) for name, read in _FIELDS.items()}
        mounts = _mounts(line.record) if mounted else []
        listed = [ellipsis(name, _MOUNT_LENGTH) if line.cut else name for name in mounts]
        volumes = str(sum(not name.startswith("/") for name in mounts))
        fields |= {"LocalVolumes": volumes, "Mounts": ",".join(listed)}
        row = formats.Row({name: NIL if name == "Platform" else fields[name] for name in sorted(_HEADERS)})
        row.missing = {"Label": _label(line.record)}
        rows.append(row)
    try:
        say(formats.rows(template, rows, {**_HEADERS, "Label": Method(_label_header)}, _TYPE))
    except formats.TemplateError as exc:
        what = "execute" if " executing " in str(exc) else "parse"
        raise CommandError(f"failed to {what} template: {exc}") from exc


def _label(record: ContainerRecord) -> Method:
    from pyrunc.cli.values import Method

    labels = record.config.get("Labels") or {}
    return Method(lambda name: str(labels.get(name, "")))


def _label_header(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("-", " ").replace("_", " ")


def _command(line: _Line) -> str:
    command = " ".join(_word(word) for word in line.record.argv)
    return quoted(ellipsis(command, _COMMAND_LENGTH) if line.cut else command)


def _labels(line: _Line) -> str:
    labels = line.record.config.get("Labels") or {}
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


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


_FIELDS: dict[str, Callable[[_Line], str]] = {
    "Command": _command,
    "CreatedAt": lambda line: units.stamp(line.record.created_ns),
    "ID": lambda line: short(line.record.id) if line.cut else line.record.id,
    "Image": lambda line: _image(line.record, line.names),
    "Labels": _labels,
    "Names": lambda line: line.record.name,
    "Networks": lambda line: _network(line.record),
    "Ports": lambda _: "",
    "RunningFor": lambda line: units.ago(line.record.created_ns),
    "Size": lambda line: _size(line.record) if line.sized else "0B",
    "State": lambda line: line.record.state,
    "Status": lambda line: status(line.record),
}
