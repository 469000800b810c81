"""`pyrunc attach`: this command's streams on those of a running container."""

import sys

from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, engine
from pyrunc.cli.verb import verb
from pyrunc.errors import FailedPrecondition


@verb(
    "attach CONTAINER", "Attach local standard input, output, and error streams to a running container",
    Flag("--detach-keys", "string", "Override the key sequence for detaching a container"),
    Flag("--no-stdin", "", "Do not attach STDIN"),
    Flag("--sig-proxy", "", "Proxy all received signals to the process", default=True),
    low=1, high=1,
)  # fmt: skip
def attach(detach_keys: str, no_stdin: bool, sig_proxy: bool, arguments: list[str]) -> int:
    """Stay until it has ended, or the user detaches; the exit code is the program's."""
    from pyrunc.cli import foreground, interactive
    from pyrunc.engine import container_state
    from pyrunc.runtime.attach import AttachClient
    from pyrunc.runtime.terminal import detach_keys as keys_of

    container = engine().containers.get(arguments[0])
    record = container.record(begun=True)
    try:
        container_state.check("attach", record)
    except FailedPrecondition as exc:
        raise CommandError(str(exc)) from exc  # which Docker's client says, not its daemon
    terminal = bool(record.config.get("Tty"))
    stdin = bool(record.config.get("OpenStdin")) and not no_stdin
    interactive.check_input(stdin=stdin, tty=terminal)
    keys_of(detach_keys)
    sys.stdout.flush()
    with (
        foreground.Signals(sig_proxy and not terminal) as signals,
        AttachClient.connect(record.state_dir, stdin=stdin) as client,
    ):
        signals.go_to(container.kill)
        outcome = foreground.pump(client, stdin=stdin, tty=terminal, keys=detach_keys)
        if outcome is interactive.Outcome.DETACHED:
            raise CommandError("read escape sequence")
        if outcome is interactive.Outcome.GONE:
            return 1
        return foreground.code_of(container, client)
