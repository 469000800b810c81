"""The kernel facilities that the runtime is built on work under whichever kernel this is."""

import array
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
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


@pytest.mark.parametrize("kind", ["uts", "ipc", "net", "cgroup", "mnt", "user"])
def test_namespace(kind: str) -> None:
    flag = {
        "uts": linux.CLONE_NEWUTS,
        "ipc": linux.CLONE_NEWIPC,
        "net": linux.CLONE_NEWNET,
        "cgroup": linux.CLONE_NEWCGROUP,
        "mnt": linux.CLONE_NEWNS,
        "user": linux.CLONE_NEWUSER,
    }[kind]
    before = os.readlink(f"/proc/self/ns/{kind}")
    in_child(lambda: _differs(kind, before), flag)
    assert os.readlink(f"/proc/self/ns/{kind}") == before


def _differs(kind: str, before: str) -> None:
    assert os.readlink(f"/proc/self/ns/{kind}") != before


def test_pid_namespace() -> None:
    def check() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if os.getpid() == 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0

    in_child(check, linux.CLONE_NEWPID)


@needs.namespace("time")
def test_time_namespace() -> None:
    def check() -> None:
        Path("/proc/self/timens_offsets").write_text("boottime 1000000 0")
        if (pid := os.fork()) == 0:
            os._exit(0 if float(Path("/proc/uptime").read_text().split()[0]) > 1_000_000 else 1)
        assert os.waitpid(pid, 0)[1] == 0

    in_child(check, linux.CLONE_NEWTIME)


def test_user_namespace_maps_a_range() -> None:
    ready, mapped = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(ready[1], b"x")
        os.read(mapped[0], 1)
        os.setuid(5)
        os.write(ready[1], str(os.getuid()).encode())
        signal.pause()
    try:
        os.read(ready[0], 1)
        Path(f"/proc/{pid}/uid_map").write_text("0 100000 1000")
        os.write(mapped[1], b"x")
        assert os.read(ready[0], 8) == b"5"
        assert os.stat(f"/proc/{pid}").st_uid in (0, 100005)
        assert "\t100005\t" in Path(f"/proc/{pid}/status").read_text()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in ready + mapped:
            os.close(fd)


def test_mqueue_belongs_to_the_ipc_namespace(tmp_path: Path) -> None:
    def check() -> None:
        linux.mount("mqueue", str(tmp_path), "mqueue")
        (tmp_path / "queue").touch()
        assert "QSIZE:0" in (tmp_path / "queue").read_text()

    in_child(check, linux.CLONE_NEWNS | linux.CLONE_NEWIPC)


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


def test_pidfd_signals_waits_and_fetches_a_descriptor(sleeper: int, tmp_path: Path) -> None:
    pidfd = os.pidfd_open(sleeper)
    copy = linux.syscall(linux.NR_PIDFD_GETFD, pidfd, 0, 0)
    assert os.fstat(copy).st_ino == os.fstat(0).st_ino
    os.close(copy)
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    stopped = os.waitid(os.P_PIDFD, pidfd, os.WSTOPPED)
    assert stopped is not None
    assert stopped.si_pid == sleeper
    os.close(pidfd)


def test_setns_by_pidfd_joins_several_namespaces_at_once(sleeper: int) -> None:
    reading, writing = os.pipe()
    flags = linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET
    pid = os.fork()
    if pid == 0:
        linux.unshare(flags)
        os.write(writing, b"x")
        signal.pause()
    try:
        os.read(reading, 1)

        def check() -> None:
            linux.setns(os.pidfd_open(pid), flags)
            for kind in ("uts", "ipc", "net"):
                assert os.readlink(f"/proc/self/ns/{kind}") == os.readlink(f"/proc/{pid}/ns/{kind}")
                assert os.readlink(f"/proc/self/ns/{kind}") != os.readlink(f"/proc/{sleeper}/ns/{kind}")

        in_child(check)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


