"""What it costs to write a directory tree as a tar: pyrunc, GNU tar and Python's tarfile, side by side.

    python -m benchmarks.layer_write [DIRECTORY] [--rounds N]

CPU time, user and system, of each contender in a process of its own, interleaved; all write into a pipe, with extended
attributes where they can. The first round does not count, so that the disk has no part in it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import median, turns

_PYRUNC = """
import os, sys
{module}
with open(1, "wb", buffering=0) as out:
    {call}
"""
_START = ("import pyrunc._native.layer_diff as diff", "pass")
_NATIVE = (
    "from pyrunc._native import layer_diff as diff",
    "diff.write_tree(os.open(sys.argv[1], os.O_RDONLY), out.write)",
)
_HASHED = ("from pyrunc.image import diff", "diff.write_tree(os.open(sys.argv[1], os.O_RDONLY), out.write)")
_TARFILE = (
    "import tarfile",
    "with tarfile.open(fileobj=out, mode='w|', format=tarfile.PAX_FORMAT) as tar: tar.add(sys.argv[1], '.')",
)


class Row(NamedTuple):
    """One contender: CPU seconds (median), and how many bytes it wrote."""

    title: str
    cpu_s: float
    size: int


def _python(parts: tuple[str, str]) -> list[str]:
    return [sys.executable, "-c", _PYRUNC.format(module=parts[0], call=parts[1])]


def contenders(directory: Path) -> dict[str, list[str]]:
    """Return each contender's command."""
    gnu = [
        "tar",
        "--create",
        "--file=-",
        "--format=pax",
        "--numeric-owner",
        "--sort=name",
        f"--directory={directory}",
    ]
    return {
        "the interpreter alone": _python(_START),
        "pyrunc": [*_python(_NATIVE), str(directory)],
        "pyrunc, with the digest": [*_python(_HASHED), str(directory)],
        "GNU tar": [*gnu, "."],
        "GNU tar --xattrs": [*gnu, "--xattrs", "--xattrs-include=*", "."],
        "tarfile": [*_python(_TARFILE), str(directory)],
    }


def cpu_seconds(command: list[str]) -> tuple[float, int]:
    """Run *command* and return its CPU seconds and the number of bytes that it wrote."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        size = 0
        buffer = bytearray(1 << 20)
        while got := process.stdout.readinto(buffer):  # type: ignore[attr-defined]
            size += got
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime, size


def measure(directory: Path, rounds: int) -> list[Row]:
    """Measure all contenders *rounds* times, and once before that does not count."""
    commands = contenders(directory)
    samples: dict[str, list[float]] = {name: [] for name in commands}
    sizes: dict[str, int] = {}
    for number, order in enumerate(turns(list(commands), rounds + 1, seed=1)):
        for name in order:
            seconds, sizes[name] = cpu_seconds(commands[name])
            if number:
                samples[name].append(seconds)
    return [Row(name, median(samples[name]), sizes[name]) for name in commands]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", default="/usr/lib", type=Path)
    parser.add_argument("--rounds", default=5, type=int)
    arguments = parser.parse_args()
    rows = measure(arguments.directory, arguments.rounds)
    gnu = next(row.cpu_s for row in rows if row.title == "GNU tar --xattrs")
    print(f"{'writing ' + str(arguments.directory):<28}{'CPU s':>8}{'x GNU tar':>11}{'MB':>8}")
    for row in rows:
        print(f"{row.title:<28}{row.cpu_s:>8.2f}{row.cpu_s / gnu:>11.2f}{row.size / 1e6:>8.0f}")


if __name__ == "__main__":
    main()
