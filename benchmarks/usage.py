"""CPU time and syscalls of one start.

CPU: a process of its own makes some starts and ends; an accountant above it adopts orphans (a spawner that outlives
its Python), waits until no descendant is left and asks the kernel what they all used, `RUSAGE_CHILDREN`. Two runs
with different counts are subtracted, so that starting and ending what is resident cancels out. What the kernel does
later in threads of its own (taking network namespaces apart) belongs to no process and is in nobody's figure.

Syscalls: `strace -f -c`, untimed, of the command itself where the contender is a command, and otherwise of such a
process, again as the difference of two counts.

`python -m benchmarks.usage account|work NAME COUNT WORKSPACE` are the two processes.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.host import Workspace, adopt_orphans
from benchmarks.peers import CommandPeer, Peer, make

REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT_S = 600


def _seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _command(role: str, name: str, count: int, workspace: Workspace) -> list[str]:
    return [sys.executable, "-m", "benchmarks.usage", role, name, str(count), str(workspace.path)]


def _run(command: list[str]) -> float:
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_S
    )
    return float(json.loads(done.stdout))


def _work(name: str, count: int, workspace: Workspace) -> float:
    """Make *count* starts; returns the CPU seconds that went before them (loading Python, the first start), less
    those that only the contender itself can tell.
    """
    peer = make(name, workspace)
    before = _seconds(resource.RUSAGE_SELF)
    for _ in range(count):
        peer.start()
    peer.close()
    return before - getattr(peer, "unseen_cpu_s", 0.0)


def _account(name: str, count: int, workspace: Workspace) -> float:
    """Let another process make *count* starts; returns the CPU seconds of it and of all its descendants."""
    adopt_orphans()
    before = _run(_command("work", name, count, workspace))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return _seconds(resource.RUSAGE_CHILDREN) - before


def cpu_ms(peer: Peer, count: int, workspace: Workspace) -> float:
    """Return the CPU milliseconds, user and system, of one start, averaged over *count*."""

    def total(starts: int) -> float:
        return _run(_command("account", peer.name, starts, workspace))

    return (total(count) - total(0)) / count * 1e3


def total_calls(table: str) -> int:
    """Read the number of calls from the table that `strace -c` prints; raises ValueError without its last line."""
    for line in reversed(table.splitlines()):
        words = line.split()
        if words and words[-1] == "total":
            return int(words[3])
    raise ValueError("no total in what strace printed")


def _traced(command: list[str], workspace: Workspace) -> int:
    with tempfile.NamedTemporaryFile(dir=workspace.path, mode="r") as table:
        subprocess.run(
            ["strace", "-f", "-c", "-o", table.name, *command],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=TIMEOUT_S,
        )
        return total_calls(table.read())


def syscalls(peer: Peer, count: int, workspace: Workspace) -> float:
    """Return the syscalls of one start, averaged over *count*, in whatever process it makes them."""
    if isinstance(peer, CommandPeer):
        # The caller's own calls are not the runtime's: glibc's posix_spawn alone makes about 130.
        return sum(_traced(peer.command_line(), workspace) for _ in range(count)) / count

    def total(starts: int) -> int:
        return _traced(_command("work", peer.name, starts, workspace), workspace)

    return (total(count) - total(0)) / count


if __name__ == "__main__":
    role = {"account": _account, "work": _work}[sys.argv[1]]
    print(json.dumps(role(sys.argv[2], int(sys.argv[3]), Workspace.reopen(Path(sys.argv[4])))))
