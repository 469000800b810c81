"""`ps`: the processes of a container, in the columns of ps(1), or their pids as JSON."""

from __future__ import annotations

from pyrunc.oci import go_json
from pyrunc.oci.container_cgroups import processes
from pyrunc.oci.log import Failure, print_out
from pyrunc.oci.state import load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Print the processes; arguments behind the id go to ps(1), which gets `-ef` without."""
    container = load(root_of(command.options), command.arguments[0])
    if not container.own.get("cgroups"):
        raise Failure(
            f"unable to get all container pids: cgroups not configured for container {container.id}"
        )
    pids = processes(container)
    shape = command.text("format")
    if shape == "json":
        print_out(f"{go_json.compact(pids or None)}\n")
    elif shape == "table":
        # `ps ID --` would end ps's own flags.
        arguments = command.arguments[2:] if command.arguments[1:2] == ["--"] else command.arguments[1:]
        print_out(_table(_ps(arguments or ["-ef"]), frozenset(pids)))
    else:
        raise Failure("invalid format option")
    return 0


def _ps(arguments: list[str]) -> str:
    import subprocess

    try:
        ended = subprocess.run(["ps", *arguments], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise Failure('exec: "ps": executable file not found in $PATH') from None
    text = ended.stdout.decode(errors="surrogateescape")
    if ended.returncode:
        said = text + ended.stderr.decode(errors="surrogateescape")
        raise Failure(f"exit status {ended.returncode}: {said}")
    return text


def _table(text: str, pids: frozenset[int]) -> str:
    header, *rows = text.splitlines() or [""]
    names = header.split()
    if "PID" not in names:
        raise Failure("couldn't find PID field in ps output")
    column = names.index("PID")
    kept = [header]
    for row in rows:
        words = row.split()
        if not words:
            continue
        if len(words) <= column or not words[column].isdecimal():
            raise Failure(f"unable to parse pid: {row}")
        if int(words[column]) in pids:
            kept.append(row)
    return "".join(f"{row}\n" for row in kept)
