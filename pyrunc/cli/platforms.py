"""--platform: images here are of one platform each, so it asks, and does not choose."""

from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, engine

PLATFORM = Flag("--platform", "string", "Only the image for this platform (os/architecture)")
PLATFORMS = Flag(
    "--platform", "strings", refused="an image here is of one platform: it is removed as a whole"
)


def check_image(name: str, platform: str) -> None:
    """Raise CommandError if the image *name* is for another platform than was asked for."""
    if platform:
        check(name, platform, engine().images.get(name)[6:8])


def check(name: str, platform: str, found: tuple[str, ...]) -> None:
    """Raise CommandError if *found* (os, architecture) is not *platform*, which is ``os/architecture[/variant]``."""
    wanted = tuple(platform.lower().split("/"))
    if not 1 <= len(wanted) <= 3 or not all(wanted):
        raise CommandError(
            f'"{platform}" is an invalid component of "{platform}": platform specifier component'
        )
    if wanted[: len(found)] != found[: len(wanted)]:
        raise CommandError(f"image {name} is for {'/'.join(found)}, and {platform} was asked for")
