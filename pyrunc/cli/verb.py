"""Commands and groups in Docker's manner: arguments, help and usage; a group imports a command when it is used."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from pyrunc.cli.flags import Flag, Refused, UsageError, parse

MANAGEMENT = "Management Commands"  # the section of the groups in a help
USED = "pyrunc.used"  # in a context's meta: the names of the flags that were given
_HELP = Flag("--help", "", "Print usage", shown=False)


class Arguments(NamedTuple):
    """How many arguments a command takes: at least *low*, and no more than *high*."""

    low: int
    high: int | None


class BadArguments(UsageError):
    """The number of arguments is wrong; exit code 1."""

    exit_code = 1


class Verb(click.Command):
    """One command. Its function gets the values of the flags by name, and the arguments as *arguments*."""

    def __init__(
        self, function: Callable[..., int | None], usage: str, text: str, flags: Iterable[Flag], arguments: Arguments,
        interspersed: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            usage.split(maxsplit=1)[0],
            callback=function,
            help=text,
            params=list(flags),
            add_help_option=False,
        )
        self.usage = usage
        self.flags = [*flags, _HELP]
        self.arguments = arguments
        self.interspersed = interspersed

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the flags and arguments into *ctx*; ``--help`` ends here."""
        try:
            values, rest, used = parse(self.flags, args, self.interspersed)
            if values.pop("help"):
                click.echo(self.get_help(ctx))
                ctx.exit()
            self._count(ctx, len(rest))
        except UsageError as exc:
            exc.hint = self.hint(ctx, exc)
            raise
        ctx.params = {**values, "arguments": rest}
        ctx.args = []
        ctx.meta[USED] = used
        return []

    def _count(self, ctx: click.Context, count: int) -> None:
        low, high = self.arguments
        if count >= low and (high is None or count <= high):
            return
        if high == 0:
            words = "accepts no arguments"
        elif low == high:
            words = f"requires {low} argument{'s' * (low != 1)}"
        elif high is None:
            words = f"requires at least {low} argument{'s' * (low != 1)}"
        elif low == 0:
            words = f"requires at most {high} argument{'s' * (high != 1)}"
        else:
            words = f"requires at least {low} and at most {high} arguments"
        raise BadArguments(f"{program(ctx)}: '{ctx.command_path}' {words}")

    def usage_line(self, ctx: click.Context) -> str:
        """``pyrunc images [OPTIONS] [REPOSITORY[:TAG]]``; a line for each of those of *usage*."""
        lines = []
        for usage in self.usage.splitlines():
            pieces = [ctx.command_path]
            if any(flag.shown for flag in self.flags):
                pieces.append("[OPTIONS]")
            pieces += [word for word in usage.split()[1:] if word.isupper() or not word.isalpha()]
            lines.append(" ".join(pieces))
        return "\n\t".join(lines)

    def get_help(self, ctx: click.Context) -> str:
        """Usage, purpose and flags."""
        lines = [f"Usage:  {self.usage_line(ctx)}", "", str(self.help)]
        names = _aliases(ctx)
        if len(names) > 1:
            lines += ["", "Aliases:", f"  {', '.join(names)}"]
        return "\n".join([*lines, *_options(self.flags)])

    def hint(self, ctx: click.Context, error: UsageError) -> str:
        """What follows a usage error."""
        word = "See" if isinstance(error, BadArguments) and self.arguments.high is None else "Run"
        return f"Usage:  {self.usage_line(ctx)}\n\n{word} '{ctx.command_path} --help' for more information"


def verb(
    usage: str, text: str, *flags: Flag, low: int = 0, high: int | None = 0, interspersed: bool = True
) -> Callable[[Callable[..., int | None]], Verb]:
    """Make a command of a function. *usage* is its name and arguments, such as ``tag SOURCE TARGET``."""

    def decorate(function: Callable[..., int | None]) -> Verb:
        return Verb(function, usage, text, flags, Arguments(low, high), interspersed)

    return decorate


class Place(NamedTuple):
    """Where a command is found, and the line about it in the help of its group."""

    module: str
    attribute: str
    text: str
    section: str = "Commands"
    hidden: bool = False


