"""Mounts made, changed, moved and dropped in a mount namespace of the test's own."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pyrunc._native import mount, namespaces
from tests.child import in_child, refused

NEWNS = namespaces.CLONE_NEWNS
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def attach(mount_fd: int, target: Path) -> None:
    """Attach and close a detached mount."""
    target_fd = os.open(target, os.O_PATH | os.O_CLOEXEC)
    mount.move_mount(mount_fd, target_fd)
    os.close(target_fd)
    os.close(mount_fd)


def tmpfs_at(target: Path) -> None:
    target.mkdir(exist_ok=True)
    attach(mount.new_mount(b"tmpfs"), target)


def test_new_mount_has_its_options_and_attributes_and_stays_in_its_namespace(tmp_path: Path) -> None:
    def child() -> None:
        options = [(b"size", b"64k"), (b"mode", b"0710"), (b"ro", b"")]
        fd = mount.new_mount(b"tmpfs", options, mount.MOUNT_ATTR_NOEXEC)
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        attach(fd, tmp_path)
        status = os.statvfs(tmp_path)
        assert status.f_blocks * status.f_frsize == 64 << 10
        assert status.f_flag & os.ST_RDONLY
        assert status.f_flag & os.ST_NOEXEC
        assert not status.f_flag & os.ST_NOSUID
        assert tmp_path.stat().st_mode & 0o7777 == 0o710
        assert os.path.ismount(tmp_path)

    in_child(child, NEWNS)
    assert not os.path.ismount(tmp_path)


def test_new_mount_tells_which_call_and_why() -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        mount.new_mount(b"tmpfs", [(b"mode", b"0700"), (b"size", b"much")])
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == "size"
    assert caught.value.__notes__[0] == "in fsconfig(2)"
    assert "size" in caught.value.__notes__[1]
    with refused(errno.ENODEV, "fsopen", "nosuchfs"):
        mount.new_mount(b"nosuchfs")


def test_new_mount_leaves_no_descriptor_behind() -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(OSError, match="Invalid argument"):
            mount.new_mount(b"tmpfs", [(b"size", b"much")])
        os.close(mount.new_mount(b"tmpfs"))
    assert os.listdir("/proc/self/fd") == before


def test_open_tree_copies_what_is_below_only_when_asked(tmp_path: Path) -> None:
    def child() -> None:
        below = tmp_path / "a" / "below"
        tmpfs_at(tmp_path / "a")
        tmpfs_at(below)
        (below / "file").touch()
        source = os.fsencode(tmp_path / "a")
        for flags, seen in (
            (mount.OPEN_TREE_CLONE, False),
            (mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE, True),
        ):
            target = tmp_path / str(flags)
            target.mkdir()
            attach(mount.open_tree(-1, source, flags), target)
            assert (target / "below").is_dir()
            assert (target / "below" / "file").exists() == seen

    in_child(child, NEWNS)


def test_open_tree_of_a_descriptor_is_the_object_even_after_its_path_was_exchanged(tmp_path: Path) -> None:
    def child() -> None:
        (tmp_path / "wanted").mkdir()
        (tmp_path / "wanted" / "mark").touch()
        (tmp_path / "target").mkdir()
        fd = os.open(tmp_path / "wanted", DIRECTORY)
        (tmp_path / "wanted").rename(tmp_path / "elsewhere")
        (tmp_path / "wanted").symlink_to("/etc")
        copy = mount.open_tree(fd, b"", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
        attach(copy, tmp_path / "target")
        assert os.listdir(tmp_path / "target") == ["mark"]

    in_child(child, NEWNS)


def test_open_tree_and_move_mount_refusals(tmp_path: Path) -> None:
    def child() -> None:
        missing = os.fsencode(tmp_path / "missing")
        with refused(errno.ENOENT, "open_tree", str(tmp_path / "missing")):
            mount.open_tree(-1, missing)
        with refused(errno.EBADF, "move_mount"):
            mount.move_mount(-1, -1)
        (tmp_path / "file").touch()
        tree = mount.new_mount(b"tmpfs")
        file = os.open(tmp_path / "file", os.O_PATH | os.O_CLOEXEC)
        with refused(errno.EINVAL, "move_mount"):  # a directory over a file
            mount.move_mount(tree, file)

    in_child(child, NEWNS)


@pytest.mark.parametrize("recursive", [False, True])
def test_mount_setattr_read_only(tmp_path: Path, recursive: bool) -> None:
    def child() -> None:
        tmpfs_at(tmp_path)
        tmpfs_at(tmp_path / "below")
        fd = os.open(tmp_path, DIRECTORY)
        mount.mount_setattr(fd, attr_set=mount.MOUNT_ATTR_RDONLY, recursive=recursive)
        with pytest.raises(OSError, match="Read-only file system"):
            (tmp_path / "file").touch()
        if recursive:
            with pytest.raises(OSError, match="Read-only file system"):
                (tmp_path / "below" / "file").touch()
        else:
            (tmp_path / "below" / "file").touch()
        mount.mount_setattr(fd, attr_clr=mount.MOUNT_ATTR_RDONLY, recursive=recursive)
        (tmp_path / "file").touch()

    in_child(child, NEWNS)


def test_mount_setattr_propagation(tmp_path: Path) -> None:
    def child() -> None:
        tmpfs_at(tmp_path)
        fd = os.open(tmp_path, DIRECTORY)
        for propagation, tag in ((mount.MS_SHARED, "shared:"), (mount.MS_PRIVATE, "")):
            mount.mount_setattr(fd, propagation=propagation)
            fields = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
            (optional,) = [field[6 : field.index("-")] for field in fields if field[4] == str(tmp_path)]
            assert [text[: len(tag)] for text in optional] == ([tag] if tag else [])

    in_child(child, NEWNS)


def test_mount_setattr_idmap_shifts_owners_of_one_view_only(tmp_path: Path) -> None:
    def child() -> None:
        source = tmp_path / "source"
        target = tmp_path / "target"
        source.mkdir()
        target.mkdir()
        (source / "old").touch()
        tree = mount.open_tree(-1, os.fsencode(source))
        mount.mount_setattr(tree, userns_fd=user_namespace("0 100000 65536"))
        with refused(errno.EPERM, "mount_setattr"):
            mount.mount_setattr(tree, userns_fd=user_namespace("0 200000 65536"))
        attach(tree, target)
        assert (target / "old").stat().st_uid == 100000
        os.chown(target / "old", 100007, 100008)
        assert (source / "old").stat().st_uid == 7
        assert (source / "old").stat().st_gid == 8

    in_child(child, NEWNS)


def user_namespace(mapping: str) -> int:
    """A descriptor of a new user namespace whose ids are mapped so."""
    reading, writing = os.pipe()
    pid, pidfd = namespaces.clone3(namespaces.CLONE_NEWUSER)
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(mapping)
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    os.close(writing)
    os.close(reading)
    os.close(pidfd)
    os.waitpid(pid, 0)
    return fd


def test_mount_setattr_refusals(tmp_path: Path) -> None:
    def child() -> None:
        fd = os.open(tmp_path, DIRECTORY)
        with refused(errno.EINVAL, "mount_setattr"):
            mount.mount_setattr(fd, attr_set=mount.MOUNT_ATTR_RDONLY)  # not a mount point
        tmpfs_at(tmp_path)
        fd = os.open(tmp_path, DIRECTORY)
        with refused(errno.EINVAL, "mount_setattr"):
            mount.mount_setattr(fd, attr_set=1 << 60)

    in_child(child, NEWNS)


def test_umount2(tmp_path: Path) -> None:
    def child() -> None:
        path = os.fsencode(tmp_path)
        tmpfs_at(tmp_path)
        (tmp_path / "open").touch()
        with open(tmp_path / "open"):
            with refused(errno.EBUSY, "umount2", str(tmp_path)):
                mount.umount2(path)
            mount.umount2(path, mount.MNT_DETACH)
            assert not os.path.ismount(tmp_path)
        with refused(errno.EINVAL, "umount2", str(tmp_path)):
            mount.umount2(path)
        with refused(errno.ENOENT, "umount2", f"{tmp_path}/none"):
            mount.umount2(path + b"/none")

    in_child(child, NEWNS)


def test_pivot_root_leaves_nothing_of_the_old_root(tmp_path: Path) -> None:
    def child() -> None:
        with refused(errno.EBUSY, "pivot_root", str(tmp_path)):
            mount.pivot_root(os.fsencode(tmp_path), os.fsencode(tmp_path))  # the old root's mount
        tmpfs_at(tmp_path)
        inner = os.fsencode(tmp_path / "dir")
        os.mkdir(inner)
        with refused(errno.EINVAL, "pivot_root", f"{tmp_path}/dir"):
            mount.pivot_root(inner, inner)  # not a mount point
        (tmp_path / "dir").rmdir()
        (tmp_path / "mark").touch()
        os.chdir(tmp_path)
        mount.pivot_root(b".", b".")
        mount.umount2(b".", mount.MNT_DETACH)
        assert os.listdir("/") == ["mark"]
        assert os.listdir("/..") == ["mark"]

    in_child(child, NEWNS)


def test_mount_with_data_and_refusals(tmp_path: Path) -> None:
    def child() -> None:
        path = os.fsencode(tmp_path)
        mount.mount(b"named", path, b"tmpfs", data=b"size=8k,mode=0711")
        assert tmp_path.stat().st_mode & 0o777 == 0o711
        assert " - tmpfs named " in Path("/proc/self/mountinfo").read_text()
        with refused(errno.ENODEV, "mount", str(tmp_path)):
            mount.mount(b"x", path, b"nosuchfs")

    in_child(child, NEWNS)


def test_a_path_with_a_null_byte_is_no_shorter_path() -> None:
    for call in (
        lambda: mount.umount2(b"/tmp\0/x"),
        lambda: mount.open_tree(-1, b"/tmp\0/x"),
        lambda: mount.pivot_root(b"/tmp\0/x", b"/"),
        lambda: mount.new_mount(b"tmpfs\0x"),
        lambda: mount.new_mount(b"tmpfs", [(b"size", b"4k\0x")]),
    ):
        with pytest.raises(ValueError, match="null byte"):
            call()
