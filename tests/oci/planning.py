"""Planners to be tried out: a real one whose plans are made up, and whoever else may sit at its socket."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyrunc.oci import resident
from tests.fuzz.seeds import DIRECTORY
from tests.oci.waiting import until

# It fails with the first thing that it does, in the same length.
PLAN = (DIRECTORY / "oci-docker.plan").read_bytes().replace(b"/run/pyrunc-oci/y", b"/proc/nonexistent")
MAGIC = 0x52504F50
PLANNED = 1

# A planner of this checkout, but with the plan that a file holds, or an error; it says what it was asked.
_SERVE = """
import os, sys
from pyrunc.oci import parting, planner, resident
front_door, directory, plan, asked, idle, changes = sys.argv[1:]
def prepare(arguments, cwd_fd, bundle_fd, env):
    bundle = os.readlink(f"/proc/self/fd/{bundle_fd}") if bundle_fd >= 0 else ""
    with open(asked, "a") as file:
        print([arguments, os.getcwd(), bundle, env], file=file)
    with open(plan, "rb") as file:
        return file.read()
resident._prepare = prepare
resident._PATIENCE_MS = 60_000
for change in changes.split():
    name, _, value = change.partition("=")
    setattr(resident, name, int(value))
parting.leave()
resident.Planner(front_door, directory, f"{directory}/{planner.name_of(os.stat(front_door))}").serve(int(idle))
"""


def socket_of(front_door: Path, directory: Path) -> Path:
    """Where callers of *front_door* look for a planner."""
    status = front_door.stat()
    return directory / f"{status.st_dev:x}-{status.st_ino:x}"


@contextlib.contextmanager
def planner(
    front_door: Path, directory: Path, plan: Path, idle_ms: int = 60_000, changes: str = ""
) -> Iterator["subprocess.Popen[bytes]"]:
    """A planner that answers with what is in the file *plan*; *changes* are `name=number` of its module."""
    asked = directory.parent / "asked"
    command: list[str | Path] = [
        sys.executable,
        "-c",
        _SERVE,
        front_door,
        directory,
        plan,
        asked,
        str(idle_ms),
        changes,
    ]
    child = subprocess.Popen(command)
    place = socket_of(front_door, directory)
    try:
        # One that ends by itself may have done so already.
        until(lambda: place.exists() or child.poll() == 0, "no planner comes")
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        forget_cgroups()


def served(call: Callable[[], str]) -> str:
    """What a *call* that gets a plan says. On a busy machine a planner is late, and then it is not waited for."""
    said: list[str] = []

    def in_time() -> bool:
        said.append(call())
        return said[-1].startswith(":failed ")

    until(in_time, lambda: said[-1])
    return said[-1]


def descriptors(pid: int) -> list[str]:
    """What a process has open, where another may be closing it."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return sorted(found)


def end_planner(front_door: Path, directory: Path) -> None:
    """End the planner that somebody has started for *front_door*, if there is one, and what a killed one has left."""
    place = socket_of(front_door, directory)
    try:
        here = os.open(directory, os.O_PATH)
    except FileNotFoundError:
        forget_cgroups()
        return  # it has ended by itself, and taken its directory along
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.connect(f"/proc/self/fd/{here}/{place.name}")
            pid = resident._peer(probe)[0]
        if pid:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not place.exists(), "the planner does not end")
    except OSError:
        pass
    finally:
        os.close(here)
    for path in (place, place.with_name(f"{place.name}.lock")):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
    forget_cgroups()


def await_end(pid: int) -> None:
    """Wait until a process that is no child of ours, or an orphan that has become one, has ended."""

    def ended() -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
        except OSError:
            return True

    until(ended, f"{pid} does not end")


def forget_cgroups() -> None:
    """A killed planner leaves its empty cgroups to the next one."""
    for path in Path("/sys/fs/cgroup").glob("*/pyrunc-planner"):
        for _ in range(50):
            try:
                path.rmdir()
                break
            except OSError:
                time.sleep(0.02)  # busy for a moment, or another planner's


@contextlib.contextmanager
def stranger(place: Path, backlog: int = 8) -> Iterator[socket.socket]:
    """Somebody else at a planner's socket."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        here = os.open(place.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/{place.name}")
        os.close(here)
        listener.listen(backlog)
        yield listener
