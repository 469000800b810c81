"""A layer's blob is verified on both sides of its compression while it is applied."""

import gzip
import hashlib
import io
import os
import random
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import errors
from pyrunc.image import layer
from tests.image.test_compression import zstd
from tests.tars import entry, header, padded, pax, tar


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Whatever came of it, the thread that reads ahead is over."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


# Larger than what is read ahead, so that the thread has something to do.
SMALL = tar(("a", "content"), entry("b", tarfile.DIRTYPE))
LARGE = tar(("a", "content"), *[(f"file-{i}", f"{i}" * 20_000) for i in range(80)], ("last", ""))
FORMS: dict[str, Any] = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd}


def apply(data: bytes, root: int, **options: Any) -> layer.Applied:
    return layer.apply(io.BytesIO(data), root, layer.REMOVE, **options)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_all_is_told_and_verified(root: int, kind: str, data: bytes) -> None:
    blob = FORMS[kind](data)
    seen: list[int] = []
    done = apply(blob, root, digest=digest(blob), size=len(blob), diff_id=digest(data), progress=seen.append)
    members = 2 if data is SMALL else 82
    content = 7 + sum(len(f"{i}" * 20_000) for i in range(80)) * (data is LARGE)
    assert done == (digest(blob), len(blob), digest(data), len(data), members, content)
    assert seen == sorted(seen)
    assert seen[-1] == len(blob)
    assert "a" in os.listdir(root)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_blob_that_is_not_what_its_digest_says_is_lost(root: int, kind: str, data: bytes) -> None:
    """Wherever the damage is: it may first look like a bad archive."""
    blob = FORMS[kind](data)
    draw = random.Random(3)
    for at in [0, 90, len(blob) - 1, *[draw.randrange(len(blob)) for _ in range(10)]]:
        damaged = blob[:at] + bytes([blob[at] ^ 1 << draw.randrange(8)]) + blob[at + 1 :]
        with pytest.raises(errors.DataLoss, match="the thing: the content has another digest"):
            apply(damaged, root, digest=digest(blob), size=len(blob), what="the thing")
    with pytest.raises(errors.DataLoss, match=r"the thing: \d+ bytes, not"):
        apply(blob[: len(blob) // 2], root, digest=digest(blob), size=len(blob), what="the thing")
    with pytest.raises(errors.DataLoss, match="the thing: more than"):
        apply(blob + b"x", root, digest=digest(blob), size=len(blob), what="the thing")


@pytest.mark.parametrize("kind", FORMS)
def test_another_diff_id_is_the_documents_fault(root: int, kind: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="uncompressed content has another digest"):
        apply(FORMS[kind](SMALL), root, diff_id=digest(b"else"))


@pytest.mark.parametrize("kind", FORMS)
def test_a_bad_archive_is_told_with_the_member(root: int, kind: str) -> None:
    blob = FORMS[kind](LARGE.rstrip(b"\0") + bytes(-len(LARGE.rstrip(b"\0")) % 512) + header(b"../out"))
    with pytest.raises(errors.InvalidSpec, match=r"^layer 7: \.\./out: it leads outside$"):
        apply(blob, root, digest=digest(blob), what="layer 7")


def test_what_the_file_system_refuses_stays_an_os_error(root: int) -> None:
    with pytest.raises(OSError, match="name too long") as caught:
        apply(tar(("n" * 300, "")), root)
    assert caught.value.filename == "n" * 300


def test_limits(root: int) -> None:
    for limits, words in (
        (layer.DEFAULT_LIMITS._replace(max_bytes=6), "a: the layer unpacks to more than 6 bytes"),
        (layer.DEFAULT_LIMITS._replace(max_members=1), "b/: the layer has more than 1 members"),
        (layer.DEFAULT_LIMITS._replace(max_path_bytes=1), "b/: a path that is too long"),
    ):
        with pytest.raises(errors.InvalidSpec, match=words):
            apply(SMALL, root, limits=limits)


@pytest.mark.parametrize("what", ["files", "extended headers", "zeros behind the end"])
def test_a_bomb_is_bounded_by_its_ratio(root: int, what: str) -> None:
    """Not all that a bomb unpacks to becomes files; all of it takes time."""
    part = {
        "files": header(b"a", size=8 << 20) + bytes(8 << 20),
        "extended headers": pax({"comment": b"x" * 1_000_000}) * 8,
        "zeros behind the end": bytes(8 << 20),
    }[what]  # fmt: skip
    blob = zstd(part * 9 + header(b"last"))
    assert len(part) * 9 / len(blob) > 2000
    with pytest.raises(errors.InvalidSpec, match="more than 1100 times its size"):
        apply(blob, root)
    assert (
        apply(blob, root, limits=layer.DEFAULT_LIMITS._replace(max_ratio=1 << 30)).tar_bytes
        == len(part) * 9 + 512
    )


def test_what_follows_the_archive_is_hashed_too(root: int) -> None:
    data = SMALL + b"more" * 1000
    assert apply(data, root).diff_id == digest(data)


def test_an_error_of_the_source_is_the_callers(root: int) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 3 << 20 >> 1:
                raise ConnectionResetError("gone")
            return super().read(size)

    big = tar(*[(f"file-{i}", "x" * 100_000) for i in range(40)])
    with pytest.raises(ConnectionResetError):
        layer.apply(Broken(big), root, layer.REMOVE)


def test_progress_may_stop_it(root: int) -> None:
    def stop(passed: int) -> None:
        if passed > 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(tar(*[(f"file-{i}", "x" * 100_000) for i in range(40)]), root, progress=stop)


def test_without_privileges_all_is_the_callers(tmp_path: Path) -> None:
    """In a child that is nobody: what needs root is left out, and read-only directories are filled."""
    target = tmp_path / "mine"
    target.mkdir()
    os.chown(target, 65534, 65534)
    for path in [tmp_path, *tmp_path.parents][:3]:
        path.chmod(path.stat().st_mode | 0o055)
    data = (
        pax({"SCHILY.xattr.security.capability": b"\1\0\0\2" + bytes(16), "SCHILY.xattr.user.kept": b"1"})
        + header(b"ro/", b"5", mode=b"0000555\0", uid=b"0000007\0")
        + header(b"ro/in", size=1) + padded(b"x")
    )  # fmt: skip
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            fd = os.open(target, os.O_RDONLY)
            layer.apply(io.BytesIO(data), fd, layer.REMOVE, set_owner=False)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    status = (target / "ro").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o555, 65534)
    assert (target / "ro/in").read_bytes() == b"x"
    assert os.listxattr(target / "ro") == ["user.kept"]
