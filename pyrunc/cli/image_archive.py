"""`pyrunc load`, `pyrunc save`, `pyrunc import`."""

import os
from typing import Literal

from pyrunc.cli.flags import Flag
from pyrunc.cli.platforms import PLATFORM, check, check_image
from pyrunc.cli.progress import bars
from pyrunc.cli.session import CommandError, engine, say
from pyrunc.cli.streams import read_from, written
from pyrunc.cli.verb import verb
from pyrunc.errors import InvalidArgument


@verb(
    "load", "Load an image from a tar archive or STDIN",
    Flag("-i --input", "string", "Read from tar archive file or directory with an OCI layout, instead of STDIN"),
    PLATFORM,
    Flag("-q --quiet", "", "Suppress the load output"),
)  # fmt: skip
def load(input: str, platform: str, quiet: bool, arguments: list[str]) -> None:
    """Take the images of an archive: docker-archive or OCI, plain, gzip or zstd."""
    del arguments
    with bars(not quiet) as progress:
        if os.path.isdir(input):
            found = engine().images.load(input, platform=platform, progress=progress)
        else:
            with read_from(input) as source:
                found = engine().images.load(source, platform=platform, progress=progress)
    for image in found:
        for name in image.references:
            say(f"Loaded image: {name}\n")
        if not any(each.references for each in found):
            say(f"Loaded image ID: {image.id}\n")


@verb(
    "save IMAGE [IMAGE...]", "Save one or more images to a tar archive (streamed to STDOUT by default)",
    Flag("--format", "string", "Format of the archive: docker (which is an OCI layout too) or oci", default="docker"),
    Flag("-o --output", "string", "Write to a file, instead of STDOUT"),
    PLATFORM,
    low=1, high=None,
)  # fmt: skip
def save(format: str, output: str, platform: str, arguments: list[str]) -> None:
    """Write images as one archive."""
    if format not in ("docker", "oci"):
        raise CommandError(f"--format must be docker or oci, not {format}")
    for name in arguments:
        check_image(name, platform)
    layout: Literal["docker", "oci"] = "oci" if format == "oci" else "docker"
    with written(output, "failed to save image") as file, bars(bool(output)) as progress:
        engine().images.save(arguments, file.write, layout=layout, progress=progress)


@verb(
    "import file|URL|- [REPOSITORY[:TAG]]", "Import the contents from a tarball to create a filesystem image",
    Flag("-c --change", "list", "Apply Dockerfile instruction to the created image"),
    Flag("-m --message", "string", "Set commit message for imported image"),
    Flag("--platform", "string", "The platform (os/architecture) of the image"),
    low=1, high=None,
)  # fmt: skip
def import_(change: list[str], message: str, platform: str, arguments: list[str]) -> None:
    """Make an image of one layer of the tar of a root directory."""
    from pyrunc.image import reference
    from pyrunc.spec.image import host_platform

    if len(arguments) > 2:
        raise CommandError(f"import takes a tarball and a name, and not {arguments[2]!r} too")
    source, name = arguments[0], arguments[1] if len(arguments) > 1 else ""
    if source.partition("://")[1]:
        raise CommandError(
            f"{source}: importing from a URL is not supported; download it, and import the file"
        )
    if name:
        try:
            reference.parse(name)
        except InvalidArgument as exc:
            raise CommandError(str(exc)) from exc
    if platform:
        host = host_platform()
        check(source, platform, (host.os, host.architecture))
    with bars(True) as progress, read_from(source) as stream:
        say(f"{engine().images.import_(stream, name, changes=change, message=message, progress=progress)}\n")
