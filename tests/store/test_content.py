"""Content by digest: only whole and right blobs appear, and no wrong byte is served without an error."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from pyrunc.store.content import Blob, BlobReader, ContentStore

BIG = random.Random(1).randbytes(3_000_001)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path))


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def files(store: ContentStore) -> list[str]:
    """Every file below the store's content."""
    found = []
    for directory, _, names in os.walk(os.path.join(store.root, "content")):
        found += [os.path.relpath(os.path.join(directory, name), store.root) for name in names]
    return sorted(found)


def test_a_blob_is_a_file_called_by_its_digest(store: ContentStore) -> None:
    with store.ingest() as writer:
        for at in range(0, len(BIG), 70_000):
            assert writer.write(memoryview(BIG)[at : at + 70_000]) == min(70_000, len(BIG) - at)
        blob = writer.commit()
    assert blob == Blob(digest_of(BIG), len(BIG)) == store.stat(blob.digest)
    path = Path(store.root, "content/blobs/sha256", blob.digest[7:])
    assert path.read_bytes() == BIG
    assert path.stat().st_mode & 0o7777 == 0o444
    assert files(store) == [str(path.relative_to(store.root))]
    assert list(store.walk()) == [blob]


@pytest.mark.parametrize("data", [b"", b"x", BIG])
def test_what_went_in_comes_out(store: ContentStore, data: bytes) -> None:
    blob = store.add(data, digest_of(data))
    assert store.read(blob.digest) == data
    with store.open(blob.digest) as reader:
        assert reader.read() == data
        assert reader.verified
        assert reader.read() == reader.read(10) == b""
    with store.open(blob.digest) as reader:
        assert b"".join(iter(lambda: reader.read(4096), b"")) == data
    with store.open(blob.digest) as reader:
        buffer = bytearray(len(data) + 100)
        assert reader.readinto(buffer) == len(data)
        assert buffer[: len(data)] == data
    with store.open(blob.digest) as reader:
        assert reader.read(1) == data[:1]
        reader.finish()
        assert reader.verified


@pytest.mark.parametrize(
    ("digest", "size", "what"),
    [
        (digest_of(b"other"), None, "another digest"),
        (digest_of(b"content"), 8, "7 bytes, not 8"),
        (digest_of(b"content"), 6, "more than 6 bytes"),
        (None, 3, "a blob: more than 3 bytes"),
    ],
)
def test_what_is_not_as_announced_leaves_nothing(
    store: ContentStore, digest: str | None, size: int | None, what: str
) -> None:
    def write() -> None:
        with store.ingest(digest, size) as writer:
            writer.write(b"content")
            writer.commit()

    with pytest.raises(DataLoss, match=what):
        write()
    assert files(store) == []


def test_leaving_without_commit_leaves_nothing(store: ContentStore) -> None:
    with store.ingest() as writer:
        writer.write(BIG)
        assert len(files(store)) == 1
    assert files(store) == []
    with pytest.raises(FailedPrecondition):
        writer.write(b"more")
    with pytest.raises(FailedPrecondition):
        writer.commit()


def test_a_blob_appears_only_with_its_last_byte(store: ContentStore) -> None:
    with store.ingest(digest_of(b"ab"), 2) as writer:
        writer.write(b"a")
        with pytest.raises(NotFound):
            store.open(digest_of(b"ab"))
        writer.write(b"b")
        writer.commit()
    assert store.read(digest_of(b"ab")) == b"ab"


