"""Where the layer formats leave it open what a container sees, it is what dockerd's driver of the same name shows.

The two drivers do not agree here, Docker's neither: an overlay takes a directory from the uppermost layer that has it,
also where that layer only implies it (0755, root's), and knows no opaque root.
"""

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator

import pytest

from pyrunc import Engine
from pyrunc.errors import CommandNotFound
from tests.image.archive import making, peers
from tests.tars import entry, tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
OPAQUE = ".wh..wh..opq"
_OF_THE_RUN = ("dev", "proc", "sys", "etc", ".dockerenv", "", ".")

Seen = list[tuple[str, bytes, int, int, int]]


def directory(name: str, mode: int, owner: int) -> tarfile.TarInfo:
    found = entry(name, tarfile.DIRTYPE, mode=mode, mtime=5)
    found.uid = found.gid = owner
    return found


LOWER = tar(
    directory("a", 0o700, 5), ("a/x", "lower"), directory("b", 0o1777, 7), ("b/y", "lower"), ("top", "lower"),
    directory("c", 0o711, 8), ("c/z", "lower"),
)  # fmt: skip
UPPER = {
    "a file in a directory that is only implied": tar(("a/new", ""), ("b/new", "")),
    "a whiteout in a directory that is only implied": tar(entry("a/.wh.x")),
    "an opaque directory that is only implied": tar(entry(f"c/{OPAQUE}"), ("c/own", "")),
    "a whiteout where no lower layer has the directory": tar(
        directory("fresh", 0o750, 3), entry("fresh/.wh.gone"), ("fresh/kept", "")
    ),
    "the same, only implied": tar(entry("fresh/.wh.gone")),
    "a whiteout of what never was": tar(entry(".wh.never"), entry("a/.wh.never")),
    "an opaque root": tar(entry(OPAQUE), ("only", "")),
}
IMAGES = [making.image([LOWER, upper], f"case{number}:1") for number, upper in enumerate(UPPER.values())]


@pytest.fixture(scope="module", params=["overlay2", "vfs"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, peers.Docker]]:
    """An engine and a dockerd with the same driver and the same images."""
    if names := peers.missing("docker", "dockerd", "containerd"):
        pytest.skip(f"needs {names}")
    place = tmp_path_factory.mktemp("view")
    archive = place / "images.tar"
    archive.write_bytes(making.archive(making.docker_1_10(IMAGES)))
    with (
        peers.docker(place / "d", request.param) as docker,
        Engine(place / "root", graph=request.param) as engine,
    ):
        docker.load(archive)
        engine.images.load(archive)
        yield engine, docker
    shutil.rmtree(place)


def seen(data: bytes) -> Seen:
    """What an exported tree says: names, kinds, modes and owners."""
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        found = [
            (member.name.removeprefix("./"), member.type, stat.S_IMODE(member.mode), member.uid, member.gid)
            for member in opened
        ]
    return sorted(each for each in found if each[0].partition("/")[0] not in _OF_THE_RUN)


@pytest.mark.parametrize("case", range(len(IMAGES)), ids=list(UPPER))
def test_a_container_sees_what_dockers_does(both: tuple[Engine, peers.Docker], case: int) -> None:
    engine, docker = both
    name = f"c{case}"
    with pytest.raises(CommandNotFound):
        engine.run(f"case{case}:1", ["/program"], name=name, remove=False)
    written: list[bytes] = []
    engine.containers.get(name).export(lambda data: written.append(bytes(data)))
    engine.containers.get(name).remove()
    # Of a directory that only a whiteout implies, dockerd's vfs makes one that nobody but root may enter.
    theirs = [
        (path, kind, 0o755 if mode == 0o600 and kind == tarfile.DIRTYPE else mode, *owner)
        for path, kind, mode, *owner in seen(docker.export(f"case{case}:1"))
    ]
    assert seen(b"".join(written)) == theirs
