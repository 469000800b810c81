"""A real dockerd for recordings and comparisons: its own roots, socket, mounts and network; nothing of it stays."""

import glob
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

CGROUP = f"/pyrunc-test-dockerd-{os.getpid()}"  # of this process's daemons only
# Namespaces of its own: what dockerd would leave in /etc and /opt lands in file systems that end with it, and its
# shims, which nobody would reap, end with the pid namespace.
_SCRIPT = """
mount -t tmpfs tmpfs /etc/docker && mount -t tmpfs tmpfs /opt && ip link set lo up 2>/dev/null
exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" -H "unix://$1/sock" \
    --bridge=none --iptables=false --ip-forward=false --ip-masq=false --storage-driver "$2" --cgroup-parent "$3"
"""


@contextmanager
def daemon(root: Path, driver: str = "overlay2") -> Iterator[dict[str, str]]:
    """A dockerd with its state below *root*; yields the environment in which `docker` talks to it.

    Skips where docker.io is not installed.
    """
    if not shutil.which("dockerd") or not shutil.which("docker"):
        pytest.skip("needs docker.io")
    root.mkdir(parents=True, exist_ok=True)
    if len(str(root / "exec/containerd/containerd.sock.ttrpc")) > 100:
        raise ValueError(f"{root}: too long for the path of a socket")
    before = _cgroups()
    with open(root / "log", "wb") as log:
        process = subprocess.Popen(
            [
                "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc",
                "--propagation", "private",
                "sh", "-c", _SCRIPT, "sh", root, driver, CGROUP,
            ],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    environment = {
        **os.environ, "DOCKER_HOST": f"unix://{root}/sock", "DOCKER_CONFIG": str(root / "config"),
        "DOCKER_BUILDKIT": "0", "DOCKER_CLI_HINTS": "false",
    }  # fmt: skip
    try:
        _ready(process, root, environment)
        yield environment
    finally:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGTERM)  # unshare itself passes nothing on
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for directory in sorted(_cgroups() - before, key=len, reverse=True):
            _remove(directory)


def _remove(cgroup: str) -> None:
    """Remove a cgroup, whose last processes may be on their way out."""
    deadline = time.monotonic() + 60
    while True:
        try:
            os.rmdir(cgroup)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _ready(process: subprocess.Popen[bytes], root: Path, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 180
    while subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"dockerd does not run here: {(root / 'log').read_text()[-500:]}")
        time.sleep(0.2)


def _cgroups() -> set[str]:
    """The cgroups of dockerd's containers, in every hierarchy."""
    top = "/sys/fs/cgroup"
    places = (
        [top, *(path for path in glob.glob(f"{top}/*") if os.path.isdir(path))] if os.path.isdir(top) else []
    )
    found = set()
    for place in places:
        for directory, _, _ in os.walk(place + CGROUP):
            found.add(directory)
    return found
