"""Archives go both ways between pyrunc and Docker, podman and skopeo, and images stay what they are, bit by bit."""

import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc.image.archive.import_ import import_
from pyrunc.image.archive.load import load, load_directory
from pyrunc.image.archive.save import save
from pyrunc.image.images import ImageStore
from pyrunc.image.layer import OVERLAY, apply
from pyrunc.image.reference import parse
from tests import trees
from tests.image.archive import making, peers
from tests.image.archive.making import archive, image, member, tar
from tests.image.archive.test_load import check

LAYERS = making.odd_layers()
ODD = image(LAYERS, "odd:1", "odd:two", "example.com/some/odd:3")
BASE = image(LAYERS[:1], "base:latest")
_NOTES = ("trusted.overlay.origin", "trusted.overlay.impure")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to give the peers copies of the host's directories")
    path = tmp_path_factory.mktemp("peers")
    yield path
    shutil.rmtree(path)  # vfs copies a root directory for every layer


def need(*programs: str) -> None:
    if names := peers.missing(*programs):
        pytest.skip(f"needs {names}")


@pytest.fixture(scope="module")
def skopeo(place: Path) -> peers.Peer:
    need("skopeo")
    return peers.skopeo(place / "skopeo")


@pytest.fixture(scope="module")
def podman(place: Path) -> peers.Podman:
    need("podman")
    return peers.Podman(place / "podman")


@pytest.fixture(scope="module")
def docker(place: Path) -> Iterator[peers.Docker]:
    need("docker", "dockerd", "containerd")
    with peers.docker(place / "docker") as client:
        yield client


@pytest.fixture(scope="module")
def small(busybox: Path) -> making.Image:
    """A busybox image."""
    data = busybox.read_bytes()
    members = [
        (member("bin/", kind=b"5", mode=0o755), b""),
        (member("bin/busybox", mode=0o755), data),
        (member("bin/sh", kind=b"1", linkname="bin/busybox", mode=0o755), b""),
    ]
    return image([tar(members)], "busybox:latest")


@pytest.fixture
def images(images: ImageStore, small: making.Image) -> ImageStore:
    load(io.BytesIO(archive(making.docker_1_10([ODD, BASE, small]))), images)
    return images


def write(images: ImageStore, path: Path, *names: str, form: Any = "docker") -> Path:
    with path.open("wb") as file:
        save(images, names, file.write, format=form)
    return path


def read(store: ImageStore, path: Path) -> dict[str, list[str]]:
    """Load an archive; the names of each image."""
    with path.open("rb") as file:
        return {each.row.id: sorted(name.familiar for name in each.references) for each in load(file, store)}


def same(found: dict[str, Any], made: making.Image) -> None:
    """What docker or podman inspect says of the image is what it was made of."""
    assert "sha256:" + found["Id"].removeprefix("sha256:") == made.id
    assert found["RootFS"]["Layers"] == [making.digest(layer) for layer in made.layers]


def test_docker_takes_our_archive_and_we_take_dockers(
    docker: peers.Docker,
    images: ImageStore,
    small: making.Image,
    make_store: Callable[[str], ImageStore],
    tmp_path: Path,
) -> None:
    said = docker.load(write(images, tmp_path / "ours", "odd", "base", "busybox", "example.com/some/odd:3"))
    for name in ("odd:1", "odd:two", "example.com/some/odd:3", "base:latest", "busybox:latest"):
        assert f"Loaded image: {name}\n" in said
    for made in (ODD, BASE, small):
        same(docker.inspect(made.names[0]), made)
    docker.save(tmp_path / "theirs", "odd", "base", "example.com/some/odd:3", small.id)
    other = make_store("other")
    assert read(other, tmp_path / "theirs") == {
        ODD.id: sorted(ODD.names),
        BASE.id: ["base:latest"],
        small.id: [],
    }
    # Docker makes the layers' bytes anew from what it has unpacked: they are those that went in.
    for made in (ODD, BASE, small):
        check(other, made)


def compare_trees(docker: peers.Docker, images: ImageStore, made: making.Image, path: Path) -> int:
    """Every layer, as Docker has unpacked it and as we unpack it for overlay, is the same entry by entry."""
    if "overlay2" not in docker("info", "--format", "{{.Driver}}"):
        pytest.skip("needs overlay2, where Docker keeps the layers apart")
    row = images.get(made.id)
    compared = 0
    chain_ids = images.metadata.chain_ids(row.id)
    for layer, chain_id in zip(images.manifest(row).layers, chain_ids, strict=True):
        target = path / chain_id[7:]
        target.mkdir()
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with images.content.open(layer.digest) as blob:
                apply(blob, root, OVERLAY)
        finally:
            os.close(root)
        ours, theirs = (without_own(trees.tree(each)) for each in (target, docker.layer(chain_id)))
        assert trees.differences(ours, theirs) == {}
        compared += len(ours)
    return compared