class _Filter(ctypes.Structure):
    """`struct sock_filter`."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Filter)))


def _refuse(number: int, action: int) -> None:
    """Install a seccomp filter that answers system call *number* with *action*."""
    allow = 0x7FFF0000
    filters = (_Filter * 4)(
        _Filter(0x20, 0, 0, 0),  # load seccomp_data.nr
        _Filter(0x15, 0, 1, number),
        _Filter(0x06, 0, 0, action),
        _Filter(0x06, 0, 0, allow),
    )
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    program = _Program(4, filters)
    linux.syscall(linux.NR_SECCOMP, 1, 0, ctypes.byref(program))


def test_seccomp_filter_gives_an_errno() -> None:
    def check() -> None:
        _refuse(_NR_GETPPID, 0x00050000 | errno.EXFULL)
        with pytest.raises(OSError) as failure:
            linux.syscall(_NR_GETPPID)
        assert failure.value.errno == errno.EXFULL
        assert os.getpid() > 0

    in_child(check)


def test_seccomp_filter_kills_the_process() -> None:
    pid = os.fork()
    if pid == 0:
        _refuse(_NR_GETPPID, 0x80000000)
        os.getppid()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSYS


_NR_GETPPID = 110


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    return linux.syscall(linux.NR_BPF, command, ctypes.byref(buffer), 128)


@pytest.mark.skipif(needs.cgroup_v2_root() is None, reason="needs cgroup v2")
def test_device_program_closes_a_cgroup_to_devices() -> None:
    """BPF_PROG_TYPE_CGROUP_DEVICE, which is all that v2 has for devices, needs no controller."""
    root = needs.cgroup_v2_root()
    assert root is not None
    path = Path(root) / f"pyrunc-test-devices-{os.getpid()}"
    path.mkdir()
    try:
        deny_all = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
        code, licence = ctypes.create_string_buffer(deny_all, 16), ctypes.create_string_buffer(b"Apache-2.0")
        load = struct.pack("<IIQQ", 15, 2, ctypes.addressof(code), ctypes.addressof(licence))
        program = _bpf(5, load)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        _bpf(8, struct.pack("<IIII", directory, program, 6, 0))

        def check() -> None:
            (path / "cgroup.procs").write_text("0")
            with pytest.raises(PermissionError):
                os.open("/dev/zero", os.O_RDONLY)

        os.close(os.open("/dev/zero", os.O_RDONLY))
        in_child(check)
        os.close(directory)
        os.close(program)
    finally:
        path.rmdir()


def _busybox() -> str:
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("needs a static busybox: apt-get install busybox-static")
    return path


@pytest.mark.parametrize("way", ["proc", "execveat"])
def test_a_static_program_runs_from_a_sealed_memfd(way: str) -> None:
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fd = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, Path(_busybox()).read_bytes())
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == seals
    pid = os.fork()
    if pid == 0:
        if way == "proc":
            os.execve(f"/proc/self/fd/{fd}", ["sh", "-c", "exit 9"], {})
        argv = (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 9", None)
        environment = (ctypes.c_char_p * 1)(None)
        linux.syscall(linux.NR_EXECVEAT, fd, b"", argv, environment, linux.AT_EMPTY_PATH)
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_a_static_program_runs_from_a_detached_read_only_mount() -> None:
    def check() -> None:
        mount = _fsmount(b"tmpfs")
        fd = os.open("program", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=mount)
        os.write(fd, Path(_busybox()).read_bytes())
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


def test_close_range_closes_and_marks() -> None:
    def check() -> None:
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        os.set_inheritable(fds[0], True)
        linux.syscall(linux.NR_CLOSE_RANGE, fds[0], fds[0], 4)
        assert fcntl.fcntl(fds[0], fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        linux.syscall(linux.NR_CLOSE_RANGE, fds[1], 0xFFFFFFFF, 0)
        for fd in fds[1:]:
            with pytest.raises(OSError):
                os.fstat(fd)

    in_child(check)


def test_seqpacket_carries_many_descriptors_and_credentials() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.sendmsg(
            [b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [left.fileno()] * 250))]
        )
        data, fds, _, _ = socket.recv_fds(right, 16, 253)
        assert (data, len(fds)) == (b"m", 250)
        for fd in fds:
            os.close(fd)
        pid, uid, _ = struct.unpack("3i", right.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        assert (pid, uid) == (os.getpid(), 0)


def test_capabilities_and_dumpable() -> None:
    def check() -> None:
        set_dumpable, get_dumpable, capbset_drop = 4, 3, 24
        linux.prctl(set_dumpable, 0)
        assert linux.prctl(get_dumpable, 0) == 0
        linux.prctl(capbset_drop, 21)
        bounding = next(
            x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapBnd")
        )
        assert not int(bounding.split()[1], 16) & (1 << 21)

    in_child(check)


def test_veth_pair_across_namespaces() -> None:
    """RTM_NEWLINK that makes a pair in a new network namespace."""

    def attribute(kind: int, data: bytes) -> bytes:
        return (struct.pack("=HH", len(data) + 4, kind) + data).ljust((len(data) + 7) & ~3, b"\0")

    def check() -> None:
        peer = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, b"eth0\0")
        kind = attribute(18, attribute(1, b"veth") + attribute(2, attribute(1, peer)))
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, b"host0\0") + kind
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            sock.send(struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
            answer = sock.recv(4096)
        assert struct.unpack_from("=i", answer, 16)[0] == 0, os.strerror(
            -struct.unpack_from("=i", answer, 16)[0]
        )
        assert {"host0", "eth0"} <= {name for _, name in socket.if_nameindex()}

    in_child(check, linux.CLONE_NEWNET)
