"""What goes out is the same bytes for the same images, and comes back as the same images."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import DataLoss, InvalidArgument, NotFound
from pyrunc.image.archive.load import load
from pyrunc.image.archive.save import save
from pyrunc.image.images import ImageStore
from pyrunc.spec.image import Platform
from tests.image.archive import making
from tests.image.archive.making import Layout, archive, image, named
from tests.image.archive.test_load import check

LAYERS = making.odd_layers()
ODD = image(LAYERS, "odd:1", "odd:two", "example.com/odd:3")
BASE = image(LAYERS[:1], "base:latest")
ZIPPED = image(LAYERS[1:2], "zipped:1")
Form = Any


@pytest.fixture
def images(images: ImageStore) -> ImageStore:
    """A store with the three images; one has a gzip layer and its own manifest."""
    load(io.BytesIO(archive(making.docker_1_10([ODD, BASE]))), images)
    layout = Layout()
    files = layout.finish(layout.image(ZIPPED, compress="gzip", docker=True, annotations=named("zipped:1")))
    load(io.BytesIO(archive(files)), images)
    return images


def saved(images: ImageStore, *names: str, **options: Any) -> bytes:
    target = io.BytesIO()
    save(images, names, target.write, **options)
    return target.getvalue()


def files(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as found:
        return {
            info.name: file.read()
            for info in found.getmembers()
            if (file := found.extractfile(info)) is not None
        }


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_images_come_back(images: ImageStore, make_store: Callable[[str], ImageStore], form: Form) -> None:
    data = saved(images, "odd", "base", "zipped:1", "example.com/odd:3", format=form)
    other = make_store("other")
    loaded = load(io.BytesIO(data), other, platform=Platform("linux", "amd64"))
    assert [(each.row.id, [name.familiar for name in each.references]) for each in loaded] == [
        (ODD.id, ["odd:1", "odd:two", "example.com/odd:3"]),
        (BASE.id, ["base:latest"]),
        (ZIPPED.id, ["zipped:1"]),
    ]
    for each in (ODD, BASE, ZIPPED):
        check(other, each)
        assert other.get(each.id).manifest == images.get(each.id).manifest
    assert saved(other, "odd", "base", "zipped:1", "example.com/odd:3", format=form) == data


def test_a_docker_archive_is_an_oci_layout_too(images: ImageStore) -> None:
    docker, oci = files(saved(images, "odd")), files(saved(images, "odd", format="oci"))
    assert docker.keys() - oci.keys() == {"manifest.json", "repositories"}
    assert {name: docker[name] for name in oci} == oci
    for name, content in oci.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    (entry,) = json.loads(docker["manifest.json"])
    assert entry["RepoTags"] == ["odd:1", "odd:two"]
    assert [docker[name] for name in entry["Layers"]] == list(LAYERS)
    assert docker[entry["Config"]] == ODD.config
    highest = entry["Layers"][-1][13:]
    assert json.loads(docker["repositories"]) == {"odd": {"1": highest, "two": highest}}


def test_a_layer_of_several_images_is_written_once(images: ImageStore) -> None:
    with tarfile.open(fileobj=io.BytesIO(saved(images, "odd", "base"))) as found:
        names = found.getnames()
    assert len(names) == len(set(names))
    assert f"blobs/sha256/{making.digest(LAYERS[0])[7:]}" in names


def test_names_are_saved_as_they_are_asked_for(images: ImageStore) -> None:
    def tags(*names: str) -> list[Any]:
        return [entry["RepoTags"] for entry in json.loads(files(saved(images, *names))["manifest.json"])]

    assert tags("odd:two") == [["odd:two"]]
    assert tags("odd:two", "odd") == [["odd:two", "odd:1"]]
    assert tags(ODD.id) == [None]
    assert tags(ODD.id[7:19]) == [None]
    assert tags("sha256:" + ODD.id[7:19]) == [None]
    assert tags(ODD.id, "odd:1") == [["odd:1"]]
    assert tags("base", "odd:1") == [["base:latest"], ["odd:1"]]
    assert "repositories" not in files(saved(images, ODD.id))
    images.metadata.set_digest(f"docker.io/library/odd@{images.get('odd:1').manifest}", ODD.id)
    assert tags(f"odd@{images.get('odd:1').manifest}") == [None]


def test_nothing_is_written_when_a_name_is_wrong(images: ImageStore) -> None:
    for names, error, words in (
        (["odd:1", "none"], NotFound, "No such image: none:latest"),
        (["odd:3"], NotFound, "No such image: odd:3"),
        (["0" * 64], NotFound, "No such image: sha256:000"),
        (["Odd"], InvalidArgument, "must be lowercase"),
        ([], InvalidArgument, "no image"),
    ):
        written: list[Any] = []
        with pytest.raises(error, match=words):
            save(images, names, written.append)
        assert written == []
    form: Any = "tar"
    with pytest.raises(InvalidArgument, match="no such format"):
        save(images, ["odd:1"], written.append, format=form)


def test_an_image_goes_through_a_pipe(images: ImageStore, make_store: Callable[[str], ImageStore]) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            save(images, ["odd:1"], pipe.write)

    thread = threading.Thread(target=write)
    thread.start()
    other = make_store("other")
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        load(pipe, other)
    thread.join()
    check(other, ODD)


def test_what_is_written_is_told(images: ImageStore) -> None:
    seen: dict[str, tuple[int, int]] = {}
    save(
        images,
        ["odd"],
        lambda _: None,
        progress=lambda name, done, total: seen.__setitem__(name, (done, total)),
    )
    assert seen == {f"blobs/sha256/{making.digest(data)[7:]}": (len(data), len(data)) for data in LAYERS}


def test_damaged_content_is_not_sent_as_if_it_were_whole(images: ImageStore) -> None:
    path = Path(images.content.path(making.digest(LAYERS[0])))
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(DataLoss, match=making.digest(LAYERS[0])):
        saved(images, "base")
    path.write_bytes(data[:-1])
    with pytest.raises(DataLoss, match=making.digest(LAYERS[0])):
        saved(images, "base")


def test_a_gzip_layer_stays_as_it_is(images: ImageStore) -> None:
    found = files(saved(images, "zipped:1"))
    (entry,) = json.loads(found["manifest.json"])
    assert found[entry["Layers"][0]] == gzip.compress(LAYERS[1], mtime=0)


def test_docker_gets_a_zstd_layer_uncompressed(
    images: ImageStore, make_store: Callable[[str], ImageStore]
) -> None:
    """Docker reads zstd since 23 only; OCI layouts keep it."""
    layout = Layout()
    made = image(LAYERS, "packed:1")
    load(
        io.BytesIO(
            archive(layout.finish(layout.image(made, compress="zstd", annotations=named("packed:1"))))
        ),
        images,
    )
    row = images.get("packed:1")
    found = files(saved(images, "packed:1"))
    (entry,) = json.loads(found["manifest.json"])
    assert [found[name] for name in entry["Layers"]] == list(LAYERS)
    for form, kept in (("docker", False), ("oci", True)):
        other = make_store(form)
        chosen: Form = form
        (loaded,) = load(io.BytesIO(saved(images, "packed:1", format=chosen)), other)
        assert loaded.row.id == row.id
        assert (loaded.row.manifest == row.manifest) == kept
        check(other, made)
