"""Containers that are units of a systemd: what calls a runtime there, as root and as a user with one of their own."""

import os
import shutil
from pathlib import Path
from typing import Any

from tests.oci import bundles
from tests.oci.bundles import document
from tests.oci.unprivileged import UID, USER, install
from tests.oci.waiting import until
from tests.vm.systemd import SYSTEMD, Booted

M = 1 << 20
SLEEP = ["/bin/sleep", "1000"]
RESOURCES: dict[str, Any] = {
    "memory": {"limit": 64 * M, "reservation": 32 * M},
    "cpu": {"shares": 512, "quota": 25500, "period": 50000},
    "pids": {"limit": 77},
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 7, "access": "r"},
    ],
}


def outer(pid: int) -> int:
    """The number that this process has for the process *pid* of where systemd runs."""
    for word in os.listdir("/proc"):
        if word.isdecimal():
            try:
                lines = Path(f"/proc/{word}/status").read_text().splitlines()
            except OSError:
                continue
            numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
            if len(numbers) > 1 and int(numbers[1]) == pid:
                return int(numbers[0])
    raise AssertionError(f"no process {pid}")


class Runtime(bundles.Runtime):
    """An OCI runtime where *booted* runs, whose containers are units of that."""

    def __init__(self, booted: Booted, path: str, root: Path, rootfs: Path) -> None:
        super().__init__(root, rootfs)
        self.booted = booted
        self.path = path
        self.scope = f"test-{self.id}.scope"

    @property
    def group(self) -> Path:
        """The container's cgroup."""
        return self.booted.cgroup / "test.slice" / self.scope

    def command(self, *words: object) -> list[str]:
        """The command line of a call."""
        return self.booted.command(self.path, "--root", self.root, "--systemd-cgroup", *words)

    def spec(self, args: list[str], resources: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A document whose cgroupsPath is the scope in test.slice, unless *more* says so."""
        spec = document(self.rootfs, args)
        spec["linux"]["cgroupsPath"] = more.pop("cgroupsPath", f"test.slice:test:{self.id}")
        spec["linux"]["resources"] = resources or RESOURCES
        spec["linux"]["namespaces"].append({"type": "cgroup"})
        return {**spec, **more}

    def launch(self, path: Path, args: list[str] = SLEEP, **more: Any) -> None:
        """Run a container, detached."""
        bundle = self.write(path / self.id, self.spec(args, **more))
        self.call("run", "--detach", "--bundle", bundle, self.id)

    def value(self, name: str) -> str:
        """What is in a file of the container's cgroup."""
        return (self.group / name).read_text().rstrip("\n")

    def end(self) -> None:
        """Remove what a test has left."""
        self.call("delete", "--force", self.id, code=None)


class User(Runtime):
    """The front door called by a user, whose own systemd makes the units."""

    def __init__(self, booted: Booted, work: Path, rootfs: Path) -> None:
        own = shutil.copytree(rootfs, work / "rootfs", symlinks=True)
        super().__init__(booted, str(install(work)), work / "run/pyrunc-oci", own)
        self.before: list[str] = []
        self.inside = True
        self.manager = f"manager-{self.id}.service"
        self.runtime = work / "run"
        self.here = booted.cgroup / "system.slice" / self.manager / "commands"
        self.environment["XDG_RUNTIME_DIR"] = str(self.runtime)
        self.runtime.mkdir(exist_ok=True)
        for place, directories, files in os.walk(work):
            for name in (".", *directories, *files):
                os.lchown(f"{place}/{name}", UID, UID)
        group = f"/sys/fs/cgroup/system.slice/{self.manager}"
        begin = (
            f"chown {UID} {group} {group}/cgroup.procs {group}/cgroup.subtree_control && exec {' '.join(USER)} "
            f"HOME={self.runtime} XDG_RUNTIME_DIR={self.runtime} {SYSTEMD} --user --unit=timers.target"
        )
        # Else the rest of the system would come up too, and clean /tmp.
        plain = ["-p", "Delegate=yes", "-p", "DefaultDependencies=no"]
        booted.call("systemd-run", "--unit", self.manager, *plain, "sh", "-c", begin)
        until(lambda: "timers.target" in self.units(), "the user's systemd does not come up")
        self.here.mkdir()
        for name in ("", "cgroup.procs", "cgroup.subtree_control"):
            os.chown(self.here / name, UID, UID)

    @property
    def group(self) -> Path:
        return self.here.parent / "user.slice" / self.scope

    def command(self, *words: object) -> list[str]:
        line = [*USER, *self.before, self.path, "--systemd-cgroup", *map(str, words)]
        return self.booted.command(*line, cgroup=self.here if self.inside else None)

    def units(self) -> str:
        """What its systemd lists."""
        asked = ["systemctl", "--user", "list-units", "--all", "--plain"]
        return self.booted.call(*USER, f"XDG_RUNTIME_DIR={self.runtime}", *asked, code=None).stdout