class Group(click.Group):
    """A group whose commands are imported when they are used; *places* has them by name.

    *missing* are those that do not exist yet, with the reason.
    """

    def __init__(
        self, name: str, text: str, places: Mapping[str, Place], flags: Sequence[Flag] = (),
        missing: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            name, help=text, params=list(flags), add_help_option=False, invoke_without_command=True
        )
        self.places = places
        self.missing = missing or {}
        self.flags = [*flags, _HELP]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the help, in its order."""
        del ctx
        return [name for name, place in self.places.items() if not place.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command *cmd_name*."""
        del ctx
        place = self.places.get(cmd_name)
        if place is None:
            return None
        found = getattr(importlib.import_module(place.module), place.attribute)
        assert isinstance(found, click.Command)
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the group's own flags; the rest is a command's."""
        try:
            values, rest, _ = parse(self.flags, args, interspersed=False)
        except UsageError as exc:
            exc.hint = self.hint(ctx)
            raise
        if values.pop("help"):
            click.echo(self.get_help(ctx))
            ctx.exit()
        ctx.params = values
        ctx.args = rest
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the group's own function, if it has one, and the command that was named."""
        if self.callback is not None and ctx.invoke(self.callback, **ctx.params) is not None:
            return 0
        if not ctx.args:
            click.echo(self.get_help(ctx), err=True)
            return 0
        name, *rest = ctx.args
        command = self.get_command(ctx, name)
        if command is None and name in self.missing:
            raise Refused(f"{ctx.command_path} {name} does not exist yet: {self.missing[name]}")
        if command is None:
            raise UnknownCommand(self.unknown(ctx, name))
        with command.make_context(name, rest, parent=ctx) as below:
            return command.invoke(below)

    def unknown(self, ctx: click.Context, name: str) -> str:
        """What is said about a command that does not exist."""
        usage = f"\n\nUsage:  {ctx.command_path}" if ctx.parent else ""
        return (
            f"{program(ctx)}: unknown command: {ctx.command_path} {name}{usage}"
            f"\n\nRun '{ctx.command_path} --help' for more information"
        )

    def usage_line(self, ctx: click.Context) -> str:
        """``pyrunc image COMMAND``."""
        return f"{ctx.command_path} {'' if ctx.parent else '[OPTIONS] '}COMMAND"

    def hint(self, ctx: click.Context) -> str:
        """What follows a usage error."""
        more = "" if ctx.parent else " [ARG...]"
        return f"Usage:  {self.usage_line(ctx)}{more}\n\nRun '{ctx.command_path} --help' for more information"

    def get_help(self, ctx: click.Context) -> str:
        """Usage, purpose, commands by section, flags."""
        lines = [f"Usage:  {self.usage_line(ctx)}", "", str(self.help)]
        sections: dict[str, list[str]] = {}
        for name in self.list_commands(ctx):
            sections.setdefault(self.places[name].section, []).append(name)
        for section, names in sections.items():
            lines += ["", f"{section}:"]
            lines += [f"  {name:<11} {self.places[name].text}" for name in names]
        lines += _options(self.flags, "Options" if ctx.parent else "Global Options")
        lines += ["", f"Run '{ctx.command_path} COMMAND --help' for more information on a command."]
        return "\n".join(lines)


class UnknownCommand(Exception):
    """No command has that name; exit code 1."""

    exit_code = 1


def _aliases(ctx: click.Context) -> list[str]:
    """All names of the command of *ctx*, those in groups first."""
    root, parent = ctx.find_root().command, ctx.parent
    if not isinstance(root, Group) or parent is None or not isinstance(parent.command, Group):
        return []
    wanted = parent.command.places[str(ctx.info_name)][:2]
    name = program(ctx)
    grouped, plain = [], []
    for first, place in root.places.items():
        if place[:2] == wanted:
            plain.append(f"{name} {first}")
        elif place.section == MANAGEMENT:
            group = root.get_command(ctx, first)
            assert isinstance(group, Group)
            grouped += [
                f"{name} {first} {second}" for second, below in group.places.items() if below[:2] == wanted
            ]
    return grouped + plain


def program(ctx: click.Context) -> str:
    """The name that errors begin with."""
    return str(ctx.find_root().info_name)


def _options(flags: Sequence[Flag], title: str = "Options") -> list[str]:
    """The flags as Docker lists them, folded to the terminal."""
    shown = [flag for flag in sorted(flags, key=lambda flag: flag.long) if flag.shown and not flag.refused]
    if not shown:
        return []
    left = [
        f"  {flag.short + ',' if flag.short else '   '} {flag.long} {flag.kind}".rstrip() for flag in shown
    ]
    margin = max(map(len, left)) + 3
    width = max(_columns() - 1 - margin, 24)
    lines = ["", f"{title}:"]
    for begin, flag in zip(left, shown, strict=True):
        text = flag.text
        if flag.fallback not in (None, False, "", []):
            value = f'"{flag.fallback}"' if isinstance(flag.fallback, str) else str(flag.fallback).lower()
            text += f" (default {value})"
        first, *more = _folded(text, width)
        lines.append(begin.ljust(margin) + first)
        lines += [" " * margin + line for line in more]
    return lines


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 80


def _folded(text: str, width: int) -> list[str]:
    """*text* in lines as pflag folds it: what fits is left whole, and a line that is folded is five shorter."""
    lines: list[str] = []
    while len(text) >= width:
        at = text.rfind(" ", 0, width - 5)
        if at <= 0:
            break
        lines.append(text[:at])
        text = text[at + 1 :]
    return [*lines, text]
