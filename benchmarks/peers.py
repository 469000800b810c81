"""The contenders: each starts `/bin/true` in its own way, once, or many times with a given number at once.

| name | what one start is |
|---|---|
| exec | posix_spawn of the static busybox and wait: no isolation at all |
| floor | floor.c: only the syscalls of a start |
| pyrunc | `Sandbox.run(["/bin/true"])` in this process |
| engine | `Engine.run(image, ["/bin/true"])` in this process, the image made of the same root |
| crun, runc | `crun run`, `runc run` of the bundle that `runc spec` wrote, and wait |
"""

import importlib
import io
import itertools
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from benchmarks.host import Unable, Workspace

Stages = dict[str, int]


class Peer(Protocol):
    """A contender, ready to start containers."""

    name: str
    title: str

    def start(self) -> tuple[int, Stages]:
        """Run one container to its end; returns nanoseconds, and those of its stages where they are known."""
        ...

    def many(self, count: int, width: int) -> int:
        """Run *count* containers, *width* at once; returns the wall time in nanoseconds."""
        ...

    def close(self) -> None:
        """End what is resident and remove what was made."""
        ...


def _in_threads(one: Callable[[], object], pool: ThreadPoolExecutor, count: int, width: int) -> int:
    """Call *one* *count* times from *width* threads of *pool*, each taking the next turn as soon as it is free.

    Returns nanoseconds from the release of the threads to the last end. The threads note both themselves: this one
    may get the processor only when all is over.
    """
    left = itertools.count()
    begin: list[int] = []
    gate = threading.Barrier(width, action=lambda: begin.append(time.perf_counter_ns()))

    def work() -> int:
        gate.wait()
        while next(left) < count:
            one()
        return time.perf_counter_ns()

    futures = [pool.submit(work) for _ in range(width)]
    return max(future.result() for future in futures) - begin[0]


