"""`pyrunc stop`, `kill`, `restart`, `pause`, `unpause`, `wait`, `rename`, `rm` and `container prune`."""

from __future__ import annotations

from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import ERROR, CommandError, complain, confirmed, each, engine, say
from pyrunc.cli.verb import verb
from pyrunc.errors import FailedPrecondition, NotFound, PyruncError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyrunc.engine.container import Container


_SIGNAL = Flag("-s --signal", "string", "Signal to send to the container")
_TIMEOUT = Flag("-t --timeout --time", "int", "Seconds to wait before killing the container")
_PRUNE_WARNING = (
    "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] "
)


def act(names: Iterable[str], do: Callable[[Container], object]) -> int:
    """*do* it with every container, and say the name of each with which it went well. The exit code."""

    def one(name: str) -> None:
        do(engine().containers.get(name))
        say(f"{name}\n")

    return each(names, one)


@verb(
    "stop CONTAINER [CONTAINER...]",
    "Stop one or more running containers",
    _SIGNAL,
    _TIMEOUT,
    low=1,
    high=None,
    brief=True,
)
def stop(signal: str, timeout: int | None, arguments: list[str]) -> int:
    """Ask programs to end, and kill what has not in time."""
    return act(arguments, lambda found: found.stop(timeout, signal or None))


@verb(
    "restart CONTAINER [CONTAINER...]", "Restart one or more containers", _SIGNAL, _TIMEOUT, low=1, high=None
)
def restart(signal: str, timeout: int | None, arguments: list[str]) -> int:
    """Stop what runs, and start it."""
    return act(arguments, lambda found: found.restart(timeout, signal or None))


@verb(
    "kill CONTAINER [CONTAINER...]",
    "Kill one or more running containers",
    _SIGNAL,
    low=1,
    high=None,
    brief=True,
)
def kill(signal: str, arguments: list[str]) -> int:
    """Send a signal, KILL unless another was named."""

    def send(name: str) -> None:
        try:
            engine().containers.get(name).kill(signal or "KILL")
        except (FailedPrecondition, NotFound) as exc:
            raise type(exc)(f"Cannot kill container: {name}: {exc}") from exc
        say(f"{name}\n")

    return each(arguments, send)


@verb("pause CONTAINER [CONTAINER...]", "Pause all processes within one or more containers", low=1, high=None)
def pause(arguments: list[str]) -> int:
    """Stop all processes where they are."""
    return act(arguments, lambda found: found.pause())


@verb(
    "unpause CONTAINER [CONTAINER...]",
    "Unpause all processes within one or more containers",
    low=1,
    high=None,
)
def unpause(arguments: list[str]) -> int:
    """Let all processes go on."""
    return act(arguments, lambda found: found.unpause())


@verb(
    "wait CONTAINER [CONTAINER...]", "Block until one or more containers stop, then print their exit codes",
    low=1, high=None, brief=True,
)  # fmt: skip
def wait(arguments: list[str]) -> int:
    """Wait for one after the other."""

    def one(name: str) -> None:
        found = engine().containers.get(name)
        try:
            code = found.wait()
        except NotFound as exc:  # it has gone since it was found
            raise NotFound(f"No such container: {name}") from exc
        say(f"{code}\n")

    return each(arguments, one)


@verb("rename CONTAINER NEW_NAME", "Rename a container", low=2, high=2)
def rename(arguments: list[str]) -> int:
    """Give a container another name."""
    old, new = (text.strip() for text in arguments)
    if not old or not new:
        raise CommandError(f"{ERROR}Neither old nor new names may be empty")
    try:
        engine().containers.get(old).rename(new)
    except PyruncError as exc:
        raise CommandError(f"{ERROR}{exc}\n{ERROR}failed to rename container named {old}") from exc
    return 0


@verb(
    "rm CONTAINER [CONTAINER...]", "Remove one or more containers",
    Flag("-f --force", "", "Force the removal of a running container (uses SIGKILL)"),
    Flag("-l --link", refused="there are no links between containers"),
    Flag("-v --volumes", "", "Remove anonymous volumes associated with the container"),
    low=1, high=None, brief=True,
)  # fmt: skip
def rm(force: bool, link: bool, volumes: bool, arguments: list[str]) -> int:
    """Remove containers, and with -v their anonymous volumes."""
    del link

    def remove(name: str) -> None:
        bare = name.strip("/")
        try:
            engine().containers.get(bare).remove(force=force, volumes=volumes)
        except NotFound as exc:
            if not force:
                raise
            complain(f"{ERROR}{exc}")
        else:
            say(f"{bare}\n")

    return each(arguments, remove)


@verb(
    "prune", "Remove all stopped containers",
    Flag("--filter", "filter", "Provide filter values (e.g. 'until=<timestamp>')"),
    Flag("-f --force", "", "Do not prompt for confirmation"),
)  # fmt: skip
def prune(filter: list[tuple[str, str]], force: bool, arguments: list[str]) -> int:
    """Remove containers that do not run."""
    del arguments
    if not force and not confirmed(_PRUNE_WARNING):
        return 0
    found = engine().containers.prune(filter)
    if found.removed:
        say("Deleted Containers:\n")
        say("".join(f"{each.name}\n" for each in found.removed) + "\n")
    say(f"Total reclaimed space: {units.size(found.reclaimed_bytes)}\n")
    return 0
