"""`python -m tests.vm [options] [PYTEST ARGUMENT...]` or `python -m tests.vm [options] -- COMMAND...`."""

import argparse
import glob
import os
import shutil
import signal
import sys

from . import machine, qemu, uml

# As timeout(1) and env(1) have them.
_EXIT_TIMEOUT, _EXIT_MACHINE = 124, 125
KERNELS: dict[str, machine.Kernel] = {"qemu": qemu.program, "uml": uml.program}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev vm",
        usage="%(prog)s [options] [PYTEST ARGUMENT...] | [options] -- COMMAND...",
        description="Run the tests marked `vm`, or COMMAND, under a second kernel on this very file tree.",
        epilog="Exit code: the command's; 124 when the time is over, 125 when the kernel fails.",
        allow_abbrev=False,
    )
    parser.add_argument("--kernel", choices=sorted(KERNELS), default="uml", help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=1500.0, metavar="S", help="default: %(default)g s")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="default: %(default)s MiB")
    parser.add_argument(
        "--append", default="", metavar="WORDS", help="more words for the kernel's command line"
    )
    parser.add_argument("--console", action="store_true", help="show the kernel's messages on standard error")
    return parser


def _environment() -> dict[str, str]:
    """Return the environment for the command: ours, but where it speaks of our terminal or directories."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TMPDIR", "XDG_RUNTIME_DIR")
    }
    environment["COLUMNS"] = str(shutil.get_terminal_size().columns)
    if not sys.stdout.isatty():
        environment |= {"TERM": "dumb", "NO_COLOR": "1"}
    return environment


def _places() -> list[str]:
    """Where tests are that may be marked `vm`: to look into all others takes half a minute there."""
    found = set()
    for path in glob.glob("tests/**/*.py", recursive=True):
        with open(path, encoding="utf-8") as file:
            name = os.path.basename(path)
            if name.startswith(("test_", "conftest.")) and "mark.vm" in file.read():
                found.add(os.path.dirname(path) if name == "conftest.py" else path)
    return sorted(path for path in found if os.path.dirname(path) not in found)


def _stop(number: int, _frame: object) -> None:
    """Leave by an exception, so that the machine is taken down on the way."""
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    """Run what *arguments* say and return the exit code."""
    command: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    options, pytest_arguments = _parser().parse_known_args(arguments)
    if not command:
        command = [sys.executable, "-m", "pytest", "-m", "vm", *pytest_arguments]
        if not any(os.path.exists(word.partition("::")[0]) for word in pytest_arguments):
            command += _places()
    elif pytest_arguments:
        _parser().error(f"unknown option before --: {pytest_arguments[0]}")
    request = machine.Request(
        argv=command,
        cwd=os.getcwd(),
        env=_environment(),
        memory_mib=options.memory,
        timeout_s=options.timeout,
        append=options.append.split(),
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        return machine.run(KERNELS[options.kernel], request, console_fd=2 if options.console else None)
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except machine.MachineError as error:
        print(f"dev vm: {options.kernel}: {error}", file=sys.stderr)
        return _EXIT_TIMEOUT if isinstance(error, machine.MachineTimeout) else _EXIT_MACHINE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
