"""A further program in a running container: `SandboxProcess.exec` beside `runc exec` and `crun exec`.

    python -m benchmarks.exec_into [ROUNDS]

All three have the isolation of the bundle that `runc spec` writes, and take turns. Goal: 3 ms in process.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pyrunc
from benchmarks.host import Unable, Workspace, enter_private_namespace
from benchmarks.measure import summarize, turns

ROUNDS = 50


def sleeper(workspace: Workspace) -> dict[str, Any]:
    """Make the bundle of a container that waits to be joined; its document."""
    document: dict[str, Any] = json.loads((workspace.bundle / "config.json").read_text())
    document["process"]["args"] = ["/bin/busybox", "sleep", "600"]
    document["root"]["path"] = str(workspace.rootfs)
    (workspace.directory("sleeper") / "config.json").write_text(json.dumps(document))
    return document


def joiner(name: str, workspace: Workspace) -> tuple[Callable[[], None], Callable[[], None]]:
    """Start a container with the runtime *name*; what executes /bin/true in it, and what ends it."""
    program = shutil.which(name)
    if program is None:
        raise Unable(f"{name} is missing: apt-get install {name}")
    container = f"pyrunc-bench-{name}-{os.getpid()}"
    command = [program, "--root", str(workspace.directory(f"{name}-state"))]
    bundle = ["--bundle", str(workspace.directory("sleeper"))]
    subprocess.run(
        [*command, "run", "--detach", *bundle, container], check=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def once() -> None:
        pid = os.posix_spawn(program, [*command, "exec", container, "/bin/true"], os.environ)
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"{name} exec: exit status {os.waitstatus_to_exitcode(status)}")

    def end() -> None:
        subprocess.run([*command, "delete", "--force", container], check=True)

    return once, end


def main(rounds: int) -> None:
    """Print the median, the 95th percentile and the minimum of each."""
    enter_private_namespace()
    workspace = Workspace()
    document = sleeper(workspace)
    contenders: dict[str, Callable[[], object]] = {}
    endings: list[Callable[[], None]] = []
    try:
        process = pyrunc.Sandbox.from_spec(document, workspace.bundle).start(document["process"]["args"])
        endings.append(process.close)
        contenders["pyrunc"] = lambda: process.exec(["/bin/true"])
        contenders["pyrunc -t"] = lambda: process.exec(["/bin/true"], tty=True)
        for name in ("crun", "runc"):
            try:
                contenders[name], end = joiner(name, workspace)
                endings.append(end)
                contenders[name]()
            except (Unable, RuntimeError, subprocess.CalledProcessError) as error:
                contenders.pop(name, None)
                print(f"{name}: {error}")
        process.exec(["/bin/true"])
        samples: dict[str, list[int]] = {name: [] for name in contenders}
        for order in turns(list(contenders), rounds, 1):
            for name in order:
                begin = time.perf_counter_ns()
                contenders[name]()
                samples[name].append(time.perf_counter_ns() - begin)
        for name, taken in samples.items():
            found = summarize(taken)
            print(
                f"{name:9} median {found.median_ms:6.2f} ms  p95 {found.p95_ms:6.2f}  min {found.min_ms:6.2f}"
            )
    finally:
        for end in endings:
            end()
        workspace.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
