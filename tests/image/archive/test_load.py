"""Archives of every maker are read as they stream by; what is wrong with one is said in one line, and nothing stays."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import DataLoss, InvalidArgument, InvalidSpec, NotFound, PyruncError, Unsupported
from pyrunc.image import compression
from pyrunc.image.archive import contents as contents_of
from pyrunc.image.archive.import_ import import_
from pyrunc.image.archive.load import Loaded, load, load_directory
from pyrunc.image.images import ImageStore
from pyrunc.spec.image import LAYERS as LAYER_TYPES
from pyrunc.spec.image import Platform
from pyrunc.store.collect import collect
from tests.image.archive import making
from tests.image.archive.making import (
    Files,
    Layout,
    archive,
    digest,
    image,
    member,
    named,
    platform,
    tar,
    zstd,
)

AMD64 = Platform("linux", "amd64")
LAYERS = making.odd_layers()
ODD = image(LAYERS, "odd:1", "odd:two")
BASE = image(LAYERS[:1], "base:latest")


def read(images: ImageStore, files: Files | bytes, **options: Any) -> list[Loaded]:
    data = files if isinstance(files, bytes) else archive(files)
    return load(io.BytesIO(data), images, **{"platform": AMD64, **options})


def names(loaded: Loaded) -> list[str]:
    return [reference.familiar for reference in loaded.references]


def check(images: ImageStore, made: making.Image) -> None:
    """The store has exactly the bytes of the image."""
    row = images.get(made.id)
    assert images.content.read(row.id) == made.config
    manifest = images.manifest(row)
    for layer, data in zip(manifest.layers, made.layers, strict=True):
        with images.content.open(layer.digest) as blob:
            packed = compression.open_reader(blob)
            pieces = list(iter(lambda: packed.read(1 << 20), b""))  # noqa: B023 - called before the next
        assert b"".join(pieces) == data
    assert row.size == sum(len(data) for data in made.layers)


def nothing_left(images: ImageStore) -> None:
    assert images.metadata.images() == []
    assert images.metadata.references() == []
    collect(images.content, images.metadata, [])
    assert list(images.content.walk()) == []
    assert os.listdir(os.path.join(images.content.root, "content/ingest")) == []


def oci(*made: making.Image, **options: Any) -> Files:
    layout = Layout()
    return layout.finish(
        *(
            layout.image(each, annotations=named(name), **options)
            for each in made
            for name in each.names or ("",)
        )
    )


MAKERS: dict[str, Callable[[], Files]] = {
    "docker 1.10": lambda: making.docker_1_10([ODD, BASE]),
    "docker 25": lambda: making.docker_25([ODD, BASE]),
    "docker 25.0": lambda: making.docker_25([ODD, BASE], broken_index=True),
    "oci": lambda: oci(ODD, BASE),
    "oci gzip": lambda: oci(ODD, BASE, compress="gzip"),
    "oci zstd": lambda: oci(ODD, BASE, compress="zstd"),
    "schema 2": lambda: oci(ODD, BASE, docker=True),
    "schema 2 gzip": lambda: oci(ODD, BASE, docker=True, compress="gzip"),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("order", ["as written", "backwards", "shuffled"])
def test_every_makers_archive_is_read_in_any_order(images: ImageStore, maker: str, order: str) -> None:
    items = list(MAKERS[maker]().items())
    if order == "backwards":
        items.reverse()
    elif order == "shuffled":
        random.Random(maker).shuffle(items)
    odd, base = read(images, dict(items))
    assert (odd.row.id, base.row.id) == (ODD.id, BASE.id)
    assert (names(odd), names(base)) == (["odd:1", "odd:two"], ["base:latest"])
    check(images, ODD)
    check(images, BASE)
    assert images.get("odd:two").id == ODD.id
    # Two configs, two manifests, and three layers: the one that both have is there once.
    assert len(list(images.content.walk())) == 7


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress, making.zstd])
@pytest.mark.parametrize("maker", ["docker 1.10", "oci"])
def test_the_archive_may_be_of_any_tar_and_compressed(
    images: ImageStore, maker: str, compress: Callable[[bytes], bytes], form: int
) -> None:
    data = archive({f"./{name}": content for name, content in MAKERS[maker]().items()}, form)
    assert len(read(images, compress(data))) == 2
    check(images, ODD)


def test_an_archive_is_read_from_a_pipe_to_its_end(images: ImageStore) -> None:
    data = archive(MAKERS["docker 1.10"]()) + bytes(100_000)
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        assert len(load(pipe, images)) == 2
    thread.join()
    check(images, ODD)


def test_an_image_is_read_from_a_directory(images: ImageStore, tmp_path: Path) -> None:
    for name, content in MAKERS["oci gzip"]().items():
        assert isinstance(content, bytes)
        path = tmp_path / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    odd, base = load_directory(str(tmp_path / "layout"), images, platform=AMD64)
    assert (names(odd), names(base)) == (["odd:1", "odd:two"], ["base:latest"])
    check(images, ODD)


@pytest.mark.parametrize(
    ("compress", "kept"),
    [(gzip.compress, "gzip"), (making.zstd, "zstd"), (bz2.compress, "plain"), (lzma.compress, "plain")],
)
def test_layers_of_a_docker_archive_may_be_compressed(
    images: ImageStore, compress: Callable[[bytes], bytes], kept: str
) -> None:
    files = making.docker_1_10([ODD])
    files = {
        name: compress(data) if name.endswith("layer.tar") and isinstance(data, bytes) else data
        for name, data in files.items()
    }
    (loaded,) = read(images, files)
    check(images, ODD)
    assert {LAYER_TYPES[layer.media_type] for layer in images.manifest(loaded.row).layers} == {kept}


def test_a_manifest_keeps_its_digest(images: ImageStore) -> None:
    files = MAKERS["docker 25"]()
    index = json.loads(files["index.json"])
    loaded = read(images, files)
    assert [each.row.manifest for each in loaded] == [
        index["manifests"][0]["digest"],
        index["manifests"][2]["digest"],
    ]


def test_an_image_without_layers_and_names_is_read(images: ImageStore) -> None:
    empty = image([])
    for files in (making.docker_1_10([empty]), oci(empty)):
        (loaded,) = read(images, files)
        assert (loaded.row.id, loaded.references, loaded.row.size) == (empty.id, (), 0)


def test_a_name_goes_from_one_image_to_another_and_both_are_told(images: ImageStore) -> None:
    read(images, making.docker_1_10([ODD]))
    other = image(LAYERS[:1], "odd:1")
    (loaded,) = read(images, making.docker_1_10([other]))
    assert [(name.familiar, old) for name, old in loaded.replaced] == [("odd:1", ODD.id)]
    assert images.get("odd:1").id == other.id
    assert images.get("odd:two").id == ODD.id
    assert read(images, making.docker_1_10([other]))[0].replaced == ()


def test_what_is_read_is_told(images: ImageStore) -> None:
    seen: dict[str, tuple[int, int]] = {}
    read(images, oci(ODD), progress=lambda name, done, total: seen.__setitem__(name, (done, total)))
    for data in LAYERS:
        assert seen[f"blobs/sha256/{digest(data)[7:]}"] == (len(data), len(data))


def test_a_zip_bomb_of_a_layer_is_refused(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_of, "MAX_RATIO", 3)
    monkeypatch.setattr(contents_of, "_RATIO_FROM_BYTES", 10 << 20)
    layer = tar([(member("zeros"), bytes(20 << 20))])
    with pytest.raises(InvalidSpec, match=r"bytes unpack to .* or more"):
        read(images, oci(image([layer]), compress="gzip"))
    nothing_left(images)


def test_a_zip_bomb_of_an_archive_is_refused(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_of, "_RATIO_FROM_BYTES", 10 << 20)
    bomb = zstd(tar([(member("zeros"), bytes(40 << 20))]))  # some 30,000 times as large
    with pytest.raises(InvalidSpec, match=r"^zeros: archive: \d+ bytes unpack to \d+ or more"):
        read(images, bomb)
    nothing_left(images)
    with pytest.raises(InvalidSpec, match=r"^-: \d+ bytes unpack to \d+ or more"):
        import_(io.BytesIO(bomb), images)
    nothing_left(images)


# ---- names in OCI layouts


@pytest.mark.parametrize(
    ("annotations", "found"),
    [
        ({}, []),
        (named("latest"), []),
        (named("v1.0"), []),
        (named("debian:bookworm"), ["debian:bookworm"]),
        (named("docker.io/library/debian:bookworm"), ["debian:bookworm"]),
        (named("example.com/a/b"), ["example.com/a/b:latest"]),
        (named(f"a/b@{digest(b'')}"), []),
        ({**named("latest"), "io.containerd.image.name": "docker.io/library/a:latest"}, ["a:latest"]),
    ],
)
def test_an_annotation_names_an_image(
    images: ImageStore, annotations: dict[str, str], found: list[str]
) -> None:
    layout = Layout()
    (loaded,) = read(images, layout.finish(layout.image(BASE, annotations=annotations)))
    assert names(loaded) == found


def test_a_wrong_name_is_refused(images: ImageStore) -> None:
    layout = Layout()
    with pytest.raises(InvalidSpec, match=r"index\.json: 'A/B': .*must be lowercase"):
        read(images, layout.finish(layout.image(BASE, annotations=named("example.com/A/B"[12:]))))
    for tag in ("A", "a", f"a@{BASE.id}", "a:1@x"):
        wrong = making.docker_1_10([BASE._replace(names=(tag,))])
        with pytest.raises(InvalidSpec, match=r"manifest\.json\[0\]\.RepoTags\[0\]"):
            read(images, wrong)
    nothing_left(images)


# ---- platforms

ARM = image(LAYERS[1:2], architecture="arm64")


def test_the_image_for_this_platform_is_taken_from_an_index(images: ImageStore) -> None:
    for docker in (False, True):
        for nested in (False, True):
            layout = Layout()
            below = [
                layout.image(ARM, docker=docker, platform=platform("arm64", "v8")),
                layout.image(BASE, docker=docker, platform=platform("amd64")),
                {
                    "mediaType": f"{making.TYPES}manifest.v1+json", "digest": digest(b"missing"), "size": 7,
                    "platform": platform("amd64", system="windows"),
                },
                {
                    "mediaType": f"{making.TYPES}manifest.v1+json", "digest": digest(b"provenance"), "size": 10,
                    "platform": platform("unknown", system="unknown"),
                    "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
                },
            ]  # fmt: skip
            index = layout.index(below, docker=docker)
            if nested:
                index = layout.index([index])
            files = layout.finish({**index, "annotations": named("multi:1")})
            (loaded,) = read(images, files)
            assert (loaded.row.id, names(loaded)) == (BASE.id, ["multi:1"])
            (loaded,) = read(images, files, platform=Platform("linux", "arm64"))
            assert loaded.row.id == ARM.id
            with pytest.raises(
                NotFound, match="no image for linux/s390x; there is linux/amd64, linux/arm64/v8, "
            ):
                read(images, files, platform=Platform("linux", "s390x"))


@pytest.mark.parametrize("annotations", [{}, named("multi:1")])
def test_manifests_of_one_name_are_one_image_for_several_platforms(
    images: ImageStore, annotations: dict[str, str]
) -> None:
    layout = Layout()
    files = layout.finish(
        layout.image(ARM, platform=platform("arm64"), annotations=annotations),
        layout.image(BASE, platform=platform("amd64"), annotations=annotations),
    )
    (loaded,) = read(images, files)
    assert loaded.row.id == BASE.id


def test_a_single_image_for_another_platform_is_read_but_not_for_another_system(images: ImageStore) -> None:
    layout = Layout()
    (loaded,) = read(images, layout.finish(layout.image(ARM, platform=platform("arm64"))))
    assert loaded.row.architecture == "arm64"
    windows = image(LAYERS[:1], os="windows")
    for files in (oci(windows), making.docker_1_10([windows])):
        with pytest.raises(Unsupported, match="cannot load windows image on linux"):
            read(images, files)


# ---- what is wrong


def edit(files: Files, name: str, change: Callable[[Any], Any]) -> Files:
    """Change one document of *files*."""
    content = files[name]
    assert isinstance(content, bytes)
    return {**files, name: json.dumps(change(json.loads(content))).encode()}


def entry(**changed: Any) -> Callable[[], Files]:
    return lambda: edit(making.docker_1_10([ODD]), "manifest.json", lambda all_: [{**all_[0], **changed}])


def blob(name: str, content: bytes | str) -> Callable[[], Files]:
    return lambda: {**making.docker_1_10([ODD]), name: content}


def without(files: Callable[[], Files], wanted: Callable[[str], bool]) -> Callable[[], Files]:
    return lambda: {name: data for name, data in files().items() if not wanted(name)}


def oci_index(**changed: Any) -> Callable[[], Files]:
    return lambda: edit(
        oci(BASE), "index.json", lambda index: {**index, "manifests": [{**index["manifests"][0], **changed}]}
    )


def first_layer(files: Files, data: bytes | str) -> Files:
    name = next(name for name in files if name.endswith("/layer.tar"))
    return {**files, name: data}


def edit_manifest(files: Files, old: str, new: str) -> Files:
    """Replace text in the only manifest, and point at it again."""
    index = json.loads(files["index.json"])
    name = f"blobs/sha256/{index['manifests'][0]['digest'][7:]}"
    content = files.pop(name)
    assert isinstance(content, bytes)
    layout = Layout()
    layout.files.update(files)
    data = content.replace(old.encode(), new.encode())
    return layout.finish(layout.blob(index["manifests"][0]["mediaType"], data))


def damaged_gzip() -> Files:
    """A layer whose digest is right, and whose gzip stream is not."""
    good = gzip.compress(LAYERS[0])
    bad = good[:300] + bytes([good[300] ^ 255]) + good[301:]
    files = oci(BASE, compress="gzip")
    name = next(name for name, data in files.items() if data == making.gzipped(LAYERS[0]))
    del files[name]
    files[f"blobs/sha256/{digest(bad)[7:]}"] = bad
    files = edit_manifest(files, name[13:], digest(bad)[7:])
    return edit_manifest(files, f'"size": {len(making.gzipped(LAYERS[0]))}', f'"size": {len(bad)}')


def nested_indexes() -> Files:
    layout = Layout()
    below = layout.image(BASE, platform=platform("amd64"))
    for _ in range(6):
        below = {**layout.index([below]), "platform": platform("amd64")}
    return layout.finish(below)


HEX = BASE.id[7:]
WRONG: dict[str, tuple[Callable[[], Files | bytes], type[PyruncError], str]] = {
    "empty": (lambda: b"", NotFound, "archive: no image"),
    "no tar": (lambda: b"no archive at all" * 100, InvalidSpec, "archive: not a tar archive"),
    "an empty tar": (lambda: archive({}), NotFound, "archive: no image"),
    "another tar": (lambda: archive({"etc/passwd": b"x"}), NotFound, "neither manifest.json nor index.json"),
    "cut short": (lambda: archive(MAKERS["oci"]())[:-600_000], InvalidSpec, "cut short"),
    "cut gzip": (
        lambda: gzip.compress(archive(MAKERS["oci"]()))[:-20], InvalidSpec, "archive: .*gzip data is cut short",
    ),
    "docker 1.9": (lambda: {"repositories": b"{}", "a/layer.tar": b""}, Unsupported, "before 1.10"),
    "climbing": (lambda: {"../../etc/passwd": b"x"}, InvalidSpec, r"'?../../etc/passwd'? leads outside"),
    "climbing inside": (lambda: {"a/../../b": b"x"}, InvalidSpec, "leads outside"),
    "terminal codes": (lambda: {"../\x1b[31m\n": b"x"}, InvalidSpec, r"'\.\./\\x1b\[31m\\n' leads outside"),
    "link outside": (blob("x/layer.tar", "../../layer.tar"), InvalidSpec, "leads outside"),
    "absolute link": (blob("x/layer.tar", "/etc/passwd"), InvalidSpec, "links outside, to /etc/passwd"),
    "layer is link to itself": (
        lambda: {**entry(Layers=["a", "a", "a"])(), "a": "b", "b": "a"}, InvalidSpec, "a: too many links",
    ),
    "layer outside": (entry(Layers=["../../etc/passwd"] * 3), InvalidSpec, "leads outside"),
    "config outside": (entry(Config="../../../etc/passwd"), InvalidSpec, "leads outside"),
    "no config": (entry(Config=None), InvalidSpec, r"manifest\.json\[0\]\.Config: missing"),
    "config missing": (entry(Config="x.json"), NotFound, "x.json is missing"),
    "config is a directory": (
        lambda: tar([(member("manifest.json"), b'[{"Config":"d"}]'), (member("d", tarfile.DIRTYPE), b"")]),
        NotFound, "d is missing",
    ),
    "config is a device": (
        lambda: tar([(member("manifest.json"), b'[{"Config":"d"}]'), (member("d", tarfile.CHRTYPE), b"")]),
        NotFound, "d is missing",
    ),
    "layer missing": (entry(Layers=["x/layer.tar"] * 3), NotFound, "x/layer.tar is missing"),
    "layers too few": (entry(Layers=[]), InvalidSpec, "expected 3, got 0"),
    "layers too many": (entry(Layers=["x"] * 4), InvalidSpec, "expected 3, got 4"),
    "manifest no list": (blob("manifest.json", b"{}"), InvalidSpec, "manifest.json: must be a list"),
    "manifest of no objects": (blob("manifest.json", b"[1]"), InvalidSpec, r"manifest.json\[0\]: must be an object"),
    "manifest null": (blob("manifest.json", b"null"), InvalidSpec, "manifest.json: must be a list"),
    "manifest not JSON": (blob("manifest.json", b"[{]"), InvalidSpec, "manifest.json: not JSON"),
    "manifest twice the key": (
        blob("manifest.json", b'[{"Config":"a","Config":"b"}]'), InvalidSpec, "the key 'Config' is there twice",
    ),
    "manifest deep": (blob("manifest.json", b"[" * 100_000), InvalidSpec, "manifest.json: nested deeper|not JSON"),
    "manifest giant": (
        blob("manifest.json", b"[" + b" " * (4 << 20) + b"]"), InvalidSpec, "manifest.json: 4194306 bytes",
    ),
    "config giant": (blob("x.json", bytes(5 << 20)), InvalidSpec, "x.json: 5242880 bytes, and at most 4194304"),
    "another layer": (
        lambda: first_layer(making.docker_1_10([ODD]), LAYERS[1]), DataLoss, "layer.tar: invalid diffID for layer 0",
    ),
    "a layer that is no tar is another": (
        lambda: first_layer(making.docker_1_10([ODD]), b"x"), DataLoss, "layer.tar: invalid diffID for layer 0",
    ),
    "oci no manifests": (lambda: Layout().finish(), NotFound, "archive: no image"),
    "oci version": (
        lambda: {**oci(BASE), "oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, Unsupported, "version '2.0.0'",
    ),
    "oci digest": (oci_index(digest="sha256:" + "0" * 64), NotFound, "0000 is missing"),
    "oci digest with a path": (oci_index(digest="sha256:../../x"), InvalidSpec, "64 hex digits"),
    "oci sha512": (oci_index(digest="sha512:" + "0" * 128), Unsupported, "only sha256"),
    "oci size": (oci_index(size=1), DataLoss, "bytes, not 1"),
    "oci type": (oci_index(mediaType="text/plain"), Unsupported, "text/plain is not supported"),
    "oci other type": (
        oci_index(mediaType=f"{making.DOCKER_TYPES}distribution.manifest.v2+json"), InvalidSpec,
        "what points at it says",
    ),
    "oci nested too deep": (nested_indexes, InvalidSpec, "nested deeper than 4 levels"),
    "oci blobs missing": (without(lambda: oci(BASE), lambda name: "blobs" in name), NotFound, "is missing"),
    "oci config missing": (without(lambda: oci(BASE), lambda name: HEX in name), NotFound, f"{HEX} is missing"),
    "oci layer missing": (
        without(lambda: oci(BASE), lambda name: digest(LAYERS[0])[7:] in name), NotFound,
        f"{digest(LAYERS[0])[7:]} is missing",
    ),
    "oci layer damaged": (
        lambda: {**oci(ODD), f"blobs/sha256/{digest(LAYERS[2])[7:]}": LAYERS[2][:-1] + b"x"}, DataLoss,
        f"{digest(LAYERS[2])}: the content has another digest",
    ),
    "oci small layer damaged": (
        lambda: {**oci(BASE), f"blobs/sha256/{digest(LAYERS[0])[7:]}": LAYERS[0][:-1] + b"x"}, DataLoss,
        f"{digest(LAYERS[0])[7:]}: the content has another digest",
    ),
    "oci config damaged": (
        lambda: {**oci(BASE), f"blobs/sha256/{HEX}": BASE.config + b" "}, DataLoss, f"{HEX}: the content has another",
    ),
    "oci another diffID": (
        lambda: oci(BASE._replace(layers=(LAYERS[1],)), compress="gzip"), DataLoss, "invalid diffID for layer 0",
    ),
    "oci layer of xz": (
        lambda: oci(BASE, compress="xz"), Unsupported, r"layer\.v1\.tar\+xz is not supported",
    ),
    "oci layer of xz that says gzip": (
        lambda: edit_manifest(oci(BASE, compress="xz"), "+xz", "+gzip"), Unsupported, "xz is not supported in an OCI",
    ),
    "oci layer of damaged gzip": (
        damaged_gzip, InvalidSpec, "blobs/sha256/.*: .*gzip data is damaged",
    ),
    "oci too few diffIDs": (lambda: oci(BASE._replace(layers=LAYERS)), InvalidSpec, "expected 1, got 3"),
    "oci config not an image": (
        lambda: oci(making.Image(b"{}", ())), InvalidSpec, r"rootfs: missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_archive_is_refused_by_name_and_leaves_nothing(images: ImageStore, case: str) -> None:
    make, error, words = WRONG[case]
    with pytest.raises(error, match=words) as caught:
        read(images, make())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    nothing_left(images)


def test_the_second_image_being_wrong_leaves_the_first_out_too(images: ImageStore) -> None:
    files = making.docker_1_10([BASE, ODD])
    wrong = edit(files, "manifest.json", lambda entries: [entries[0], {**entries[1], "Layers": []}])
    with pytest.raises(InvalidSpec, match="expected 3, got 0"):
        read(images, wrong)
    nothing_left(images)


def test_a_refused_archive_changes_nothing_of_what_is_there(images: ImageStore) -> None:
    read(images, making.docker_1_10([ODD]))
    wrong = image(LAYERS[:2], "odd:1")
    files = edit(making.docker_1_10([wrong]), "manifest.json", lambda all_: [{**all_[0], "Layers": []}])
    with pytest.raises(InvalidSpec):
        read(images, files)
    collect(images.content, images.metadata, [])
    assert images.get("odd:1").id == ODD.id
    check(images, ODD)


@pytest.mark.parametrize("target", ["index.json", "oci-layout", "blobs", "layer"])
def test_a_directory_is_not_left_through_a_link(images: ImageStore, tmp_path: Path, target: str) -> None:
    files = oci(BASE)
    outside = tmp_path / "outside"
    outside.mkdir()
    for name, content in files.items():
        assert isinstance(content, bytes)
        path = tmp_path / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    name = f"blobs/sha256/{digest(LAYERS[0])[7:]}" if target == "layer" else target
    (tmp_path / "layout" / name).rename(outside / "moved")
    (tmp_path / "layout" / name).symlink_to(outside / "moved")
    with pytest.raises(InvalidSpec, match=target if target != "layer" else name):
        load_directory(str(tmp_path / "layout"), images)
    nothing_left(images)


def test_a_layout_has_to_be_there(images: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not a directory"):
        load_directory(str(tmp_path / "none"), images)
    with pytest.raises(NotFound, match="no image"):
        load_directory(str(tmp_path), images)


def test_many_members_are_refused(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_of, "MAX_MEMBERS", 10)
    with pytest.raises(InvalidSpec, match="archive: more than 10 members"):
        read(images, {str(i): b"" for i in range(11)})
    nothing_left(images)


def test_what_is_held_in_memory_is_bounded(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound small files go into the content store too, and are read from there."""
    monkeypatch.setattr(contents_of, "_ALL_HELD_BYTES", 0)
    for maker in ("docker 1.10", "oci gzip"):
        read(images, MAKERS[maker]())
        check(images, ODD)


def test_a_damaged_stream_never_does_more_than_be_refused(images: ImageStore) -> None:
    data = archive(oci(BASE, compress="gzip"))
    for seed in range(150):
        chance = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(damaged))
            damaged[at] ^= 1 << chance.randrange(8)
        try:
            (loaded,) = read(images, bytes(damaged))
        except PyruncError:
            continue
        assert loaded.row.id == BASE.id
        check(images, BASE)
