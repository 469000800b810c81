"""There and back: what one half writes, the other applies, and the tree is the same."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from pyrunc._native import layer_apply, layer_diff, mount, namespaces
from tests.child import in_child
from tests.image.made_trees import Directory, make, trees
from tests.image.test_diff_layers import SMALL, below, overlaid, work
from tests.image.trees import oddities, snapshot


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Applied:
    """A sink that applies what it gets to the directory *root*."""

    def __init__(self, root: Path, whiteouts: int) -> None:
        self.fd = opened(root)
        self.applier = layer_apply.LayerApplier(
            self.fd, whiteouts, max_bytes=1 << 40, max_members=1 << 20, max_path_bytes=4095, set_root=True
        )

    def __enter__(self) -> layer_apply.LayerApplier:
        return self.applier

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.applier.finish()
        self.applier.close()
        os.close(self.fd)


def rewrite(source: Path, target: Path) -> None:
    """Write the tree *source* and apply it to the new directory *target*."""
    target.mkdir()
    fd = opened(source)
    with Applied(target, layer_apply.REMOVE) as applier:
        layer_diff.write_tree(fd, applier.feed)
    os.close(fd)


def apply_overlay(base: Path, target: Path, whiteouts: int) -> None:
    fd = opened(base / "upper")
    with Applied(target, whiteouts) as applier:
        layer_diff.write_overlay_diff(fd, applier.feed)
    os.close(fd)


def test_every_oddity(tmp_path: Path) -> None:
    oddities(tmp_path / "tree")
    with open(tmp_path / "tree" / "sparse", "wb") as file:
        file.seek(5 << 20)
        file.write(b"data")
        file.truncate(9 << 20)
    rewrite(tmp_path / "tree", tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "tree")
    assert (tmp_path / "again" / "sparse").stat().st_blocks == (tmp_path / "tree" / "sparse").stat().st_blocks


def test_a_change_onto_a_tree(tmp_path: Path) -> None:
    below(tmp_path / "lower")
    seen = overlaid(tmp_path, work)
    apply_overlay(tmp_path, tmp_path / "lower", layer_apply.REMOVE)
    assert snapshot(tmp_path / "lower") == seen


def test_a_change_as_a_layer_of_an_overlay(tmp_path: Path) -> None:
    """What was an upper directory becomes a layer again, and shows the same."""
    below(tmp_path / "lower")
    seen = overlaid(tmp_path, work)
    (tmp_path / "again").mkdir()
    apply_overlay(tmp_path, tmp_path / "again", layer_apply.OVERLAY)

    def child() -> None:
        os.chdir(tmp_path)
        data = b"lowerdir=again:lower"
        mount.mount(b"overlay", os.fsencode(tmp_path / "merged"), b"overlay", data=data)
        assert snapshot(tmp_path / "merged") == seen

    in_child(child, namespaces.CLONE_NEWNS)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=trees())
def test_made_trees(spec: Directory, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("made")
    make(spec, base / "tree")
    rewrite(base / "tree", base / "again")
    assert snapshot(base / "again") == snapshot(base / "tree")
    shutil.rmtree(base)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(lower=trees(SMALL), upper=trees(SMALL))
def test_made_pairs(lower: Directory, upper: Directory, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("pair")
    make(lower, base / "lower")
    make(upper, base / "upper")
    expected = snapshot(base / "upper")
    rewrite(base / "lower", base / "target")
    fds = opened(base / "lower"), opened(base / "upper")
    with Applied(base / "target", layer_apply.REMOVE) as applier:
        layer_diff.write_tree_diff(*fds, applier.feed)
    for fd in fds:
        os.close(fd)
    assert snapshot(base / "target") == expected
    shutil.rmtree(base)
