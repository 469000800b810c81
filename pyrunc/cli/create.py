"""`pyrunc create`: a container that is not started."""

from __future__ import annotations

import os

from pyrunc.cli import create_documents
from pyrunc.cli.context import running
from pyrunc.cli.platforms import check_image
from pyrunc.cli.run_flags import CREATE
from pyrunc.cli.session import ERROR, CommandError, engine, say, what_went_wrong
from pyrunc.cli.verb import verb
from pyrunc.errors import InvalidArgument, NotFound, PyruncError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_REFERENCE = "invalid reference format"  # what the client says itself


@verb(
    "create IMAGE [COMMAND] [ARG...]", "Create a new container", *CREATE, low=1, high=None, interspersed=False,
    brief=True,
)  # fmt: skip
def create(arguments: list[str], **flags: Any) -> int:
    """Make it, and say its id."""
    wanted = Wanted("create", arguments, flags)
    if flags["cidfile"]:
        try:
            check_cidfile(flags["cidfile"])
        except InvalidArgument as exc:
            raise CommandError(str(exc)) from exc
    try:
        container = wanted.make(engine().containers.create)
    except (PyruncError, OSError) as exc:
        words = what_went_wrong(exc)
        raise CommandError(words if words.startswith(_REFERENCE) else f"{ERROR}{words}") from exc
    write_cidfile(flags["cidfile"], container.id)
    say(f"{container.id}\n")
    return 0


class Wanted:
    """A container as the flags of *verb* want it. Raises CommandError in the words of Docker's client, Refused."""

    def __init__(self, verb: str, arguments: list[str], flags: dict[str, Any]) -> None:
        self.image = arguments[0]
        self._flags = flags
        context = running()
        assert context is not None
        try:
            self.config, self.host_config = create_documents.documents(
                self.image, arguments[1:], flags, context.used
            )
        except InvalidArgument as exc:
            words = f"pyrunc: {exc}\n\nRun 'pyrunc {verb} --help' for more information"
            raise CommandError(words, 125) from exc

    def make(self, how: Callable[..., Any], **more: Any) -> Any:
        """Call *how*, which is Engine.start or Containers.create. Raises what that does."""
        check_image(self.image, self._flags["platform"])
        config = dict(self.config)
        begin = config.pop("Entrypoint", None)
        argv = config.pop("Cmd", None)
        try:
            return how(
                self.image, argv, name=self._flags["name"] or None, entrypoint=[] if begin == [""] else begin,
                config=config, host_config=self.host_config, **more,
            )  # fmt: skip
        except NotFound as exc:
            if self._flags["pull"] == "never" and str(exc).startswith("Unable to find image"):
                from pyrunc.image import reference

                name = reference.parse(self.image).tagged().familiar
                raise NotFound(f"No such image: {name}") from exc
            raise


def check_cidfile(path: str) -> None:
    """Raise InvalidArgument if there is a file already, or nowhere to make one."""
    if os.path.lexists(path):
        raise InvalidArgument(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        )
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise InvalidArgument(
            f"failed to create the container ID file: open {path}: no such file or directory"
        )


def write_cidfile(path: str, container_id: str) -> None:
    """Write the id into the new file *path*, if there is one to be written."""
    if path:
        with open(path, "x", encoding="ascii") as file:
            file.write(container_id)