class CommandPeer:
    """A contender that is a program: a process is spawned for each start and waited for."""

    def __init__(self, name: str, title: str, program: str, arguments: Callable[[int], list[str]]) -> None:
        """*arguments* makes the arguments of the n-th start."""
        self.name = name
        self.title = title
        self._program = program
        self._arguments = arguments
        self._serial = itertools.count()
        self._pool = ThreadPoolExecutor(max_workers=64)

    def command_line(self) -> list[str]:
        """Return the next start as a command: the program's path, then its arguments."""
        return [self._program, *self._arguments(next(self._serial))]

    def start(self) -> tuple[int, Stages]:
        """Spawn the program and wait for it; raises RuntimeError when it does not exit with 0."""
        command = self.command_line()
        begin = time.perf_counter_ns()
        pid = os.posix_spawn(self._program, command, os.environ)
        _, status = os.waitpid(pid, 0)
        elapsed = time.perf_counter_ns() - begin
        if status != 0:
            raise RuntimeError(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
        return elapsed, {}

    def many(self, count: int, width: int) -> int:
        """Spawn from *width* threads."""
        return _in_threads(self.start, self._pool, count, width)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


class FloorPeer:
    """floor.c, resident, driven by lines on its standard input."""

    name = "floor"
    title = "the floor (C, only the syscalls)"

    def __init__(self, workspace: Workspace) -> None:
        """Compile and start it."""
        scratch = workspace.directory(f"floor-{os.getpid()}")
        self._process = subprocess.Popen(
            [str(workspace.floor()), str(workspace.rootfs), str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt at the terminal must not keep it from cleaning up
        )
        try:
            self.stage_names: list[str] = self._answer()["stages"]
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the floor ended with exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def order(self, line: str) -> dict[str, Any]:
        """Send one command of floor.c's protocol and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(self) -> tuple[int, Stages]:
        """Do one start; the time is the floor's own, without the pipe to it."""
        (marks,) = self.order("1 1")["starts"]
        return sum(marks), dict(zip(self.stage_names, marks, strict=True))

    def many(self, count: int, width: int) -> int:
        """Do *count* starts by *width* resident workers."""
        return int(self.order(f"C {count} {width}")["wall_ns"])

    def close(self) -> None:
        """Tell it to end, upon which it removes its cgroups; raises RuntimeError when that fails.

        Closing its input would not do: another contender may have forked a process that holds the pipe too.
        """
        self._process.communicate("Q\n")
        if self._process.returncode != 0:
            raise RuntimeError(f"the floor ended with exit status {self._process.returncode}")


class PyruncPeer:
    """`pyrunc.Sandbox` in this process; one sandbox serves every start.

    *defaults* False gives it the document of the bundle that runc and crun run; True what a
    Sandbox is without further arguments: Docker's isolation, seccomp and a scratch overlay included.
    """

    def __init__(self, workspace: Workspace, defaults: bool) -> None:
        """Import pyrunc; raises Unable when it cannot be imported."""
        self.name: str = "pyrunc-default" if defaults else "pyrunc"
        self.title: str = (
            "pyrunc `Sandbox(rootfs).run`" if defaults else "pyrunc `Sandbox.run`, runc's bundle"
        )
        try:
            sandbox: Any = importlib.import_module("pyrunc").Sandbox
            if defaults:
                self._box: Any = sandbox(str(workspace.rootfs))
            else:
                document = json.loads((workspace.bundle / "config.json").read_text())
                self._box = sandbox.from_spec(document, workspace.bundle)
        except (ImportError, AttributeError) as error:
            raise Unable(f"pyrunc cannot be imported: {error}") from error
        self._pool = ThreadPoolExecutor(max_workers=64)
        # Nobody waits for a supervisor, so the kernel adds its time, and its container's, to nobody's.
        self.unseen_cpu_s = 0.0

    def start(self) -> tuple[int, Stages]:
        """Run /bin/true in the sandbox that is open; raises RuntimeError when it does not exit with 0."""
        begin = time.perf_counter_ns()
        result = self._once()
        elapsed = time.perf_counter_ns() - begin
        self.unseen_cpu_s += (result.utime_us + result.stime_us + result.overhead_us) / 1e6
        if result.exit_code != 0:
            raise RuntimeError(f"pyrunc: exit code {result.exit_code}, {result.stderr!r}")
        return elapsed, dict(result.timings_ns)

    def _once(self) -> Any:
        return self._box.run(["/bin/true"])

    def many(self, count: int, width: int) -> int:
        """Run from *width* threads that share the sandbox."""
        return _in_threads(self.start, self._pool, count, width)

    def close(self) -> None:
        """Close the sandbox."""
        self._pool.shutdown()
        self._box.close()


class EnginePeer(PyruncPeer):
    """`pyrunc.Engine` in this process: a name is resolved, and the program started in the image's snapshot."""

    name = "engine"
    title = "pyrunc `Engine.run(image)`"

    def __init__(self, workspace: Workspace) -> None:
        """Make an image of the workspace's root; raises Unable when pyrunc cannot be imported."""
        try:
            self._box = importlib.import_module("pyrunc").Engine(workspace.directory(f"engine-{os.getpid()}"))
        except (ImportError, AttributeError) as error:
            raise Unable(f"pyrunc cannot be imported: {error}") from error
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(workspace.rootfs, arcname=".")
        packed.seek(0)
        self._box.images.import_(packed, "bench")
        self._pool = ThreadPoolExecutor(max_workers=64)
        self.unseen_cpu_s = 0.0

    def _once(self) -> Any:
        return self._box.run("bench", ["/bin/true"])


def _runtime(name: str, workspace: Workspace) -> Peer:
    program = shutil.which(name)
    if program is None:
        raise Unable(f"{name} is missing: apt-get install {name}")
    root = str(workspace.directory(f"{name}-state"))
    bundle = str(workspace.bundle)
    prefix = f"pyrunc-bench-{os.getpid()}"

    def arguments(serial: int) -> list[str]:
        return ["--root", root, "run", "--bundle", bundle, f"{prefix}-{serial}"]

    return CommandPeer(name, f"{name} run", program, arguments)


def _exec_only(workspace: Workspace) -> Peer:
    program = str(workspace.rootfs / "bin" / "true")
    return CommandPeer("exec", "exec only, no isolation", program, lambda _serial: [])


MAKERS: dict[str, Callable[[Workspace], Peer]] = {
    "exec": _exec_only,
    "floor": FloorPeer,
    "pyrunc": lambda workspace: PyruncPeer(workspace, defaults=False),
    "pyrunc-default": lambda workspace: PyruncPeer(workspace, defaults=True),
    "engine": EnginePeer,
    "crun": lambda workspace: _runtime("crun", workspace),
    "runc": lambda workspace: _runtime("runc", workspace),
}


def make(name: str, workspace: Workspace) -> Peer:
    """Make the contender *name* and let it start one container, which warms it and proves that it works.

    Raises Unable, with the reason, when it cannot be measured here.
    """
    peer = MAKERS[name](workspace)
    try:
        peer.start()
    except Exception as error:
        peer.close()
        raise Unable(f"{name} cannot start a container: {error}") from error
    return peer
