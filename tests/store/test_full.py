"""A full disk: one clear error, nothing half-made, and the store goes on when there is space again.

Each test has a tmpfs of its own size, in a mount namespace that dies with it.
"""

import errno
import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc._native import mount, namespaces
from pyrunc.errors import StorageFull
from pyrunc.store import files
from pyrunc.store.check import check
from pyrunc.store.collect import collect
from pyrunc.store.content import ContentStore
from pyrunc.store.metadata import Metadata
from tests.child import in_child
from tests.store.support import in_ingest, put

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
MIB = 1 << 20


def on_small_disk(path: Path, size: int, act: Callable[[str], None], *, inodes: int = 0) -> None:
    """Call *act* with a directory whose file system has *size* bytes (and so many *inodes*)."""

    def inside() -> None:
        options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
        mount.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, options.encode())
        act(str(path))

    in_child(inside, namespaces.CLONE_NEWNS)


def fill(root: str, leave: int = 0, *, step: int = 64 << 10) -> None:
    """Take all space but *leave* bytes, *step* bytes at a time."""
    with open(f"{root}/filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(step))
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
        if leave:
            file.truncate(file.tell() - leave)


def free(root: str) -> None:
    os.unlink(f"{root}/filler")


def forever(act: Callable[[], object]) -> None:
    """Do it until it fails."""
    while True:
        act()


def test_a_blob_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    def act(root: str) -> None:
        content, metadata = ContentStore(root), Metadata(root)
        row = put(content, metadata, "before", "name:1")
        before = os.statvfs(root).f_bavail
        data = bytes(8 * MIB)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        with pytest.raises(StorageFull, match=f"no space left for {digest} in {root}"):
            content.add(data, digest)
        assert in_ingest(root) == []
        assert os.statvfs(root).f_bavail == before
        assert {blob.digest for blob in content.walk()} == {digest for digest, _ in metadata.blobs(row.id)}
        put(content, metadata, "after", "name:2")
        assert check(content, metadata) == []

    on_small_disk(tmp_path, 8 * MIB, act)


def test_no_inode_is_left_is_the_same_error(tmp_path: Path) -> None:
    def act(root: str) -> None:
        content = ContentStore(root)
        numbers = itertools.count()
        with pytest.raises(StorageFull):
            forever(lambda: content.add(str(next(numbers)).encode()))
        assert in_ingest(root) == []
        content.remove(next(content.walk()).digest)
        content.add(b"again")

    on_small_disk(tmp_path, 8 * MIB, act, inodes=40)


def test_an_open_store_can_be_read_and_emptied_on_a_full_disk(tmp_path: Path) -> None:
    def act(root: str) -> None:
        content, metadata = ContentStore(root), Metadata(root)
        row = put(content, metadata, "one", "name:1", layers=(bytes(MIB),))
        (Path(root) / "content/ingest/of a killed writer").write_bytes(bytes(MIB))
        fill(root)
        assert check(content, metadata) == []
        with pytest.raises(StorageFull, match="no space left"):
            put(content, metadata, "two")
        collect(content, metadata)  # first of what needs no row
        assert os.statvfs(root).f_bavail * os.statvfs(root).f_frsize >= MIB
        metadata.delete_image(row.id)
        assert collect(content, metadata).blobs == 3
        put(content, metadata, "two")
        assert check(content, metadata) == []

    on_small_disk(tmp_path, 8 * MIB, act)


@pytest.mark.parametrize("leave", range(0, 160 << 10, 16 << 10))
def test_rows_that_do_not_fit_are_not_half_there(tmp_path: Path, leave: int) -> None:
    """The log of the database grows until the disk is full."""

    def act(root: str) -> None:
        content, metadata = ContentStore(root), Metadata(root)
        row = put(content, metadata, "one", "name:0")
        fill(root, leave)
        done = [("name:0", row.id)]

        def name() -> None:
            metadata.set_reference(f"name:{len(done)}", row.id)
            done.append((f"name:{len(done)}", row.id))

        with pytest.raises(StorageFull, match=f"no space left for {root}/images.db"):
            forever(name)
        assert metadata.references() == sorted(done)
        free(root)
        metadata.set_reference("name:last", row.id)
        assert metadata.references() == sorted([*done, ("name:last", row.id)])
        assert check(content, metadata) == []

    on_small_disk(tmp_path, 4 * MIB, act)


@pytest.mark.parametrize("leave", range(0, 320 << 10, 12 << 10))
def test_a_store_is_opened_or_not_and_never_half(tmp_path: Path, leave: int) -> None:
    def act(root: str) -> None:
        fill(root, leave)
        try:
            put(ContentStore(root), Metadata(root), "one", "name:1")
        except StorageFull:
            free(root)
            put(ContentStore(root), Metadata(root), "one", "name:1")
        content, metadata = ContentStore(root), Metadata(root)
        assert len(metadata.images()) == 1
        assert check(content, metadata) == []
        assert not [name for name in os.listdir(root) if ".new" in name]

    on_small_disk(tmp_path, 4 * MIB, act)


@pytest.mark.parametrize("opened", ["before", "then"])
def test_a_store_without_anything_to_sweep_can_be_emptied_on_a_full_disk(tmp_path: Path, opened: str) -> None:
    """As a daemon does it, and as a command does that somebody calls because the disk is full."""

    def act(root: str) -> None:
        content, metadata = ContentStore(root), Metadata(root)
        row = put(content, metadata, "one", "name:1", layers=(bytes(MIB),))
        if opened == "then":
            metadata.close()
        else:
            metadata.database.query("PRAGMA wal_checkpoint(TRUNCATE)")
        fill(root)
        if opened == "then":
            metadata = Metadata(root)
        metadata.delete_reference("name:1")
        metadata.delete_image(row.id)
        assert collect(content, metadata).blobs == 3
        metadata.close()
        Metadata(root)
        assert os.path.getsize(f"{root}/images.db.reserve")  # for the next time

    on_small_disk(tmp_path, 8 * MIB, act)


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    def act(root: str) -> None:
        files.save(f"{root}/state", b"old")
        with pytest.raises(StorageFull, match=f"no space left for {root}/state"):
            files.save(f"{root}/state", bytes(16 * MIB))
        assert os.listdir(root) == ["state"]
        assert Path(root, "state").read_bytes() == b"old"

    on_small_disk(tmp_path, 8 * MIB, act)
