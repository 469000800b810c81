"""Namespaces of their own for an engine that would leave things in /run, /dev/shm and elsewhere on the host."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.oci.planning import await_end
from tests.oci.runtime import Result, thaw
from tests.runtime.cgroup_support import remove_busy

# Process 1 of the house: it reaps what loses its parent, and ends everything by its own end.
_FIRST = """
import os, signal, time
signal.signal(signal.SIGCHLD, lambda *_: None)
print("ready", flush=True)
while True:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    time.sleep(0.02)
"""
_SET_UP = """
set -e
for place in /run /dev/shm /var/lib/cni /etc/cni /etc/docker /opt /var/lib/containerd; do
    [ ! -d "$place" ] || mount -n -t tmpfs tmpfs "$place"
done
mkdir -p /run/lock
# crun gives standard descriptors to the container's user, and conmon's are this.
mknod -m 666 /run/null c 1 3
mount -n --bind /run/null /dev/null
ip link set lo up 2>/dev/null || :
[ -z "$1" ] || mount -n --bind /dev/null "$1"
exec "$2" -I -S -c "$3"
"""


class House:
    """A place where an engine may do as it likes; *place* is a directory for its state."""

    def __init__(self, first: int, place: Path) -> None:
        self.first = first
        self.place = place
        self.environment = dict(os.environ)

    def command(self, *words: str) -> list[str]:
        """What is executed to run *words* inside."""
        inside = ["nsenter", "--target", str(self.first), "--mount", "--net", "--pid", f"--wdns={self.place}"]
        return [*inside, "--", *words]

    def __call__(self, *words: str, code: int | None = 0, given: str = "", timeout_s: float = 240) -> Result:
        """Run a command inside with *given* to read; it must end with *code*, if that is not None."""
        ended = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout_s, env=self.environment,
            check=False, input=given,
        )  # fmt: skip
        result = Result(ended.returncode, ended.stdout, ended.stderr)
        assert code is None or result.code == code, (words, result)
        return result

    def start(self, *words: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start a daemon inside, which writes to *log*."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
            )

    def until(self, *words: str, holds: str, timeout_s: float = 120) -> str:
        """Run a command again and again until its output holds a text; the output."""
        deadline = time.monotonic() + timeout_s
        while holds not in (output := self(*words, code=None).out):
            assert time.monotonic() < deadline, (words, holds, output)
            time.sleep(0.1)
        return output


@contextlib.contextmanager
def house(place: Path, runtime: str, parents: tuple[str, ...]) -> Iterator[House]:
    """A house for an engine that calls *runtime* and makes its cgroups below *parents*; nothing of it stays."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place.mkdir(parents=True, exist_ok=True)
    hidden = ""
    layout = detect()
    if os.path.basename(runtime) == "crun" and layout.mode == "hybrid" and layout.v2 is not None:
        hidden = f"{layout.v2.mountpoint}/cgroup.controllers"  # crun refuses a hybrid host whose v2 has any
    process = subprocess.Popen(
        [
            "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc",
            "--propagation", "private",
            "sh", "-c", _SET_UP, "sh", hidden, sys.executable, _FIRST,
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    before = _cgroups(parents)
    first = 0
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        yield House(first, place)
    finally:
        # Frozen processes die with the namespace too, once they thaw.
        for directory in _cgroups(parents) - before:
            thaw(Path(directory))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if first:
            await_end(first)  # and with it all that were in there
        shutil.rmtree(place, ignore_errors=True)
        for directory in sorted(_cgroups(parents) - before, key=len, reverse=True):
            if not _is_anothers(directory):
                remove_busy(Path(directory))


def _is_anothers(directory: str) -> bool:
    """Whether somebody is in a cgroup or below: podman calls the one of its conmons alike everywhere."""
    for place, _, _ in os.walk(directory):
        with contextlib.suppress(OSError):
            if Path(place, "cgroup.procs").read_text():
                return True
    return False


def _cgroups(parents: tuple[str, ...]) -> set[str]:
    """Every cgroup at or below *parents*, in every hierarchy, and below the one that this process is in."""
    found = set()
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        if any(name in directory.split("/") for name in parents):
            found.add(directory)
    return found
