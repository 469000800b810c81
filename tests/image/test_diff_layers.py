"""What a container changed becomes a layer: applied to what was below, it makes the tree that the container saw."""

import os
import pickle
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrunc._native import mount, namespaces
from pyrunc.errors import Unsupported
from pyrunc.image import diff
from tests.child import in_child
from tests.image.made_trees import Directory, make, trees
from tests.image.trees import Snapshot, apply_layer, oddities, snapshot

Change = Callable[[Path], None]


def opened(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def copy(source: Path, target: Path) -> None:
    """Copy a tree with all that a layer carries, as the vfs driver has to."""
    archive = target.with_name(target.name + ".tar")
    fd = opened(source)
    with open(archive, "wb") as file:
        diff.write_tree(fd, file.write)
    os.close(fd)
    target.mkdir()
    apply_layer(archive, target)
    archive.unlink()


def overlaid(base: Path, change: Change, lowers: tuple[str, ...] = ("lower",), options: str = "") -> Snapshot:
    """Let *change* work on an overlay of *lowers* (the highest first) below base/upper; return what is seen then."""
    for name in ("upper", "work", "merged"):
        (base / name).mkdir(exist_ok=True)
    shutil.copystat(base / lowers[0], base / "upper")

    def child() -> None:
        os.chdir(base)
        data = f"lowerdir={':'.join(lowers)},upperdir=upper,workdir=work{options}"
        mount.mount(b"overlay", os.fsencode(base / "merged"), b"overlay", data=data.encode())
        change(base / "merged")
        (base / "seen").write_bytes(pickle.dumps(snapshot(base / "merged")))

    in_child(child, namespaces.CLONE_NEWNS)
    seen: Snapshot = pickle.loads((base / "seen").read_bytes())
    return seen


def members(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def write_overlay(base: Path, *, userxattr: bool = False) -> diff.Written:
    fd = opened(base / "upper")
    with open(base / "tar", "wb") as file:
        written = diff.write_overlay_diff(fd, file.write, userxattr=userxattr)
    os.close(fd)
    return written


def write_trees(lower: Path, upper: Path, archive: Path) -> diff.Written:
    fds = opened(lower), opened(upper)
    with open(archive, "wb") as file:
        written = diff.write_tree_diff(*fds, file.write)
    for fd in fds:
        os.close(fd)
    return written


def below(root: Path) -> None:
    """Make the tree that is changed."""
    root.mkdir()
    for name in ("kept", "emptied", "removed", "replaced", "touched/deep/deeper", "file-to-be"):
        (root / name).mkdir(parents=True)
        (root / name / "a").write_text(f"{name} a")
        (root / name / "b").write_text(f"{name} b")
    (root / "dir-to-be").write_text("a file")
    (root / "file").write_text("unchanged")
    os.link(root / "file", root / "kept" / "hard")
    (root / "link").symlink_to("file")
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text("root")
    os.setxattr(root / "etc" / "passwd", "user.old", b"1")
    for path in [root, *root.rglob("*")]:
        os.utime(path, ns=(10**18 + 5, 10**18 + 5), follow_symlinks=False)


def work(root: Path) -> None:
    """Change it in every way."""
    (root / "new").mkdir(mode=0o711)
    (root / "new" / "file").write_text("new")
    (root / "emptied" / "a").unlink()
    (root / "emptied" / "b").unlink()
    shutil.rmtree(root / "removed")
    shutil.rmtree(root / "replaced")
    (root / "replaced").mkdir()
    (root / "replaced" / "b").write_text("another b")
    (root / "replaced" / "inner").mkdir()
    (root / "replaced" / "inner" / "x").write_text("x")
    (root / "touched" / "deep" / "deeper" / "a").write_text("changed")
    shutil.rmtree(root / "file-to-be")
    (root / "file-to-be").write_text("now a file")
    (root / "dir-to-be").unlink()
    (root / "dir-to-be").mkdir()
    (root / "dir-to-be" / "x").write_text("x")
    os.unlink(root / "link")
    os.symlink("etc/passwd", root / "link")
    os.removexattr(root / "etc" / "passwd", "user.old")
    os.setxattr(root / "etc" / "passwd", "user.new", b"2")
    os.link(root / "new" / "file", root / "etc" / "linked")
    os.mkfifo(root / "fifo")
    os.chmod(root / "etc", 0o700)
    os.chmod(root, 0o1777)


# In our order, a directory before what is in it.
CHANGES = [
    ("C", "/dir-to-be"), ("A", "/dir-to-be/x"),
    ("C", "/emptied"), ("D", "/emptied/a"), ("D", "/emptied/b"),
    ("C", "/etc"), ("A", "/etc/linked"), ("C", "/etc/passwd"),
    ("A", "/fifo"), ("C", "/file-to-be"), ("C", "/link"),
    ("A", "/new"), ("A", "/new/file"), ("D", "/removed"),
    ("C", "/replaced"), ("D", "/replaced/a"), ("C", "/replaced/b"),
    ("A", "/replaced/inner"), ("A", "/replaced/inner/x"),
    ("C", "/touched"), ("C", "/touched/deep"), ("C", "/touched/deep/deeper"), ("C", "/touched/deep/deeper/a"),
]  # fmt: skip


def test_an_overlay_becomes_the_layer_that_makes_what_was_seen(tmp_path: Path) -> None:
    below(tmp_path / "lower")
    seen = overlaid(tmp_path, work)
    write_overlay(tmp_path)
    apply_layer(tmp_path / "tar", tmp_path / "lower")
    assert snapshot(tmp_path / "lower") == seen
    names = members(tmp_path / "tar")
    assert [name for name in names if ".wh." in name] == [
        "dir-to-be/.wh..wh..opq", "emptied/.wh.a", "emptied/.wh.b", ".wh.removed", "replaced/.wh..wh..opq",
    ]  # fmt: skip
    assert names.index("replaced/.wh..wh..opq") == names.index("replaced") + 1


def test_two_trees_make_the_same(tmp_path: Path) -> None:
    below(tmp_path / "lower")
    copy(tmp_path / "lower", tmp_path / "upper")
    assert snapshot(tmp_path / "upper") == snapshot(tmp_path / "lower")
    work(tmp_path / "upper")
    write_trees(tmp_path / "lower", tmp_path / "upper", tmp_path / "tar")
    apply_layer(tmp_path / "tar", tmp_path / "lower")
    assert snapshot(tmp_path / "lower") == snapshot(tmp_path / "upper")
    # what is as it was is not in it
    assert {"kept", "kept/hard", "file", "touched/deep/b"}.isdisjoint(members(tmp_path / "tar"))


def test_equal_trees_make_an_empty_layer(tmp_path: Path) -> None:
    oddities(tmp_path / "lower")
    copy(tmp_path / "lower", tmp_path / "upper")
    # the layer that Docker calls empty
    assert write_trees(tmp_path / "lower", tmp_path / "upper", tmp_path / "tar") == (
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", 1024, 0,
    )  # fmt: skip


def test_every_oddity_as_a_change(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    seen = overlaid(tmp_path, oddities)
    write_overlay(tmp_path)
    apply_layer(tmp_path / "tar", tmp_path / "lower")
    assert snapshot(tmp_path / "lower") == seen


def test_equal_changes_are_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "other"):
        base = tmp_path / name
        base.mkdir()
        below(base / "lower")

        def change(root: Path) -> None:
            work(root)
            for path in [root, *root.rglob("*")]:
                os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)

        overlaid(base, change)
        written.append(write_overlay(base))
    assert written[0] == written[1]


def test_userxattr(tmp_path: Path) -> None:
    below(tmp_path / "lower")
    seen = overlaid(tmp_path, work, options=",userxattr")
    write_overlay(tmp_path, userxattr=True)
    apply_layer(tmp_path / "tar", tmp_path / "lower")
    assert snapshot(tmp_path / "lower") == seen


def test_an_upper_directory_that_is_not_all_there_is_is_refused(tmp_path: Path) -> None:
    below(tmp_path / "lower")

    def rename(root: Path) -> None:
        (root / "kept").rename(root / "moved")

    overlaid(tmp_path, rename, options=",redirect_dir=on")
    with pytest.raises(Unsupported, match=r"^/moved: the directory was renamed .*redirect_dir"):
        write_overlay(tmp_path)


def test_content_that_is_not_in_the_upper_directory_is_refused(tmp_path: Path) -> None:
    below(tmp_path / "lower")
    overlaid(tmp_path, lambda root: (root / "file").chmod(0o600), options=",metacopy=on")
    with pytest.raises(Unsupported, match=r"^/file: only the metadata .*metacopy"):
        write_overlay(tmp_path)


@pytest.mark.parametrize("name", [".wh.a", ".wh..wh..opq", ".wh..wh.plnk", ".wh."])
def test_a_file_that_would_be_a_whiteout_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "lower" / "d").mkdir(parents=True)
    (tmp_path / "upper" / "d").mkdir(parents=True)
    (tmp_path / "upper" / "d" / name).write_text("a file of that name")
    with pytest.raises(Unsupported, match=f"^/d/{name}: the name means a whiteout"):
        write_overlay(tmp_path)
    with pytest.raises(Unsupported, match="the name means a whiteout"):
        write_trees(tmp_path / "lower", tmp_path / "upper", tmp_path / "tar")
    with pytest.raises(Unsupported, match="the name means a whiteout"):
        write_trees(tmp_path / "upper", tmp_path / "lower", tmp_path / "tar")
    # a tar that is no layer may have it
    fd = opened(tmp_path / "upper")
    assert diff.write_tree(fd, lambda _: None).members == 3
    os.close(fd)


