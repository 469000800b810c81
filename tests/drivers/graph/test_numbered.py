"""What a killed process or a full disk may leave, set up exactly: both drivers keep rows and directories alike."""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import mount, namespaces
from pyrunc.drivers.graph import trees
from pyrunc.drivers.graph.snapshotter import Snapshotter
from pyrunc.drivers.registry import graph
from pyrunc.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound, StorageFull
from pyrunc.testing.snapshotters import base, listing
from pyrunc.testing.trees import write
from tests.child import in_child

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files")


@pytest.fixture(params=["overlay2", "vfs"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Snapshotter]:
    """A driver with "base", below *tmp_path*."""
    found = graph(request.param, str(tmp_path))
    base(found)
    yield found
    found.close()


def home(driver: Snapshotter, root: Path) -> Path:
    return root / "snapshots" / driver.name


@contextmanager
def database(driver: Snapshotter, root: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(home(driver, root) / "metadata.db", isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def test_a_directory_without_a_row_is_garbage(plain: Snapshotter, tmp_path: Path) -> None:
    """Also when it has the number that comes next."""
    before = listing(plain, "base")
    for name in ("2", "77", "dead-5-x", "temp-x"):
        (home(plain, tmp_path) / name / "fs/old").mkdir(parents=True)
    plain.prepare("work", "base")
    assert listing(plain, "work") == before
    assert plain.reclaim() == 4
    assert plain.reclaim() == 0
    assert {name for name in os.listdir(home(plain, tmp_path)) if "metadata" not in name} == {"1", "2"}
    assert listing(plain, "work") == before


def test_a_half_filled_snapshot_is_nobodys_once_its_maker_is_dead(plain: Snapshotter, tmp_path: Path) -> None:
    plain.prepare("half", "base")
    directory = home(plain, tmp_path) / "2"
    with database(plain, tmp_path) as connection:
        connection.execute("UPDATE snapshots SET ready = 0 WHERE key = 'half'")
    fd = os.open(directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # its maker lives
    assert plain.reclaim() == 0 and directory.exists()
    for act in (plain.stat, plain.rootfs, plain.remove):
        with pytest.raises(NotFound):
            act("half")
    with pytest.raises(AlreadyExists):
        plain.prepare("half", None)
    with pytest.raises(FailedPrecondition, match="half"):
        plain.remove("base")
    assert [info.key for info in plain.walk()] == ["base"]
    os.close(fd)  # and now is dead
    plain.prepare("half", "base")
    assert plain.reclaim() == 1 and not directory.exists()
    with database(plain, tmp_path) as connection:
        connection.execute("UPDATE snapshots SET ready = 0 WHERE key = 'half'")
    plain.remove("base")
    assert plain.reclaim() == 1


def test_a_volatile_snapshot_does_not_outlive_a_boot(plain: Snapshotter, tmp_path: Path) -> None:
    plain.prepare("work", "base", volatile=True)
    plain.rootfs("work")
    with database(plain, tmp_path) as connection:
        connection.execute("UPDATE snapshots SET boot = 'another'")
    for act in (plain.rootfs, lambda key: plain.commit("name", key)):
        with pytest.raises(DataLoss, match="work is volatile and of before a reboot"):
            act("work")
    plain.remove("work")


def test_a_damaged_database_is_said_to_be(plain: Snapshotter, tmp_path: Path) -> None:
    plain.close()
    file = home(plain, tmp_path) / "metadata.db"
    file.write_bytes(b"x" * file.stat().st_size)
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    with pytest.raises(DataLoss, match=r"metadata.db is damaged.*remove .* and unpack the images again"):
        graph(plain.name, str(tmp_path)).stat("base")


@pytest.mark.parametrize("name", ["overlay2", "vfs"])
def test_a_full_disk_leaves_nothing_half(tmp_path: Path, name: str) -> None:
    def inside() -> None:
        mount.mount(b"tmpfs", os.fsencode(tmp_path), b"tmpfs", 0, b"size=8m,nr_inodes=200")
        driver = graph(name, str(tmp_path))
        base(driver)
        driver.prepare("big", "base")
        with driver.mounted("big", writable=True) as root:
            for number in range(40):
                write(root, f"file{number}", bytes(32 << 10))
        driver.commit("layer", "big")
        made = 0
        try:
            while True:
                driver.prepare(str(made), "layer")
                made += 1
        except StorageFull as exc:
            assert exc.errno == errno.ENOSPC
        keys = {"base", "layer", *map(str, range(made))}
        assert {info.key for info in driver.walk()} == keys
        assert driver.reclaim() == 0
        before = listing(driver, "layer")
        assert all(listing(driver, str(number)) == before for number in range(made))
        driver.remove("0")
        driver.prepare("again", "layer")
        assert listing(driver, "again") == before

    in_child(inside, namespaces.CLONE_NEWNS)


def test_a_container_that_writes_while_its_snapshot_goes(plain: Snapshotter, tmp_path: Path) -> None:
    """Removal ends with an error or with nothing, and never before."""
    plain.prepare("work", "base")
    with plain.mounted("work", writable=True) as root:
        write(root, "file", b"")
    original = trees._unlink_files
    busy = 5

    def write_meanwhile(directory: int) -> list[str]:
        nonlocal busy
        left = original(directory)
        if busy and os.readlink(f"/proc/self/fd/{directory}").endswith("2/fs"):
            busy -= 1
            write(directory, f"more{busy}", b"")
        return left

    monkey: Any = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(trees, "_unlink_files", write_meanwhile)
        plain.remove("work")
    assert busy == 0
    assert not (home(plain, tmp_path) / "2").exists()
