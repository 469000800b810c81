"""What is no longer what its digest says is never unpacked, and heals when it comes again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.errors import DataLoss, NotFound


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown", "missing"])
def test_a_damaged_layer_is_not_unpacked(
    open_engine: Callable[[], Engine], archives: Path, tmp_path: Path, damage: str
) -> None:
    engine = open_engine()
    engine.images.load(archives / "beta.tar")
    layer = engine._parts.images.manifest(engine._parts.images.get("beta")).layers[-1].digest
    engine.close()
    shutil.rmtree(tmp_path / "root/snapshots")
    file = tmp_path / "root/content/blobs/sha256" / layer.removeprefix("sha256:")
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    if damage == "flipped":
        file.write_bytes(data)
    elif damage == "missing":
        file.unlink()
    else:
        os.truncate(file, len(data) + (1 if damage == "grown" else -1))
    engine = open_engine()
    with pytest.raises(NotFound if damage == "missing" else DataLoss, match=layer):
        engine.run("beta", ["true"])
    assert not any(info.key.startswith("unpack-") for info in engine._parts.snapshotter.walk())
    engine.images.load(archives / "beta.tar")
    assert engine.run("beta", ["true"]).exit_code == 0
    assert engine.check() == []
