"""A Sandbox on cgroup v2 with its controllers: every limit, seen from inside and from the host."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyrunc
from tests import rootfs as rootfs_of
from tests.vm import needs

pytestmark = [pytest.mark.vm, needs.root(), needs.cgroup_v2("cpu", "io", "memory", "pids")]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., pyrunc.Sandbox]]:
    """Sandboxes over one busybox root; afterwards nothing of theirs may be left in the hierarchy."""
    root = rootfs_of.make(tmp_path / "rootfs")
    made: list[pyrunc.Sandbox] = []

    def sandbox(**options: Any) -> pyrunc.Sandbox:
        made.append(pyrunc.Sandbox(root, **options))
        return made[-1]

    yield sandbox
    for box in made:
        box.close()
    base = Path(str(needs.cgroup_v2_root()))
    assert [path.name for path in (base / "pyrunc").glob("*/")] == []


def test_the_limits_are_in_the_files_of_the_cgroup(make: Callable[..., pyrunc.Sandbox]) -> None:
    box = make(
        memory_bytes=64 << 20, memory_swap_bytes=64 << 20, memory_reservation_bytes=32 << 20, cpus=0.5,
        cpu_shares=512, pids_limit=33,
    )  # fmt: skip
    script = "cd /sys/fs/cgroup && cat memory.max memory.swap.max memory.low cpu.max cpu.weight pids.max"
    values = box.run(["/bin/sh", "-c", script]).stdout.decode().splitlines()
    # cpu.weight: runc 1.3.2's conversion of 512 shares
    assert values == [str(64 << 20), "0", str(32 << 20), "50000 100000", "59", "33"]


def test_the_cgroup_is_the_root_of_its_namespace_and_read_only(make: Callable[..., pyrunc.Sandbox]) -> None:
    result = make().run(["/bin/sh", "-c", "cat /proc/self/cgroup; echo 1 > /sys/fs/cgroup/cgroup.freeze"])
    assert result.stdout == b"0::/\n"
    assert b"Read-only file system" in result.stderr


def test_memory_beyond_the_limit_is_killed_and_reported(make: Callable[..., pyrunc.Sandbox]) -> None:
    box = make(memory_bytes=16 << 20, memory_swap_bytes=16 << 20)
    result = box.run(["/bin/sh", "-c", "x=0123456789abcdef; while true; do x=$x$x; done"])
    assert (result.exit_code, result.oom_killed) == (137, True)
    assert not box.run(["/bin/true"]).oom_killed


def test_a_fork_bomb_stops_at_the_limit(make: Callable[..., pyrunc.Sandbox]) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do /bin/sleep 9 & done; cat /sys/fs/cgroup/pids.current"
    result = make(pids_limit=6).run(["/bin/sh", "-c", script])
    assert b"can't fork" in result.stderr


def test_only_the_default_devices_can_be_opened(make: Callable[..., pyrunc.Sandbox], tmp_path: Path) -> None:
    os.mknod(tmp_path / "rootfs" / "mem", 0o666 | 0o020000, os.makedev(1, 1))
    result = make().run(["/bin/sh", "-c", "cat /dev/null; echo x > /dev/full; cat /mem"])
    assert b"No space left on device" in result.stderr
    assert (
        b"/mem': Operation not permitted" in result.stderr
        or b"/mem: Operation not permitted" in result.stderr
    )


def test_a_device_that_was_allowed_can_be_opened(make: Callable[..., pyrunc.Sandbox]) -> None:
    box = make(devices=["/dev/console:/dev/ours:w"], cap_drop=["mknod"])
    assert box.run(["/bin/sh", "-c", ": > /dev/ours"]).exit_code == 0
    assert b"Operation not permitted" in box.run(["/bin/sh", "-c", ": < /dev/ours"]).stderr


def test_what_a_host_pid_container_leaves_is_killed(make: Callable[..., pyrunc.Sandbox]) -> None:
    box = make(pid="host")
    result = box.run(["/bin/sh", "-c", "/bin/sleep 987 >/dev/null 2>&1 & echo $!"])
    try:
        state = Path(f"/proc/{int(result.stdout)}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        state = "X"
    assert state in "ZX"  # dead, if whoever has inherited it has not reaped it yet


def test_a_file_system_that_cannot_be_idmapped_is_named(
    make: Callable[..., pyrunc.Sandbox], tmp_path: Path
) -> None:
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 3):
        pytest.skip("tmpfs can be idmapped since Linux 6.3")
    with pytest.raises(pyrunc.errors.StartError, match=f"cannot show {tmp_path}/rootfs idmapped"):
        make(uid_maps=[pyrunc.IdMap(0, 100_000, 65_536)]).run(["/bin/true"])


def test_a_user_namespace_has_the_limits_too(make: Callable[..., pyrunc.Sandbox]) -> None:
    # Unmapped, the root belongs to nobody inside: it can be used, and mount points that it has, but not changed.
    maps = [pyrunc.IdMap(0, 100_000, 65_536)]
    box = make(uid_maps=maps, pids_limit=44, idmap_rootfs=False, etc_files=False)
    result = box.run(["/bin/sh", "-c", "cat /sys/fs/cgroup/pids.max /proc/self/uid_map; touch /etc/x"])
    assert result.stdout.split() == [b"44", b"0", b"100000", b"65536"]
    assert b"Permission denied" in result.stderr
