"""`pyrunc image bootstrap`: a base image without a registry."""

from pyrunc.cli.flags import Flag
from pyrunc.cli.session import complain, engine, say
from pyrunc.cli.verb import verb


@verb(
    "bootstrap DISTRIBUTION:SUITE", "Make a base image from the host's package mirror, by mmdebstrap or debootstrap",
    Flag("--mirror", "string", "Take the packages from this URI (default what apt is configured to use)"),
    Flag("-q --quiet", "", "Suppress the output of the steps"),
    Flag("-t --tag", "string", "What the image is called (default DISTRIBUTION:SUITE)"),
    Flag("--variant", "string", "What is in it: minbase, buildd, or nothing for the usual system", default="minbase"),
    low=1, high=1,
)  # fmt: skip
def bootstrap(mirror: str, quiet: bool, tag: str, variant: str, arguments: list[str]) -> None:
    """Make it, and print its id; the same packages make the same image."""
    found = engine().images.bootstrap(
        arguments[0], tag, mirror=mirror or None, variant=variant, progress=None if quiet else complain
    )
    say(f"{found}\n")
