"""`pyrunc start`: containers that were created, or have ended."""

import sys

from pyrunc.cli.flags import Flag
from pyrunc.cli.session import ERROR, CommandError, complain, engine, say, what_went_wrong
from pyrunc.cli.verb import verb
from pyrunc.errors import PyruncError


@verb(
    "start CONTAINER [CONTAINER...]", "Start one or more stopped containers",
    Flag("-a --attach", "", "Attach STDOUT/STDERR and forward signals"),
    Flag("--checkpoint", "string", refused="containers cannot be checkpointed yet"),
    Flag("--checkpoint-dir", "string", refused="containers cannot be checkpointed yet"),
    Flag("--detach-keys", "string", "Override the key sequence for detaching a container"),
    Flag("-i --interactive", "", "Attach container's STDIN"),
    low=1, high=None, brief=True,
)  # fmt: skip
def start(
    attach: bool, checkpoint: str, checkpoint_dir: str, detach_keys: str, interactive: bool, arguments: list[str]
) -> int:  # fmt: skip
    """Start containers; with -a or -i one, in the foreground, whose exit code is the program's."""
    del checkpoint, checkpoint_dir
    if attach or interactive:
        if len(arguments) > 1:
            raise CommandError("you cannot start and attach multiple containers at once")
        try:
            return _attached(arguments[0], interactive, detach_keys)
        except PyruncError as exc:
            raise CommandError(f"{ERROR}{exc}") from exc
    failed = []
    for name in arguments:
        try:
            engine().containers.get(name).start()
        except (PyruncError, OSError) as exc:
            complain(f"{ERROR}{what_went_wrong(exc)}")
            failed.append(name)
        else:
            say(f"{name}\n")
    if failed:
        complain(f"{ERROR}failed to start containers: {', '.join(failed)}")
    return 1 if failed else 0


def _attached(name: str, interactive: bool, detach_keys: str) -> int:
    from pyrunc.cli import foreground
    from pyrunc.runtime.attach import AttachClient

    container = engine().containers.get(name)
    record = container.record()
    stdin = interactive and bool(record.config.get("OpenStdin"))
    terminal = bool(record.config.get("Tty"))
    foreground.check_keys(detach_keys)
    if stdin and terminal and not sys.stdin.isatty():
        raise CommandError("the input device is not a TTY")
    sys.stdout.flush()
    with foreground.Signals(not terminal) as signals, foreground.attached(stdin=stdin) as (client, theirs):
        started = container.start(client=theirs.descriptor)
        theirs.close()
        mine = client if started else AttachClient.connect(container.record().state_dir, stdin=stdin)
        signals.go_to(container.kill)
        outcome = foreground.pump(mine, stdin=stdin, tty=terminal, keys=detach_keys)
        mine.close()
        return foreground.code_of(container, mine) if outcome is foreground.Outcome.ENDED else 0
