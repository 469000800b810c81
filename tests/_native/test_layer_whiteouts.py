"""What a layer hides of the layers below it, and that a plain directory and an overlay come to the same."""

import contextlib
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrunc._native.layer_apply import OVERLAY, REMOVE
from tests.tars import apply, entry, tar
from tests.trees import Entry, differences, tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="overlays need root")
OPAQUE = ".wh..wh..opq"


def directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, mode=mode, mtime=5)


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


LOWER = tar(
    directory("a"), ("a/one", "lower"), ("a/two", "lower"),
    directory("b"), directory("b/deep"), ("b/deep/x", ""), ("b/deep/y", ""), ("b/z", ""),
    ("file", "lower"), entry("link", tarfile.SYMTYPE, linkname="a"),
)  # fmt: skip

# What the second layer says, and what there is then.
CASES: dict[str, tuple[list[Any], list[str]]] = {
    "a file": (
        [entry("a/.wh.one")],
        ["a", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file", "link"],
    ),
    "a directory": ([entry(".wh.b")], ["a", "a/one", "a/two", "file", "link"]),
    "a symlink and not its target": (
        [entry(".wh.link")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file"],
    ),
    "what never was": (
        [entry(".wh.never"), entry("a/.wh.never")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file", "link"],
    ),
    "opaque before": (
        [directory("b"), entry(f"b/{OPAQUE}"), ("b/new", ""), directory("b/deep"), ("b/deep/own", "")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/own", "b/new", "file", "link"],
    ),
    "opaque after": (
        [directory("b"), ("b/new", ""), directory("b/deep"), ("b/deep/own", ""), entry(f"b/{OPAQUE}")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/own", "b/new", "file", "link"],
    ),
    "a file, then its whiteout": (
        [("file", "upper"), entry(".wh.file")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file", "link"],
    ),
    "a whiteout, then the file": (
        [entry(".wh.file"), ("file", "upper")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file", "link"],
    ),
    "a directory, then its whiteout": (
        [directory("b"), ("b/new", ""), entry(".wh.b")],
        ["a", "a/one", "a/two", "b", "b/new", "file", "link"],
    ),
    "a whiteout, then the directory": (
        [entry(".wh.b"), directory("b"), ("b/new", "")],
        ["a", "a/one", "a/two", "b", "b/new", "file", "link"],
    ),
    "a whiteout, then something in it": (
        [entry(".wh.b"), ("b/new", "")],
        ["a", "a/one", "a/two", "b", "b/new", "file", "link"],
    ),
    "a directory in place of a file": (
        [directory("file"), ("file/in", "")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file", "file/in", "link"],
    ),
    "a file in place of a directory": (
        [("b", "")],
        ["a", "a/one", "a/two", "b", "file", "link"],
    ),
    "a file in place of a directory, then a directory": (
        [("b", ""), directory("b")],
        ["a", "a/one", "a/two", "b", "file", "link"],
    ),
    "a directory in place of a symlink to one": (
        [directory("link"), ("link/in", "")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file", "link", "link/in"],
    ),
    "what AUFS kept for itself": (
        [directory(".wh..wh.plnk"), (".wh..wh.plnk/1.2", "data that is passed over"), entry(".wh..wh.aufs")],
        ["a", "a/one", "a/two", "b", "b/deep", "b/deep/x", "b/deep/y", "b/z", "file", "link"],
    ),
}  # fmt: skip


@contextlib.contextmanager
def merged(lower: Path, upper: Path, target: Path) -> Iterator[Path]:
    """Both layers, as overlayfs shows them."""
    target.mkdir()
    subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={upper}:{lower},xino=on", str(target)],
        check=True,
    )
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize("case", CASES)
def test_in_a_plain_directory(tmp_path: Path, case: str) -> None:
    members, expected = CASES[case]
    apply(LOWER, tmp_path / "root")
    apply(tar(*members), tmp_path / "root")
    assert names(tmp_path / "root") == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("own_mounts")
def test_in_an_overlay(tmp_path: Path, case: str) -> None:
    members, expected = CASES[case]
    apply(LOWER, tmp_path / "lower", OVERLAY)
    apply(tar(*members), tmp_path / "upper", OVERLAY)
    with merged(tmp_path / "lower", tmp_path / "upper", tmp_path / "merged") as both:
        assert names(both) == expected


def test_the_overlays_own_form(tmp_path: Path) -> None:
    layer = tar(entry("a/.wh.gone"), entry(f"b/{OPAQUE}"), entry("c/.wh.kept"), ("c/kept", ""))
    apply(layer, tmp_path / "trusted", OVERLAY)
    gone = (tmp_path / "trusted/a/gone").lstat()
    assert (stat.S_IFMT(gone.st_mode), gone.st_rdev) == (stat.S_IFCHR, 0)
    assert os.getxattr(tmp_path / "trusted/b", "trusted.overlay.opaque") == b"y"
    assert (tmp_path / "trusted/c/kept").is_file()
    assert names(tmp_path / "trusted") == ["a", "a/gone", "b", "c", "c/kept"]
    apply(layer, tmp_path / "user", OVERLAY, userxattr=True)
    assert os.listxattr(tmp_path / "user/b") == ["user.overlay.opaque"]


def test_a_symlink_on_the_way_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    """A lower layer's `lib -> usr/lib` is followed in a plain directory, for members and for what they protect."""
    root = tmp_path / "root"
    apply(
        tar(directory("usr/lib"), ("usr/lib/old", ""), entry("lib", tarfile.SYMTYPE, linkname="/usr/lib")),
        root,
    )
    apply(tar(("lib/new", "through"), entry("lib/.wh.old"), entry(f"usr/{OPAQUE}")), root)
    assert names(root) == ["lib", "usr", "usr/lib", "usr/lib/new"]
    assert (root / "lib").is_symlink()


def test_times_of_directories_outlive_what_happens_in_them(tmp_path: Path) -> None:
    root = tmp_path / "root"
    apply(LOWER, root)
    before = {path: (root / path).stat().st_mtime_ns for path in ("a", "b", "b/deep")}
    assert set(before.values()) == {5_000_000_000}
    apply(tar(("a/new", ""), entry("a/.wh.one"), ("b/deep/own", ""), entry(f"b/{OPAQUE}")), root)
    assert {path: (root / path).stat().st_mtime_ns for path in before} == before


def test_a_deep_tree_is_removed_with_few_descriptors(tmp_path: Path) -> None:
    """Deeper than a path may be long, and than there may be descriptors: symlinks make it possible."""
    root = tmp_path / "root"
    step = "/".join(["d"] * 500)
    members: list[Any] = [directory("top")]
    members += [directory(f"top/{step}"), entry("s0", tarfile.SYMTYPE, linkname=f"top/{step}")]
    for i in range(1, 4):
        members += [
            directory(f"s{i - 1}/{step}"),
            entry(f"s{i}", tarfile.SYMTYPE, linkname=f"s{i - 1}/{step}"),
        ]
    apply(tar(*members, ("s3/bottom", "")), root)
    apply(tar(entry(".wh.top")), root)
    assert names(root) == ["s0", "s1", "s2", "s3"]


# Two layers at random: whatever they say, a plain directory and an overlay show the same.

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def members(draw: st.DrawFn, whiteouts: bool) -> list[Any]:
    """Members that no archive contradicts itself with: nothing lies below what is a file in the same layer."""
    made: dict[str, str] = {}
    found: list[Any] = []
    for path in draw(st.lists(PATHS, max_size=10)):
        above = ["/".join(path.split("/")[:i]) for i in range(1, path.count("/") + 1)]
        if any(made.get(other, "dir") != "dir" for other in above):
            continue
        kinds = ["dir", "file", "pipe"] + (["gone", "opaque"] if whiteouts else [])
        kind = draw(st.sampled_from(kinds))
        for other in above:
            if other not in made:
                # Overlays take a directory's mode from the upper layer: one that is only implied has another.
                made[other] = "dir"
                found.append(directory(other))
        head, _, leaf = path.rpartition("/")
        head = f"{head}/" if head else ""
        if kind == "gone":
            found.append(entry(f"{head}.wh.{leaf}"))
        elif kind == "opaque":
            if made.setdefault(path, "dir") == "dir":
                found += [directory(path), entry(f"{path}/{OPAQUE}")]
        elif path not in made or made[path] == kind:
            made[path] = kind
            found.append(
                directory(path, 0o700 + draw(st.integers(0, 0o77))) if kind == "dir"
                else entry(path, tarfile.FIFOTYPE) if kind == "pipe"
                else (path, draw(st.text("xyz", max_size=3)))
            )  # fmt: skip
    return found


@pytest.mark.usefixtures("own_mounts")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(members(whiteouts=False), members(whiteouts=True))
def test_a_plain_directory_and_an_overlay_come_to_the_same(lower: list[Any], upper: list[Any]) -> None:
    place = Path(tempfile.mkdtemp(prefix="pyrunc-layers-"))
    try:
        apply(tar(*lower), place / "lower", OVERLAY)
        apply(tar(*upper), place / "upper", OVERLAY)
        for layer in (lower, upper):
            apply(tar(*layer), place / "plain", REMOVE)
        with merged(place / "lower", place / "upper", place / "merged") as both:
            assert differences(seen(both, overlay=True), seen(place / "plain")) == {}
    finally:
        shutil.rmtree(place)


def seen(root: Path, *, overlay: bool = False) -> dict[str, Entry]:
    """Return the tree as a container sees it."""
    return {
        path: found._replace(xattrs=tuple(pair for pair in found.xattrs if ".overlay." not in pair[0]))
        for path, found in tree(root, overlay=overlay).items()
    }
