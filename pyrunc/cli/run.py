"""`pyrunc run`: a container in the foreground, or with -d one that goes on by itself."""

from __future__ import annotations

import sys

from pyrunc.cli.create import Wanted, check_cidfile, write_cidfile
from pyrunc.cli.run_flags import RUN
from pyrunc.cli.session import CommandError, engine, say, what_went_wrong
from pyrunc.cli.verb import verb
from pyrunc.errors import PyruncError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.engine.container import Container


_CODES = (
    (127, ("executable file not found", "no such file or directory")),
    (126, ("permission denied", "is a directory")),
)


@verb(
    "run IMAGE [COMMAND] [ARG...]", "Create and run a new container from an image", *RUN, low=1, high=None,
    interspersed=False, brief=True,
)  # fmt: skip
def run(arguments: list[str], **flags: Any) -> int:
    """Run it; the exit code is the program's, 126 or 127 if it cannot start, else 125."""
    if flags["detach"] and flags["attach"]:
        raise CommandError("conflicting options: cannot specify both --attach and --detach")
    wanted = Wanted("run", arguments, flags)
    if not flags["detach"] and flags["tty"] and wanted.config.get("AttachStdin") and not sys.stdin.isatty():
        raise CommandError("the input device is not a TTY")
    try:
        if flags["cidfile"]:
            check_cidfile(flags["cidfile"])
        return _detached(wanted, flags) if flags["detach"] else _attached(wanted, flags)
    except (PyruncError, OSError) as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        more = "\n\nRun 'pyrunc run --help' for more information"
        text = what_went_wrong(exc)
        raise CommandError(f"pyrunc: {text}{more}", _code(exc, text)) from exc


def _code(exc: Exception, text: str) -> int:
    """The exit code of what cannot start: as Docker's client, it goes by the words, whatever they are about."""
    code = exc.exit_code if isinstance(exc, PyruncError) else 125
    if code == 125:
        for number, words in _CODES:
            if any(each in text for each in words):
                return number
    return code


def _detached(wanted: Wanted, flags: dict[str, Any]) -> int:
    """Start it and say its id, which is said too when it cannot start."""
    container = wanted.make(engine().containers.create, allow_host=flags["allow_host_image"])
    write_cidfile(flags["cidfile"], container.id)
    try:
        container.start()
    finally:
        say(f"{container.id}\n")
    return 0


def _attached(wanted: Wanted, flags: dict[str, Any]) -> int:
    from pyrunc.cli import foreground

    foreground.check_keys(flags["detach_keys"])
    config = wanted.config
    stdin = bool(config["AttachStdin"])
    allow = flags["allow_host_image"]
    sys.stdout.flush()
    with (
        foreground.Signals(flags["sig_proxy"] and not flags["tty"]) as signals,
        foreground.attached(
            stdin=stdin, stdout=config["AttachStdout"], stderr=config["AttachStderr"]
        ) as (client, theirs),
    ):  # fmt: skip
        container: Container
        if flags["cidfile"]:
            container = wanted.make(engine().containers.create, allow_host=allow)
            write_cidfile(flags["cidfile"], container.id)
            container.start(client=theirs.descriptor)
        else:
            container = wanted.make(engine().start, allow_host=allow, client=theirs.descriptor)
        theirs.close()
        signals.go_to(container.kill)
        outcome = foreground.pump(client, stdin=stdin, tty=flags["tty"], keys=flags["detach_keys"])
        return foreground.code_of(container, client) if outcome is foreground.Outcome.ENDED else 0