def test_content_is_compared_where_times_have_no_fraction(tmp_path: Path) -> None:
    """Times of images are often cut to seconds, or set to one: equal times and sizes say little then."""
    for name, text in (("lower", "aaaa"), ("upper", "bbbb")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "changed").write_text(text)
        (tmp_path / name / "same").write_text("same")
        for leaf in ("changed", "same", "."):
            os.utime(tmp_path / name / leaf, ns=(10**18, 10**18))
    write_trees(tmp_path / "lower", tmp_path / "upper", tmp_path / "tar")
    assert members(tmp_path / "tar") == [".", "changed"]


def test_a_new_name_of_an_old_file_keeps_them_one_file(tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("content")
        os.utime(tmp_path / name / "old", ns=(10**18 + 1, 10**18 + 1))
    os.link(tmp_path / "upper" / "old", tmp_path / "upper" / "new")
    write_trees(tmp_path / "lower", tmp_path / "upper", tmp_path / "tar")
    apply_layer(tmp_path / "tar", tmp_path / "lower")
    assert snapshot(tmp_path / "lower") == snapshot(tmp_path / "upper")


def test_names_that_change_files_among_equals(tmp_path: Path) -> None:
    """Each name has the content it had, and each file as many names; but which names are one file has changed."""
    for name, pairs in (("lower", (("a", "b"), ("c", "d"))), ("upper", (("a", "c"), ("b", "d")))):
        (tmp_path / name).mkdir()
        for first, second in pairs:
            (tmp_path / name / first).write_text("equal")
            os.utime(tmp_path / name / first, ns=(10**18 + 1, 10**18 + 1))
            os.link(tmp_path / name / first, tmp_path / name / second)
    write_trees(tmp_path / "lower", tmp_path / "upper", tmp_path / "tar")
    apply_layer(tmp_path / "tar", tmp_path / "lower")
    assert snapshot(tmp_path / "lower") == snapshot(tmp_path / "upper")


def test_a_socket_in_the_place_of_a_file_hides_it(tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "a").write_text("a")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "upper" / "a"))
    write_trees(tmp_path / "lower", tmp_path / "upper", tmp_path / "tar")
    assert members(tmp_path / "tar")[1:] == [".wh.a"]


