"""`pyrunc top`."""

from pyrunc.cli.session import engine, say
from pyrunc.cli.table import align
from pyrunc.cli.verb import verb

_WIDTH = 20  # of Docker's columns here


@verb(
    "top CONTAINER [ps OPTIONS]",
    "Display the running processes of a container",
    low=1,
    high=None,
    interspersed=False,
)
def top(arguments: list[str]) -> None:
    """What the host's ps says of the processes of a container."""
    found = engine().containers.get(arguments[0]).top(arguments[1:])
    lines = "".join("\t".join(row) + "\n" for row in (found.titles, *found.rows))
    say(align(lines, _WIDTH))
