"""`pyrunc volume create`, `ls`, `inspect`, `rm` and `prune`."""

import sys
from typing import Any

from pyrunc.cli import format as formats
from pyrunc.cli import units
from pyrunc.cli.flags import Flag, Refused
from pyrunc.cli.inspect import show
from pyrunc.cli.session import CommandError, each, engine, formatted, say
from pyrunc.cli.values import NilMap, Struct
from pyrunc.cli.verb import verb
from pyrunc.engine.volumes import Volume

_HEADERS = {
    "Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
    "Links": "LINKS", "Size": "SIZE", "Group": "GROUP", "Availability": "AVAILABILITY", "Status": "STATUS",
}  # fmt: skip
_TABLE = "table {{.Driver}}\t{{.Name}}"
_RAW = "name: {{.Name}}\ndriver: {{.Driver}}\n"
_CLUSTER = "there are no volumes of a cluster"


@verb(
    "create [VOLUME]", "Create a volume",
    Flag("--availability", "string", refused=_CLUSTER),
    Flag("-d --driver", "string", "Specify volume driver name", default="local"),
    Flag("--group", "string", refused=_CLUSTER),
    Flag("--label", "list", "Set metadata for a volume"),
    Flag("--limit-bytes", "bytes", refused=_CLUSTER),
    Flag("--name", "string", shown=False),
    Flag("-o --opt", "map", "Set driver specific options: type, o, device"),
    Flag("--required-bytes", "bytes", refused=_CLUSTER),
    Flag("--scope", "string", refused=_CLUSTER),
    Flag("--secret", "map", refused=_CLUSTER),
    Flag("--sharing", "string", refused=_CLUSTER),
    Flag("--topology-preferred", "list", refused=_CLUSTER),
    Flag("--topology-required", "list", refused=_CLUSTER),
    Flag("--type", "string", refused=_CLUSTER),
    high=1,
)  # fmt: skip
def create(
    driver: str, label: list[str], name: str, opt: list[tuple[str, str]], arguments: list[str], **_: Any
) -> None:
    """Make a volume, or find that it is there already."""
    if name and arguments:
        raise CommandError(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    labels = dict(text.partition("=")[::2] for text in label)
    chosen = arguments[0] if arguments else name
    say(f"{engine().volumes.create(chosen, driver=driver, labels=labels, options=dict(opt)).name}\n")


@verb(
    "ls", "List volumes",
    Flag("--cluster", refused=_CLUSTER),
    Flag("-f --filter", "filter", 'Provide filter values (e.g. "dangling=true")'),
    Flag("--format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag("-q --quiet", "", "Only display volume names"),
)  # fmt: skip
def ls(filter: list[tuple[str, str]], format: str, quiet: bool, arguments: list[str], **_: Any) -> None:
    """One line for each volume, by name."""
    del arguments
    found = sorted(engine().volumes.list(filter), key=lambda volume: _natural(volume.name))
    template = format
    if format in ("", "table"):
        template = "{{.Name}}" if quiet else _TABLE
    elif format == "raw":
        template = "name: {{.Name}}" if quiet else _RAW
    lines = [_line(volume) for volume in found]
    say(formatted(lambda: formats.rows(template, lines, _HEADERS, "*formatter.volumeContext")))


@verb(
    "inspect VOLUME [VOLUME...]", "Display detailed information on one or more volumes",
    Flag("-f --format", "string", "Format output: 'json', or a Go template"),
    low=1, high=None,
)  # fmt: skip
def inspect(format: str, arguments: list[str]) -> int:
    """Show volumes as documents."""
    return show(format, arguments, lambda name: document(engine().volumes.get(name)))


@verb(
    "rm VOLUME [VOLUME...]",
    "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
    Flag("-f --force", "", "Force the removal of one or more volumes"),
    low=1, high=None,
)  # fmt: skip
def rm(force: bool, arguments: list[str]) -> int:
    """Remove volumes that no container has."""

    def remove(name: str) -> None:
        engine().volumes.remove(name, force=force)
        say(f"{name}\n")

    return each(arguments, remove)


@verb(
    "prune", "Remove unused local volumes",
    Flag("-a --all", "", "Remove all unused volumes, not just anonymous ones"),
    Flag("--filter", "filter", 'Provide filter values (e.g. "label=<label>")'),
    Flag("-f --force", "", "Do not prompt for confirmation"),
)  # fmt: skip
def prune(all: bool, filter: list[tuple[str, str]], force: bool, arguments: list[str]) -> None:
    """Remove the volumes that no container has, after asking."""
    del arguments
    if all and "all" in dict(filter):
        raise CommandError("conflicting options: cannot specify both --all and --filter all=1")
    which = "all local volumes" if all or "all" in dict(filter) else "anonymous local volumes"
    if not force:
        say(
            f"WARNING! This will remove {which} not used by at least one container.\n"
            "Are you sure you want to continue? [y/N] "
        )
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return
    found = engine().volumes.prune(everything=all, filters=filter)
    if found.names:
        say("Deleted Volumes:\n" + "".join(f"{name}\n" for name in found.names) + "\n")
    say(f"Total reclaimed space: {units.size(found.reclaimed_bytes)}\n")


@verb(
    "update [VOLUME]", "Update a volume (cluster volumes only)", Flag("--availability", "string", refused=_CLUSTER),
    high=1,
)  # fmt: skip
def update(arguments: list[str], **_: Any) -> None:
    """Nothing of a volume of one host can be updated."""
    del arguments
    raise Refused(f"volume update: {_CLUSTER}")


class VolumeDocument(Struct):
    """Docker's Volume."""

    type_name = "volume.Volume"


def document(volume: Volume) -> Struct:
    """What `docker volume inspect` shows."""
    return VolumeDocument(
        CreatedAt=units.rfc3339(volume.created_ns), Driver=volume.driver,
        Labels=dict(volume.labels) or NilMap(), Mountpoint=volume.mountpoint, Name=volume.name,
        Options=dict(volume.options) or NilMap(), Scope=volume.scope,
    )  # fmt: skip


def _line(volume: Volume) -> formats.Row:
    labels = ",".join(f"{key}={value}" for key, value in sorted(volume.labels.items()))
    return formats.Row(
        Availability="N/A", Driver=volume.driver, Group="N/A", Labels=labels, Links="N/A",
        Mountpoint=volume.mountpoint, Name=volume.name, Scope=volume.scope, Size="N/A", Status="N/A",
    )  # fmt: skip


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key to sort by, for which 9 comes before 10."""
    key: list[tuple[int, int, str]] = []
    rest = name
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        if digits:
            key.append((0, int(rest[:digits]), rest[:digits]))
            rest = rest[digits:]
        else:
            key.append((1, 0, rest[0]))
            rest = rest[1:]
    return key