def without_own(tree: dict[str, trees.Entry]) -> dict[str, trees.Entry]:
    """Leave out what is not the layer's.

    Where files have holes, when overlay's whiteouts were made, and what overlay notes when Docker mounts a layer.
    """
    return {
        name: entry._replace(
            pieces=(),
            mtime_ns=None if is_whiteout(entry) else entry.mtime_ns,
            xattrs=tuple(each for each in entry.xattrs if each[0] not in _NOTES),
        )
        for name, entry in tree.items()
    }


def is_whiteout(entry: trees.Entry) -> bool:
    return entry.kind == stat.S_IFCHR and entry.rdev == 0


def test_the_trees_of_a_thirty_layer_image_are_dockers_and_go_both_ways(
    docker: peers.Docker,
    images: ImageStore,
    small: making.Image,
    make_store: Callable[[str], ImageStore],
    tmp_path: Path,
) -> None:
    gnu = making.gnu_layers(tmp_path / "gnu")
    made = image((*making.odd_layers(30 - len(gnu)), *gnu), "thirty:1")
    assert len(made.layers) == 30
    load(io.BytesIO(archive(making.docker_1_10([made]))), images)
    docker.load(write(images, tmp_path / "ours", "thirty:1", "busybox"))
    assert compare_trees(docker, images, made, tmp_path) > 300
    assert compare_trees(docker, images, small, tmp_path) == 3
    docker("rmi", "thirty:1")
    # Docker loses the bytes of layers with holes, though not the files: "could not verify layer data".
    kept = image([layer for layer in made.layers if b"GNU.sparse." not in layer], "kept:1")
    assert len(kept.layers) == 27
    load(io.BytesIO(archive(making.docker_1_10([kept]))), images)
    docker.load(write(images, tmp_path / "kept", "kept:1"))
    docker.save(tmp_path / "theirs", "kept:1")
    docker("rmi", "kept:1")
    other = make_store("other")
    assert read(other, tmp_path / "theirs") == {kept.id: ["kept:1"]}
    check(other, kept)


@pytest.mark.soak
def test_the_tree_of_a_debian_is_dockers_and_goes_both_ways(
    docker: peers.Docker, images: ImageStore, make_store: Callable[[str], ImageStore], tmp_path: Path
) -> None:
    """Some 200 MB from the mirror that apt is configured to use."""
    from pyrunc.image import bootstrap

    need("debootstrap")
    found = bootstrap.bootstrap("debian:bookworm")
    with found.stream:
        row = import_(found.stream, images, reference=parse("debian:bookworm"), created_ns=found.created_ns)
    made = making.Image(images.content.read(row.id), ())
    docker.load(write(images, tmp_path / "ours", "debian:bookworm"))
    assert compare_trees(docker, images, made, tmp_path) > 3000
    docker.save(tmp_path / "theirs", "debian:bookworm")
    other = make_store("other")
    assert read(other, tmp_path / "theirs") == {row.id: ["debian:bookworm"]}
    assert other.manifest(other.get(row.id)).layers[0].digest == images.manifest(row).layers[0].digest


def test_docker_takes_an_image_without_a_name(
    docker: peers.Docker, images: ImageStore, tmp_path: Path
) -> None:
    assert docker.load(write(images, tmp_path / "ours", BASE.id)) == f"Loaded image ID: {BASE.id}\n"


def test_what_docker_says_is_not_there_is_not_there_for_us(docker: peers.Docker, images: ImageStore) -> None:
    for name in ("none", "none:1", "a/b", "deadbeef", "sha256:" + "0" * 64, "a@sha256:" + "0" * 64):
        with pytest.raises(Exception, match="No such image") as caught:
            images.get(name)
        # Of its commands this leaves the words to the daemon, in every version of the client.
        assert docker("tag", name, "x:1", check=False).endswith(f" response from daemon: {caught.value}\n")


