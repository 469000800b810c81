"""Directories of an image copied into a detached tmpfs, entry by entry, also while somebody exchanges them."""

import errno
import hashlib
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyrunc._native import mount, namespaces
from pyrunc._native.copy_up import copy_up
from tests import trees
from tests.child import in_child
from tests.safety.support import exchange

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a tmpfs and devices")

SECOND = 1_000_000_000
Copy = Callable[..., Path]


class Entry(NamedTuple):
    """All of a file that a copy keeps."""

    mode: int
    uid: int
    gid: int
    rdev: int
    content: str
    mtime_ns: int


def tree(top: Path) -> dict[str, Entry]:
    """What there is below *top*, by relative path."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = Path(directory, name)
            status = path.lstat()
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(top))] = Entry(
                status.st_mode, status.st_uid, status.st_gid, status.st_rdev, content, status.st_mtime_ns
            )
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "root/data").mkdir(parents=True)
    return tmp_path / "root/data"


@pytest.fixture
def copy(image: Path) -> Iterator[Copy]:
    """Copy /data of the root above `image` into a new tmpfs with the given options; where that can be read."""
    opened: list[int] = []

    def make(
        *options: tuple[bytes, bytes], path: bytes = b"/data", mode: bool = True, contents: bool = True
    ) -> Path:
        root = os.open(image.parent, os.O_PATH)
        target = mount.new_mount(b"tmpfs", list(options))
        opened.extend((root, target))
        copy_up(root, path, target, mode=mode, contents=contents)
        return Path(f"/proc/self/fd/{target}")

    yield make
    for fd in opened:
        os.close(fd)


def test_every_kind_of_entry_with_owner_mode_and_times(image: Path, copy: Copy) -> None:
    (image / "sub/deep/empty").mkdir(parents=True)
    (image / "file").write_text("content\n")
    (image / "sub/program").write_bytes(os.urandom(300_000))
    (image / "nothing").touch()
    (image / "link").symlink_to("file")
    (image / "sub/dangling").symlink_to("/" + "x" * 4000)
    os.mkfifo(image / "fifo")
    os.mknod(image / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mknod(image / "block", stat.S_IFBLK, os.makedev(259, 1_000_000))
    for number, path in enumerate(trees.paths(image), 1):
        os.chown(path, number, 100 + number, follow_symlinks=False)
    for name, mode in (
        ("sub/program", 0o6755),
        ("sub", 0o3771),
        ("file", 0o400),
        ("sub/deep", 0),
        ("fifo", 0o1),
    ):
        (image / name).chmod(mode)
    for number, path in enumerate(reversed(trees.paths(image)), 1):
        os.utime(path, ns=(0, number * SECOND + number), follow_symlinks=False)
    expected = tree(image)
    assert len(expected) == 11
    assert tree(copy()) == expected


def test_a_socket_is_left_out(image: Path, copy: Copy) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(image / "socket"))
        (image / "file").touch()
        assert tree(copy()).keys() == {"file"}


def test_mode_and_contents_can_be_had_alone(image: Path, copy: Copy) -> None:
    image.chmod(0o2710)
    (image / "file").touch()
    both, neither = copy(), copy(mode=False, contents=False)
    mode, contents = copy(contents=False), copy((b"mode", b"0700"), mode=False)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (both, mode, contents, neither)] == [
        0o2710, 0o2710, 0o700, 0o1777,
    ]  # fmt: skip
    assert [os.listdir(path) for path in (both, mode, contents, neither)] == [["file"], [], ["file"], []]


def test_what_is_no_directory_is_passed_over(image: Path, copy: Copy) -> None:
    (image / "file").touch()
    for path in (b"/none", b"/data/file", b"/data/none/deeper"):
        assert os.listdir(copy(path=path)) == []


def test_large_directories_in_large_directories(image: Path, copy: Copy) -> None:
    for outer in range(120):
        (image / f"{outer:03}-{'d' * 60}").mkdir()
        (image / f"{outer:03}-{'f' * 60}").write_text(str(outer))
    for inner in range(150):
        (image / f"077-{'d' * 60}" / f"{inner}-{'x' * 100}").mkdir()
        (image / f"077-{'d' * 60}" / f"{inner}-{'y' * 100}").write_text(str(inner))
    expected = tree(image)
    assert len(expected) == 540
    assert tree(copy()) == expected


def deepen(directory: Path, levels: int) -> None:
    for _ in range(levels):
        directory /= "d"
    directory.mkdir(parents=True)


def test_the_walk_is_bounded(image: Path, copy: Copy) -> None:
    deepen(image, 127)
    assert len(tree(copy())) == 127
    deepen(image, 128)
    with pytest.raises(OSError, match="File name too long"):
        copy()


def test_holes_stay_holes(image: Path, copy: Copy) -> None:
    for name, places in (("middle", [64 << 20]), ("ends", [0, (1 << 30) - 4]), ("none", [])):
        with open(image / name, "wb") as file:
            file.truncate(1 << 30)
            for place in places:
                file.seek(place)
                file.write(b"data")
    copied = copy((b"size", b"256k"))
    for name in ("middle", "ends", "none"):
        status = (copied / name).stat()
        assert status.st_size == 1 << 30
        assert status.st_blocks * 512 <= 128 << 10
    with open(copied / "middle", "rb") as file:
        file.seek((64 << 20) - 4)
        assert file.read(12) == b"\0\0\0\0data\0\0\0\0"
    with open(copied / "ends", "rb") as file:
        file.seek((1 << 30) - 8)
        assert file.read() == b"\0\0\0\0data"


def attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_capabilities_access_lists_and_attributes(image: Path, copy: Copy) -> None:
    def acl(*entries: tuple[int, int, int]) -> bytes:
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

    access = acl((1, 6, 2**32 - 1), (2, 7, 1000), (4, 4, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1))
    given = {
        "security.capability": struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0),
        "system.posix_acl_access": access, "user.note": b"x" * 2000, "user.empty": b"",
    }  # fmt: skip
    (image / "file").touch()
    (image / "dir").mkdir()
    probe = copy(contents=False) / "probe"
    probe.touch()
    expected = {}
    for name, value in given.items():
        try:
            os.setxattr(image / "file", name, value)
            os.setxattr(probe, name, value)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP  # neither file system need have them all
        else:
            expected[name] = value
    os.setxattr(image / "file", "trusted.overlay.opaque", b"y")
    assert "security.capability" in expected
    if "system.posix_acl_access" in expected:
        os.setxattr(image / "dir", "system.posix_acl_default", access)
    copied = copy()
    assert attributes(copied / "file") == expected
    assert (copied / "file").stat().st_mode == (image / "file").stat().st_mode
    assert attributes(copied / "dir") == attributes(image / "dir")


@pytest.mark.parametrize("limit", [(b"size", b"64k"), (b"nr_inodes", b"3")])
def test_a_full_target_is_an_error_and_no_descriptor_is_left(
    image: Path, copy: Copy, limit: tuple[bytes, bytes]
) -> None:
    deepen(image, 5)
    (image / "d/d/d/file").write_bytes(bytes(range(256)) * 1024)
    copy()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left") as failed:
        copy(limit)
    assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, "/data")
    assert len(os.listdir("/proc/self/fd")) == before + 2  # those of the fixture


def test_what_the_target_has_stays(image: Path) -> None:
    (image / "pts").mkdir()
    (image / "pts/of-the-image").touch()
    (image / "null").write_text("of the image")
    (image / "shm").write_text("of the image")
    root, target = os.open(image.parent, os.O_PATH), mount.new_mount(b"tmpfs")
    try:
        os.mkdir("pts", dir_fd=target)
        os.mkdir("shm", dir_fd=target)
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3), dir_fd=target)
        copy_up(root, b"/data", target)
        there = Path(f"/proc/self/fd/{target}")
        assert stat.S_ISCHR((there / "null").stat().st_mode)
        assert (there / "shm").is_dir()
        assert os.listdir(there / "pts") == ["of-the-image"]
    finally:
        os.close(root)
        os.close(target)


def test_what_is_mounted_below_is_copied_too(image: Path, tmp_path: Path) -> None:
    (image / "below").mkdir()
    report = tmp_path / "report"

    def inside() -> None:
        mount.mount(b"none", os.fsencode(image / "below"), b"tmpfs")
        (image / "below/file").touch()
        root, target = os.open(image.parent, os.O_PATH), mount.new_mount(b"tmpfs")
        copy_up(root, b"/data", target)
        report.write_text("".join(tree(Path(f"/proc/self/fd/{target}"))))

    in_child(inside, namespaces.CLONE_NEWNS)
    assert report.read_text() == "belowbelow/file"


def test_a_symlink_never_leads_to_the_host(image: Path, copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("of the host")
    (image.parent / "away").symlink_to(tmp_path / "secret")
    (image.parent / "up").symlink_to("../../../../../../../../" + str(tmp_path / "secret"))
    for name in ("away", "up"):
        # to whom resolves paths as the host does, it leads there
        assert os.listdir(image.parent / name) == ["key"]
        assert os.listdir(copy(path=f"/{name}".encode())) == []


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_an_entry_exchanged_meanwhile_never_leads_to_the_host(
    image: Path, copy: Copy, tmp_path: Path, kind: str
) -> None:
    """Somebody swaps an entry with a symlink to the host's, again and again; a careless copy follows it."""
    secret = tmp_path / "secret"
    entry, other = image / "entry", tmp_path / "other"
    if kind == "file":
        secret.write_text("of the host")
        entry.write_text("of the image")
    else:
        secret.mkdir()
        (secret / "key").write_text("of the host")
        entry.mkdir()
        (entry / "key").write_text("of the image")
    other.symlink_to(secret)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            exchange(entry, other)

    def read(top: Path) -> str:
        try:
            return (top / "entry" if kind == "file" else top / "entry/key").read_text()
        except OSError:
            return ""

    def of_the_image(place: Path) -> str:
        return "" if os.path.islink(place / "entry") else read(place)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        careless = any(of_the_image(image) == "of the host" for _ in range(200_000))
        found = set()
        for _ in range(300):
            try:
                found.add(of_the_image(copy()))
            except OSError as error:
                found.add(errno.errorcode[error.errno or 0])
    finally:
        over.set()
        thread.join()
    assert careless
    assert "of the image" in found
    assert found <= {"of the image", "", "ESTALE"}
