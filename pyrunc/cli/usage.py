"""What is said about commands: help, usage and hints in Docker's manner."""

import os
import sys
from collections.abc import Sequence

from pyrunc.cli.context import Context
from pyrunc.cli.flags import Flag
from pyrunc.cli.verb import MANAGEMENT, Group, Verb


def text(context: Context) -> str:
    """The help of a command or a group."""
    command = context.command
    return _of_group(context, command) if isinstance(command, Group) else _of_verb(context, command)


def _of_verb(context: Context, command: Verb) -> str:
    """Usage, purpose and flags."""
    lines = [f"Usage:  {_usage(context)}", "", command.text]
    names = _aliases(context)
    if len(names) > 1:
        lines += ["", "Aliases:", f"  {', '.join(names)}"]
    return "\n".join([*lines, *_options(command.flags)])


def _of_group(context: Context, group: Group) -> str:
    """Usage, purpose, commands by section, flags."""
    lines = [f"Usage:  {_usage(context)}", "", group.text]
    sections: dict[str, list[str]] = {}
    for name in group.shown():
        sections.setdefault(group.places[name].section, []).append(name)
    for section, names in sections.items():
        lines += ["", f"{section}:"]
        lines += [f"  {name:<11} {group.places[name].text}" for name in names]
    lines += _options(group.flags, "Options" if context.parent else "Global Options")
    lines += ["", f"Run '{context.path} COMMAND --help' for more information on a command."]
    return "\n".join(lines)


def _usage(context: Context) -> str:
    """``pyrunc images [OPTIONS] [REPOSITORY[:TAG]]``, a line for each usage; ``pyrunc image COMMAND``."""
    command = context.command
    if isinstance(command, Group):
        return f"{context.path} {'' if context.parent else '[OPTIONS] '}COMMAND"
    lines = []
    for usage in command.usage.splitlines():
        pieces = [context.path]
        if any(flag.shown for flag in command.flags):
            pieces.append("[OPTIONS]")
        pieces += [word for word in usage.split()[1:] if word.isupper() or not word.isalpha()]
        lines.append(" ".join(pieces))
    return "\n\t".join(lines)


def hint(context: Context, *, more: bool = False) -> str:
    """What follows a usage error; *more* or fewer arguments were wanted."""
    command = context.command
    rest = " [ARG...]" if isinstance(command, Group) and context.parent is None else ""
    word = "See" if more and isinstance(command, Verb) and command.arguments.high is None else "Run"
    return f"Usage:  {_usage(context)}{rest}\n\n{word} '{context.path} --help' for more information"


def arguments(context: Context, low: int, high: int | None) -> str:
    """What is said about a wrong number of arguments."""
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
    return f"{context.program}: '{context.path}' {words}"


def unknown(context: Context, name: str) -> str:
    """What is said about a command that does not exist."""
    usage = f"\n\nUsage:  {context.path}" if context.parent else ""
    return (
        f"{context.program}: unknown command: {context.path} {name}{usage}"
        f"\n\nRun '{context.path} --help' for more information"
    )


def _aliases(context: Context) -> list[str]:
    """All names of the command of *context*, those in groups first."""
    root, parent = context.root.command, context.parent
    if not isinstance(root, Group) or parent is None or not isinstance(parent.command, Group):
        return []
    wanted = parent.command.places[context.name][:2]
    grouped, plain = [], []
    for first, place in root.places.items():
        if place[:2] == wanted:
            plain.append(f"{context.program} {first}")
        elif place.section == MANAGEMENT:
            group = root.find(first)
            assert isinstance(group, Group)
            grouped += [
                f"{context.program} {first} {second}"
                for second, below in group.places.items()
                if below[:2] == wanted
            ]
    return grouped + plain


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
