"""Mount options whose way depends on the kernel: before Linux 6.15 a detached mount cannot be copied, before 6.6
no mode be set by a descriptor that does nothing else."""

import os
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox, errors
from tests import rootfs as rootfs_of
from tests.vm import needs

pytestmark = [pytest.mark.vm, needs.root()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return rootfs_of.make(tmp_path / "rootfs")


def test_a_directory_of_a_new_file_system(root: Path) -> None:
    mount = Mount("/m", kind="proc", options=["X-mount.subdir=sys/kernel", "ro", "nosuid"])
    with Sandbox(root, mounts=[mount], hostname="marker") as box:
        assert box.run(["/bin/cat", "/m/hostname"]).stdout == b"marker\n"
        lines = box.run(["/bin/cat", "/proc/self/mountinfo"]).stdout.decode().splitlines()
    (found,) = [line.split() for line in lines if " /m " in line]
    assert (found[3], found[5]) == ("/sys/kernel", "ro,nosuid,relatime")
    # What it was copied from is gone: the procfs at /proc, parts of it that are read-only, and the copy.
    assert not [line for line in lines if " - proc " in line and line.split()[3:5] == ["/", "/sys"]]
    with pytest.raises(errors.StartError, match=r"^cannot show none of proc: no such file or directory$"):
        Sandbox(root, mounts=[mount._replace(options=["X-mount.subdir=none"])]).run(["/bin/true"])


def test_the_owner_and_mode_of_a_mount(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    options = ["X-mount.owner=7", "X-mount.mode=710", "ro"]
    with Sandbox(root, mounts=[Mount("/m", str(source), options=options)]) as box:
        assert box.run(["/bin/true"]).exit_code == 0
    assert (source.stat().st_uid, source.stat().st_mode & 0o7777) == (7, 0o710)
    box = Sandbox(root, mounts=[Mount("/m", str(source / "file"), options=["X-mount.mode=700"])])
    version = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if version >= (6, 6):
        box.run(["/bin/true"])
        assert (source / "file").stat().st_mode & 0o7777 == 0o700
    else:
        with pytest.raises(errors.StartError, match=r"mounted at /m: function not implemented$"):
            box.run(["/bin/true"])
