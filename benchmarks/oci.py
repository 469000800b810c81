"""`pyrunc-oci` beside crun and runc, by their command lines: the life of a container, `run`, and `exec`.

    python -m benchmarks.oci [ROUNDS]

All have the bundle that `runc spec` writes, and take turns in a random order. `pyrunc` has a planner, and `pyrunc cold`
has none and starts Python each time. Goals, with the planner: life and run at least 1.5 times as fast as crun's, exec
twice as fast as runc's; without: life and run not slower than runc's.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.host import Unable, Workspace, adopt_orphans, enter_private_namespace
from benchmarks.measure import summarize, turns

ROUNDS = 40
FRONT_DOOR = Path(__file__).parents[1] / "bin/pyrunc-oci"
PARTS = ("create", "start", "kill", "delete")
Samples = dict[str, list[int]]


class Contender:
    """A runtime with a state directory of its own."""

    def __init__(self, name: str, program: str, state: Path, environment: dict[str, str]) -> None:
        """Call *program* by the name *name*, with *environment* added."""
        self.name = name
        self._program = program
        self._command = [program, "--root", str(state)]
        self._environment = {**os.environ, **environment}
        # It names the cgroup too, which all contenders would share.
        self.container = f"pyrunc-bench-{name.replace(' ', '-')}-{os.getpid()}"

    def call(self, *words: str) -> int:
        """Do one command and wait for it; nanoseconds. Raises RuntimeError when it fails."""
        quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
        begin = time.perf_counter_ns()
        pid = os.posix_spawn(self._program, [*self._command, *words], self._environment, file_actions=quiet)
        _, status = os.waitpid(pid, 0)
        taken = time.perf_counter_ns() - begin
        if status:
            raise RuntimeError(f"{self.name} {words[0]}: {os.waitstatus_to_exitcode(status)}")
        return taken

    def life(self, bundle: Path) -> dict[str, int]:
        """From create to delete; nanoseconds of each part, and of what is between kill and the end as `end`."""
        container = self.container
        taken = {"create": self.call("create", "--bundle", str(bundle), container)}
        taken["start"] = self.call("start", container)
        taken["kill"] = self.call("kill", container, "KILL")
        begin = time.perf_counter_ns()
        os.wait()  # its parent has gone, so it is ours
        taken["end"] = time.perf_counter_ns() - begin
        taken["delete"] = self.call("delete", container)
        return taken


@contextmanager
def planner(directory: Path) -> Iterator[None]:
    """Have a planner in *directory*."""
    environment = {**os.environ, "PYRUNC_OCI_PLANNER": str(directory)}
    code = "import sys; from pyrunc.oci import planner; planner.ensure(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(FRONT_DOOR)], check=True, env=environment)
    status = FRONT_DOOR.stat()
    place = directory / f"{status.st_dev:x}-{status.st_ino:x}"
    for _ in range(200):
        if place.exists():
            break
        time.sleep(0.02)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.connect(str(place))
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    try:
        yield
    finally:
        # It is ours: whose parent has gone is this process's.
        pid = int.from_bytes(peer[:4], sys.byteorder)
        os.kill(pid, 15)
        os.waitpid(pid, 0)


def contenders(workspace: Workspace) -> list[Contender]:
    """Those that are there. Raises Unable without ours."""
    if not FRONT_DOOR.exists():
        raise Unable(f"{FRONT_DOOR} is missing: build in place")
    planned = {"PYRUNC_OCI_PLANNER": str(workspace.path / "planner")}
    found = [
        Contender("pyrunc", str(FRONT_DOOR), workspace.directory("state-pyrunc"), planned),
        Contender(
            "pyrunc cold", str(FRONT_DOOR), workspace.directory("state-cold"), {"PYRUNC_OCI_PLANNER": "0"}
        ),
    ]
    for name in ("crun", "runc"):
        program = shutil.which(name)
        if program is None:
            print(f"{name} is missing: apt-get install {name}")
        else:
            found.append(Contender(name, program, workspace.directory(f"state-{name}"), {}))
    return found


def table(title: str, samples: Samples) -> None:
    """Print medians, minima, and how many times as fast as each peer the first two are."""
    found = {name: summarize(taken) for name, taken in samples.items() if taken}
    for name, one in found.items():
        ratios = "".join(
            f"  {found[peer].median_ms / one.median_ms:5.2f} x {peer}"
            for peer in ("crun", "runc")
            if peer in found and name.startswith("pyrunc")
        )
        print(
            f"{title:8} {name:12} median {one.median_ms:7.2f} ms  p95 {one.p95_ms:7.2f}  min {one.min_ms:7.2f}{ratios}"
        )


def bundle_of(workspace: Workspace, name: str, *words: str) -> Path:
    """Make a bundle with another command."""
    document = json.loads((workspace.bundle / "config.json").read_text())
    document["process"]["args"] = list(words)
    document["root"]["path"] = str(workspace.rootfs)
    path = workspace.directory(name)
    (path / "config.json").write_text(json.dumps(document))
    return path


def measure(them: list[Contender], rounds: int, once: Callable[[Contender], int]) -> Samples:
    """Let *them* take turns; one that fails is out."""
    samples: Samples = {one.name: [] for one in them}
    left = []
    for one in them:
        try:
            once(one)
            left.append(one)
        except RuntimeError as error:
            print(f"left out: {error}")
    for order in turns(left, rounds, 1):
        for one in order:
            samples[one.name].append(once(one))
    return samples


def main(rounds: int) -> None:
    """Print one table for each of the three."""
    enter_private_namespace()
    adopt_orphans()
    workspace = Workspace()
    with ExitStack() as stack:
        stack.callback(workspace.close)
        them = contenders(workspace)
        sleeper = bundle_of(workspace, "sleeper", "/bin/busybox", "sleep", "600")
        stack.enter_context(planner(workspace.path / "planner"))
        parts: dict[str, Samples] = {part: {one.name: [] for one in them} for part in PARTS}

        def live(one: Contender) -> int:
            taken = one.life(sleeper)
            for part in PARTS:
                parts[part][one.name].append(taken[part])
            return sum(taken.values())

        table("life", measure(them, rounds, live))
        for part in PARTS:
            table(f"  {part}", parts[part])
        words = ("run", "--bundle", str(workspace.bundle))
        table("run", measure(them, rounds, lambda one: one.call(*words, one.container)))
        joined = []
        for one in them:
            try:
                one.call("run", "--detach", "--bundle", str(sleeper), one.container)
            except RuntimeError as error:
                print(f"left out: {error}")
                continue
            joined.append(one)
            stack.callback(one.call, "delete", "--force", one.container)
        table("exec", measure(joined, rounds, lambda one: one.call("exec", one.container, "/bin/true")))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
