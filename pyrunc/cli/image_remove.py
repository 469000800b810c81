"""`pyrunc rmi`, `pyrunc image prune`, `pyrunc tag`."""

from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.platforms import PLATFORMS
from pyrunc.cli.session import ERROR, CommandError, complain, confirmed, engine, say
from pyrunc.cli.verb import verb
from pyrunc.errors import InvalidArgument, NotFound, PyruncError


@verb(
    "rmi IMAGE [IMAGE...]", "Remove one or more images",
    Flag("-f --force", "", "Force removal of the image"),
    Flag("--no-prune", "", "Do not delete untagged parents"),
    PLATFORMS,
    low=1, high=None,
)  # fmt: skip
def rmi(force: bool, no_prune: bool, platform: list[str], arguments: list[str]) -> int:
    """Remove names, and images with their last one."""
    del platform
    code = 0
    for name in arguments:
        try:
            for step in engine().images.remove(name, force=force, prune=not no_prune):
                say(f"{step.kind.capitalize()}: {step.name}\n")
        except PyruncError as exc:
            complain(f"{ERROR}{exc}")
            if not (force and isinstance(exc, NotFound)):
                code = 1
    return code


@verb(
    "prune", "Remove unused images",
    Flag("-a --all", "", "Remove all unused images, not just dangling ones"),
    Flag("--filter", "filter", 'Provide filter values (e.g. "until=<timestamp>")'),
    Flag("-f --force", "", "Do not prompt for confirmation"),
)  # fmt: skip
def prune(all: bool, filter: list[tuple[str, str]], force: bool, arguments: list[str]) -> None:
    """Remove images that nothing needs, after asking."""
    del arguments
    which = "all images without at least one container associated to them" if all else "all dangling images"
    if not force and not confirmed(
        f"WARNING! This will remove {which}.\nAre you sure you want to continue? [y/N] "
    ):
        say("")
        return
    found = engine().images.prune(everything=all, filters=filter)
    if found.removed:
        say("Deleted Images:\n" + "".join(f"{step.kind}: {step.name}\n" for step in found.removed) + "\n")
    say(f"Total reclaimed space: {units.size(found.reclaimed_bytes)}\n")


@verb(
    "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    low=2,
    high=2,
    interspersed=False,
)
def tag(arguments: list[str]) -> None:
    """Give an image one more name."""
    from pyrunc.image import reference

    source, target = arguments
    try:
        parsed = reference.parse(target)
    except InvalidArgument as exc:
        raise CommandError(
            f'Error parsing reference: "{target}" is not a valid repository/tag: {exc}'
        ) from exc
    if parsed.digest:
        raise CommandError("refusing to create a tag with a digest reference")
    engine().images.tag(source, target)
