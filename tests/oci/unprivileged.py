"""A user with nothing but a number, and a front door that such a one can execute."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.oci.bundles import FRONT_DOOR, REPOSITORY
from tests.oci.waiting import PATIENCE_S

UID = 12345
# setpriv itself keeps what root may until it has executed another program.
USER = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "env")
_PYTHONS = (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3")


def install(work: Path) -> Path:
    """A front door in *work*/bin, which other users may look into."""
    front_door = work / "bin/pyrunc-oci"
    front_door.parent.mkdir()
    shutil.copy2(FRONT_DOOR, front_door)
    (work / "bin/pyrunc-oci.python").write_text(f"{_python()}\n{_checkout(work)}\n")
    return front_door


def _python() -> str:
    """An interpreter that the user can execute."""
    program = "import sys; sys.exit(sys.version_info < (3, 11))"
    for path in _PYTHONS:
        if os.path.exists(path) and not subprocess.run(
            [*USER, path, "-I", "-S", "-c", program], check=False, capture_output=True
        ).returncode:  # fmt: skip
            return path
    pytest.skip("needs a Python that other users can execute")


def _checkout(work: Path) -> Path:
    """Where pyrunc is that the user can read."""
    readable = [*USER, "test", "-r", str(REPOSITORY / "pyrunc/oci/main.py")]
    if not subprocess.run(readable, check=False).returncode:
        return REPOSITORY
    shutil.copytree(REPOSITORY / "pyrunc", work / "checkout/pyrunc")
    return work / "checkout"


def delegate(place: Path) -> tuple[str, ...]:
    """Give the user the cgroup *place* with controllers; the words that enter one below it and execute what follows."""
    (place / "session").mkdir(parents=True)
    for directory in (place.parent, place):
        (directory / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    for path in (place, place / "session"):
        for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(path / name, UID, UID)
    return ("sh", "-c", f'echo $$ >{place}/session/cgroup.procs; exec "$@"', "sh")


class Caller:
    """The user with a front door, a runtime directory and a bundle of their own in *work*."""

    def __init__(self, work: Path, busybox: Path) -> None:
        self.work = work
        self.bundle = work / "bundle"
        self.environment = {
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(work / "run"),
            "PYRUNC_OCI_PLANNER": "0",
        }
        self.before: tuple[str, ...] = USER
        """What is executed before the front door."""
        for directory in (self.bundle, work / "run"):
            directory.mkdir()
        for name in ("bin", "dev", "proc", "sys", "tmp"):
            (self.bundle / "rootfs" / name).mkdir(parents=True)
        shutil.copy2(busybox, self.bundle / "rootfs/bin")
        for name in ("cat", "echo", "id", "ls", "sh", "sleep", "stat", "tr", "true"):
            (self.bundle / "rootfs/bin" / name).symlink_to("busybox")
        self.front_door = install(work)
        for place, directories, files in os.walk(work):
            for name in (".", *directories, *files):
                os.lchown(f"{place}/{name}", UID, UID)
        self("spec", "--rootless", "--bundle", self.bundle)

    def write(self, *args: str, user: dict[str, Any] | None = None, **linux: Any) -> None:
        """Change the bundle: the program, its user, members of `linux`."""
        path = self.bundle / "config.json"
        spec = json.loads(path.read_text())
        spec["process"] |= {"terminal": False, "args": list(args), "user": user or {"uid": 0, "gid": 0}}
        spec["linux"] |= linux
        path.write_text(json.dumps(spec))

    def command(self, *words: object) -> list[str]:
        """The command line of a call."""
        return [*self.before, str(self.front_door), *map(str, words)]

    def __call__(self, *words: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Call it; it must end with *code*, unless that is None."""
        # Files of the user's, since a container keeps the descriptors that it was created with.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            for file in (out, err):
                os.fchown(file.fileno(), UID, UID)
            done = subprocess.run(
                self.command(*words), check=False, text=True, timeout=120, stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, env=self.environment, cwd=self.bundle,
            )  # fmt: skip
            for file in (out, err):
                file.seek(0)
            done.stdout, done.stderr = out.read(), err.read()
        assert code is None or done.returncode == code, (words, done)
        return done

    def refusal(self, *words: object) -> str:
        """The one line that a call which fails says."""
        done = self(*words, code=1)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return str(json.loads(done.stderr.partition("msg=")[2]))

    def wait(self, container_id: str, status: str) -> None:
        """Wait until a container is *status*."""
        deadline = time.monotonic() + PATIENCE_S
        while json.loads(self("state", container_id).stdout)["status"] != status:
            assert time.monotonic() < deadline
            time.sleep(0.02)
