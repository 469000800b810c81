"""Masked and read-only paths, /dev, devices and cgroups, tried from inside."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import InvalidArgument
from pyrunc.spec import defaults
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("host_unchanged")


def test_masked_paths_are_empty_or_read_nothing(run: Run) -> None:
    """Directories list nothing and take nothing; files read as /dev/null. Each path is there on the host."""
    paths = [path for path in defaults.masked_paths() if os.path.exists(path)]
    assert "/proc/keys" in paths
    for path in paths:
        script = (
            f"if [ -d {path} ]; then echo dir; ls -A {path}; touch {path}/x; else echo file; cat {path}; fi"
        )
        kind, *rest = run(f"({script}) 2>&1; true").splitlines()
        assert kind == ("dir" if os.path.isdir(path) else "file")
        assert not rest or (kind == "dir" and rest == [f"touch: {path}/x: Read-only file system"])


def test_what_is_masked_can_be_chosen(run: Run) -> None:
    assert run("cat /proc/keys | wc -l", masked_paths=[]) != "0\n"
    assert run("ls /etc; cat /proc/uptime", masked_paths=["/etc", "/proc/uptime", "/not/there"]) == ""


@pytest.mark.usefixtures("probe")
def test_read_only_paths(run: Run) -> None:
    assert run("probe touch /proc/sys/kernel/hostname") == "Read-only file system\n"
    # sysctls that are the container's own are read-only too: only the options set them
    assert run("probe touch /proc/sys/kernel/hostname", readonly_paths=[], masked_paths=[]) == "ok\n"
    assert run("probe touch /etc/passwd; probe touch /etc/group", readonly_paths=["/etc/passwd"]) == (
        "Read-only file system\nok\n"
    )
    for path in filter(os.path.isdir, defaults.READONLY_PATHS):
        found = run(f"file=$(find {path} -type f 2>/dev/null | head -n 1); [ -z $file ] || probe touch $file")
        assert found in ("", "Read-only file system\n")


def test_sysfs_is_read_only(run: Run) -> None:
    assert "Read-only file system" in run("mkdir /sys/x 2>&1", code=1)


def test_default_device_nodes_work(run: Run) -> None:
    listed = run("cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty")
    assert listed.splitlines() == [
        "null 1:3 666", "zero 1:5 666", "full 1:7 666", "random 1:8 666", "urandom 1:9 666", "tty 5:0 666",
    ]  # fmt: skip
    assert (
        run("cat /dev/null; for name in zero urandom random; do head -c 4 /dev/$name | wc -c; done")
        == "4\n" * 3
    )
    assert "No space left" in run("dd if=/dev/zero of=/dev/full count=1 2>&1", code=1)
    assert run("ls /dev").split() == [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ]  # fmt: skip
    assert run("for name in fd stdin stdout stderr ptmx; do readlink /dev/$name; done").split() == [
        "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx",
    ]  # fmt: skip


@pytest.fixture
def disk() -> tuple[str, str, str]:
    """Path and numbers of a block device that the host itself lets be opened."""
    for entry in sorted(Path("/sys/block").iterdir()):
        path = f"/dev/{entry.name}"
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            continue
        major, minor = (entry / "dev").read_text().strip().split(":")
        return path, major, minor
    pytest.skip("no block device here that can be opened")


@pytest.mark.usefixtures("probe")
def test_other_devices_can_be_made_and_not_opened(run: Run, disk: tuple[str, str, str]) -> None:
    """As with Docker: mknod is allowed, to open what it made is not."""
    for kind, major, minor in (("b", *disk[1:]), ("c", "1", "1"), ("c", "1", "11"), ("c", "10", "237")):
        for flag in "rw":
            assert run(f"probe open {kind} {major} {minor} {flag}").strip() == "Operation not permitted"
    assert run("probe open c 1 3 r") == "ok\n"
    assert run("probe open c 1 3 r", cap_drop=["MKNOD"]) == "mknod Operation not permitted\n"


@pytest.mark.usefixtures("probe")
def test_devices_on_request(run: Run, disk: tuple[str, str, str]) -> None:
    path, *digits = disk
    numbers = " ".join(digits)
    size = "stat -c %t:%T"
    major, minor = (f"{int(number):x}" for number in digits)
    assert run(f"{size} {path}", devices=[path]) == f"{major}:{minor}\n"
    assert run(f"dd if={path} count=0 2>/dev/null && probe open b {numbers} w", devices=[f"{path}:r"]) == (
        "Operation not permitted\n"
    )
    assert run(
        f"{size} /dev/disk; dd if=/dev/disk count=0 2>/dev/null && echo read",
        devices=[f"{path}:/dev/disk:rm"],
    ) == (f"{major}:{minor}\nread\n")
    assert run(f"probe open b {numbers} r", device_cgroup_rules=[f"b {digits[0]}:* r"]) == "ok\n"
    assert run("probe open c 10 237 r", device_cgroup_rules=["c 10:237 rwm"]) == "ok\n"
    assert run("probe open c 10 237 r", device_cgroup_rules=["c *:* rm"]) == "ok\n"


@pytest.mark.parametrize(("options", "words"), [
    ({"devices": ["/dev/none"]}, "devices: /dev/none: no such file"),
    ({"devices": ["/etc/passwd"]}, "devices: /etc/passwd: not a device"),
    ({"devices": ["/dev/null:/x:y"]}, "devices: .* must be host"),
    ({"devices": ["dev/null"]}, "devices must be an absolute path"),
    ({"devices": ["/dev/null:/a/../b"]}, "devices must be an absolute path"),
    ({"devices": "/dev/null"}, "devices must be a list"),
    ({"device_cgroup_rules": ["c 1:1"]}, "device_cgroup_rules: 'c 1:1' must be like"),
    ({"device_cgroup_rules": ["c x:1 r"]}, "device_cgroup_rules: .*major must be a number"),
    ({"device_cgroup_rules": ["c 99999999999:1 r"]}, "device_cgroup_rules: .*major"),
    ({"device_cgroup_rules": ["c 5000000000:1 r"]}, "device_cgroup_rules: .*major"),
])  # fmt: skip
def test_what_no_device_can_be(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        run("true", **options)


@pytest.mark.usefixtures("probe")
def test_a_terminal_comes_from_the_containers_own_devpts(run: Run) -> None:
    assert run("probe pty; ls /dev/pts") == "/dev/pts/0 hi\r\nptmx\n"
    assert run("stat -c %g:%a /dev/pts/ptmx") == "0:666\n"


def test_shared_memory_has_its_size(run: Run) -> None:
    assert run("df -k /dev/shm | tail -1 | awk '{print $2}'") == f"{64 << 10}\n"
    assert (
        run("df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm", shm_bytes=1 << 20)
        == "1024\n1777\n"
    )
    assert "No space left" in run(
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=2 2>&1", code=1, shm_bytes=1 << 20
    )


@pytest.mark.usefixtures("probe")
def test_queues_work(run: Run) -> None:
    assert run("probe mqueue /q; ls /dev/mqueue; grep -c QSIZE:2 /dev/mqueue/q") == "ok\nq\n1\n"


def test_cgroups_are_read_only_and_only_our_own(run: Run) -> None:
    assert run("find /sys/fs/cgroup -name '*pyrunc*'; find /sys/fs/cgroup -mindepth 2 -type d") == ""
    for place in run("ls -d /sys/fs/cgroup/*").split():
        assert "Read-only file system" in run(f"mkdir {place}/x 2>&1", code=1)
    # its own processes and no one else's: a process of another pid namespace would read as 0
    assert (
        {"1"}
        <= set(run("cat $(ls /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs)").split())
        <= set("123")
    )


def test_a_read_only_root(run: Run) -> None:
    script = "for d in / /etc /tmp /bin; do touch $d/x 2>&1; done; echo x 2>&1 >> /etc/hosts; touch /dev/shm/x /dev/y"
    lines = run(script, writable="no").splitlines()
    assert len(lines) == 5
    assert all("Read-only file system" in line for line in lines)
    assert run("touch /tmp/x; ls /tmp", writable="no", tmpfs={"/tmp": ""}) == "x\n"


def test_writes_go_to_a_scratch_that_is_thrown_away(run: Run) -> None:
    assert (
        run("echo gone > /tmp/x; rm /etc/group; cat /tmp/x; ls /etc")
        == "gone\nhostname\nhosts\npasswd\nresolv.conf\n"
    )
    assert run("ls /tmp; cat /etc/group | wc -l") == "5\n"


def test_a_scratch_has_a_size(run: Run) -> None:
    assert "No space left" in run(
        "dd if=/dev/zero of=/tmp/x bs=1M count=4 2>&1", code=1, scratch_bytes=1 << 20
    )


def test_a_root_whose_files_are_symlinks_into_an_empty_run(
    make_rootfs: Callable[[Path], Path], tmp_path: Path
) -> None:
    """As systemd-resolved leaves /etc/resolv.conf in the tree of a whole system."""
    root = make_rootfs(tmp_path / "root")
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "etc/hosts").symlink_to(tmp_path / "hosts")
    with Sandbox(root, dns=["192.0.2.1"]) as box:
        told = box.run(
            ["/bin/sh", "-c", "cat /etc/resolv.conf; grep -c localhost /etc/hosts; ls /run/systemd/resolve"]
        )
    assert told.stdout == b"nameserver 192.0.2.1\n2\nstub-resolv.conf\n"
    assert not (tmp_path / "hosts").exists() and not (root / "run").exists()


@pytest.mark.parametrize("writable", ["scratch", "no", "direct"])
def test_a_root_without_mount_points(
    writable: str, make_rootfs: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Only what may be written into has them made; the names of directories may hold anything."""
    root = make_rootfs(tmp_path / "a:b,c\\d 'e'")
    for name in ("proc", "sys", "dev"):
        (root / name).rmdir()
    with Sandbox(root, writable=writable) as box:  # type: ignore[arg-type]
        result = box.run(["/bin/sh", "-c", "ls /proc/self/status /dev/null; touch /kept"])
    assert result.stdout == b"/dev/null\n/proc/self/status\n"
    assert (root / "proc").exists() == (root / "kept").exists() == (writable == "direct")


def test_layers(make_rootfs: Callable[[Path], Path], tmp_path: Path) -> None:
    lower, middle, upper = make_rootfs(tmp_path / "lower"), tmp_path / "middle", tmp_path / "upper"
    for number, layer in enumerate((middle, upper)):
        (layer / "etc").mkdir(parents=True)
        (layer / "etc/which").write_text(f"{number}\n")
    (middle / "etc/passwd").write_text("only:x:7:8::/only:/bin/sh\n")
    os.mknod(upper / "etc/group", 0o600 | 0o020000, 0)  # a whiteout
    with Sandbox([lower, middle, upper], user="only") as box:
        assert box.run(
            ["/bin/sh", "-c", "cat /etc/which; id -u; id -g; echo $HOME; ls /etc/group"]
        ).stdout == (b"1\n7\n8\n/only\n")
    with pytest.raises(InvalidArgument, match="writable: several layers"):
        Sandbox([lower, middle], writable="direct")
    for wrong in ([], "", "/not/there", str(lower / "etc/passwd"), 5, [5], "a\0b", b"/"):
        with pytest.raises(InvalidArgument, match="rootfs"):
            Sandbox(wrong)  # type: ignore[arg-type]