def overlay_changes(base: Path, lowers: tuple[str, ...] = ("lower",)) -> list[tuple[str, str]]:
    fds = [opened(base / name) for name in ("upper", *lowers)]
    found = diff.overlay_changes(fds[0], fds[1:])
    for fd in fds:
        os.close(fd)
    return found


def tree_changes(lower: Path, upper: Path) -> list[tuple[str, str]]:
    fds = opened(lower), opened(upper)
    found = diff.tree_changes(*fds)
    for fd in fds:
        os.close(fd)
    return found


def test_changes_of_an_overlay(tmp_path: Path) -> None:
    below(tmp_path / "lower")
    overlaid(tmp_path, work)
    assert overlay_changes(tmp_path) == CHANGES


def test_changes_of_two_trees(tmp_path: Path) -> None:
    below(tmp_path / "lower")
    copy(tmp_path / "lower", tmp_path / "upper")
    assert tree_changes(tmp_path / "lower", tmp_path / "upper") == []
    work(tmp_path / "upper")
    assert tree_changes(tmp_path / "lower", tmp_path / "upper") == CHANGES


def test_docker_says_the_same() -> None:
    """But for what it does not see: that extended attributes differ, which a layer carries."""
    recorded = (Path(__file__).parent / "peers" / "docker-diff.txt").read_text().splitlines()
    said = [tuple(line.split(" ", 1)) for line in recorded if not line.startswith("#")]
    assert sorted([*said, ("C", "/etc/passwd")]) == sorted(CHANGES)


