"""`pyrunc images`, `pyrunc image ls`."""

from pyrunc.api import Image
from pyrunc.cli import format as formats
from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import engine, formatted, say, short
from pyrunc.cli.verb import verb

_HEADERS = {
    "ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
}  # fmt: skip
_TABLE = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_DIGESTS = "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_NONE = "<none>"


@verb(
    "images [REPOSITORY[:TAG]]", "List images",
    Flag("-a --all", "", "Show all images (default hides intermediate images)"),
    Flag("--digests", "", "Show digests"),
    Flag("-f --filter", "filter", "Filter output based on conditions provided"),
    Flag("--format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag("--no-trunc", "", "Don't truncate output"),
    Flag("-q --quiet", "", "Only show image IDs"),
    Flag("--tree", refused="images here are of one platform, so there is no tree to show"),
    high=1,
)  # fmt: skip
def images(
    all: bool, digests: bool, filter: list[tuple[str, str]], format: str, no_trunc: bool, quiet: bool, tree: bool,
    arguments: list[str],
) -> None:  # fmt: skip
    """One line for each name of an image, the latest image first."""
    del tree
    filters = [*filter, *(("reference", pattern) for pattern in arguments)]
    found = engine().images.list(everything=all, filters=filters)
    lines = [line for image in found for line in _lines(image, digests, not no_trunc)]
    template = _template(format, quiet, digests)
    say(formatted(lambda: formats.rows(template, lines, _HEADERS, "*formatter.imageContext")))


def _template(format: str, quiet: bool, digests: bool) -> str:
    if quiet and format in ("", "table"):
        return "{{.ID}}"
    if format in ("", "table"):
        return _DIGESTS if digests else _TABLE
    if format == "raw":
        if quiet:
            return "image_id: {{.ID}}"
        digest = "{{if .Digest}}digest: {{.Digest}}\n{{end}}" if digests else ""
        return (
            f"repository: {{{{.Repository}}}}\ntag: {{{{.Tag}}}}\n{digest}image_id: {{{{.ID}}}}\n"
            "created_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n"
        )
    return format


def _lines(image: Image, digests: bool, cut: bool) -> list[formats.Row]:
    """Its names by repository: each tag, beside the repository's digest if that is shown."""
    by_repository: dict[str, tuple[list[str], list[str]]] = {}
    for name in image.references:
        repository, _, tag = name.rpartition(":")
        by_repository.setdefault(repository, ([], []))[0].append(tag)
    for name in image.digests:
        repository, _, digest = name.partition("@")
        by_repository.setdefault(repository, ([], []))[1].append(digest)
    rows = []
    for repository, (tags, found) in sorted(by_repository.items()):
        if not digests:
            rows += [(repository, tag, _NONE) for tag in sorted(tags) or [_NONE]]
        else:
            rows += [
                (repository, tag, digest) for tag in sorted(tags) or [_NONE] for digest in found or [_NONE]
            ]
    return [_line(image, *row, cut) for row in rows or [(_NONE, _NONE, _NONE)]]


def _line(image: Image, repository: str, tag: str, digest: str, cut: bool) -> formats.Row:
    return formats.Row(
        Containers="N/A", CreatedAt=units.stamp(image.created_ns), CreatedSince=units.ago(image.created_ns),
        Digest=digest, ID=short(image.id) if cut else image.id, Repository=repository, SharedSize="N/A",
        Size=units.size(image.size, 3), Tag=tag, UniqueSize="N/A", VirtualSize=units.size(image.size),
    )  # fmt: skip
