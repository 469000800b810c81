"""`docker top`: the host's ps, of which the lines about a container's processes are shown."""

import os
import subprocess

from pyrunc.errors import FailedPrecondition, PyruncError, Unsupported
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.engine.parts import Parts

_TIMEOUT_S = 30


class Processes(NamedTuple):
    """What ps says: the *titles* of its columns, and a row of as many fields for each process."""

    titles: "tuple[str, ...]"
    rows: "tuple[tuple[str, ...], ...]"


def top(parts: "Parts", container_id: str, arguments: "Sequence[str]" = ()) -> Processes:
    """The processes of a running container, as ``ps`` with *arguments* (none: -ef) shows them.

    Only what comes with the host's ps is possible, and a column PID is needed. Raises NotFound, FailedPrecondition in
    Docker's words; Unsupported where the host has no ps.
    """
    from pyrunc.engine import stopping

    found = stopping.current(parts, container_id)
    if not found.running:
        raise FailedPrecondition(f"Container {found.id} is not running")
    words = list(arguments) or ["-ef"]
    # Before ps looks: what was in the container then and is not any more is not another's, since pids are not
    # used again so soon.
    pids = _pids(found.pid, found.id)
    return _filtered(_ps(words), pids)


def _pids(pid: int, container_id: str) -> "set[int]":
    """The processes in a container's cgroups and below, as the host numbers them; of the first hierarchy with any."""
    from pyrunc.runtime import cgroup_layout

    path = _cgroup(pid, container_id)
    for hierarchy in cgroup_layout.detect().hierarchies:
        found: set[int] = set()
        for directory, _, names in os.walk(f"{hierarchy.mountpoint}/{path}"):
            if "cgroup.procs" in names:
                try:
                    with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                        found |= {int(line) for line in file}
                except OSError:
                    continue  # it has just gone, or it is a threaded one, whose processes are above
        if found:
            return found
    raise FailedPrecondition(f"Container {container_id} is not running")


def _cgroup(pid: int, container_id: str) -> str:
    """The path of a container's cgroups, which is the same in every hierarchy."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                path = line.rstrip("\n").split(":", 2)[2]
                before, found, _ = path.partition(f"/{container_id}")
                if found:
                    return before + found
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended before it was opened, or before it was read
    raise FailedPrecondition(f"Container {container_id} is not running")


def _ps(words: "list[str]") -> str:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    try:
        done = subprocess.run(
            ["ps", *words], capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise Unsupported("ps: not found on the host (Debian: procps)") from exc
    if done.returncode:
        said = done.stderr.decode("utf-8", "surrogateescape").strip().partition("\n")[0]
        raise PyruncError(f"ps: {said.removeprefix('ps: ') or f'exit status {done.returncode}'}")
    return os.fsdecode(done.stdout)


def _filtered(text: str, pids: "set[int]") -> Processes:
    """The lines of *text* that are about *pids*, and, with ps's options about threads, those that follow them."""
    lines = text.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise FailedPrecondition("Couldn't find PID field in ps output")
    at = titles.index("PID")
    rows = []
    preceded = False
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) <= at:
            continue
        if fields[at] == "-":  # a thread, below its process
            if preceded:
                rows.append(fields)
            continue
        try:
            pid = int(fields[at])
        except ValueError:
            raise PyruncError(f"Unexpected pid '{fields[at]}': not a number") from None
        preceded = pid in pids
        if preceded:
            rows.append(fields)
    return Processes(tuple(titles), tuple(tuple(row) for row in rows))
