"""`pyrunc`: the root of the commands, and what becomes of every error."""

from __future__ import annotations

import io
import os
import sys

from pyrunc.cli import missing
from pyrunc.cli.context import Context
from pyrunc.cli.flags import Flag, Refused, UsageError
from pyrunc.cli.session import ERROR, CommandError, Session, harmless, what_went_wrong
from pyrunc.cli.verb import MANAGEMENT, Group, Place, UnknownCommand
from pyrunc.errors import PyruncError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_COMMON = "Common Commands"
_INTERRUPTED, _PIPE_BROKEN = 128 + 2, 128 + 13


def _in(module: str, attribute: str, text: str, *, section: str = "Commands", hidden: bool = False) -> Place:
    return Place(f"pyrunc.cli.{module}", attribute, text, section, hidden)


_IMAGE = {
    "bootstrap": _in("image_bootstrap", "bootstrap", "Make a base image from the host's package mirror"),
    "history": _in("image_history", "history", "Show the history of an image"),
    "import": _in("image_archive", "import_", "Import the contents from a tarball to create a filesystem image"),
    "inspect": _in("inspect", "image_inspect", "Display detailed information on one or more images"),
    "load": _in("image_archive", "load", "Load an image from a tar archive or STDIN"),
    "ls": _in("image_list", "images", "List images"),
    "list": _in("image_list", "images", "", hidden=True),
    "prune": _in("image_remove", "prune", "Remove unused images"),
    "rm": _in("image_remove", "rmi", "Remove one or more images"),
    "remove": _in("image_remove", "rmi", "", hidden=True),
    "save": _in(
        "image_archive", "save", "Save one or more images to a tar archive (streamed to STDOUT by default)"
    ),
    "tag": _in("image_remove", "tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
}  # fmt: skip
_CONTAINER = {
    "attach": _in(
        "container_attach", "attach", "Attach local standard input, output, and error streams to a running container"
    ),
    "commit": _in("container_commit", "commit", "Create a new image from a container's changes"),
    "cp": _in("container_copy", "cp", "Copy files/folders between a container and the local filesystem"),
    "create": _in("create", "create", "Create a new container"),
    "diff": _in("container_commit", "diff", "Inspect changes to files or directories on a container's filesystem"),
    "exec": _in("container_exec", "exec_", "Execute a command in a running container"),
    "export": _in("container_commit", "export", "Export a container's filesystem as a tar archive"),
    "inspect": _in("inspect", "container_inspect", "Display detailed information on one or more containers"),
    "kill": _in("container_life", "kill", "Kill one or more running containers"),
    "logs": _in("container_logs", "logs", "Fetch the logs of a container"),
    "ls": _in("container_list", "ps", "List containers"),
    "list": _in("container_list", "ps", "", hidden=True),
    "ps": _in("container_list", "ps", "List containers", hidden=True),
    "pause": _in("container_life", "pause", "Pause all processes within one or more containers"),
    "prune": _in("container_life", "prune", "Remove all stopped containers"),
    "rename": _in("container_life", "rename", "Rename a container"),
    "restart": _in("container_life", "restart", "Restart one or more containers"),
    "rm": _in("container_life", "rm", "Remove one or more containers"),
    "remove": _in("container_life", "rm", "", hidden=True),
    "run": _in("run", "run", "Create and run a new container from an image"),
    "start": _in("container_start", "start", "Start one or more stopped containers"),
    "stop": _in("container_life", "stop", "Stop one or more running containers"),
    "top": _in("container_top", "top", "Display the running processes of a container"),
    "unpause": _in("container_life", "unpause", "Unpause all processes within one or more containers"),
    "update": _in("container_update", "update", "Update configuration of one or more containers"),
    "wait": _in("container_life", "wait", "Block until one or more containers stop, then print their exit codes"),
}  # fmt: skip
_VOLUME = {
    "create": _in("volume", "create", "Create a volume"),
    "inspect": _in("volume", "inspect", "Display detailed information on one or more volumes"),
    "ls": _in("volume", "ls", "List volumes"),
    "list": _in("volume", "ls", "", hidden=True),
    "prune": _in("volume", "prune", "Remove unused local volumes"),
    "rm": _in("volume", "rm", "Remove one or more volumes"),
    "remove": _in("volume", "rm", "", hidden=True),
    "update": _in("volume", "update", "", hidden=True),
}  # fmt: skip
_SYSTEM = {
    "check": _in("system_check", "check", "Tell what of the store is damaged or missing"),
    "df": _in("system_disk", "df", "Show disk usage", hidden=True),
    "events": _in("system_events", "events", "Get real time events"),
    "info": _in("system_info", "info", "Display system-wide information"),
    "prune": _in("system_disk", "prune", "Remove unused data", hidden=True),
}  # fmt: skip
_ROOT = {
    "run": _CONTAINER["run"]._replace(section=_COMMON),
    "exec": _CONTAINER["exec"]._replace(section=_COMMON),
    "ps": _CONTAINER["ps"]._replace(section=_COMMON, hidden=False),
    "images": _IMAGE["ls"]._replace(section=_COMMON),
    "version": _in("system_info", "version", "Show the pyrunc version information", section=_COMMON),
    "info": _SYSTEM["info"]._replace(section=_COMMON),
    "container": Place("pyrunc.cli.main", "container", "Manage containers", MANAGEMENT),
    "image": Place("pyrunc.cli.main", "image", "Manage images", MANAGEMENT),
    "system": Place("pyrunc.cli.main", "system", "Manage pyrunc", MANAGEMENT),
    "volume": Place("pyrunc.cli.main", "volume", "Manage volumes", MANAGEMENT),
    **{name: _CONTAINER[name] for name in ("attach", "commit", "cp", "create", "diff")},
    "events": _SYSTEM["events"], "export": _CONTAINER["export"],
    "history": _IMAGE["history"], "import": _IMAGE["import"],
    "inspect": _in("inspect", "inspect", "Return low-level information on Docker objects"),
    "kill": _CONTAINER["kill"], "load": _IMAGE["load"], "logs": _CONTAINER["logs"],
    **{name: _CONTAINER[name] for name in ("pause", "rename", "restart", "rm")},
    "rmi": _IMAGE["rm"], "save": _IMAGE["save"], "start": _CONTAINER["start"], "stop": _CONTAINER["stop"],
    "tag": _IMAGE["tag"], **{name: _CONTAINER[name] for name in ("top", "unpause", "update", "wait")},
}  # fmt: skip


def _begin(context: Context) -> int | None:
    params = context.params
    if params["version"]:
        from pyrunc.runtime.version import own_version

        sys.stdout.write(f"pyrunc version {own_version()}\n")
        return 0
    context.session = Session(params["root"], params["state"], params["graph"], params["debug"])
    return None


image = Group("image", "Manage images", _IMAGE, missing=missing.IMAGE)
container = Group("container", "Manage containers", _CONTAINER, missing=missing.CONTAINER)
system = Group("system", "Manage pyrunc", _SYSTEM, missing=missing.SYSTEM)
volume = Group("volume", "Manage volumes", _VOLUME)
root = Group(
    "pyrunc", "A container engine for Linux, without a daemon", _ROOT,
    [
        Flag("--config", "string", refused="nothing is configured by a file yet"),
        Flag("-c --context", "string", refused=missing.NO_DAEMON),
        Flag("-D --debug", "", "Show where an error comes from"),
        Flag("--graph", "string", "Snapshot driver: overlay2 or vfs (default the best that works here)"),
        Flag("-H --host", "list", refused=missing.NO_DAEMON),
        Flag("-l --log-level", "string", refused=missing.NO_DAEMON),
        Flag("--root", "string", "Durable state", default=""),
        Flag("--state", "string", "State that is gone after a reboot", default=""),
        Flag("--tls", refused=missing.NO_DAEMON),
        Flag("--tlscacert", "string", refused=missing.NO_DAEMON),
        Flag("--tlscert", "string", refused=missing.NO_DAEMON),
        Flag("--tlskey", "string", refused=missing.NO_DAEMON),
        Flag("--tlsverify", refused=missing.NO_DAEMON),
        Flag("-v --version", "", "Print version information and quit"),
    ],
    missing=missing.ROOT, begin=_begin,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Every error is words on stderr, none a traceback."""
    return _run(sys.argv[1:] if argv is None else argv, ends=False)


def program() -> NoReturn:
    """Run the command line of this process and end it, without what Python does at its end: all is written by then."""
    code = _run(sys.argv[1:], ends=True)
    bundled = sys.modules.get("pyrunc.bundled")
    if bundled is not None:
        bundled.save()
    held = sys.modules.get("pyrunc.runtime.held")
    if held is not None:
        held.end_all()
    spawner = sys.modules.get("pyrunc.runtime.spawner")
    if spawner is not None:
        spawner.shut_down()
    try:
        sys.stderr.flush()
    except OSError:
        pass  # nobody hears it
    os._exit(code)


def _run(words: Sequence[str], *, ends: bool) -> int:
    """Run one command line; *ends* says that this process ends with it."""
    _open_streams()
    context = Context(root, "pyrunc")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # names of files are bytes
    try:
        try:
            code = root.run(context, words)
        finally:
            if context.session is not None:
                context.session.close(ends)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _deafen()
        return _PIPE_BROKEN
    except Exception as exc:
        if context.session is not None and context.session.debug:
            raise
        text, code = _words(exc)
        return _say(text, code)


def _open_streams() -> None:
    """Put /dev/null where a standard stream is closed: a database would be opened there, and programs write to it."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115 - for good


def _words(exc: Exception) -> tuple[str, int]:
    """What is said about an error, and the exit code."""
    if isinstance(exc, UsageError):
        return f"{exc}\n\n{exc.hint}", exc.exit_code
    if isinstance(exc, UnknownCommand | Refused | CommandError):
        return str(exc), exc.exit_code
    if isinstance(exc, PyruncError):
        return f"{ERROR}{exc}", 1
    if isinstance(exc, OSError) and exc.strerror:
        return f"{ERROR}{what_went_wrong(exc)}", 1
    # What nobody has thought of is named, and -D shows where it comes from.
    return f"{ERROR}{type(exc).__name__}: {' '.join(str(exc).split())} (pyrunc -D ... shows where)", 1


def _say(text: str, code: int) -> int:
    try:
        sys.stdout.flush()
        sys.stderr.write(f"{harmless(text)}\n")
        sys.stderr.flush()
    except OSError:
        _deafen()  # nobody hears it; the exit code speaks
    return code


def _deafen() -> None:
    """Let nothing more be written to what takes nothing more, at the end of Python neither."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
