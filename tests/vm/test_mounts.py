"""Mounts, old and new API, do what the runtime counts on under whichever kernel this is."""

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from . import linux, needs
from .child import in_child
from .guest import SPARE_DISK

pytestmark = [pytest.mark.vm, needs.root()]

_RESOLVE_IN_ROOT = 0x10
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_MOVE_MOUNT_F_EMPTY_PATH = 4
_OPEN_TREE_CLONE = 1


def _in_mount_namespace(function: Callable[[], None]) -> None:
    in_child(function, linux.CLONE_NEWNS)


def _fsconfig(context: int, command: int, key: bytes | None = None, value: bytes | None = None) -> None:
    linux.syscall(linux.NR_FSCONFIG, context, command, key or 0, value or 0, 0)


def _fsmount(kind: bytes, **options: str) -> int:
    """Make a detached mount of a new file system."""
    context = linux.syscall(linux.NR_FSOPEN, kind, 1)
    for key, value in options.items():
        _fsconfig(context, _FSCONFIG_SET_STRING, key.encode(), value.encode())
    _fsconfig(context, _FSCONFIG_CMD_CREATE)
    return linux.syscall(linux.NR_FSMOUNT, context, 1, 0)


def _attach(mount: int, target: Path) -> None:
    """Put the detached *mount* on *target*."""
    linux.syscall(
        linux.NR_MOVE_MOUNT, mount, b"", linux.AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
    )


def test_openat2_keeps_a_symlink_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("the container's")
    (tmp_path / "link").symlink_to("/../../../etc/passwd")
    root = os.open(tmp_path, os.O_PATH)
    how = linux.OpenHow(flags=os.O_RDONLY | os.O_CLOEXEC, resolve=_RESOLVE_IN_ROOT)
    fd = linux.syscall(linux.NR_OPENAT2, root, b"link", ctypes.byref(how), ctypes.sizeof(how))
    os.close(root)
    with open(fd) as file:
        assert file.read() == "the container's"


def test_fsopen_makes_a_detached_mount_that_is_attached_by_descriptor(tmp_path: Path) -> None:
    def check() -> None:
        mount = _fsmount(b"tmpfs", size="1m")
        with open(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=mount), "w") as file:
            file.write("written while detached")
        _attach(mount, tmp_path)
        assert (tmp_path / "file").read_text() == "written while detached"
        assert os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize == 1 << 20

    _in_mount_namespace(check)
    assert not list(tmp_path.iterdir())


def test_mount_setattr_makes_a_tree_read_only(tmp_path: Path) -> None:
    def check() -> None:
        linux.mount("a", str(tmp_path), "tmpfs")
        inner = tmp_path / "inner"
        inner.mkdir()
        linux.mount("b", str(inner), "tmpfs")
        attributes = linux.MountAttr(attr_set=linux.MOUNT_ATTR_RDONLY)
        linux.mount_setattr(str(tmp_path), attributes, linux.AT_RECURSIVE)
        for directory in (tmp_path, inner):
            with pytest.raises(OSError) as failure:
                (directory / "file").touch()
            assert failure.value.errno == errno.EROFS

    _in_mount_namespace(check)


def test_open_tree_clones_a_tree_without_touching_a_path(tmp_path: Path) -> None:
    def check() -> None:
        (tmp_path / "file").write_text("seen")
        tree = linux.syscall(linux.NR_OPEN_TREE, linux.AT_FDCWD, os.fsencode(tmp_path), _OPEN_TREE_CLONE)
        with open(os.open("file", os.O_RDONLY, dir_fd=tree)) as file:
            assert file.read() == "seen"

    _in_mount_namespace(check)


