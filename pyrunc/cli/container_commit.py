"""`pyrunc commit`, `pyrunc diff`, `pyrunc export`."""

from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, engine, say
from pyrunc.cli.streams import written
from pyrunc.cli.verb import verb
from pyrunc.errors import InvalidArgument


@verb(
    "commit CONTAINER [REPOSITORY[:TAG]]", "Create a new image from a container's changes",
    Flag("-a --author", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
    Flag("-c --change", "list", "Apply Dockerfile instruction to the created image"),
    Flag("-m --message", "string", "Commit message"),
    Flag("-p --pause", "", "Pause container during commit", default=True),
    low=1, high=2,
)  # fmt: skip
def commit(author: str, change: list[str], message: str, pause: bool, arguments: list[str]) -> None:
    """Make an image, and print its id."""
    from pyrunc.image import reference

    container, name = arguments[0], arguments[1] if len(arguments) > 1 else ""
    if name:
        try:
            reference.parse(name)
        except InvalidArgument as exc:
            raise CommandError(str(exc)) from exc
    found = (
        engine()
        .containers.get(container)
        .commit(name, changes=change, author=author, message=message, pause=pause)
    )
    say(f"{found}\n")


@verb("diff CONTAINER", "Inspect changes to files or directories on a container's filesystem", low=1, high=1)
def diff(arguments: list[str]) -> None:
    """One line for each path that was added, changed or deleted."""
    say("".join(f"{kind} {path}\n" for kind, path in engine().containers.get(arguments[0]).diff()))


@verb(
    "export CONTAINER", "Export a container's filesystem as a tar archive",
    Flag("-o --output", "string", "Write to a file, instead of STDOUT"),
    low=1, high=1,
)  # fmt: skip
def export(output: str, arguments: list[str]) -> None:
    """Write the whole tree as a tar."""
    found = engine().containers.get(arguments[0])
    with written(output, "failed to export container") as file:
        found.export(file.write)
