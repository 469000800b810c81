"""`python -m pyrunc.cli.reference`: docs/cli.md, which is made of the commands and their flags."""

from collections.abc import Iterator

from pyrunc.cli.flags import Flag
from pyrunc.cli.main import root
from pyrunc.cli.verb import Group, Verb

_BEGIN = """\
# The command line

Commands, flags, tables, templates and messages are those of docker 28.2.2. This page is made by
`python -m pyrunc.cli.reference` and says what there is, and what is refused, by name, with the reason.

## Commands

| command | what it does |
|---|---|
"""
_MISSING = """
## Commands of docker's that do not exist yet

Each says so in one line, with exit code 125.

| command | why |
|---|---|
"""
_REFUSED = """
## Flags that are refused

Each says so in one line, with exit code 125.

| command | flag | why |
|---|---|---|
"""


def text() -> str:
    """The page."""
    out = [_BEGIN]
    refused: list[str] = []
    missing = [f"| `pyrunc {name}` | {reason} |\n" for name, reason in sorted(root.missing.items())]
    known: dict[tuple[str, str], str] = {}
    for path, command in _commands():
        if isinstance(command, Group):
            missing += [
                f"| `pyrunc {path} {name}` | {reason} |\n" for name, reason in sorted(command.missing.items())
            ]
            continue
        summary = command.text.splitlines()[0]
        first = known.setdefault((str(command.function), command.name), path)
        if first != path:
            out.append(f"| `pyrunc {path}` | the same as `pyrunc {first}` |\n")
            continue
        out.append(f"| `pyrunc {command_line(path, command)}` | {summary} |\n")
        refused += [f"| `pyrunc {path}` | `{flag.long}` | {flag.refused} |\n" for flag in _refused(command)]
    refused = [f"| `pyrunc` | `{flag.long}` | {flag.refused} |\n" for flag in _refused(root)] + refused
    return "".join([*out, _MISSING, *missing, _REFUSED, *refused])


def command_line(path: str, command: Verb) -> str:
    """``stop CONTAINER [CONTAINER...]``."""
    return " ".join([path, *command.usage.split()[1:]]).replace("|", "\\|")


def _commands() -> Iterator[tuple[str, "Verb | Group"]]:
    """What users type most comes first: the commands of the root, and then those of groups."""
    groups: list[tuple[str, Group]] = []
    for name in root.shown():
        command = root.find(name)
        assert command is not None
        if isinstance(command, Group):
            groups.append((name, command))
        else:
            yield name, command
    for name, group in groups:
        yield name, group
        for below in group.shown():
            found = group.find(below)
            assert isinstance(found, Verb)
            yield f"{name} {below}", found


def _refused(command: "Verb | Group") -> list[Flag]:
    return sorted((flag for flag in command.flags if flag.refused), key=lambda flag: flag.long)


if __name__ == "__main__":
    import sys

    sys.stdout.write(text())
