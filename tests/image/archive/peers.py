"""Docker, podman and skopeo, each with roots of its own; nothing that they write is the host's.

podman and skopeo run in a mount namespace where /etc, /var/lib, /var/tmp and /run are copies that end with it, and in a
pid namespace, so that nothing of them outlives their first process. Docker's daemon is that of tests/dockerd.py.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import dockerd

_PRIVATE = """
set -e
place=$1; shift
mount --make-rprivate /
mount -t tmpfs none "$place"
for directory in /etc /var/lib; do
    upper=$place/$(basename $directory)
    mkdir -p "$upper/upper" "$upper/work"
    mount -t overlay none -o "lowerdir=$directory,upperdir=$upper/upper,workdir=$upper/work" "$directory"
done
mount -t tmpfs none /var/tmp
mount -t tmpfs none /run
exec "$@"
"""
_ISOLATED = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def missing(*programs: str) -> str:
    """Which of *programs* are not there."""
    return ", ".join(name for name in programs if shutil.which(name) is None)


class Peer:
    """A command that runs with copies of the host's directories, in *place*."""

    def __init__(self, place: Path, *command: str) -> None:
        self.place = place
        self._command = command
        (place / "private").mkdir(parents=True)

    def __call__(self, *arguments: str | Path, check: bool = True) -> str:
        """Run it; what it wrote."""
        command = ["sh", "-c", _PRIVATE, "private", str(self.place / "private"), *self._command, *arguments]
        environment = {**os.environ, "HOME": str(self.place), "TMPDIR": str(self.place)}
        done = subprocess.run(
            [*_ISOLATED, *command], capture_output=True, text=True, timeout=600, check=False, env=environment
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr


def skopeo(place: Path) -> Peer:
    return Peer(place, "skopeo", "--insecure-policy")


class Podman:
    """podman, with vfs."""

    def __init__(self, place: Path) -> None:
        self.run = Peer(
            place, "podman", "--root", str(place / "root"), "--runroot", "/run/podman", "--tmpdir", "/run/tmp",
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
            "--events-backend", "none",
        )  # fmt: skip

    def load(self, path: Path) -> str:
        return self.run("load", "-i", path)

    def save(self, path: Path, *names: str, form: str = "docker-archive") -> None:
        several = ["--multi-image-archive"] if len(names) > 1 else []
        self.run("save", "--format", form, *several, "-o", path, *names)

    def inspect(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.run("image", "inspect", name))
        return found[0]


class Docker:
    """The client of the daemon whose state is below *root*, and that *environment* leads to."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self._root = root
        self._environment = environment

    def __call__(self, *arguments: str | Path, stdin: bytes = b"", check: bool = True) -> str:
        """Run it; what it wrote."""
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, input=stdin, timeout=600, check=False, env=self._environment
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{arguments}: {done.stdout.decode()}{done.stderr.decode()}")
        return (done.stdout + done.stderr).decode()

    def load(self, path: Path) -> str:
        return self("load", "-i", path)

    def save(self, path: Path, *names: str) -> None:
        self("save", "-o", path, *names)

    def export(self, image: str) -> bytes:
        """A container of *image* as a tar, without having run."""
        self("create", "--name", "exported", image, "/program")
        done = subprocess.run(
            ["docker", "export", "exported"],
            capture_output=True,
            timeout=600,
            check=True,
            env=self._environment,
        )
        self("rm", "exported")
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self("image", "inspect", name))
        return found[0]

    def layer(self, chain_id: str) -> Path:
        """Where the daemon has unpacked the layer *chain_id*, with whiteouts as overlay has them."""
        root = self._root / "data"
        cache = root / "image/overlay2/layerdb/sha256" / chain_id[7:] / "cache-id"
        return root / "overlay2" / cache.read_text() / "diff"


@contextlib.contextmanager
def docker(place: Path, driver: str = "overlay2") -> Iterator[Docker]:
    """A daemon whose everything is in *place*, as long as the block lasts."""
    with dockerd.daemon(place, driver) as environment:
        yield Docker(place, environment)