@pytest.mark.parametrize(
    "digest",
    ["", "sha256:", "sha256:../../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 63 + "/", "a" * 64],
)
def test_no_text_but_a_digest_becomes_a_path(store: ContentStore, digest: str) -> None:
    for act in (store.open, store.read, store.stat, store.remove, store.ingest):
        with pytest.raises(InvalidArgument, match="not a digest"):
            act(digest)


def test_another_algorithm_is_refused_by_name(store: ContentStore) -> None:
    with pytest.raises(Unsupported, match="only sha256"):
        store.open("sha512:" + "a" * 128)


def test_what_is_not_there_is_not_found(store: ContentStore) -> None:
    for act in (store.open, store.read, store.stat, store.remove, store.set_aside):
        with pytest.raises(NotFound, match=digest_of(b"x")):
            act(digest_of(b"x"))


def test_a_document_has_a_bound(store: ContentStore) -> None:
    blob = store.add(b"12345")
    assert store.read(blob.digest, 5) == b"12345"
    with pytest.raises(InvalidArgument, match="at most 4"):
        store.read(blob.digest, 4)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


DAMAGES = [flip, cut, empty, grow]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_blob_is_an_error_before_its_last_byte(
    store: ContentStore, damage: Callable[[Path], None]
) -> None:
    blob = store.add(BIG)
    damage(Path(store.path(blob.digest)))
    with pytest.raises(DataLoss, match=f"{blob.digest} is damaged"):
        store.read(blob.digest)
    size = os.path.getsize(store.path(blob.digest))
    with store.open(blob.digest) as reader, pytest.raises(DataLoss):
        reader.read(size)  # no more than there is: the error does not wait for a read at the end
    with store.open(blob.digest) as reader:
        buffer = bytearray(size + 1)
        with pytest.raises(DataLoss):
            reader.readinto(buffer)
        assert not any(buffer)
    with store.open(blob.digest) as reader:
        for _ in range((size - 1) // 100_000):
            assert len(reader.read(100_000)) == 100_000
        for _ in range(2):
            with pytest.raises(DataLoss):  # however often one asks
                reader.read(100_000)
        assert not reader.verified
    with store.open(blob.digest) as reader, pytest.raises(DataLoss):
        reader.finish()


@pytest.mark.parametrize("damage", DAMAGES)
def test_storing_it_again_heals_it(store: ContentStore, damage: Callable[[Path], None]) -> None:
    blob = store.add(BIG)
    damage(Path(store.path(blob.digest)))
    store.add(BIG)
    assert store.read(blob.digest) == BIG


def test_a_blob_that_shrinks_while_it_is_read_is_an_error(store: ContentStore) -> None:
    blob = store.add(BIG)
    with store.open(blob.digest) as reader:
        reader.read(1000)
        os.truncate(store.path(blob.digest), 2000)
        with pytest.raises(DataLoss):
            reader.read()


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_is_no_file_is_not_opened(store: ContentStore, kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    path = Path(store.path(digest_of(b"secret")))
    if kind == "symlink":
        path.symlink_to(secret)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(DataLoss, match="not a file"):
        store.open(digest_of(b"secret"))


def test_an_open_blob_outlives_its_removal(store: ContentStore) -> None:
    blob = store.add(BIG)
    with store.open(blob.digest) as reader:
        start = reader.read(10)
        store.remove(blob.digest)
        assert start + reader.read() == BIG
    assert files(store) == []


def test_sweep_takes_what_nobody_writes(store: ContentStore, tmp_path: Path) -> None:
    ingest = Path(store.root, "content/ingest")
    (ingest / "stale").write_bytes(b"x" * 1000)
    (ingest / "directory").mkdir()
    (ingest / "directory/file").write_bytes(b"x")
    (ingest / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"kept")
    os.mkfifo(ingest / "fifo")
    blob = store.add(b"set aside")
    store.set_aside(blob.digest)
    with store.ingest() as writer:
        writer.write(b"alive")
        assert store.sweep() == 1000 + 9
        assert len(files(store)) == 1
        writer.commit()
    assert store.read(digest_of(b"alive")) == b"alive"
    assert (tmp_path / "target").read_bytes() == b"kept"


def test_strangers_are_told_and_never_taken_for_blobs(store: ContentStore) -> None:
    blob = store.add(b"x")
    stranger = Path(store.root, "content/blobs/sha256/README")
    stranger.write_bytes(b"?")
    assert list(store.walk()) == [blob]
    assert store.strangers() == [str(stranger)]


def test_a_reader_is_a_file_for_those_that_want_one(store: ContentStore) -> None:
    blob = store.add(BIG)
    reader = store.open(blob.digest)
    assert isinstance(reader, BlobReader)
    assert (reader.readable(), reader.seekable(), reader.writable()) == (True, False, False)
    with pytest.raises(OSError, match="fileno"):
        reader.fileno()  # nobody gets past the verification by accident, as subprocess would
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(1)
