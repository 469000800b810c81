"""Images of a store: added whole, found as Docker finds them."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import DataLoss, InvalidArgument, InvalidSpec, NotFound
from pyrunc.image.images import ImageStore
from pyrunc.image.reference import parse
from pyrunc.spec import image as documents
from pyrunc.spec.image import Descriptor
from pyrunc.store.metadata import ImageRow

LAYER = bytes(1024)
LAYER_ID = documents.digest_of(LAYER)
PLAIN = documents.layer_type("plain")

Add = Callable[..., ImageRow]


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(str(tmp_path))
    yield store
    store.close()


@pytest.fixture
def add(images: ImageStore) -> Add:
    """Add an image of one layer; fields of its config, then arguments."""

    def call(config: dict[str, Any], *names: str, **arguments: Any) -> ImageRow:
        with images.lease() as lease:
            images.content.add(LAYER, lease=lease)
            data = json.dumps({"rootfs": {"type": "layers", "diff_ids": [LAYER_ID]}, **config}).encode()
            layers = [Descriptor(PLAIN, LAYER_ID, len(LAYER))]
            named = [parse(name) for name in names]
            return images.add(data, layers, **{"lease": lease, "references": named, **arguments})

    return call


def test_an_image_is_its_config_and_gets_a_manifest(images: ImageStore, add: Add) -> None:
    row = add({"os": "linux", "architecture": "amd64", "created": "1970-01-01T00:00:01Z", "x": 1}, "a", "b:1")
    assert (row.os, row.architecture, row.created_ns, row.size) == ("linux", "amd64", 10**9, 1024)
    assert images.config(row)["x"] == 1
    assert "sha256:" + hashlib.sha256(images.content.read(row.id)).hexdigest() == row.id
    manifest = images.manifest(row)
    assert manifest.media_type == documents.OCI_MANIFEST
    assert manifest.config.digest == row.id
    assert manifest.layers == (Descriptor(PLAIN, LAYER_ID, 1024),)
    assert images.metadata.chain_ids(row.id) == [LAYER_ID]
    assert [name for name, _ in images.metadata.references(row.id)] == [
        "docker.io/library/a:latest",
        "docker.io/library/b:1",
    ]


def test_an_image_keeps_the_manifest_that_it_came_with(images: ImageStore, add: Add) -> None:
    row = add({})
    data = images.content.read(row.manifest)
    other = json.dumps({**json.loads(data), "annotations": {"a": "b"}}).encode()
    assert add({}, manifest=other).manifest == documents.digest_of(other)
    with pytest.raises(InvalidSpec, match=r"manifest\.config\.digest"):
        add({"x": 1}, manifest=other)
    changed = json.loads(data)
    changed["layers"] *= 2
    with pytest.raises(InvalidSpec, match=r"manifest\.layers"):
        add({}, manifest=json.dumps(changed).encode())


def test_what_does_not_fit_is_refused(images: ImageStore, add: Add) -> None:
    config = json.dumps({"rootfs": {"diff_ids": [LAYER_ID]}}).encode()
    with images.lease() as lease:
        with pytest.raises(NotFound, match=LAYER_ID):
            images.add(config, [Descriptor(PLAIN, LAYER_ID, 1024)], lease=lease)
        images.content.add(LAYER, lease=lease)
        with pytest.raises(InvalidSpec, match="1024 bytes, and its descriptor says 1"):
            images.add(config, [Descriptor(PLAIN, LAYER_ID, 1)], lease=lease)
    with pytest.raises(InvalidSpec, match="expected 2, got 1"):
        add({"rootfs": {"diff_ids": [LAYER_ID] * 2}})
    assert images.metadata.images() == []


def test_an_image_is_found_as_docker_finds_it(images: ImageStore, add: Add) -> None:
    row = add({}, "debian:bookworm", "localhost:5000/x/y")
    digits = row.id[7:]
    images.metadata.set_digest(f"docker.io/library/debian@{row.manifest}", row.id)
    for text in (
        "debian:bookworm", "docker.io/debian:bookworm", "index.docker.io/library/debian:bookworm",
        "localhost:5000/x/y", "localhost:5000/x/y:latest", f"debian@{row.manifest}", f"debian:any@{row.manifest}",
        row.id, digits, digits[:12], digits[:1], f"sha256:{digits[:5]}",
    ):  # fmt: skip
        assert images.get(text) == row, text


def test_a_name_goes_before_an_id(images: ImageStore, add: Add) -> None:
    first = add({})
    second = add({"x": 1}, first.id[7:12])
    assert images.get(first.id[7:12]) == second
    assert images.get(first.id[7:13]) == first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("debian", "debian:latest"),
        ("debian:1", "debian:1"),
        ("abcd", "abcd:latest"),
        ("a/b", "a/b:latest"),
        ("sha256:abc", "sha256:abc"),
        ("0" * 64, "sha256:" + "0" * 64),
        ("sha256:" + "0" * 64, "sha256:" + "0" * 64),
        ("a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64),
    ],
)
def test_an_image_that_is_not_there_is_refused_in_dockers_words(
    images: ImageStore, text: str, words: str
) -> None:
    with pytest.raises(NotFound) as caught:
        images.get(text)
    assert str(caught.value) == f"No such image: {words}"


def test_a_prefix_of_several_ids_is_none(images: ImageStore, add: Add) -> None:
    rows = [add({"x": i}) for i in range(17)]
    firsts = [row.id[7] for row in rows]
    twice = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(NotFound, match=f"No such image: {twice}:latest"):
        images.get(twice)


def test_tags_come_and_go(images: ImageStore, add: Add) -> None:
    row = add({}, "a:1")
    assert images.tag("a:1", "b") == row
    assert images.get("b:latest") == row
    assert images.untag(parse("b")) == row.id
    assert images.untag(parse("b")) is None
    with pytest.raises(InvalidArgument, match="refusing to create a tag with a digest reference"):
        images.tag("a:1", "b@" + row.id)
    with pytest.raises(NotFound, match="No such image: b:latest"):
        images.tag("b", "c")
    other = add({"x": 1}, "a:1")
    assert images.get("a:1") == other
    images.delete(other)
    with pytest.raises(NotFound):
        images.get("a:1")


def test_the_tags_of_a_repository_are_found(images: ImageStore, add: Add) -> None:
    row = add({}, "a:1", "a:2", "a/b:1", "x.y/a:1", "ab:1")
    assert images.named(parse("a")) == [(parse("a:1"), row.id), (parse("a:2"), row.id)]


def test_a_damaged_config_is_not_served(images: ImageStore, add: Add) -> None:
    row = add({}, "a")
    path = Path(images.content.path(row.id))
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data.replace(b"{", b"[", 1))
    with pytest.raises(DataLoss, match=row.id):
        images.config(row)
