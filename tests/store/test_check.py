"""After damage the store opens, serves no wrong byte, and tells what is lost and whom it concerns."""

import os
from pathlib import Path

import pytest

from pyrunc.errors import DataLoss
from pyrunc.store.check import Problem, check
from pyrunc.store.content import ContentStore
from pyrunc.store.metadata import Metadata
from tests.store.support import Snapshots, put

Kit = tuple[ContentStore, Metadata]


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return ContentStore(str(tmp_path)), Metadata(str(tmp_path))


def test_a_whole_store_has_no_problem(kit: Kit) -> None:
    put(*kit, "one", "name:1")
    kit[0].add(b"garbage is no problem")
    sizes: list[int] = []
    assert check(*kit, progress=sizes.append) == []
    assert sorted(sizes) == sorted([len(b"one config"), len(b"one manifest"), len(b"layer")])


def test_it_says_which_images_names_and_containers_a_blob_concerns(kit: Kit) -> None:
    content, metadata = kit
    one, two = put(*kit, "one", "name:1", "name:2"), put(*kit, "two")
    metadata.set_digest("name@sha256:x", one.id)
    metadata.use_image("c1", two.id)
    layer = metadata.blobs(one.id)[2][0]
    Path(content.path(layer)).chmod(0o600)
    Path(content.path(layer)).write_bytes(b"layeR")
    content.remove(two.manifest)
    found = {problem.what: problem for problem in check(*kit)}
    assert found.keys() == {layer, two.manifest}
    assert found[layer] == Problem(
        "damaged", layer, f"{layer} is damaged: the file of 5 bytes has another content",
        tuple(sorted((one.id, two.id))), ("name:1", "name:2", "name@sha256:x"), ("c1",),
    )  # fmt: skip
    assert found[two.manifest].kind == "missing"
    assert found[two.manifest].images == (two.id,)
    put(*kit, "one")
    put(*kit, "two")
    assert check(*kit) == []


def test_a_container_without_its_snapshot_is_told(kit: Kit) -> None:
    row = put(*kit, "one")
    kit[1].use_image("c1", row.id)
    kit[1].use_image("c2", row.id, snapshot="top")
    assert check(*kit, [Snapshots(c1=None), Snapshots()]) == [
        Problem("missing", "top", "container c2 has lost its files", (row.id,), (), ("c2",))
    ]


def test_garbage_among_the_files_is_told_and_disturbs_nothing(kit: Kit) -> None:
    content, _ = kit
    put(*kit, "one")
    stranger = Path(content.root, "content/blobs/sha256/core")
    stranger.mkdir()
    Path(content.root, "content/ingest/garbage").write_bytes(os.urandom(1000))
    assert [(problem.kind, problem.what) for problem in check(*kit)] == [("unexpected", str(stranger))]


def test_without_a_database_all_content_is_checked(kit: Kit) -> None:
    content, _ = kit
    good, bad = content.add(b"good"), content.add(b"bad")
    os.truncate(content.path(bad.digest), 1)
    assert [(problem.kind, problem.what) for problem in check(content, None)] == [("damaged", bad.digest)]
    assert good


def checkpointed(metadata: Metadata) -> Path:
    """The file of a database whose log is gone, as after the last process has ended."""
    metadata.close()
    path = Path(metadata.database.path)
    assert not Path(f"{path}-wal").exists()
    return path


def says_what_to_do(root: Path) -> None:
    with pytest.raises(DataLoss) as caught:
        Metadata(str(root)).images()
    text = str(caught.value)
    assert text.startswith(f"{root}/images.db is damaged: ")
    assert f"the 3 blobs of {len('one configone manifestlayer')} bytes below {root}/content are not" in text


@pytest.mark.parametrize("left", [0, 50, 100, 4096, 10_000])
def test_a_truncated_database_is_one_clear_error(kit: Kit, tmp_path: Path, left: int) -> None:
    put(*kit, "one", "name:1")
    os.truncate(checkpointed(kit[1]), left)
    says_what_to_do(tmp_path)


def test_garbage_in_place_of_the_database_is_one_clear_error(kit: Kit, tmp_path: Path) -> None:
    put(*kit, "one", "name:1")
    path = checkpointed(kit[1])
    for size in (10, 100, 200_000):
        path.write_bytes(os.urandom(size))
        says_what_to_do(tmp_path)


def test_garbage_in_the_log_costs_what_was_in_it_and_no_more(kit: Kit, tmp_path: Path) -> None:
    row = put(*kit, "one", "name:1")
    path = checkpointed(kit[1])
    for size in (1, 32, 100_000):
        Path(f"{path}-wal").write_bytes(os.urandom(size))
        metadata = Metadata(str(tmp_path))
        assert metadata.references() == [("name:1", row.id)]
        assert check(kit[0], metadata) == []
        metadata.close()


def test_what_the_error_advises_works(kit: Kit, tmp_path: Path) -> None:
    row = put(*kit, "one", "name:1")
    path = checkpointed(kit[1])
    path.write_bytes(b"garbage")
    says_what_to_do(tmp_path)
    path.rename(tmp_path / "damaged")
    metadata = Metadata(str(tmp_path))
    assert metadata.images() == []
    assert kit[0].read(row.manifest) == b"one manifest"
    put(kit[0], metadata, "one", "name:1")
    assert metadata.resolve("name:1") == row.id
    assert check(kit[0], metadata) == []


def test_a_damaged_page_is_found(kit: Kit, tmp_path: Path) -> None:
    for number in range(60):
        put(*kit, f"image {number}", f"name:{number}")
    path = checkpointed(kit[1])
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))
    metadata = Metadata(str(tmp_path))
    problems = check(kit[0], metadata)
    assert problems
    assert {(problem.kind, problem.what) for problem in problems} == {("database", str(path))}
