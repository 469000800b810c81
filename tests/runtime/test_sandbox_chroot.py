"""A Sandbox used by a process that is in a chroot: of a plain directory, and of one that is a mount."""

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pyrunc import IdMap, Mount, Sandbox
from pyrunc._native import mount, namespaces
from pyrunc.errors import StartError
from pyrunc.runtime import spawner
from tests import confined
from tests.child import in_child
from tests.safety.support import children, python, python_mounts, spawner_pid, wait_until

pytestmark = pytest.mark.usefixtures("host_unchanged")

_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
# The root of its own mount namespace, to which setns(2) leads whoever has the capabilities.
NAMESPACE_ROOT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.setns(os.pidfd_open(os.getpid()), 0x20000):
    raise OSError(ctypes.get_errno(), "setns")
print(*sorted(os.listdir("/")))
"""

InChroot = Callable[[Callable[[], None]], None]


@pytest.fixture(params=["directory", "mount"])
def in_chroot(request: pytest.FixtureRequest, tmp_path: Path) -> InChroot:
    """Run a function in a chroot that has what this host's root has, but for /mnt, and a file of its own."""

    def run(function: Callable[[], None]) -> None:
        def inside() -> None:
            spawner._forget()  # the parent's is in no chroot
            root = tmp_path / "chroot"
            root.mkdir()
            if request.param == "mount":
                mount.mount(b"none", os.fsencode(root), b"tmpfs")
            for entry in os.scandir("/"):
                if entry.is_symlink():
                    (root / entry.name).symlink_to(os.readlink(entry))
                elif entry.is_dir() and entry.name != "mnt":
                    (root / entry.name).mkdir()
                    place = os.fsencode(root / entry.name)
                    mount.mount(os.fsencode(entry), place, None, _MS_BIND | _MS_REC)
            (root / "only-in-the-chroot").touch()
            os.chroot(root)
            os.chdir("/")
            assert not os.path.exists("/mnt")
            try:
                function()
            finally:
                spawner.shut_down()

        in_child(inside, namespaces.CLONE_NEWNS)

    return run


def test_containers_run_as_anywhere(in_chroot: InChroot, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    def inside() -> None:
        with Sandbox(rootfs, hostname="name", mounts=[Mount("/data", str(tmp_path / "data"))]) as box:
            for number in range(3):
                (tmp_path / "data" / str(number)).touch()
                result = box.run(
                    ["/bin/sh", "-c", "cat /proc/sys/kernel/hostname; ls /data; readlink /proc/1/root"]
                )
                assert result.stdout.decode().split() == ["name", *map(str, range(number + 1)), "/"], result
            with box.start(["/bin/sleep", "60"]) as process:
                assert os.listdir(f"/proc/{process.pid}/root/data") == os.listdir(tmp_path / "data")
            assert not os.path.exists(f"/proc/{process.pid}")
        with Sandbox(rootfs, uid_maps=[IdMap(0, 100000, 65536)]) as box:
            assert box.run(["/bin/cat", "/proc/self/uid_map"]).stdout.split() == [b"0", b"100000", b"65536"]

    in_chroot(inside)


def test_the_hosts_tree_is_not_in_the_containers_namespace(in_chroot: InChroot, rootfs: Path) -> None:
    """CAP_SYS_ADMIN and setns(2) lead to the root of the namespace: out of a chroot, but not out of a container."""

    def inside() -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writing, 1)
            os.execv(python("")[0], python(NAMESPACE_ROOT))
        os.close(writing)
        with open(reading) as pipe:
            outside = pipe.read().split()
        assert os.waitpid(pid, 0)[1] == 0
        assert "mnt" in outside
        assert "only-in-the-chroot" not in outside
        mounts = python_mounts()
        with Sandbox(rootfs, mounts=mounts, cap_add=["SYS_ADMIN", "SYS_CHROOT"], seccomp="unconfined") as box:
            found = box.run(python(NAMESPACE_ROOT)).stdout.decode().split()
            own = box.run(["/bin/ls", "/"]).stdout.decode().split()
        assert found == own
        assert "mnt" not in found

    in_chroot(inside)


def namespaces_of(pids: Iterable[int]) -> set[str]:
    """The mount namespaces of those that have not ended meanwhile."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/mnt"))
    return found


def test_nothing_is_left_and_the_callers_mounts_stay_as_they_are(in_chroot: InChroot, rootfs: Path) -> None:
    def inside() -> None:
        mount.mount(b"none", b"/srv", b"tmpfs")
        mount.mount(None, b"/srv", None, _MS_SHARED)
        os.mkdir("/srv/below")
        mount.mount(b"none", b"/srv/below", b"tmpfs")
        before = Path("/proc/self/mountinfo").read_text()
        with Sandbox(rootfs) as box:
            for _ in range(3):
                assert box.run(["/bin/true"]).exit_code == 0
                assert Path("/proc/self/mountinfo").read_text() == before
            # whoever served is in a namespace of its own, and goes
            namespace = os.readlink("/proc/self/ns/mnt")
            assert wait_until(lambda: namespaces_of(children(spawner_pid())) == {namespace})

    in_chroot(inside)


def test_what_cannot_become_a_root_is_said(in_chroot: InChroot, rootfs: Path) -> None:
    def inside() -> None:
        number = {"x86_64": 155, "aarch64": 41}[os.uname().machine]  # pivot_root
        program = [
            (0x20, 0, 0, 0),
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0x50000 | errno.EPERM),
            (0x06, 0, 0, 0x7FFF0000),
        ]
        confined.install(b"".join(struct.pack("=HBBI", *line) for line in program), 0)
        with Sandbox(rootfs) as box, pytest.raises(StartError) as failed:
            box.run(["/bin/true"])
        assert failed.value.step == "chroot"
        assert str(failed.value) == (
            "cannot make the chroot that this process is in the root of a mount namespace: operation not permitted"
        )

    in_chroot(inside)
