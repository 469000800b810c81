"""A front door without any Python behind it, and containers that consist of a process and its state.json."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.oci.bundles import FRONT_DOOR

PYTHON = 77
"""The exit code of a command that the front door left to Python."""

FREEZER = Path("/sys/fs/cgroup/freezer")
MEMORY = Path("/sys/fs/cgroup/memory")
READY, FAILED = 1, 2


def install(directory: Path) -> Path:
    """Install a front door in *directory* whose Python only says what it was asked."""
    path = directory / "bin/pyrunc-oci"
    path.parent.mkdir(parents=True)
    shutil.copy2(FRONT_DOOR, path)
    python = path.parent / "python3"
    # After -I -S -c, the program, the front door and the directory.
    python.write_text(f'#!/bin/sh\nshift 6\necho "$@"\nexit {PYTHON}\n')
    python.chmod(0o755)
    return path


def call(
    front_door: Path,
    *words: str | Path,
    planner: str | Path = "0",
    env: dict[str, str] | None = None,
    cwd: str | Path = "/",
    before: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Call the front door, by way of the command *before*."""
    environment = {"PATH": "/usr/bin", "PYRUNC_OCI_PLANNER": str(planner), **(env or {})}
    return subprocess.run(
        [*before, front_door, *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        cwd=cwd,
    )


def started(pid: int) -> int:
    """When a process was born, in ticks since boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def progress(kind: int, step: int = 0, error: int = 0, op: int = 0) -> bytes:
    """A record of init's, as channel.pxd has it."""
    return struct.pack("=IIiI", kind, step, error, op) + bytes(8 * 16)


class Made:
    """A container that was made by hand below *root*."""

    def __init__(self, root: Path, container_id: str, pid: int, **own: Any) -> None:
        self.id = container_id
        self.directory = root / container_id
        self.directory.mkdir(parents=True, mode=0o711)
        self.own: dict[str, Any] = {
            "version": 1,
            "start_time": started(pid),
            "native": True,
            "own_pids": True,
            "cgroups": [],
            "freezer": "",
            "kill": "",
            "systemd": None,
            **own,
            "spec": {"annotations": {"x": '\n  "pid": 1,'}},
        }
        self.shown = {
            "ociVersion": "1.2.0",
            "id": container_id,
            "pid": pid,
            "status": "created",
            "bundle": "/b",
            "rootfs": "/b/rootfs",
            "created": "2026-11-25T22:00:00.123456789Z",
            "annotations": {"pid": "7", 'status": "created",\n': "<&>"},
            "owner": "",
        }
        self.write()

    def write(self) -> None:
        text = json.dumps(self.shown, indent=2)
        own = json.dumps(self.own, separators=(",", ":"))
        (self.directory / "state.json").write_text(f'{text[:-2]},\n  "pyrunc": {own}\n}}\n')

    def expected(self, status: str) -> str:
        pid = 0 if status == "stopped" else self.shown["pid"]
        return json.dumps({**self.shown, "pid": pid, "status": status}, indent=2)

    @contextmanager
    def waiting(self) -> Iterator[socket.socket]:
        """Have its init wait at the socket `start`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            here = os.open(self.directory, os.O_PATH)
            listener.bind(f"/proc/self/fd/{here}/start")
            os.close(here)
            listener.listen(1)
            yield listener


class Forked:
    """A process that never executed anything, as a container's init until its start; our child."""

    def __init__(self, *cgroups: Path) -> None:
        """Fork it; it is in *cgroups*."""
        said, says = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for cgroup in cgroups:
                    (cgroup / "cgroup.procs").write_text("0")
                os.write(says, b"\n")
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        os.close(says)
        assert os.read(said, 1) == b"\n"
        os.close(said)

    def kill(self) -> None:
        """Kill it; it stays a zombie."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, and reap it."""
        self.kill()
        os.waitpid(self.pid, 0)


@contextmanager
def forked(*cgroups: Path) -> Iterator[Forked]:
    """A process that never executes anything in *cgroups*; killed at the end."""
    child = Forked(*cgroups)
    try:
        yield child
    finally:
        child.end()


@contextmanager
def program(*cgroups: Path, command: str = "echo && exec sleep 1000") -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in *cgroups* before it runs *command*, which writes a line; killed at the end."""
    joins = "".join(f"echo 0 > {cgroup}/cgroup.procs; " for cgroup in cgroups)
    child = subprocess.Popen(["sh", "-c", f"set -e; {joins} {command}"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
