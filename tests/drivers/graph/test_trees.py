"""Trees are removed and copied whole, and nothing outside of them is touched, whatever a container does meanwhile."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyrunc.drivers.graph import trees
from pyrunc.testing.trees import deep, entries, fill

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[int]:
    with trees.opened(str(tmp_path)) as fd:
        yield fd


def test_a_tree_is_removed_and_its_symlinks_are_not_followed(tmp_path: Path, home: int) -> None:
    (tmp_path / "victim/below").mkdir(parents=True)
    (tmp_path / "victim/file").touch()
    (tmp_path / "tree/a/b").mkdir(parents=True)
    for place in ("tree", "tree/a", "tree/a/b"):
        (tmp_path / place / "link").symlink_to(tmp_path / "victim")
        (tmp_path / place / "file").touch()
    trees.remove(home, "tree")
    assert os.listdir(home) == ["victim"]
    assert sorted(os.listdir(tmp_path / "victim")) == ["below", "file"]
    (tmp_path / "link").symlink_to("victim")
    trees.remove(home, "link")
    trees.remove(home, "victim/file")
    trees.remove(home, "nothing")
    assert os.listdir(home) == ["victim"]
    assert os.listdir(tmp_path / "victim") == ["below"]


def test_deeper_than_any_path(tmp_path: Path, home: int) -> None:
    (tmp_path / "tree").mkdir()
    with trees.opened("tree", home) as tree:
        deep(tree, 5000)
        assert trees.measure(tree)[1] == 5002
        (tmp_path / "copy").mkdir()
        (tmp_path / "links").mkdir()
        with trees.opened("copy", home) as copy, trees.opened("links", home) as links:
            trees.Copier(links).copy(tree, copy)
            assert trees.measure(copy)[1] == 5002
    for name in ("tree", "copy", "links"):
        trees.remove(home, name)
    assert os.listdir(home) == []


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unsafe"])
def test_a_directory_that_is_moved_away_leads_nowhere_else(
    tmp_path: Path, home: int, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    """While the walk is in tree/a/b/c, c moves out: its ".." is another snapshot now, with names of a/b."""
    for path in ("tree/a/b/c", "tree/a/b/next", "other/next/precious"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "tree/a/b/next/file").touch()
    (tmp_path / "tree/a/b/c/file").touch()
    original = trees._unlink_files

    def move(directory: int) -> list[str]:
        left = original(directory)
        place = os.readlink(f"/proc/self/fd/{directory}")
        if place.endswith("tree/a/b"):
            left.sort()
            left.reverse()  # "c" first
        if place.endswith("tree/a/b/c"):
            os.rename(place, tmp_path / "other/c")
        return left

    monkeypatch.setattr(trees, "_unlink_files", move)
    if not checked:

        def trusting(walk: trees._Walk) -> None:
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=walk.fd)
            os.close(walk.fd)
            walk.fd = above

        monkeypatch.setattr(trees._Walk, "up", trusting)
        with suppress(OSError):
            trees.remove(home, "tree")
        assert not (tmp_path / "other/next/precious").exists()  # the attack works
        return
    trees.remove(home, "tree")
    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "other/next/precious").exists()


def test_an_immutable_file_is_named(tmp_path: Path, home: int) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").touch()
    if os.system(f"chattr +i {tmp_path}/tree/file 2>/dev/null") != 0:
        pytest.skip("this file system has no immutable files")
    try:
        with pytest.raises(PermissionError, match="file"):
            trees.remove(home, "tree")
    finally:
        os.system(f"chattr -i {tmp_path}/tree/file")
    trees.remove(home, "tree")


def refuse(number: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS])
def test_contents_are_copied_where_the_kernel_refuses_to(
    tmp_path: Path, home: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Kernels and file systems differ in what copy_file_range(2) takes."""
    for name in ("tree", "copy", "links"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "copy_file_range", refuse(number))
    with (
        trees.opened("tree", home) as tree,
        trees.opened("copy", home) as copy,
        trees.opened("links", home) as links,
    ):
        fill(tree)
        trees.Copier(links).copy(tree, copy)
        assert entries(copy) == entries(tree)
        assert os.stat("sparse", dir_fd=copy).st_blocks == os.stat("sparse", dir_fd=tree).st_blocks
        assert os.listdir(links) == []


def test_other_failures_of_a_copy_are_raised(
    tmp_path: Path, home: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tree", "copy", "links"):
        (tmp_path / name).mkdir()
    (tmp_path / "tree/file").write_text("x")
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.EIO))
    with (
        trees.opened("tree", home) as tree,
        trees.opened("copy", home) as copy,
        trees.opened("links", home) as links,
        pytest.raises(OSError, match=os.strerror(errno.EIO)),
    ):
        trees.Copier(links).copy(tree, copy)
