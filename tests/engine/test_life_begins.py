"""A start that takes long: who looks does not wait for it, whether its starter lives or was killed."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.engine import observing
from pyrunc.runtime.cgroup_layout import detect
from tests.engine.test_life import left
from tests.engine.test_run import python, until
from tests.runtime.cgroup_support import remove_busy, unique_name


@pytest.fixture
def driver() -> str:
    return "overlay2"


@pytest.fixture
def parent() -> "Iterator[Frozen]":
    """A cgroup in which nothing goes on, so that no container below it comes to its program."""
    freezer = detect().of("freezer")
    assert freezer is not None
    made = Frozen(Path(freezer.mountpoint, unique_name()))
    made.path.mkdir()
    made.freeze()
    yield made
    made.thaw()
    remove_busy(made.path)


class Frozen:
    """Its directory; v1 or v2."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def freeze(self) -> None:
        self._write("FROZEN", "1")

    def thaw(self) -> None:
        self._write("THAWED", "0")

    def _write(self, one: str, two: str) -> None:
        file = self.path / "freezer.state"
        if file.exists():
            file.write_text(one)
        else:
            (self.path / "cgroup.freeze").write_text(two)


@contextmanager
def starting(
    loaded: Engine, tmp_path: Path, parent: Frozen, script: str
) -> "Iterator[subprocess.Popen[str]]":
    """Another process that is just starting a container "slow"."""
    code = f"engine.start('beta', ['sh', '-c', {script!r}], name='slow', cgroup_parent='/{parent.path.name}')"
    other = python(code, tmp_path / "root", "overlay2")

    def begun() -> bool:
        assert other.poll() is None, other.communicate()
        row = loaded._parts.containers.by_name("slow")
        return row is not None and observing.begins(row) and bool(tasks(parent))

    try:
        until(begun)
        yield other
    finally:
        other.kill()
        other.communicate()


def tasks(parent: Frozen) -> list[int]:
    """The processes of the containers below *parent*."""
    found = []
    for file in parent.path.glob("*/cgroup.procs"):
        with suppress(OSError):  # its container ends just now
            found += [int(pid) for pid in file.read_text().split()]
    return found


@pytest.mark.parametrize("dies", [False, True])
def test_who_looks_at_a_slow_start_does_not_wait_for_it(
    loaded: Engine, tmp_path: Path, parent: Frozen, dies: bool
) -> None:
    with starting(loaded, tmp_path, parent, "busybox sleep 100") as starter:
        if dies:
            starter.send_signal(signal.SIGKILL)
            starter.wait()
        container = loaded.containers.get("slow")
        assert [record.state for record in loaded.containers.list(all=True)] == ["created"]
        assert loaded.containers.list() == []
        assert container.record().state == "created"
        assert container.inspect()["State"]["Status"] == "created"
        parent.thaw()  # it was neither ended nor forgotten: it goes on
        assert container.record(begun=True).state == "running"
    container.remove(force=True)
    until(lambda: not left(tmp_path, container.id))


def test_a_slow_start_whose_starter_was_killed_can_be_removed(
    loaded: Engine, tmp_path: Path, parent: Frozen
) -> None:
    with starting(loaded, tmp_path, parent, "busybox sleep 100") as starter:
        starter.kill()
        starter.wait()
        for pid in tasks(parent):
            os.kill(pid, signal.SIGSTOP)
        parent.thaw()  # since nothing dies in a frozen cgroup
        container = loaded.containers.get("slow")
        container.remove(force=True)
        assert loaded.containers.list(all=True) == []
        until(lambda: not left(tmp_path, container.id))
