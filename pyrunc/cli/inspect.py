"""`pyrunc inspect`, `pyrunc image inspect`, `pyrunc container inspect`."""

from collections.abc import Callable, Sequence

from pyrunc.cli import documents
from pyrunc.cli import format as formats
from pyrunc.cli.flags import Flag
from pyrunc.cli.platforms import PLATFORM, check_image
from pyrunc.cli.session import ERROR, CommandError, complain, engine, say
from pyrunc.cli.template import Template, TemplateError
from pyrunc.cli.values import Struct
from pyrunc.cli.verb import verb
from pyrunc.errors import InvalidArgument, NotFound, PyruncError

_FORMAT = Flag("-f --format", "string", "Format output: 'json', or a Go template")
_OTHERS = ("config", "network", "node", "plugin", "secret", "service", "task")
_KNOWN = ("container", "image", "volume")


@verb(
    "inspect IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    _FORMAT,
    PLATFORM,
    low=1,
    high=None,
)
def image_inspect(format: str, platform: str, arguments: list[str]) -> int:
    """Show images as documents."""

    def find(name: str) -> Struct:
        check_image(name, platform)
        return _image(name)

    return show(format, arguments, find)


@verb(
    "inspect CONTAINER [CONTAINER...]", "Display detailed information on one or more containers", _FORMAT,
    Flag("-s --size", "", "Display total file sizes"),
    low=1, high=None,
)  # fmt: skip
def container_inspect(format: str, size: bool, arguments: list[str]) -> int:
    """Show containers as documents."""
    return show(format, arguments, lambda name: _container(name, size))


@verb(
    "inspect NAME|ID [NAME|ID...]", "Return low-level information on Docker objects", _FORMAT,
    Flag("-s --size", "", "Display total file sizes if the type is container"),
    Flag("--type", "string", "Only inspect objects of the given type"),
    low=1, high=None,
)  # fmt: skip
def inspect(format: str, size: bool, type: str, arguments: list[str]) -> int:
    """Show containers, images and volumes, whichever has the name."""
    if type in _OTHERS:
        raise CommandError(
            f'--type: there are no objects of type "{type}" yet; "container", "image" and "volume" exist'
        )
    if type not in ("", *_KNOWN):
        known = ", ".join(f'"{each}"' for each in sorted((*_OTHERS, *_KNOWN)))
        raise CommandError(f'unknown type: "{type}": must be one of {known}')

    finders = {"container": lambda name: _container(name, size), "image": _image, "volume": _volume}

    def find(name: str) -> Struct:
        for each in [type] if type else _KNOWN:
            try:
                found = finders[each](name)
            except (NotFound, InvalidArgument) as exc:
                if type or (each == "container" and not isinstance(exc, NotFound)):
                    raise
                continue
            if size and each != "container":
                complain(f"WARNING: --size ignored for {each}")
            return found
        raise NotFound(f"No such object: {name}")

    return show(format, arguments, find)


def _image(name: str) -> Struct:
    return documents.image(engine().images.inspect(name))


def _container(name: str, size: bool) -> Struct:
    from pyrunc.engine.inspecting import inspect as document

    return documents.container(document(engine(), engine().containers.get(name).record(), size=size))


def _volume(name: str) -> Struct:
    from pyrunc.cli.volume import document

    return document(engine().volumes.get(name))


def show(template: str, names: Sequence[str], find: Callable[[str], Struct]) -> int:
    """Print what is found, then complain about what is not."""
    if template not in ("", "json"):
        try:
            Template(template)
        except TemplateError as exc:
            raise CommandError(f"template parsing error: {exc}", 64) from exc
    found, errors = [], []
    for name in names:
        try:
            found.append(find(name))
        except PyruncError as exc:
            errors.append(f"{ERROR}{exc}")
    try:
        # Docker ends even nothing with a line feed.
        say(formats.documents(template, found) or "\n")
    except TemplateError as exc:
        say("\n")
        raise CommandError(f"template parsing error: {exc}") from exc
    for error in errors:
        complain(error)
    return 1 if errors else 0