def test_docker_imports_what_we_import(
    docker: peers.Docker, images: ImageStore, make_store: Callable[[str], ImageStore], tmp_path: Path
) -> None:
    changes = ["CMD echo hi", "ENV A=b", "EXPOSE 80", "LABEL a=b", "USER u", "VOLUME /v", "WORKDIR w"]
    flags = [flag for change in changes for flag in ("--change", change)]
    root = io.BytesIO(LAYERS[0])
    row = import_(root, images, changes=changes, message="hello")
    theirs = docker("import", *flags, "-m", "hello", "-", "imported:1", stdin=LAYERS[0]).strip()
    docker.save(tmp_path / "theirs", "imported:1")
    other = make_store("other")
    assert read(other, tmp_path / "theirs") == {theirs: ["imported:1"]}
    mine, found = images.config(row), other.config(other.get(theirs))
    for config in (mine, found):
        config["created"] = config["history"][0]["created"] = ""
    set_by_docker = {key: value for key, value in found["config"].items() if value not in (None, "", False)}
    assert mine["config"] == set_by_docker
    for key in ("architecture", "os", "comment", "history", "rootfs"):
        assert mine[key] == found[key], key


def test_podman_takes_our_archives_and_we_take_podmans(
    podman: peers.Podman,
    images: ImageStore,
    small: making.Image,
    make_store: Callable[[str], ImageStore],
    tmp_path: Path,
) -> None:
    said = podman.load(write(images, tmp_path / "ours", "odd", "base", "example.com/some/odd:3"))
    podman.load(write(images, tmp_path / "one", "busybox", form="oci"))
    for made in (ODD, BASE, small):
        for name in made.names:
            same(podman.inspect(name), made)
    # As it does with Docker's own archives, podman takes short names in manifest.json for local ones.
    assert "localhost/odd:1" in said
    podman.save(tmp_path / "docker", "odd:1", "base")
    podman.save(tmp_path / "oci", "busybox", form="oci-archive")
    podman.save(tmp_path / "directory", "busybox", form="oci-dir")
    first, second, third = (make_store(name) for name in "abc")
    assert read(first, tmp_path / "docker") == {
        ODD.id: ["localhost/odd:1"],
        BASE.id: ["localhost/base:latest"],
    }
    assert read(second, tmp_path / "oci") == {small.id: ["busybox:latest"]}
    assert [each.row.id for each in load_directory(str(tmp_path / "directory"), third)] == [small.id]
    check(first, ODD)
    check(first, BASE)
    check(second, small)
    check(third, small)


def test_podman_takes_a_docker_archive_of_one_image(
    podman: peers.Podman, images: ImageStore, tmp_path: Path
) -> None:
    """It is an OCI layout too, and either way it has its name."""
    podman.run("rmi", "--all", "--force")
    assert "Loaded image: docker.io/library/base:latest" in podman.load(write(images, tmp_path / "x", "base"))
    same(podman.inspect("base"), BASE)


def test_skopeo_takes_our_archives_and_we_take_skopeos(
    skopeo: peers.Peer, images: ImageStore, make_store: Callable[[str], ImageStore], tmp_path: Path
) -> None:
    docker = write(images, tmp_path / "docker", "odd", "base")
    oci = write(images, tmp_path / "oci", "odd", "base", form="oci")
    for number, source in enumerate(
        (
            f"docker-archive:{docker}:odd:two",
            f"docker-archive:{docker}:@0",
            f"oci-archive:{oci}:docker.io/library/odd:1",
            f"oci-archive:{docker}:docker.io/library/odd:1",
        )
    ):
        for kind, target in (
            ("docker-archive", f"docker-archive:{tmp_path}/a{number}:new/name:1"),
            ("oci-archive", f"oci-archive:{tmp_path}/b{number}:new/name:1"),
            ("oci", f"oci:{tmp_path}/c{number}:new/name:1"),
        ):
            skopeo("copy", source, target)
            path = Path(target.split(":")[1])
            store = make_store(f"{kind}{number}")
            loaded = load_directory(str(path), store) if kind == "oci" else None
            if loaded is None:
                with path.open("rb") as file:
                    loaded = load(file, store)
            assert [[name.familiar for name in each.references] for each in loaded] == [["new/name:1"]]
            if kind.startswith(source.partition("-")[0]):
                check(store, ODD)
            else:  # skopeo writes the config anew when it changes the kind of the manifest
                theirs, ours = store.config(loaded[0].row), json.loads(ODD.config)
                assert (theirs["rootfs"], theirs["config"]) == (ours["rootfs"], ours["config"])


def test_skopeo_sees_the_manifest_that_we_wrote(
    skopeo: peers.Peer, images: ImageStore, tmp_path: Path
) -> None:
    oci = write(images, tmp_path / "oci", "odd", form="oci")
    seen = json.loads(skopeo("inspect", f"oci-archive:{oci}:docker.io/library/odd:1"))
    assert seen["Digest"] == images.get("odd:1").manifest
    assert seen["Layers"] == [making.digest(layer) for layer in LAYERS]
