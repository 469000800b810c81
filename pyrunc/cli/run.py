"""`pyrunc run`: a container in the foreground."""

import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

import click

from pyrunc.cli import run_options
from pyrunc.cli.platforms import check_image
from pyrunc.cli.run_flags import FLAGS
from pyrunc.cli.session import CommandError, engine, what_went_wrong
from pyrunc.cli.streams import Streams
from pyrunc.cli.verb import USED, verb
from pyrunc.engine.container import Container
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound, PyruncError

_REFERENCE = "invalid reference format"
_NOT_PASSED_ON = frozenset(
    (signal.SIGCHLD, signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP, signal.SIGURG, signal.SIGTSTP, signal.SIGTTIN,
     signal.SIGTTOU, signal.SIGCONT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP,
     signal.SIGSYS, signal.SIGWINCH)
)  # fmt: skip

_ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))


@verb(
    "run IMAGE [COMMAND] [ARG...]", "Create and run a new container from an image", *FLAGS, low=1, high=None,
    interspersed=False,
)  # fmt: skip
def run(arguments: list[str], **flags: Any) -> int:
    """Run it to its end; the exit code is the program's, 126 or 127 if it cannot start, else 125."""
    try:
        return _run(arguments[0], arguments[1:], flags, click.get_current_context().meta[USED])
    except (PyruncError, CommandError, OSError) as exc:
        more = "\n\nRun 'pyrunc run --help' for more information"
        code = exc.exit_code if isinstance(exc, PyruncError) else 125
        raise CommandError(f"pyrunc: {what_went_wrong(exc)}{more}", code) from exc


def _run(image: str, argv: list[str], flags: dict[str, Any], used: set[str]) -> int:
    options = run_options.sandbox(flags, used)
    check_image(image, flags["platform"])
    entrypoint = None
    if "entrypoint" in used:
        entrypoint = [flags["entrypoint"]] if flags["entrypoint"] else []
    name = flags["name"] or None
    if flags["cidfile"] and os.path.exists(flags["cidfile"]):
        raise InvalidArgument(
            f"container ID file found, make sure the other container isn't running or delete {flags['cidfile']}"
        )
    stdin, stdout, stderr = _streams(flags)
    sys.stdout.flush()
    config = run_options.config(flags)
    if stdin is not None:
        config = {**config, "OpenStdin": True, "StdinOnce": True}
    with _Signals(flags["sig_proxy"]) as signals, Streams(stdin, stdout, stderr) as streams:
        container = engine().start(
            image, argv or None, name=name, remove=flags["rm"], entrypoint=entrypoint, config=config,
            allow_host=flags["allow_host_image"], client=streams.theirs, **options,
        )  # fmt: skip
        signals.go_to(container)
        if flags["cidfile"]:
            with open(flags["cidfile"], "x", encoding="ascii") as file:
                file.write(container.id)
        streams.pump()
        return container.wait()


def _streams(flags: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """The descriptors of this process that the program gets; None is /dev/null."""
    attached = {each.lower() for each in flags["attach"]}
    unknown = attached - {"stdin", "stdout", "stderr"}
    if unknown:
        raise InvalidArgument(
            f"invalid argument {min(unknown)!r}: valid streams are STDIN, STDOUT and STDERR"
        )
    stdin = 0 if "stdin" in attached or (flags["interactive"] and not attached) else None
    stdout = 1 if not attached or "stdout" in attached else None
    return stdin, stdout, 2 if not attached or "stderr" in attached else None


class _Signals:
    """Passes signals that this process gets on to a container's; what comes before it runs waits for it.

    What asks a program to end ends this one as long as there is none.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._process: Container | None = None
        self._waiting: list[int] = []
        self._before: dict[int, Any] = {}

    def go_to(self, process: Container) -> None:
        """The container runs."""
        self._process = process
        self._take(_ENDING)
        for number in self._waiting:
            _pass_on(process, number)

    def __enter__(self) -> "_Signals":
        self._take(
            {number for number in signal.valid_signals() if number < signal.SIGRTMIN}
            - _NOT_PASSED_ON
            - _ENDING
        )
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, numbers: Iterable[int]) -> None:
        for number in numbers if self._wanted else ():
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        if self._process is None:
            self._waiting.append(number)
        else:
            _pass_on(self._process, number)


def _pass_on(container: Container, number: int) -> None:
    try:
        container.kill(number)
    except (NotFound, FailedPrecondition):
        pass  # it has just ended
