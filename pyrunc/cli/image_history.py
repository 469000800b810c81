"""`pyrunc history`."""

from pyrunc.api import HistoryEntry
from pyrunc.cli import format as formats
from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.platforms import PLATFORM, check_image
from pyrunc.cli.session import ellipsis, engine, formatted, say, short
from pyrunc.cli.verb import verb

_HEADERS = {
    "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE",
    "Comment": "COMMENT",
}  # fmt: skip
_TABLE = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
_COMMAND_LENGTH = 45


@verb(
    "history IMAGE", "Show the history of an image",
    Flag("--format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag("-H --human", "", "Print sizes and dates in human readable format", default=True),
    Flag("--no-trunc", "", "Don't truncate output"),
    PLATFORM,
    Flag("-q --quiet", "", "Only show image IDs"),
    low=1, high=1,
)  # fmt: skip
def history(
    format: str, human: bool, no_trunc: bool, platform: str, quiet: bool, arguments: list[str]
) -> None:
    """One line for each step, the latest first."""
    found = engine().images.history(arguments[0])
    check_image(arguments[0], platform)
    template = format
    if format in ("", "table"):
        template = "{{.ID}}" if quiet else _TABLE if human else _TABLE.replace("CreatedSince", "CreatedAt")
    lines = [_line(entry, human, not no_trunc) for entry in found]
    say(formatted(lambda: formats.rows(template, lines, _HEADERS, "*image.historyContext")))


def _line(entry: HistoryEntry, human: bool, cut: bool) -> formats.Row:
    command = entry.created_by.replace("\t", " ")
    identifier = entry.id or "<missing>"
    return formats.Row(
        Comment=entry.comment, CreatedAt=units.rfc3339(entry.created_ns),
        CreatedBy=ellipsis(command, _COMMAND_LENGTH) if cut else command, CreatedSince=units.ago(entry.created_ns),
        ID=short(identifier) if cut and entry.id else identifier,
        Size=units.size(entry.size, 3) if human else str(entry.size),
    )  # fmt: skip
