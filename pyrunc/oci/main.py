"""The entry of pyrunc-oci in Python: every verb but the act of creating, and every word of help and errors.

The native front door serves the ordinary cases itself and comes here for the rest, with the same arguments. It also
comes here, as `:failed`, to have a failed plan put into words.
"""

from __future__ import annotations

from pyrunc.oci.flags import BadUsage, parse
from pyrunc.oci.grammar import VERBS
from pyrunc.oci.log import Failure, Log, of_verb, print_out

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Command


def main(front_door: str, arguments: list[str]) -> int:
    """Do what a command line says, given without the program's name, and give the exit code.

    *front_door* is the path of the executable that was called. What goes wrong is logged as runc does it; nothing
    is raised.
    """
    if arguments[:1] == [":failed"]:
        failed: int = _module("pyrunc.oci.failed").run(front_door, arguments[1:])
        return failed
    log = Log()
    try:
        try:
            command = parse(arguments, front_door)
        except BadUsage as usage:
            if usage.options is not None:
                log = Log(usage.options.log, usage.options.log_format, usage.options.debug)
            if usage.verb is not None:
                print_out(f"{usage.headline}\n\n{_usage(usage.verb)}")
            log.error(usage.message)
            return usage.exit_code
        log = Log(command.options.log, command.options.log_format, command.options.debug)
        try:
            return _run(command, log)
        except Failure as failure:
            raise of_verb(command.verb, failure) from None
    except Failure as failure:
        log.error(failure.message)
        return failure.exit_code
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return _end_by_interrupt()


def _end_by_interrupt() -> int:
    """End by the signal itself, as a program does that does not know it, so that a shell stops as well."""
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130


def _module(name: str) -> Any:
    # The function behind the statement: importlib is a millisecond by itself.
    return __import__(name, fromlist=["run"])


def _run(command: Command, log: Log) -> int:
    if command.verb == "help":
        print_out(_usage(command.arguments[0] if command.arguments else ""))
        return 0
    if command.verb == "version":
        from pyrunc.oci.usage import version

        print_out(version())
        return 0
    from pyrunc.errors import PyruncError

    verb = _module(VERBS[command.verb].module)
    try:
        code: int = verb.run(command, log)
    except (Failure, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001
        # Whatever it is: callers look for it in the log, and for nothing on standard error.
        if command.options.debug:
            import traceback

            log.write("debug", traceback.format_exc())
        known = isinstance(error, PyruncError | OSError | UnicodeError)
        raise Failure(_words(error) if known else f"internal error: {error!r}") from None
    return code


def _words(error: Exception) -> str:
    from pyrunc.oci.log import reason

    if isinstance(error, OSError) and error.filename is not None:
        name = error.filename
        return f"{name if isinstance(name, str) else repr(name)}: {reason(error)}"
    return str(error)


def _usage(verb: str) -> str:
    from pyrunc.oci.usage import usage

    return usage(verb)
