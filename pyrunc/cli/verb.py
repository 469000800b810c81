"""Commands and groups in Docker's manner; a group imports a command when it is used, and nothing else is imported then.

What is said about them (help, usage, hints) is in pyrunc.cli.usage.
"""

from __future__ import annotations

import sys

from pyrunc.cli.context import Context, begun, over
from pyrunc.cli.flags import Flag, Refused, UsageError, parse
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MANAGEMENT = "Management Commands"  # the section of the groups in a help
_HELP = Flag("--help", "", "Print usage", shown=False)


class Arguments(NamedTuple):
    """How many arguments a command takes: at least *low*, and no more than *high*."""

    low: int
    high: int | None


class BadArguments(UsageError):
    """The number of arguments is wrong; exit code 1."""

    exit_code = 1


class UnknownCommand(Exception):
    """No command has that name; exit code 1."""

    exit_code = 1


class Verb:
    """One command. Its function gets the values of the flags by name, and the arguments as *arguments*.

    For *brief* see `verb`.
    """

    def __init__(
        self, function: Callable[..., int | None], usage: str, text: str, flags: Iterable[Flag], arguments: Arguments,
        interspersed: bool = True, brief: bool = False,
    ) -> None:  # fmt: skip
        self.function = function
        self.name = usage.split(maxsplit=1)[0]
        self.usage = usage
        self.text = text
        self.flags = [*flags, _HELP]
        self.arguments = arguments
        self.interspersed = interspersed
        self.brief = brief

    def run(self, context: Context, words: Sequence[str]) -> int:
        """Read the flags and arguments in *words*, and run the command; ``--help`` ends here."""
        try:
            context.params, rest, context.used = parse(self.flags, words, self.interspersed)
            if context.params.pop("help"):
                _show_help(context)
                return 0
            self._count(context, len(rest))
        except UsageError as exc:
            from pyrunc.cli import usage

            exc.hint = usage.hint(context, more=isinstance(exc, BadArguments))
            raise
        if context.session is not None:
            context.session.brief = self.brief
        begun(context)
        try:
            return self.function(**context.params, arguments=rest) or 0
        finally:
            over()

    def _count(self, context: Context, count: int) -> None:
        low, high = self.arguments
        if count < low or (high is not None and count > high):
            from pyrunc.cli import usage

            raise BadArguments(usage.arguments(context, low, high))


def verb(
    usage: str,
    text: str,
    *flags: Flag,
    low: int = 0,
    high: int | None = 0,
    interspersed: bool = True,
    brief: bool = False,
) -> Callable[[Callable[..., int | None]], Verb]:
    """Make a command of a function. *usage* is its name and arguments, such as ``tag SOURCE TARGET``.

    A *brief* one is over in a moment, and leaves nothing to be done at its end but what cannot wait.
    """

    def decorate(function: Callable[..., int | None]) -> Verb:
        return Verb(function, usage, text, flags, Arguments(low, high), interspersed, brief)

    return decorate


class Place(NamedTuple):
    """Where a command is found, and the line about it in the help of its group."""

    module: str
    attribute: str
    text: str
    section: str = "Commands"
    hidden: bool = False


class Group:
    """A group whose commands are imported when they are used; *places* has them by name.

    *missing* are those that do not exist yet, with the reason. *begin*, if there is one, is called with the context
    before a command is; what it returns, if that is not None, is the exit code and the end.
    """

    def __init__(
        self, name: str, text: str, places: Mapping[str, Place], flags: Sequence[Flag] = (),
        missing: Mapping[str, str] | None = None, begin: Callable[[Context], int | None] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.text = text
        self.places = places
        self.missing = missing or {}
        self.flags = [*flags, _HELP]
        self._begin = begin

    def shown(self) -> list[str]:
        """The names in the help, in its order."""
        return [name for name, place in self.places.items() if not place.hidden]

    def find(self, name: str) -> Verb | Group | None:
        """Import the command *name*."""
        place = self.places.get(name)
        if place is None:
            return None
        # The function behind the statement: importlib itself would be imported for its own.
        found = getattr(__import__(place.module, fromlist=[place.attribute]), place.attribute)
        assert isinstance(found, Verb | Group)
        return found

    def run(self, context: Context, words: Sequence[str]) -> int:
        """Read the group's own flags, and run the command that follows them."""
        try:
            context.params, rest, context.used = parse(self.flags, words, interspersed=False)
        except UsageError as exc:
            from pyrunc.cli import usage

            exc.hint = usage.hint(context)
            raise
        if context.params.pop("help"):
            _show_help(context)
            return 0
        code = None if self._begin is None else self._begin(context)
        if code is not None:
            return code
        if not rest:
            from pyrunc.cli import usage

            sys.stderr.write(f"{usage.text(context)}\n")
            return 0
        name, *rest = rest
        command = self.find(name)
        if command is not None:
            return command.run(Context(command, name, context), rest)
        if name in self.missing:
            raise Refused(f"{context.path} {name} does not exist yet: {self.missing[name]}")
        from pyrunc.cli import usage

        raise UnknownCommand(usage.unknown(context, name))


def _show_help(context: Context) -> None:
    from pyrunc.cli import usage

    sys.stdout.write(f"{usage.text(context)}\n")
