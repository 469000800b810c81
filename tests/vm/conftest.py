"""Fixtures of the second kernel's tests."""

import errno
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import needs


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark, for runs that do not read the project's configuration."""
    config.addinivalue_line("markers", "vm: runs under the second kernel too, by ./dev vm")


class Cgroup:
    """A cgroup of a test's own at *path*, by plain files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, value: object) -> None:
        """Write *value* to the file *name*."""
        (self.path / name).write_text(str(value))

    def read(self, name: str) -> str:
        """Return the text of the file *name*, without the last newline."""
        return (self.path / name).read_text().rstrip("\n")

    def keyed(self, name: str) -> dict[str, int]:
        """Return the flat keyed file *name*, such as `memory.events`."""
        return {key: int(value) for key, value in (line.split() for line in self.read(name).splitlines())}

    def fork_into(self) -> int:
        """Fork; the child enters the cgroup before it goes on. Returns as os.fork does."""
        pid = os.fork()
        if pid == 0:
            self.write("cgroup.procs", 0)
        return pid

    def remove(self, patience_s: float = 60.0) -> None:
        """Kill what is inside and remove it; an exiting process may hold it for a moment."""
        self.write("cgroup.kill", 1)
        end = time.monotonic() + patience_s
        while True:
            try:
                self.path.rmdir()
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """A new cgroup right below the v2 root."""
    root = needs.cgroup_v2_root()
    assert root is not None
    group = Cgroup(Path(root) / f"pyrunc-test-{secrets.token_hex(4)}")
    group.path.mkdir()
    yield group
    group.remove()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a child that only sleeps."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def busybox() -> bytes:
    """The bytes of a statically linked program."""
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("needs a static busybox: apt-get install busybox-static")
    return Path(path).read_bytes()
