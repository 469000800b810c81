"""The host's root as an image: its tools run in it, and nothing that they do reaches the host."""

import errno
import os
import socket
import tempfile
from pathlib import Path

import pytest

import pyrunc
from pyrunc.image.host import HostMount, HostRoot, host_root


def run(root: HostRoot, script: str) -> str:
    mounts = [
        pyrunc.Mount(mount.target, mount.source, kind=mount.kind, options=list(mount.options))
        for mount in root.mounts
    ]
    with pyrunc.Sandbox(rootfs=list(root.layers), mounts=mounts) as box:
        result = box.run(["/bin/sh", "-c", script], timeout_s=60)
    assert result.exit_code == 0, result.stderr
    return result.stdout.decode()


def test_the_hosts_tools_run() -> None:
    said = run(host_root(), "cat /etc/os-release; uname -r; ls /proc | head -1; echo $$")
    assert said == Path("/etc/os-release").read_text() + os.uname().release + "\n1\n1\n"


def test_what_is_written_dies_with_the_container() -> None:
    name = f"/etc/pyrunc-test-{os.getpid()}"
    run(host_root(), f"echo x >{name}; rm /etc/passwd; cat {name}")
    assert not os.path.exists(name)
    assert os.path.exists("/etc/passwd")


def test_what_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    assert run(host_root(), "ls -A /tmp; ls -A /run | grep -v '^lock$' || :") == ""
    # pyrunc's own state, also where a symlink leads to it
    state = Path(f"/var/tmp/pyrunc-test-{os.getpid()}")
    state.mkdir()
    try:
        (state / "images.db").write_text("rows")
        (tmp_path / "link").symlink_to(state)
        assert run(host_root([]), f"ls -A {state}") == "images.db\n"
        for name in (state, tmp_path / "link"):
            assert run(host_root([str(name)]), f"ls -A {state}; touch {state}/x 2>/dev/null || :") == ""
    finally:
        (state / "images.db").unlink()
        state.rmdir()


def test_what_listens_on_the_host_is_not_reached() -> None:
    """Names of sockets and FIFOs are there; what is behind them is the kernel's object on the host, and not here."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.mkfifo(f"{place}/fifo")
        fifo = os.open(f"{place}/fifo", os.O_RDONLY | os.O_NONBLOCK)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"{place}/socket")
            listening.listen(1)
            script = (
                f"ls {place}; (echo word 1<>{place}/fifo); python3 -c '"
                f'import socket; print(socket.socket(socket.AF_UNIX).connect_ex("{place}/socket"))\''
            )
            assert run(host_root(), script).split() == ["fifo", "socket", str(errno.ECONNREFUSED)]
        assert os.read(fifo, 1) == b""
        os.close(fifo)


LINE = "36 35 98:0 / {point} rw,noatime shared:1 - {kind} /dev/x rw\n"


@pytest.mark.parametrize(
    ("point", "kind", "shown"),
    [
        ("/", "ext4", False),
        ("/usr", "ext4", True),
        ("/var", "xfs", True),
        ("/var/lib", "btrfs", True),
        ("/opt/with\\040space", "squashfs", True),
        ("/opt/é", "ext4", True),
        ("/lib64", "ext4", True),
        ("/home", "ext4", False),
        ("/mnt", "ext4", False),
        ("/boot/efi", "vfat", False),
        ("/var/lib/docker", "ext4", False),
        ("/usr/lib", "tmpfs", False),
        ("/var/nfs", "nfs4", False),
        ("/proc", "proc", False),
        ("/dev/x", "ext4", False),
        ("/run/media", "ext4", False),
        ("/sys/fs/x", "ext4", False),
    ],
)
def test_which_file_systems_belong_to_the_root(tmp_path: Path, point: str, kind: str, shown: bool) -> None:
    (tmp_path / "mountinfo").write_text(LINE.format(point=point, kind=kind))
    binds = [mount for mount in host_root([], str(tmp_path / "mountinfo")).mounts if mount.kind == "bind"]
    path = point.replace("\\040", " ")
    assert binds == ([HostMount(path, path, "bind", ("bind", "ro"))] if shown else [])


def test_a_file_system_below_another_is_mounted_after_it(tmp_path: Path) -> None:
    lines = [
        LINE.format(point=point, kind="ext4") for point in ("/var/lib", "/usr/local", "/var", "/usr", "/usr")
    ]
    (tmp_path / "mountinfo").write_text("".join(lines))
    targets = [mount.target for mount in host_root([], str(tmp_path / "mountinfo")).mounts]
    assert targets == ["/var", "/usr", "/var/lib", "/usr/local", "/run", "/tmp"]
