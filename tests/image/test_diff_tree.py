"""A tree becomes one tar: GNU tar and tarfile read the very tree in it, and equal trees are equal bytes."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from pyrunc._native import layer_diff
from pyrunc.errors import FailedPrecondition
from pyrunc.image import diff
from tests.image.made_trees import Directory, make, trees
from tests.image.trees import exchange, gnu_extract, oddities, snapshot, tarfile_snapshot


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def write(root: Path, archive: Path, clamp_mtime_ns: int | None = None) -> diff.Written:
    fd = opened(root)
    with open(archive, "wb") as file:
        written = diff.write_tree(fd, file.write, clamp_mtime_ns=clamp_mtime_ns)
    os.close(fd)
    return written


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    oddities(root)
    return root


def test_gnu_tar_and_tarfile_read_the_very_tree(tree: Path, tmp_path: Path) -> None:
    written = write(tree, tmp_path / "tar")
    expected = snapshot(tree)
    assert tarfile_snapshot(tmp_path / "tar") == expected
    gnu_extract(tmp_path / "tar", tmp_path / "extracted")
    assert snapshot(tmp_path / "extracted") == expected
    data = (tmp_path / "tar").read_bytes()
    assert written == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), len(expected))


def test_what_ustar_can_say_has_no_extended_header(tmp_path: Path) -> None:
    """Programs that know no pax read most of an image."""
    root = tmp_path / "tree"
    deep = root / ("p" * 80) / ("q" * 74)
    deep.mkdir(parents=True)
    (deep / ("r" * 100)).write_text("x")
    for path in (deep / ("r" * 100), deep, deep.parent, root):
        os.utime(path, ns=(10**18, 10**18))
    write(root, tmp_path / "tar")
    with tarfile.open(tmp_path / "tar") as tar:
        assert [member.pax_headers for member in tar] == [{}] * 4
    assert tarfile_snapshot(tmp_path / "tar") == snapshot(root)


def test_equal_trees_are_equal_bytes(tree: Path, tmp_path: Path) -> None:
    first = write(tree, tmp_path / "first")
    copy = tmp_path / "copy"
    gnu_extract(tmp_path / "first", copy)
    # another order of names on disk
    for name in ("a", "m", "z"):
        (copy / name).write_text("")
    for name in ("a", "m", "z"):
        (copy / name).unlink()
    time_ns = (tree.stat().st_mtime_ns,) * 2
    os.utime(copy, ns=time_ns)
    assert write(copy, tmp_path / "second") == first


def test_names_are_in_byte_order_and_a_directory_precedes_what_is_in_it(tree: Path, tmp_path: Path) -> None:
    write(tree, tmp_path / "tar")
    with tarfile.open(tmp_path / "tar") as tar:
        names = [b"" if name == "." else os.fsencode(name) for name in tar.getnames()]
    assert names == sorted(names, key=lambda name: name.split(b"/"))


def test_times_are_clamped(tree: Path, tmp_path: Path) -> None:
    clamp = 1_000_000_005
    write(tree, tmp_path / "tar", clamp_mtime_ns=clamp)
    times = {name: entry.mtime_ns for name, entry in tarfile_snapshot(tmp_path / "tar").items()}
    expected = {name: min(entry.mtime_ns, clamp) for name, entry in snapshot(tree).items()}
    assert times == expected
    assert {times[b"block"], times[b"file"], times[b"none"]} == {10**9, clamp, -1_500_000_000}


@pytest.mark.parametrize("tail", [0, 1, 5 << 20])
def test_holes_are_kept(tmp_path: Path, tail: int) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    with open(root / "sparse", "wb") as file:
        for offset in (8 << 20, 40 << 20, (40 << 20) + 8192, 100 << 20):
            file.seek(offset)
            file.write(b"data" * 100)
        file.truncate((100 << 20) + 400 + tail)
    (root / "hole").write_bytes(b"")
    os.truncate(root / "hole", 30 << 20)
    (root / "small").write_bytes(b"")
    os.truncate(root / "small", 600_000)
    written = write(root, tmp_path / "tar")
    assert written.size < 2 << 20
    expected = snapshot(root)
    assert tarfile_snapshot(tmp_path / "tar") == expected
    gnu_extract(tmp_path / "tar", tmp_path / "extracted")
    assert snapshot(tmp_path / "extracted") == expected
    for name in ("sparse", "hole"):
        assert (tmp_path / "extracted" / name).stat().st_blocks <= (root / name).stat().st_blocks + 2048


def test_a_map_of_very_many_holes_stays_short(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    with open(root / "sparse", "wb") as file:
        for number in range(20_000):
            file.seek(number * 80 << 10)
            file.write(b"%d" % number)
    # no hole is longer than 76 KiB, and there are too many for one map: the file is written whole
    fd = opened(root)
    members, size = layer_diff.write_tree(fd, lambda _: None)
    os.close(fd)
    assert members == 2
    assert size > 19_999 * 80 << 10


def test_a_size_beyond_eight_gibibytes(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    with open(root / "sparse", "wb") as file:
        file.seek(9 << 30)
        file.write(b"end")
    write(root, tmp_path / "tar")
    with tarfile.open(tmp_path / "tar") as tar:
        assert tar.getmember("sparse").size == (9 << 30) + 3
    gnu_extract(tmp_path / "tar", tmp_path / "extracted")
    status = (tmp_path / "extracted" / "sparse").stat()
    assert (status.st_size, status.st_blocks < 64) == ((9 << 30) + 3, True)


def test_sockets_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    (root / "t").write_text("after it")
    write(root, tmp_path / "tar")
    with tarfile.open(tmp_path / "tar") as tar:
        assert tar.getnames() == [".", "t"]


def test_labels_of_the_host_and_of_overlayfs_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("trusted.overlay.origin", "user.overlay.x", "security.selinux", "user.kept"):
        os.setxattr(root, name, b"value")
    write(root, tmp_path / "tar")
    with tarfile.open(tmp_path / "tar") as tar:
        names = {name for name in tar.getmember(".").pax_headers if name.startswith("SCHILY")}
    assert names == {"SCHILY.xattr.user.kept"}


def test_the_sink_gets_at_most_a_mebibyte_and_what_it_raises_passes(tree: Path) -> None:
    fd = opened(tree)
    sizes: list[int] = []
    written = diff.write_tree(fd, lambda data: sizes.append(len(data)))
    assert (sum(sizes), max(sizes), len(sizes)) == (written.size, 1 << 20, -(-written.size >> 20))

    def full(data: memoryview) -> None:
        raise BlockingIOError(f"no room for {len(data)}")

    with pytest.raises(BlockingIOError, match="no room for 1048576"):
        diff.write_tree(fd, full)
    with pytest.raises(TypeError):
        diff.write_tree(fd, None)  # type: ignore[arg-type]
    os.close(fd)


def test_bytes_that_are_kept_too_long_are_wrong_and_nothing_worse(tree: Path) -> None:
    fd = opened(tree)
    kept: list[memoryview] = []
    diff.write_tree(fd, lambda data: kept.append(data[:10]))
    os.close(fd)
    assert all(len(bytes(piece)) == 10 and piece.readonly for piece in kept)


def test_depth_and_descriptors(tmp_path: Path) -> None:
    """Two thousand levels, a path of half a megabyte, a handful of descriptors."""
    root = tmp_path / "tree"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d" * 250, dir_fd=here)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    code = (
        "import os, resource, sys\nfrom pyrunc.image import diff\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n"
        "print(diff.write_tree(os.open(sys.argv[1], os.O_RDONLY), lambda _: None).members)"
    )
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=False)
    subprocess.run(["rm", "-rf", root], check=True)
    assert (done.stdout, done.stderr) == ("2002\n", "")


@pytest.mark.parametrize("bytes_more", [-1, 1])
def test_a_file_that_changes_its_size_is_named(tmp_path: Path, bytes_more: int) -> None:
    root = tmp_path / "tree"
    (root / "dir").mkdir(parents=True)
    size = 3 << 20
    (root / "dir" / "a").write_bytes(os.urandom(size))
    fd = opened(root)

    def change(_: memoryview) -> None:
        os.truncate(root / "dir" / "a", size + bytes_more)

    words = "became shorter" if bytes_more < 0 else "changed its size"
    with pytest.raises(FailedPrecondition, match=f"^/dir/a: the file {words} while it was read$"):
        diff.write_tree(fd, change)
    os.close(fd)


def test_a_directory_that_moves_is_named(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c").write_bytes(bytes(2 << 20))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    fd = opened(root)
    moved: list[bool] = []
    seen: list[bytes] = []

    def move(data: memoryview) -> None:
        seen.append(bytes(data))
        if not moved:
            (root / "a" / "b").rename(tmp_path / "outside" / "b")
            moved.append(True)

    with pytest.raises(FailedPrecondition, match=r"^/a/b/: the directory was moved while it was read$"):
        diff.write_tree(fd, move)
    os.close(fd)
    assert b"secret" not in b"".join(seen)


def test_what_vanishes_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").write_bytes(bytes(2 << 20))
    (root / "b").write_text("b")
    (root / "c").mkdir()
    (root / "d").write_text("d")
    fd = opened(root)
    archive = tmp_path / "tar"
    with open(archive, "wb") as file:

        def vanish(data: memoryview) -> None:
            file.write(data)
            (root / "b").unlink(missing_ok=True)
            shutil.rmtree(root / "c", ignore_errors=True)

        diff.write_tree(fd, vanish)
    os.close(fd)
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [".", "a", "d"]


def test_what_the_file_system_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor: '/'"):
        diff.write_tree(-1, lambda _: None)
    (tmp_path / "file").write_text("")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(NotADirectoryError, match="'/'"):
        diff.write_tree(fd, lambda _: None)
    os.close(fd)


def test_a_directory_exchanged_for_a_symlink_never_leads_outside(tmp_path: Path) -> None:
    """While the tree is read, a directory and a symlink to the outside take each other's place."""
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    (root / "a" / "secret").write_text("inside")
    (root / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("of the host")
    program = (
        "import ctypes, sys\nlibc = ctypes.CDLL(None)\none, other = (arg.encode() for arg in sys.argv[1:])\n"
        "while True: libc.renameat2(-100, one, -100, other, 2)"
    )
    racer = subprocess.Popen([sys.executable, "-c", program, root / "a", root / "link"])
    fd = opened(root)
    inside = escapes = 0
    try:
        for _ in range(20_000):
            data: list[bytes] = []
            try:
                diff.write_tree(fd, lambda piece, data=data: data.append(bytes(piece)))  # type: ignore[misc]
            except FailedPrecondition:
                continue
            text = b"".join(data)
            assert b"of the host" not in text
            inside += b"inside\0" in text
            # the unsafe variant: the check and the use are two steps
            if not escapes and not (root / "a").is_symlink():
                try:
                    escapes += (root / "a" / "secret").read_text() == "of the host"
                except OSError:
                    pass
            if inside > 200 and escapes:
                break
    finally:
        racer.kill()
        racer.wait()
        os.close(fd)
    assert inside > 0
    assert escapes > 0, "the race never happened"


def test_a_file_exchanged_for_a_device_is_never_opened(tmp_path: Path) -> None:
    """Opening a device may act: what was a file when the directory was read may be one when it is opened."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").write_bytes(bytes(2 << 20))
    (root / "b").write_text("plain")
    os.mkfifo(tmp_path / "other")
    fd = opened(root)
    archive = tmp_path / "tar"
    swapped: list[bool] = []
    with open(archive, "wb") as file:

        def swap(data: memoryview) -> None:
            file.write(data)
            if not swapped:
                exchange(root / "b", tmp_path / "other")
                swapped.append(True)

        diff.write_tree(fd, swap)  # a FIFO that is opened for reading would wait for ever
    os.close(fd)
    with tarfile.open(archive) as tar:
        assert tar.getmember("b").isfifo()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=trees())
def test_made_trees(spec: Directory, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("made")
    make(spec, base / "tree")
    write(base / "tree", base / "tar")
    expected = snapshot(base / "tree")
    assert tarfile_snapshot(base / "tar") == expected
    gnu_extract(base / "tar", base / "extracted")
    assert snapshot(base / "extracted") == expected
    shutil.rmtree(base)