def test_what_was_only_touched_is_no_change(tmp_path: Path) -> None:
    """Opening for writing copies a file up; made and removed again, a file leaves only its directory's time."""
    below(tmp_path / "lower")

    def change(root: Path) -> None:
        os.close(os.open(root / "touched" / "deep" / "deeper" / "a", os.O_RDWR))
        (root / "kept" / "temporary").write_text("")
        (root / "kept" / "temporary").unlink()

    overlaid(tmp_path, change)
    assert (tmp_path / "upper" / "touched" / "deep" / "deeper" / "a").exists()
    assert overlay_changes(tmp_path) == []


def layered(base: Path) -> tuple[str, ...]:
    """Make three layers where names are hidden, made again, and merged; the highest first."""
    for name in ("l1", "l2", "l3"):
        (base / name).mkdir()
    (base / "l1" / "d" / "sub").mkdir(parents=True)
    (base / "l1" / "d" / "sub" / "deep").write_text("1")
    for leaf in ("one", "hidden", "again"):
        (base / "l1" / "d" / leaf).write_text("1")
    (base / "l1" / "o" / "sub").mkdir(parents=True)
    (base / "l1" / "o" / "covered").write_text("1")
    (base / "l1" / "f").mkdir()
    (base / "l1" / "f" / "x").write_text("1")
    (base / "l2" / "d").mkdir()
    for leaf in ("hidden", "again"):
        os.mknod(base / "l2" / "d" / leaf, stat.S_IFCHR, 0)
    (base / "l2" / "o").mkdir()
    os.setxattr(base / "l2" / "o", "trusted.overlay.opaque", b"y")
    (base / "l2" / "o" / "two").write_text("2")
    (base / "l2" / "f").write_text("a file")
    (base / "l3" / "d").mkdir()
    (base / "l3" / "d" / "again").write_text("3")
    (base / "l3" / "f").mkdir()
    (base / "l3" / "f" / "y").write_text("3")
    return ("l3", "l2", "l1")


def test_changes_above_several_layers(tmp_path: Path) -> None:
    lowers = layered(tmp_path)

    def change(root: Path) -> None:
        assert sorted(os.listdir(root / "d")) == ["again", "one", "sub"]
        (root / "d" / "hidden").write_text("4")
        (root / "d" / "again").write_text("four")
        (root / "d" / "one").unlink()
        (root / "o" / "covered").write_text("4")
        (root / "o" / "two").unlink()
        (root / "o" / "sub").mkdir()
        (root / "f" / "x").write_text("4")
        shutil.rmtree(root / "d" / "sub")
        (root / "d" / "sub").mkdir()

    overlaid(tmp_path, change, lowers)
    assert overlay_changes(tmp_path, lowers) == [
        ("C", "/d"), ("C", "/d/again"), ("A", "/d/hidden"), ("D", "/d/one"), ("C", "/d/sub"), ("D", "/d/sub/deep"),
        ("C", "/f"), ("A", "/f/x"),
        ("C", "/o"), ("A", "/o/covered"), ("A", "/o/sub"), ("D", "/o/two"),
    ]  # fmt: skip


SMALL = st.sampled_from([b"a", b"b", b"c"])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(lower=trees(SMALL), upper=trees(SMALL))
def test_made_pairs_of_trees(
    lower: Directory, upper: Directory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("pair")
    make(lower, base / "lower")
    make(upper, base / "upper")
    listed = tree_changes(base / "lower", base / "upper")
    before, after = snapshot(base / "lower"), snapshot(base / "upper")
    assert sorted(listed, key=lambda change: change[1].split("/")) == listed
    listed_names = {path[1:].encode() for _, path in listed}
    assert {path[1:].encode() for kind, path in listed if kind == "A"} <= after.keys() - before.keys()
    assert after.keys() - before.keys() <= listed_names
    write_trees(base / "lower", base / "upper", base / "tar")
    apply_layer(base / "tar", base / "lower")
    assert snapshot(base / "lower") == after
    shutil.rmtree(base)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(lower=trees(SMALL), upper=trees(SMALL))
def test_made_overlays(lower: Directory, upper: Directory, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A made tree replaces another within an overlay, name by name."""
    base = tmp_path_factory.mktemp("overlay")
    make(lower, base / "lower")
    make(upper, base / "wanted")

    def change(root: Path) -> None:
        for path in root.iterdir():
            if not path.is_symlink() and path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        subprocess.run(["cp", "--archive", f"{base}/wanted/.", root], check=True)

    seen = overlaid(base, change)
    write_overlay(base)
    listed = overlay_changes(base)
    copy(base / "lower", base / "before")
    apply_layer(base / "tar", base / "lower")
    assert snapshot(base / "lower") == seen
    assert listed == tree_changes(base / "before", base / "lower")
    shutil.rmtree(base)
