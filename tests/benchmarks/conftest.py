"""What the tests of the benchmarks share: a rootfs, the floor's executable, and a look at what a run has left."""

import os
import re
import uuid
from pathlib import Path

import pytest

from benchmarks.host import Unable, build_floor, make_rootfs
from tests.safety.support import wait_until

CGROUP_ROOT = Path("/sys/fs/cgroup")
MARK = "PYRUNC_BENCH_TEST"
# pyrunc-floor.PID and pyrunc-bench-PID-SERIAL
OWNED = re.compile(r"pyrunc-(?:floor\.|bench-)(\d+)")


class Traces:
    """Finds what the processes started with *environment* have left, whatever else runs on the host meanwhile."""

    def __init__(self, directory: Path) -> None:
        """*directory* becomes their directory for temporary files."""
        directory.mkdir()
        self._directory = directory
        self._mark = uuid.uuid4().hex
        self._known = set(self._orphaned_cgroups())
        self.environment = {**os.environ, "TMPDIR": str(directory), MARK: self._mark}

    def processes(self) -> list[str]:
        """Return the pids of those that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARK}={self._mark}".encode() in path.read_bytes():
                    found.append(path.parent.name)
            except OSError:
                continue  # it has ended meanwhile
        return found

    def cgroups(self) -> list[str]:
        """Return the benchmarks' cgroups whose maker is no more, but for those that were there before."""
        return sorted(set(self._orphaned_cgroups()) - self._known)

    @staticmethod
    def _orphaned_cgroups() -> list[str]:
        return [
            f"{directory}/{name}"
            for directory, names, _ in os.walk(CGROUP_ROOT)
            for name in names
            if (owner := OWNED.match(name)) and not Path("/proc", owner[1]).exists()
        ]

    def mounts(self) -> list[str]:
        """Return the mounts that the host sees in their directory."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in lines if str(self._directory) in line]

    def left(self) -> dict[str, list[str]]:
        """Return everything that was left; all lists are empty after a clean run."""
        return {
            "processes": self.processes(),
            "cgroups": self.cgroups(),
            "mounts": self.mounts(),
            "files": [str(path) for path in self._directory.iterdir()],
        }

    def settled(self) -> dict[str, list[str]]:
        """Return the same, once what is only just going has gone."""
        wait_until(lambda: self.left() == CLEAN)
        return self.left()


CLEAN: dict[str, list[str]] = {"processes": [], "cgroups": [], "mounts": [], "files": []}


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    """Return a watch over what a run leaves."""
    return Traces(tmp_path / "scratch")


@pytest.fixture(scope="session")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the floor's executable."""
    if os.geteuid() != 0:
        pytest.skip("starting containers needs root")
    target = tmp_path_factory.mktemp("floor") / "floor"
    try:
        build_floor(target)
    except Unable as reason:
        pytest.skip(str(reason))
    return target


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """Return a fresh root file system of busybox."""
    path = tmp_path / "rootfs"
    try:
        make_rootfs(path)
    except Unable as reason:
        pytest.skip(str(reason))
    return path