@pytest.mark.parametrize("options", ["", ",volatile", ",userxattr"])
def test_overlay_on_tmpfs(tmp_path: Path, options: str) -> None:
    def check() -> None:
        linux.mount("layers", str(tmp_path), "tmpfs")
        for name in ("lower1", "lower2", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        (tmp_path / "lower1/gone").write_text("1")
        (tmp_path / "lower1/kept").write_text("1")
        (tmp_path / "lower2/kept").write_text("2")
        os.chdir(tmp_path)
        linux.mount(
            "o", "merged", "overlay", 0, f"lowerdir=lower2:lower1,upperdir=upper,workdir=work{options}"
        )
        merged = tmp_path / "merged"
        assert (merged / "kept").read_text() == "2"
        (merged / "gone").unlink()
        (merged / "new").write_text("3")
        assert stat.S_ISCHR((tmp_path / "upper/gone").lstat().st_mode)
        assert (tmp_path / "upper/new").read_text() == "3"

    _in_mount_namespace(check)


def test_overlay_by_the_new_mount_api(tmp_path: Path) -> None:
    def check() -> None:
        linux.mount("layers", str(tmp_path), "tmpfs")
        for name in ("lower", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        (tmp_path / "lower/file").write_text("below")
        os.chdir(tmp_path)
        _attach(_fsmount(b"overlay", lowerdir="lower", upperdir="upper", workdir="work"), tmp_path / "merged")
        assert (tmp_path / "merged/file").read_text() == "below"

    _in_mount_namespace(check)


@needs.spare_disk()
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4: apt-get install e2fsprogs")
def test_idmapped_mount_of_a_layer_under_an_overlay(tmp_path: Path) -> None:
    """What a container with a user namespace gets: the layer's root is the container's root."""
    mount_attr_idmap, shift = 0x100000, 100_000
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(writing, b"x")
        signal.pause()

    def check() -> None:
        subprocess.run(["mkfs.ext4", "-q", "-F", SPARE_DISK], check=True)
        linux.mount(SPARE_DISK, str(tmp_path), "ext4")
        for name in ("lower", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        (tmp_path / "lower/file").touch()
        attributes = linux.MountAttr(
            attr_set=mount_attr_idmap, userns_fd=os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        )
        tree = linux.syscall(linux.NR_OPEN_TREE, linux.AT_FDCWD, os.fsencode(tmp_path), _OPEN_TREE_CLONE)
        size = ctypes.sizeof(attributes)
        linux.syscall(linux.NR_MOUNT_SETATTR, tree, b"", linux.AT_EMPTY_PATH, ctypes.byref(attributes), size)
        mapped = Path("/mnt")
        _attach(tree, mapped)
        assert (mapped / "lower/file").stat().st_uid == shift
        options = f"lowerdir={mapped}/lower,upperdir={mapped}/upper,workdir={mapped}/work"
        linux.mount("o", str(tmp_path / "merged"), "overlay", 0, options)
        assert (tmp_path / "merged/file").stat().st_uid == shift

    try:
        os.read(reading, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {shift} 65536")
        _in_mount_namespace(check)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def test_pivot_root_into_a_new_root(tmp_path: Path) -> None:
    def check() -> None:
        linux.mount("root", str(tmp_path), "tmpfs")
        (tmp_path / "only").touch()
        os.chdir(tmp_path)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
        assert os.listdir("/") == ["only"]

    _in_mount_namespace(check)


def test_devpts_instance_of_its_own(tmp_path: Path) -> None:
    tiocgptpeer = 0x5441

    def check() -> None:
        linux.mount("devpts", str(tmp_path), "devpts", 0, "newinstance,ptmxmode=666,mode=620")
        master = os.open(tmp_path / "ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))
        peer = fcntl.ioctl(master, tiocgptpeer, os.O_RDWR | os.O_NOCTTY)
        os.write(master, b"typed\n")
        assert os.read(peer, 16) == b"typed\n"
        assert (tmp_path / "0").exists()

    _in_mount_namespace(check)


def test_a_static_program_runs_from_a_detached_read_only_mount(busybox: bytes) -> None:
    def check() -> None:
        mount = _fsmount(b"tmpfs")
        fd = os.open("program", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=mount)
        os.write(fd, busybox)
        os.close(fd)
        attributes = linux.MountAttr(attr_set=linux.MOUNT_ATTR_RDONLY)
        linux.syscall(
            linux.NR_MOUNT_SETATTR,
            mount,
            b"",
            linux.AT_EMPTY_PATH,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        )
        program = os.open("program", os.O_PATH, dir_fd=mount)
        pid = os.fork()
        if pid == 0:
            os.execve(program, ["sh", "-c", "exit 9"], {})
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9

    _in_mount_namespace(check)
