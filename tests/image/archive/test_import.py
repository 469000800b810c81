"""A tar of a root directory becomes an image of one layer, as docker import makes it."""

import bz2
import gzip
import io
import lzma
import os
import threading
import time
from typing import Any

import pytest

from pyrunc.errors import InvalidArgument, InvalidSpec
from pyrunc.image.archive.import_ import import_
from pyrunc.image.images import ImageStore
from pyrunc.image.reference import parse
from pyrunc.spec import image as documents
from pyrunc.spec.image import Platform
from pyrunc.store.collect import collect
from tests.image.archive.making import digest, odd_layers, zstd

ROOT = odd_layers()[0]


def test_a_tar_becomes_an_image_of_one_layer(images: ImageStore) -> None:
    before = time.time_ns()
    row = import_(io.BytesIO(ROOT), images, reference=parse("root"), changes=["CMD run", "ENV A=b"])
    assert before <= row.created_ns <= time.time_ns()
    config = images.config(row)
    when = config["created"]
    host = documents.host_platform()
    assert config == {
        "architecture": host.architecture,
        "os": "linux",
        "created": when,
        "comment": "Imported from -",
        "config": {"Cmd": ["/bin/sh", "-c", "run"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(ROOT)]},
        "history": [{"created": when, "comment": "Imported from -"}],
    }
    assert images.get("root:latest") == row
    assert images.content.read(digest(ROOT)) == ROOT
    assert row.size == len(ROOT)


def test_the_same_tar_can_be_the_same_image(images: ImageStore) -> None:
    options: dict[str, Any] = {
        "created_ns": 0,
        "message": "a base",
        "created_by": "debootstrap",
        "platform": Platform("linux", "arm", "v7"),
    }
    row = import_(io.BytesIO(ROOT), images, **options)
    for compress in (gzip.compress, bz2.compress, lzma.compress, zstd):
        assert import_(io.BytesIO(compress(ROOT)), images, **options).id == row.id
    config = images.config(row)
    assert (config["created"], config["comment"], config["variant"]) == (
        "1970-01-01T00:00:00Z",
        "a base",
        "v7",
    )
    assert config["history"] == [
        {"created": "1970-01-01T00:00:00Z", "comment": "a base", "created_by": "debootstrap"}
    ]


def test_what_comes_after_the_archives_end_belongs_to_it(images: ImageStore) -> None:
    """Blocking factors differ, and the diffID is of all bytes, as Docker has it."""
    data = ROOT + bytes(123_456)
    row = import_(io.BytesIO(data), images)
    assert images.config(row)["rootfs"]["diff_ids"] == [digest(data)]


def test_a_tar_is_read_from_a_pipe(images: ImageStore) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(ROOT)

    thread = threading.Thread(target=write)
    thread.start()
    seen: list[int] = []
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        row = import_(pipe, images, progress=seen.append)
    thread.join()
    assert images.config(row)["rootfs"]["diff_ids"] == [digest(ROOT)]
    assert seen[-1] == len(ROOT)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (b"", {}, InvalidSpec, "-: not a tar archive: it is empty"),
        (b"no tar" * 500, {}, InvalidSpec, "-: not a tar archive"),
        (ROOT[:-12_000], {"origin": "root.tar"}, InvalidSpec, "root.tar: the archive is cut short"),
        (gzip.compress(ROOT)[:-9], {}, InvalidSpec, "-: .*the gzip data is cut short"),
        (ROOT, {"changes": ["RUN x"]}, InvalidArgument, "run is not a valid change command"),
        (ROOT, {"reference": parse(f"a@{digest(ROOT)}")}, InvalidArgument, "cannot import digest reference"),
    ],
)
def test_what_is_wrong_is_refused_and_leaves_nothing(
    images: ImageStore, data: bytes, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        import_(io.BytesIO(data), images, **options)
    assert images.metadata.images() == []
    collect(images.content, images.metadata, [])
    assert list(images.content.walk()) == []
