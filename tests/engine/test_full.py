"""On a full disk nothing is half made, what runs already can be run again, and all can be removed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.errors import StorageFull
from tests.store.test_full import MIB, fill, free, on_small_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")


def refused(act: Callable[[], object]) -> None:
    with pytest.raises(StorageFull, match="no space left"):
        act()


def test_a_full_disk_refuses_what_is_new_and_breaks_nothing(
    archives: Path, driver: str, tmp_path: Path
) -> None:
    def act(root: str) -> None:
        with Engine(f"{root}/state", graph=driver) as engine:
            engine.images.load(archives / "beta.tar")
            write = "busybox dd if=/dev/urandom of=/big bs=1048576 count=3 2>/dev/null"
            assert engine.run("beta", ["sh", "-c", write], name="one", remove=False).exit_code == 0
            assert engine.run("beta", ["true"]).exit_code == 0
            # One that fills the disk itself ends as any other.
            write = "busybox dd if=/dev/zero of=/all bs=65536 2>/dev/null; exit 5"
            assert engine.run("beta", ["sh", "-c", write], name="two", remove=False).exit_code == 5
            assert [found.exit_code for found in engine.containers.list(all=True)] == [5, 0]
            engine.containers.get("two").remove()
            fill(root, step=4096)
            refused(lambda: engine.containers.get("one").commit("made:1"))
            refused(lambda: engine.images.load(archives / "several.tar"))
            refused(lambda: engine.images.import_(archives / "alpha.tar", "made:2"))
            # What is ready for a run needs no space; the first one needs a few rows.
            assert engine.run("beta", ["true"]).exit_code == 0
            with Engine(f"{root}/state", graph=driver) as other:
                refused(lambda: other.run("beta", ["true"]))
            assert [image.references[0] for image in engine.images.list()] == ["beta:latest"]
            assert engine.check() == []
            assert [change for change in engine.containers.get("one").diff() if change[1] == "/big"] == [
                ("A", "/big")
            ]
            engine.containers.get("one").remove()
            engine.images.remove(engine.images.get("beta").id, force=True)
            assert list(engine._parts.content.walk()) == []
            assert [info.key for info in engine._parts.snapshotter.walk()] == []
            free(root)
            engine.images.load(archives / "beta.tar")
            assert engine.run("beta", ["true"]).exit_code == 0

    (tmp_path / "small").mkdir()
    on_small_disk(tmp_path / "small", 48 * MIB, act)
