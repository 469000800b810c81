"""`pyrunc exec`: a further program in a running container."""

from __future__ import annotations

from pyrunc.cli import flag_values
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, engine
from pyrunc.cli.verb import verb
from pyrunc.errors import NotFound, StartError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.engine.container import Container


_REFUSED_PROGRAM = 126  # Docker's code for whatever is wrong with it, but that it is not there


@verb(
    "exec CONTAINER COMMAND [ARG...]", "Execute a command in a running container",
    Flag("-d --detach", "", "Detached mode: run command in the background"),
    Flag("--detach-keys", "string", "Override the key sequence for detaching a container"),
    Flag("-e --env", "list", "Set environment variables", reader=flag_values.variable),
    Flag("--env-file", "list", "Read in a file of environment variables"),
    Flag("-i --interactive", "", "Keep STDIN open even if not attached"),
    Flag("--privileged", "", "Give extended privileges to the command"),
    Flag("-t --tty", "", "Allocate a pseudo-TTY"),
    Flag("-u --user", "string", 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
    Flag("-w --workdir", "string", "Working directory inside the container"),
    low=2, high=None, interspersed=False, brief=True,
)  # fmt: skip
def exec_(arguments: list[str], **flags: Any) -> int:
    """Run it; the exit code is the program's, 126 or 127 if it cannot start, else 1."""
    from pyrunc.cli import interactive
    from pyrunc.runtime.terminal import detach_keys

    if not flags["detach"]:
        interactive.check_input(stdin=flags["interactive"], tty=flags["tty"])
    options = _options(flags)
    container = engine().containers.get(arguments[0])
    if flags["tty"] or flags["interactive"]:
        detach_keys(flags["detach_keys"])
    if flags["detach"]:
        container.exec_detached(arguments[1:], **options)
        return 0
    try:
        return _attached(container, arguments[1:], options, flags)
    except StartError as exc:
        code = exc.exit_code if exc.exit_code == 127 else _REFUSED_PROGRAM
        words = str(exc)  # of another runtime, whole
        raise CommandError(
            words if words.startswith("OCI runtime") else f"exec failed: {words}", code
        ) from exc
    except NotFound as exc:
        if not str(exc).startswith("unable to find "):
            raise
        raise CommandError(str(exc), _REFUSED_PROGRAM) from exc


def _options(flags: dict[str, Any]) -> dict[str, Any]:
    """The arguments of Container.exec_start. Raises CommandError."""
    try:
        listed = [
            line for path in flags["env_file"] for line in flag_values.command_file(path, flag_values.file_variable)
        ]  # fmt: skip
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    # A name without "=" takes the variable away, as for docker.
    parted = (text.partition("=") for text in [*listed, *flags["env"]])
    variables = {name: value if given else None for name, given, value in parted}
    cwd = flags["workdir"] or None
    if cwd is not None and not cwd.startswith("/"):
        raise CommandError("exec failed: Cwd must be an absolute path", _REFUSED_PROGRAM)
    return {
        "env": variables, "cwd": cwd, "user": flags["user"] or None, "tty": flags["tty"],
        "privileged": flags["privileged"],
    }  # fmt: skip


def _attached(container: Container, argv: list[str], options: dict[str, Any], flags: dict[str, Any]) -> int:
    """With the streams of this command, and a shim, so that it goes on without this command."""
    from pyrunc.cli import foreground, interactive
    from pyrunc.engine import exec as execs

    tty, stdin = flags["tty"], flags["interactive"]
    wanted = execs.Wanted(argv, size=interactive.own_size(), **options)
    with foreground.attached(stdin=stdin) as (client, theirs):
        program = execs.attached(container, wanted, theirs.descriptor, stdin=stdin)
        theirs.close()
        outcome = foreground.pump(client, stdin=stdin, tty=tty, keys=flags["detach_keys"])
        if outcome is interactive.Outcome.DETACHED:
            raise CommandError("read escape sequence")
        return program.wait() if outcome is interactive.Outcome.ENDED else 1
