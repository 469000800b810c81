"""`pyrunc system df`, `pyrunc system prune`: named, and not yet done."""

from pyrunc.cli.flags import Flag, Refused
from pyrunc.cli.verb import verb


@verb(
    "df", "Show disk usage",
    Flag("--format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag("-v --verbose", "", "Show detailed information on space usage"),
)  # fmt: skip
def df(format: str, verbose: bool, arguments: list[str]) -> None:
    """Refused: what containers and volumes take is not counted."""
    del format, verbose, arguments
    raise Refused(
        "system df: sizes of containers and volumes are not counted yet; `images` shows those of images"
    )


@verb(
    "prune", "Remove unused data",
    Flag("-a --all", "", "Remove all unused images not just dangling ones"),
    Flag("--filter", "filter", "Provide filter values (e.g. 'label=<key>=<value>')"),
    Flag("-f --force", "", "Do not prompt for confirmation"),
    Flag("--volumes", "", "Prune anonymous volumes"),
)  # fmt: skip
def prune(all: bool, filter: list[tuple[str, str]], force: bool, volumes: bool, arguments: list[str]) -> None:
    """Refused: each kind of object is pruned by its own command."""
    del all, filter, force, volumes, arguments
    raise Refused("system prune: each kind is pruned by its own command, such as `image prune`")
