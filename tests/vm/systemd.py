"""A real systemd under the second kernel: pid 1 of namespaces of its own, on a cgroup of its own.

guest             /sys/fs/cgroup/booted-N      the cgroup that systemd takes for the root
└ unshare         pid, mount, cgroup, uts
  └ systemd       /run is an empty tmpfs, /sys/fs/cgroup its own view; a target without a service
    └ commands    by nsenter, each as a child of the caller
"""

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from . import needs

USER = 12345
"""The number of a user who has a name there, as systemd wants it."""
SYSTEMD = "/lib/systemd/systemd"
_PATIENCE_S = 180.0
_counter = itertools.count()
_ENTER = 'echo 0 >"$0/cgroup.procs" && exec "$@"'
_BOOT = f"""
set -e
mount -n -t proc -o nosuid,nodev,noexec proc /proc
mount -n -t tmpfs -o mode=755 tmpfs /run
umount -n /sys/fs/cgroup
mount -n -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
while ! rmdir /sys/fs/cgroup/alone 2>/dev/null; do sleep 0.05; done
for file in passwd group; do cp /etc/$file /run/$file; mount -n --bind /run/$file /etc/$file; done
echo 'somebody:x:{USER}:{USER}::/:/bin/sh' >>/etc/passwd
echo 'somebody:x:{USER}:' >>/etc/group
mkdir -p /run/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' >/run/systemd/system/booted.target
exec env -i container=oci PATH=/usr/sbin:/usr/bin:/sbin:/bin {SYSTEMD} --unit=booted.target --log-target=console
"""


class Booted:
    """A systemd that runs, until `end`."""

    def __init__(self) -> None:
        root = needs.cgroup_v2_root()
        assert root is not None
        self.cgroup = Path(root) / f"booted-{next(_counter)}"
        """Where, for the caller, the cgroups begin that it manages."""
        self.cgroup.mkdir()
        (self.cgroup / "commands").mkdir()
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - as long as it runs
        self._unshared = subprocess.Popen(
            ["sh", "-c", _ENTER, str(self.cgroup), "unshare", "--fork", "--pid",
             "--kill-child", "--mount", "--cgroup", "--uts", "--propagation", "private", "sh", "-c", _BOOT],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self.pid = self._first()
        # Where a process is no controller is enabled for others.
        (self.cgroup / "commands/cgroup.procs").write_text(str(self._unshared.pid))
        (self.cgroup / "alone").mkdir()
        self._await()

    def _first(self) -> int:
        """The number by which the caller knows systemd."""
        path = Path(f"/proc/{self._unshared.pid}/task/{self._unshared.pid}/children")
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            for word in path.read_text().split():
                if os.readlink(f"/proc/{word}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup"):
                    return int(word)
            time.sleep(0.05)
        raise AssertionError(f"no systemd: {self.log()}")

    def _await(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        while self.call("systemctl", "is-active", "booted.target", code=None).stdout != "active\n":
            assert time.monotonic() < end, f"systemd does not come up: {self.log()}"
            time.sleep(0.1)

    def log(self) -> str:
        """What it has said."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def command(self, *words: object, cgroup: Path | None = None) -> list[str]:
        """What the caller executes for *words* to be executed where systemd runs, in a *cgroup* if that is given."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-u", "--", *map(str, words)]
        return ["sh", "-c", _ENTER, str(cgroup or self.cgroup / "commands"), *inside]

    def call(self, *words: object, code: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """Execute *words* there; they must end with *code*, unless that is None."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                self.command(*words), check=False, text=True, timeout=_PATIENCE_S,
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "cwd": "/", **more},
            )  # fmt: skip
            for file in (out, err):
                file.seek(0)
            done.stdout, done.stderr = out.read(), err.read()
        assert code is None or done.returncode == code, (
            f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """A unit's properties, or those that are named."""
        chosen = [f"--property={name}" for name in properties]
        lines = self.call("systemctl", "show", *chosen, "--", unit).stdout.splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def units(self) -> set[str]:
        """The scopes and slices that there are."""
        listed = self.call("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=scope,slice")
        return {line.split()[0] for line in listed.stdout.splitlines()}

    def end(self) -> None:
        """Kill all that is in there, and remove its cgroups."""
        (self.cgroup / "cgroup.kill").write_text("1")
        self._unshared.wait()
        self._log.close()
        end = time.monotonic() + _PATIENCE_S
        while self.cgroup.exists():
            for place, _, _ in os.walk(self.cgroup, topdown=False):
                try:
                    os.rmdir(place)
                except OSError:
                    assert time.monotonic() < end, f"{place} stays"


def missing() -> bool:
    """Whether there is no systemd to boot."""
    return not os.path.exists(SYSTEMD) or shutil.which("systemctl") is None
