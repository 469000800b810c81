"""Which driver is taken, and what is said of a file system that cannot hold an overlay."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc._native import mount, namespaces
from pyrunc.drivers.graph.overlay2 import Overlay2
from pyrunc.drivers.graph.vfs import Vfs
from pyrunc.drivers.registry import GRAPH, graph
from pyrunc.errors import NotFound, Unsupported
from pyrunc.testing.snapshotters import raises
from tests.child import in_child

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount file systems")


def on_overlay(place: Path) -> None:
    for name in ("lower", "upper", "work"):
        (place.parent / name).mkdir()
    options = ",".join(f"{name}dir={place.parent}/{name}" for name in ("lower", "upper", "work"))
    mount.mount(b"overlay", os.fsencode(place), b"overlay", 0, options.encode())


def on_ramfs(place: Path) -> None:
    mount.mount(b"ramfs", os.fsencode(place), b"ramfs")


def on_ext4_without_types(place: Path) -> None:
    """An ext4 whose directories do not say what is in them."""
    image = place.parent / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^filetype", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)


def can_loop(tmp_path: Path) -> bool:
    """Whether an image of a file system can be mounted here."""
    (tmp_path / "try").mkdir()
    try:
        in_child(lambda: on_ext4_without_types(tmp_path / "try"), namespaces.CLONE_NEWNS)
    except AssertionError:
        return False
    finally:
        (tmp_path / "image").unlink(missing_ok=True)
    return True


@pytest.mark.parametrize(("make", "words"), [
    (on_overlay, "overlay2: .* is on an overlay itself, and the kernel puts no upper layer on another"),
    (on_ramfs, "overlay2: .* is on ramfs, which has no trusted.* attributes"),
    (on_ext4_without_types, "overlay2: .* is on ext4, whose directories do not tell d_type"),
])  # fmt: skip
def test_a_file_system_without_overlay_is_named_and_vfs_taken(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    if make is on_ext4_without_types and not can_loop(tmp_path):
        pytest.skip("needs mkfs.ext4 and a loop device")
    place = tmp_path / "place"
    place.mkdir()

    def inside() -> None:
        make(place)
        with pytest.raises(Unsupported, match=words):
            graph("overlay2", str(place))
        with pytest.raises(Unsupported, match=words):  # nor does a second try find something half made
            graph("overlay2", str(place))
        found = graph(None, str(place))
        assert isinstance(found, Vfs)
        found.prepare("key", None)
        found.close()
        again = graph(None, str(place))
        assert isinstance(again, Vfs)
        assert [info.key for info in again.walk()] == ["key"]

    in_child(inside, namespaces.CLONE_NEWNS)


def test_a_tmpfs_can_hold_overlays(tmp_path: Path) -> None:
    def inside() -> None:
        mount.mount(b"tmpfs", os.fsencode(tmp_path), b"tmpfs")
        assert isinstance(graph(None, str(tmp_path)), Overlay2)

    in_child(inside, namespaces.CLONE_NEWNS)


def test_the_driver_that_a_root_has_snapshots_of_is_kept(tmp_path: Path) -> None:
    graph("vfs", str(tmp_path)).close()
    found = graph(None, str(tmp_path))
    assert isinstance(found, Vfs)
    found.close()


def test_names(tmp_path: Path) -> None:
    for name in GRAPH:
        found = graph(name, str(tmp_path))
        assert found.name == name
        found.close()
    with raises(NotFound, "no graph driver 'zfs'; there are overlay2, vfs"):
        graph("zfs", str(tmp_path))


def test_a_driver_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "mine-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[pyrunc.graph]\nmine = mine_driver:Mine\n")
    (tmp_path / "mine_driver.py").write_text(
        "from pyrunc.drivers.graph.vfs import Vfs\n\nclass Mine(Vfs):\n    name = 'mine'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = graph("mine", str(tmp_path))
    assert found.name == "mine"
    assert (tmp_path / "snapshots/mine/metadata.db").exists()
    found.close()
    with raises(NotFound, "there are overlay2, vfs, mine"):
        graph("zfs", str(tmp_path))
