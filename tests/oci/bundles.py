"""Bundles, and the front door with a root directory of its own, for the tests of pyrunc-oci."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from pyrunc.spec import defaults
from tests.oci.waiting import until

REPOSITORY = Path(__file__).parent.parent.parent
FRONT_DOOR = REPOSITORY / "bin/pyrunc-oci"
TOP = Path("/sys/fs/cgroup")
CAPABILITY_SETS = ("bounding", "effective", "permitted")


def document(rootfs: Path, args: list[str], **process: Any) -> dict[str, Any]:
    """What `spec` writes, for the program *args* in *rootfs*."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "noNewPrivileges": True,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "capabilities": dict.fromkeys(CAPABILITY_SETS, capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}], **process,
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "box",
        "mounts": defaults.mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": list(defaults.MASKED_PATHS), "readonlyPaths": list(defaults.READONLY_PATHS),
        },
    }  # fmt: skip


class Runtime:
    """The front door with the root directory *root*; *prefix* keeps ids, and with them cgroups, apart."""

    def __init__(self, root: Path, rootfs: Path) -> None:
        self.root = root
        self.rootfs = rootfs
        self.id = f"t{os.getpid()}-{time.monotonic_ns() % 1_000_000_000}"
        self.environment = dict(os.environ)  # without a planner, unless the suite is run with one

    @property
    def directory(self) -> Path:
        """The container's state directory."""
        return self.root / self.id

    def bundle(self, path: Path, args: list[str], **process: Any) -> Path:
        """A bundle in the directory *path* whose program is *args*."""
        return self.write(path, document(self.rootfs, args, **process))

    def write(self, path: Path, spec: dict[str, Any]) -> Path:
        """A bundle with the document *spec*; cgroups get the container's own name."""
        path.mkdir(exist_ok=True)
        spec.setdefault("linux", {}).setdefault("cgroupsPath", f"/pyrunc-test/{self.id}")
        (path / "config.json").write_text(json.dumps(spec))
        return path

    def command(self, *words: object) -> list[str]:
        """The command line of a call."""
        return [str(FRONT_DOOR), "--root", str(self.root), *map(str, words)]

    def call(self, *words: object, code: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """Call it; it must end with *code*, unless that is None."""
        more = {"stdin": subprocess.DEVNULL, "env": self.environment, "cwd": "/", **more}
        # Files, since a container keeps the descriptors that it was created with.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                self.command(*words),
                check=False,
                text=True,
                timeout=120,
                **{"stdout": out, "stderr": err, **more},
            )
            for file in (out, err):
                file.seek(0)
            done.stdout, done.stderr = out.read(), err.read()
        if code is not None:
            assert done.returncode == code, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def state(self) -> dict[str, Any]:
        """What `state` prints of the container."""
        found: dict[str, Any] = json.loads(self.call("state", self.id).stdout)
        return found

    def saved(self) -> dict[str, Any]:
        """What is in its state.json."""
        found: dict[str, Any] = json.loads((self.directory / "state.json").read_text())
        return found

    def wait(self, status: str) -> dict[str, Any]:
        """Its state, once that is *status*."""
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.update(self.state())
            return bool(found["status"] == status)

        until(reached, lambda: f"{found['status']} and not {status}")
        return found

    def end(self) -> None:
        """Kill and delete what a test has left."""
        if (self.directory / "state.json").exists():
            pid = self.saved()["pid"]
            if pid and self.state()["status"] != "stopped":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self.wait("stopped")
            self.call("delete", self.id)


def cgroups(name: str) -> list[Path]:
    """Every cgroup of that name, on cgroup v1 and v2."""
    return [found for place in ("pyrunc-test", "*/pyrunc-test") for found in TOP.glob(f"{place}/{name}")]
