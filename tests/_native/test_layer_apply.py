"""What an archive says is what becomes of it: compared with GNU tar and tarfile, entry by entry."""

import io
import os
import random
import shutil
import stat
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tars import apply, gnu_tar, gnu_untar
from tests.trees import Entry, differences, tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
NS = 1_234_567_890_123_456_789
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of every kind of file that a layer can hold."""
    root = tmp_path_factory.mktemp("odd")
    (root / "dir/sub").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "sticky").mkdir()
    (root / "dir/file").write_bytes(b"content" * 1000)
    (root / "dir/exact").write_bytes(b"x" * 1024)
    (root / "dir/nothing").touch()
    (root / "dir/sub/large").write_bytes(random.Random(1).randbytes(300_000))
    os.link(root / "dir/file", root / "dir/hard")
    os.link(root / "dir/file", root / "elsewhere")
    (root / "link").symlink_to("dir/file")
    os.link(root / "link", root / "link-twice", follow_symlinks=False)
    (root / "dangling").symlink_to("/nowhere/at all")
    os.mkfifo(root / "pipe")
    os.mknod(root / "char", stat.S_IFCHR | 0o600, os.makedev(5, 300))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(8, 17))
    (root / "set-user").write_text("#!")
    (root / "capable").write_text("#!")
    (root / "ünï\u20accode \n name").write_text("odd name")
    sparse(root / "sparse", 10 << 20, {0: b"begin", 3 << 20: b"m" * 8192, (10 << 20) - 5: b"end.."})
    sparse(root / "sparse-tail", 4 << 20, {1 << 20: b"middle"})
    sparse(root / "all-hole", 1 << 20, {})
    sparse(root / "many-holes", 64 << 14, {i << 14: b"piece %d" % i for i in range(64)})
    os.setxattr(root / "capable", "security.capability", CAPABILITY)
    os.setxattr(root / "dir", "user.of.directory", b"\0binary\xff=\n")
    os.setxattr(root / "dir/file", "user.one", b"1")
    os.setxattr(root / "dir/file", "user.empty", b"")
    os.setxattr(root / "pipe", "trusted.pipe", b"node")
    os.setxattr(root / "dangling", "trusted.link", b"symlink", follow_symlinks=False)
    for i, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.chown(path, 1000 + i, 2_000_000 + i, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o600 + i % 0o70)
    os.setxattr(root / "capable", "security.capability", CAPABILITY)  # which chown removed
    (root / "set-user").chmod(0o6755)
    (root / "sticky").chmod(0o1777)
    for i, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, NS + i * 1_000_000_007), follow_symlinks=False)
    return root


def sparse(path: Path, size: int, pieces: dict[int, bytes]) -> None:
    """Write a file with holes."""
    with path.open("wb") as file:
        for at, data in pieces.items():
            file.seek(at)
            file.write(data)
        file.truncate(size)


FORMATS = {
    "pax": ("--format=pax", "--xattrs", "--xattrs-include=*"),
    "pax-sparse-0.0": ("--format=pax", "--xattrs", "--xattrs-include=*", "-S", "--sparse-version=0.0"),
    "pax-sparse-0.1": ("--format=pax", "--xattrs", "--xattrs-include=*", "-S", "--sparse-version=0.1"),
    "pax-sparse-1.0": ("--format=pax", "--xattrs", "--xattrs-include=*", "-S", "--sparse-version=1.0"),
    "gnu": ("--format=gnu",),
    "gnu-sparse": ("--format=gnu", "-S"),
    "old-gnu-sparse": ("--format=oldgnu", "-S"),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_of_file_is_what_gnu_tar_makes_of_it(odd: Path, form: str, tmp_path: Path) -> None:
    data = gnu_tar(odd, *FORMATS[form])
    gnu_untar(data, tmp_path / "gnu")
    members, _ = apply(data, tmp_path / "ours")
    ours = tree(tmp_path / "ours")
    assert differences(ours, tree(tmp_path / "gnu")) == {}
    assert members == len(ours) + 1
    if form == "pax-sparse-1.0":
        # And so it is the tree that was packed: GNU tar keeps all of it in this form.
        assert differences(ours, tree(odd)) == {}
        assert len(ours["sparse"].pieces) == 3


def plain(root: Path) -> None:
    """Fill the directory with what the oldest tar can hold."""
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"content")
    os.link(root / "a/b/file", root / "a/hard")
    (root / "link").symlink_to("a/b")
    for i, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.chown(path, 10 + i, 20 + i, follow_symlinks=False)
        os.utime(path, (0, 1_000_000 + i), follow_symlinks=False)


@pytest.mark.parametrize("form", ["v7", "ustar"])
def test_old_formats(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    plain(source)
    if form == "ustar":
        long = source / ("d" * 70) / ("e" * 70) / ("f" * 90)
        long.parent.mkdir(parents=True)
        long.write_text("split between prefix and name")
    data = gnu_tar(source, f"--format={form}")
    gnu_untar(data, tmp_path / "gnu")
    apply(data, tmp_path / "ours")
    assert differences(tree(tmp_path / "ours"), tree(tmp_path / "gnu")) == {}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_and_reads(tmp_path: Path, form: int) -> None:
    source = tmp_path / "source"
    plain(source)
    os.mknod(source / "device", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mkfifo(source / "pipe")
    if form != tarfile.USTAR_FORMAT:
        long = source.joinpath(*["long" * 40] * 3)
        long.mkdir(parents=True)
        (long / "symlink").symlink_to("target/" * 80)
        os.link(source / "a/b/file", long / "hard")
        os.chown(long, 3_000_000_000, 3_000_000_000)
    for path in source.rglob("*"):
        os.utime(path, (0, 1_000_000), follow_symlinks=False)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        archive.add(source, arcname="")
    data = target.getvalue()
    (tmp_path / "theirs").mkdir()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(tmp_path / "theirs", numeric_owner=True)
    apply(data, tmp_path / "ours")
    # tarfile leaves the time of a symlink as it is.
    assert differences(without_link_times(tmp_path / "ours"), without_link_times(tmp_path / "theirs")) == {}
    assert differences(tree(tmp_path / "ours"), tree(source)) == {}


def without_link_times(root: Path) -> dict[str, Entry]:
    return {
        path: found._replace(mtime_ns=0) if stat.S_ISLNK(found.kind) else found
        for path, found in tree(root).items()
    }


def one_byte(_: int) -> int:
    return 1


def random_sizes(seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.choice((1, 2, 511, 512, 513, draw.randrange(1, 5000))) for _ in range(20_000)]


@pytest.mark.parametrize("form", ["pax-sparse-0.1", "pax-sparse-1.0", "old-gnu-sparse"])
@pytest.mark.parametrize("chunks", [one_byte, random_sizes])
def test_any_chunking_gives_the_same(
    odd: Path, form: str, chunks: Callable[[int], int | list[int]], tmp_path: Path
) -> None:
    data = gnu_tar(odd, *FORMATS[form])
    apply(data, tmp_path / "whole")
    for seed in range(1 if chunks is one_byte else 4):
        apply(data, tmp_path / f"pieces-{seed}", chunks=chunks(seed))
        assert differences(tree(tmp_path / f"pieces-{seed}"), tree(tmp_path / "whole")) == {}


# Trees at random

FILE_NAMES = st.binary(min_size=1, max_size=120).filter(
    lambda name: not {0, 47} & {*name} and name not in (b".", b"..")
)
SIZES = st.sampled_from([0, 1, 511, 512, 513, 4096, 10_000])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["dir", "file", "sparse", "link", "symlink", "pipe", "device"]),
        FILE_NAMES,
        st.integers(0, 10),  # in which of the directories so far
        SIZES,
        st.integers(0, 0o7777),
        st.integers(0, 2**32 - 2),
        st.integers(-(2**31) * 10**9, 2**33 * 10**9),
    ),
    max_size=20,
)


def build(root: bytes, steps: list[tuple[str, bytes, int, int, int, int, int]]) -> None:
    """Make what the steps say; a name that is taken makes nothing."""
    os.mkdir(root)
    directories, files, late = [root], [], []
    for kind, name, where, size, mode, owner, mtime_ns in steps:
        path = os.path.join(directories[where % len(directories)], name)
        if os.path.lexists(path):
            continue
        if kind == "dir":
            os.mkdir(path)
            directories.append(path)
        elif kind == "file":
            Path(os.fsdecode(path)).write_bytes(name[:1] * size)
            files.append(path)
        elif kind == "sparse":
            sparse(Path(os.fsdecode(path)), 50_000 + size, {20_000: name, 40_000 + size: b"end"})
            files.append(path)
        elif kind == "link" and files:
            os.link(files[where % len(files)], path)
            continue
        elif kind == "symlink":
            os.symlink(name * 2, path)
        elif kind == "device":
            os.mknod(path, stat.S_IFBLK, os.makedev(owner % 4096, owner % (1 << 20)))
        else:
            os.mkfifo(path)
        os.chown(path, owner, owner // 2, follow_symlinks=False)
        if kind != "symlink":
            os.chmod(path, mode)
        late.append((path, mtime_ns))
    for path, mtime_ns in reversed(late):
        os.utime(path, ns=(0, mtime_ns), follow_symlinks=False)


@settings(max_examples=40, deadline=None)
@given(
    STEPS,
    st.sampled_from(["pax-sparse-0.0", "pax-sparse-0.1", "pax-sparse-1.0", "gnu-sparse"]),
    st.integers(1, 5000),
)
def test_any_tree_is_what_gnu_tar_makes_of_it(
    steps: list[tuple[str, bytes, int, int, int, int, int]], form: str, chunks: int
) -> None:
    place = Path(tempfile.mkdtemp(prefix="pyrunc-layers-"))
    try:
        build(os.fsencode(place / "source"), steps)
        data = gnu_tar(place / "source", *FORMATS[form])
        gnu_untar(data, place / "gnu")
        apply(data, place / "ours", chunks=chunks)
        assert differences(tree(place / "ours"), tree(place / "gnu")) == {}
    finally:
        shutil.rmtree(place)
