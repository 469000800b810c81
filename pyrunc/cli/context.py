"""Where a command was found on the command line, and what it was given."""

from __future__ import annotations

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cli.session import Session
    from pyrunc.cli.verb import Group, Verb


class Context:
    """One *command*, under the *name* that was typed, of the group that *parent* is about.

    *params* are the values of its flags by name, *used* the names of those that were given.
    """

    __slots__ = ("command", "name", "params", "parent", "session", "used")

    def __init__(self, command: Verb | Group, name: str, parent: Context | None = None) -> None:
        self.command = command
        self.name = name
        self.parent = parent
        self.session: Session | None = None if parent is None else parent.session
        self.params: dict[str, Any] = {}
        self.used: set[str] = set()

    @property
    def path(self) -> str:
        """``pyrunc image ls``."""
        return self.name if self.parent is None else f"{self.parent.path} {self.name}"

    @property
    def root(self) -> Context:
        """That of the program itself."""
        return self if self.parent is None else self.parent.root

    @property
    def program(self) -> str:
        """The name that errors begin with."""
        return self.root.name


_running: list[Context] = []


def running() -> Context | None:
    """The context of the command that runs, if one does."""
    return _running[-1] if _running else None


def begun(context: Context) -> None:
    """The command of *context* runs, until `over`."""
    _running.append(context)


def over() -> None:
    """The command that began last has ended."""
    _running.pop()
