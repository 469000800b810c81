"""Whoever is killed while images come in, or runs out of disk, leaves a store that opens, and whole images only."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc.image.images import ImageStore
from pyrunc.store.check import check as problems
from pyrunc.store.collect import collect
from tests.image.archive import making
from tests.image.archive.making import archive, image, member, tar
from tests.image.archive.test_load import check

LAYERS = [tar([(member(f"file{i}"), bytes([i]) * (3 << 20))]) for i in range(3)]
IMAGE = image(LAYERS, "it:1")
_LOAD = """
import sys
from pyrunc.errors import StorageFull
from pyrunc.image.images import ImageStore
from pyrunc.image.archive.import_ import import_
from pyrunc.image.archive.load import load
from pyrunc.image.reference import parse

images = ImageStore(sys.argv[1])
print("ready", flush=True)
try:
    with open(sys.argv[2], "rb") as file:
        load(file, images)
    with open(sys.argv[3], "rb") as file:
        import_(file, images, reference=parse("imported"), created_ns=0)
except StorageFull as exc:
    print("full:", exc)
"""


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """An archive of images, and one of a root directory."""
    (tmp_path / "archive").write_bytes(archive(making.docker_1_10([IMAGE])))
    (tmp_path / "root").write_bytes(LAYERS[0])
    return tmp_path / "archive", tmp_path / "root"


def whole(images: ImageStore) -> None:
    """Every row has all its content; what no row names goes."""
    assert problems(images.content, images.metadata) == []
    for row in images.metadata.images():
        if row.id == IMAGE.id:
            check(images, IMAGE)
    collect(images.content, images.metadata, [])
    named = set(images.metadata.named_blobs())
    assert {blob.digest for blob in images.content.walk()} == named
    assert os.listdir(os.path.join(images.content.root, "content/ingest")) == []


def test_a_kill_at_any_moment_leaves_whole_images_only(
    inputs: tuple[Path, Path], make_store: Callable[[str], ImageStore], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _LOAD]
    begun = time.monotonic()
    with subprocess.Popen([*command, tmp_path / "all", *inputs], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        begun = time.monotonic()
    lasts = time.monotonic() - begun
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    store = tmp_path / "store"
    ended = []
    for _ in range(15):
        with subprocess.Popen([*command, store, *inputs], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.uniform(0, lasts))
            child.send_signal(signal.SIGKILL)
        ended.append(child.returncode)
        images = ImageStore(str(store))
        whole(images)
        if chance.random() < 0.5:  # so that the next begins with nothing, or with what was there
            for row in images.metadata.images():
                images.delete(row)
            collect(images.content, images.metadata, [])
            assert list(images.content.walk()) == []
        images.close()
    assert -signal.SIGKILL in ended
    subprocess.run([*command, store, *inputs], check=True, stdout=subprocess.DEVNULL)
    images = make_store("store")
    assert [name for name, _ in images.metadata.references()] == [
        "docker.io/library/imported:latest",
        "docker.io/library/it:1",
    ]
    whole(images)


@pytest.mark.parametrize("size", [2 << 20, 7 << 20, 10 << 20, 20 << 20])
def test_a_full_disk_leaves_whole_images_only(inputs: tuple[Path, Path], tmp_path: Path, size: int) -> None:
    """Where the images need more than 12 MiB, briefly; the mount is in a namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    (tmp_path / "small").mkdir()
    arguments = ["", str(tmp_path / "small"), *map(str, inputs)]
    script = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from pyrunc.image.images import ImageStore
from tests.image.archive.test_crash import _LOAD, whole

sys.argv = {arguments!r}
exec(_LOAD)
images.close()
images = ImageStore(sys.argv[1])
whole(images)
print(len(images.metadata.images()), "images")
"""
    mount = f'mount -t tmpfs -o size={size} none "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", tmp_path / "small", sys.executable, script],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("full: " in done.stdout) == (size < 20 << 20), done.stdout
    count = int(done.stdout.split()[-2])
    assert count == 2 if size == 20 << 20 else count < 2 if size > 9 << 20 else count == 0, done.stdout
