"""What commands have in common: their engine, where they write, and errors without a traceback."""

from __future__ import annotations

import os
import sys

from pyrunc.cli.context import running
from pyrunc.errors import PyruncError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyrunc.engine.engine import Engine

ERROR = "Error: "
# C0, DEL and C1, also as bytes that are no UTF-8, which Python keeps as surrogates.
_CONTROLS = [
    code for code in (*range(0x20), *range(0x7F, 0xA0), *range(0xDC80, 0xDCA0)) if chr(code) not in "\n\t"
]


class CommandError(Exception):
    """A command cannot go on: one line for stderr, and an exit code."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Session:
    """What stands before the command; the engine is made when a command first needs it.

    *brief* says that the command is one of those that are over in a moment.
    """

    def __init__(self, root: str, state: str, graph: str, debug: bool) -> None:
        self.debug = debug
        self.brief = False
        self._root, self._graph = root or None, graph or None
        self._engine: Engine | None = None
        if state:
            os.environ["PYRUNC_STATE"] = state

    @property
    def engine(self) -> Engine:
        """The engine of this command."""
        if self._engine is None:
            from pyrunc.engine.engine import Engine

            self._engine = Engine(self._root, graph=self._graph)
            if self.brief:
                from pyrunc.engine import one_command

                one_command.begin(self._engine)
        return self._engine

    def close(self, ends: bool) -> None:
        """Close the engine, if there is one; *ends* says that this process does right after it."""
        if self._engine is None:
            return
        if ends and self.brief:
            from pyrunc.engine import one_command

            one_command.leave(self._engine)
        else:
            self._engine.close()


def engine() -> Engine:
    """The engine of the command that runs."""
    context = running()
    assert context is not None and context.session is not None
    return context.session.engine


def what_went_wrong(exc: Exception) -> str:
    """One line about an error that is not pyrunc's own: what it was about, and the system's word."""
    if isinstance(exc, PyruncError | CommandError) or not isinstance(exc, OSError) or not exc.strerror:
        return str(exc)
    where = f"{os.fsdecode(exc.filename)}: " if isinstance(exc.filename, str | bytes) else ""
    return f"{where}{exc.strerror.lower()}"


def say(text: str) -> None:
    """Write *text* to stdout: as it is, but to a terminal `harmless`, except for what the user's own template has."""
    if sys.stdout.isatty():
        context = running()
        text = harmless(text, str(context.params.get("format") or "") if context else "")
    sys.stdout.write(text)


def complain(text: str) -> None:
    """Write one line to stderr, `harmless`."""
    sys.stderr.write(f"{harmless(text)}\n")


def harmless(text: str, allowed: str = "") -> str:
    r"""*text* with control characters as ``\x1b``, but for line feeds, tabs and those in *allowed*.

    Names in archives and words of images are somebody else's, and a terminal does what they say.
    """
    table = {code: f"\\x{code & 0xFF:02x}" for code in _CONTROLS if chr(code) not in allowed}
    return text.translate(table)


def each(names: Iterable[str], act: Callable[[str], Any]) -> int:
    """Call *act* with every name; one that fails is reported and the others go on. The exit code."""
    code = 0
    for name in names:
        try:
            act(name)
        except PyruncError as exc:
            complain(f"{ERROR}{exc}")
            code = 1
    return code


def confirmed(question: str) -> bool:
    """Ask on stdout; whether stdin says yes."""
    say(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def formatted(make: Callable[[], str]) -> str:
    """What a template makes. Raises CommandError in Docker's words."""
    from pyrunc.cli.format import TemplateError

    try:
        return make()
    except TemplateError as exc:
        raise CommandError(f"template parsing error: {exc}") from exc


def short(identifier: str) -> str:
    """The first 12 digits of an id."""
    return identifier.removeprefix("sha256:")[:12]


def ellipsis(text: str, length: int) -> str:
    """*text* cut to *length* characters, of which the last is "…"."""
    return text if len(text) <= length else text[: length - 1] + "…"
