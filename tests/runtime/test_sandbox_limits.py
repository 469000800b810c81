"""Limits: the values as the host sees them while a container runs, and what they do to what runs inside."""

import os
import re
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import InvalidArgument, LimitRefused, OutOfMemory, StartError, Unsupported
from pyrunc.runtime.cgroup_layout import detect
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("host_unchanged")

M = 1 << 20
V1 = detect().mode != "v2"


class Cgroup:
    """The files of a running container, as the host has them."""

    def __init__(self, pid: int) -> None:
        rows = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        self.paths = {name: path for _, names, path in rows for name in names.split(",")}

    def read(self, controller: str, file: str) -> str:
        hierarchy = detect().of(controller)
        assert hierarchy is not None
        path = self.paths[controller if hierarchy.version == 1 else ""]
        return Path(f"{hierarchy.mountpoint}{path}/{file}").read_text().strip()


@contextmanager
def running(rootfs: Path, **options: Any) -> Iterator[Cgroup]:
    with Sandbox(rootfs, **options) as box, box.start(["/bin/sleep", "100"]) as process:
        yield Cgroup(process.pid)


def has(controller: str, file: str) -> bool:
    hierarchy = detect().of(controller)
    return hierarchy is not None and os.path.exists(f"{hierarchy.mountpoint}/{file}")


@pytest.mark.skipif(not V1, reason="files of cgroup v1; tests/vm has those of v2")
@pytest.mark.parametrize(("options", "controller", "file", "value"), [
    ({"memory_bytes": 64 * M}, "memory", "memory.limit_in_bytes", str(64 * M)),
    ({"memory_bytes": 64 * M, "memory_swap_bytes": 96 * M}, "memory", "memory.memsw.limit_in_bytes", str(96 * M)),
    ({"memory_reservation_bytes": 32 * M}, "memory", "memory.soft_limit_in_bytes", str(32 * M)),
    ({"cpus": 0.25}, "cpu", "cpu.cfs_quota_us", "25000"),
    ({"cpu_quota_us": 30000, "cpu_period_us": 200000}, "cpu", "cpu.cfs_quota_us", "30000"),
    ({"cpu_quota_us": 30000, "cpu_period_us": 200000}, "cpu", "cpu.cfs_period_us", "200000"),
    ({"cpu_shares": 512}, "cpu", "cpu.shares", "512"),
    ({"cpuset_cpus": "1"}, "cpuset", "cpuset.cpus", "1"),
    ({"cpuset_mems": "0"}, "cpuset", "cpuset.mems", "0"),
    ({"pids_limit": 7}, "pids", "pids.max", "7"),
    ({"pids_limit": -1}, "pids", "pids.max", "max"),
])  # fmt: skip
def test_values_on_the_host(
    rootfs: Path, options: dict[str, Any], controller: str, file: str, value: str
) -> None:
    with running(rootfs, **options) as cgroup:
        assert cgroup.read(controller, file) == value


@pytest.mark.skipif(not V1, reason="files of cgroup v1; tests/vm has those of v2")
@pytest.mark.parametrize(("option", "file"), [
    ("read_bps", "blkio.throttle.read_bps_device"), ("write_bps", "blkio.throttle.write_bps_device"),
    ("read_iops", "blkio.throttle.read_iops_device"), ("write_iops", "blkio.throttle.write_iops_device"),
])  # fmt: skip
def test_io_throttles(rootfs: Path, option: str, file: str) -> None:
    disk = next((f"/dev/{entry.name}" for entry in sorted(Path("/sys/block").iterdir())
                 if int((entry / "size").read_text()) and os.path.exists(f"/dev/{entry.name}")), None)  # fmt: skip
    if disk is None:
        pytest.skip("no block device here")
    numbers = os.stat(disk).st_rdev
    with running(rootfs, **{option: {disk: 123456}}) as cgroup:
        assert cgroup.read("blkio", file) == f"{os.major(numbers)}:{os.minor(numbers)} 123456"
    with pytest.raises(InvalidArgument, match=f"{option}: /dev/none: no such file"):
        Sandbox(rootfs, **{option: {"/dev/none": 1}})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=f"{option}: /etc: not a block device"):
        Sandbox(rootfs, **{option: {"/etc": 1}})  # type: ignore[arg-type]


def test_io_weight_works_or_is_refused_by_name(rootfs: Path) -> None:
    try:
        with running(rootfs, blkio_weight=300) as cgroup:
            assert cgroup.read("blkio", "blkio.bfq.weight") == "300"
    except (LimitRefused, Unsupported) as exc:
        assert "weight" in str(exc)


@pytest.mark.usefixtures("probe")
def test_more_memory_than_the_limit_kills(rootfs: Path) -> None:
    with Sandbox(rootfs, memory_bytes=32 * M) as box:
        fits, dies = box.run(["/bin/probe", "memory", "8"]), box.run(["/bin/probe", "memory", "64"])
        child = box.run(["/bin/sh", "-c", "probe memory 64; echo $?"])
    assert (fits.exit_code, fits.stdout, fits.oom_killed) == (0, b"ok\n", False)
    assert (dies.exit_code, dies.stdout, dies.oom_killed) == (137, b"", True)
    assert (child.exit_code, child.stdout, child.oom_killed) == (0, b"137\n", True)


@pytest.mark.usefixtures("probe")
def test_a_cpu_quota_throttles(run: Run) -> None:
    script = "for i in 1 2 3 4; do probe memory 50; done >/dev/null; cat /sys/fs/cgroup/cpu/cpu.stat"
    if not V1:
        script = script.replace("/cpu/", "/")
    assert int(re.findall(r"nr_throttled (\d+)", run(script, cpus=0.1))[0]) > 0


def test_a_cpuset_confines(run: Run) -> None:
    assert run("grep Cpus_allowed_list /proc/self/status", cpuset_cpus="0").split()[1] == "0"


def test_a_fork_bomb_stops(rootfs: Path) -> None:
    script = "for i in $(seq 100); do sleep 1000 & done; echo never"
    with Sandbox(rootfs, pids_limit=10) as box:
        result = box.run(["/bin/sh", "-c", script], timeout_s=30)
    assert result.exit_code != 0
    assert b"can't fork" in result.stderr


def test_limits_of_a_process(run: Run) -> None:
    assert run("ulimit -Sn; ulimit -Hn", rlimits={"nofile": (100, 200)}).split() == ["100", "200"]
    assert run("ulimit -Sn; ulimit -Hn", rlimits={"NOFILE": 150}).split() == ["150", "150"]
    assert run("ulimit -Sc; ulimit -Hf", rlimits={"core": (0, -1), "fsize": 4096}).split() == ["0", "8"]
    assert (
        run(
            "dd if=/dev/zero of=/tmp/x bs=8192 count=1 2>/dev/null; stat -c %s /tmp/x",
            rlimits={"fsize": 4096},
        )
        == "4096\n"
    )


def test_limits_of_a_process_that_are_refused(run: Run) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        run("true", rlimits={"nofile": hard + 1000})
    except LimitRefused as exc:
        assert str(exc) == f"cannot set rlimit nofile to {hard + 1000}:{hard + 1000}: operation not permitted"
    with pytest.raises(InvalidArgument, match="rlimits: unknown limit 'fish'"):
        run("true", rlimits={"fish": 1})
    with pytest.raises(InvalidArgument, match="rlimits: core: the soft limit 2 is above the hard limit 1"):
        run("true", rlimits={"core": (2, 1)})


def test_sysctls_of_the_containers_own_namespaces(run: Run) -> None:
    wanted = {
        "net.ipv4.ip_forward": "1", "net.core.somaxconn": "77", "kernel.shmmax": "123456", "kernel.msgmax": "4000",
        "kernel.sem": "10 320 5 6", "fs.mqueue.msg_max": "11", "kernel.domainname": "d.example",
    }  # fmt: skip
    files = " ".join("/proc/sys/" + key.replace(".", "/") for key in wanted)
    before = [Path(path).read_text() for path in files.split()]
    assert [line.replace("\t", " ") for line in run(f"cat {files}", sysctls=wanted).splitlines()] == list(
        wanted.values()
    )
    assert [Path(path).read_text() for path in files.split()] == before


@pytest.mark.parametrize(
    "key", ["vm.swappiness", "kernel.panic", "net/../kernel.panic", "net..kernel", "kernel.pid_max", "x"]
)
def test_sysctls_of_the_host_are_refused_by_name(run: Run, key: str) -> None:
    with pytest.raises(
        InvalidArgument, match=re.escape(f'sysctls: linux.sysctl: sysctl "{key}" is not in a separate')
    ):
        run("true", sysctls={key: "1"})


def test_sysctls_of_a_namespace_that_is_the_hosts(run: Run) -> None:
    for key, option, words in (
        ("net.core.somaxconn", "network", "not allowed in host network namespace"),
        ("kernel.shmmax", "ipc", "is not allowed in the hosts ipc namespace"),
        ("kernel.domainname", "uts", "is not in a separate kernel namespace"),
    ):
        with pytest.raises(InvalidArgument, match=f'sysctl "{key}" {words}'):
            run("true", sysctls={key: "1"}, **{option: "host"})  # type: ignore[arg-type]


def test_a_sysctl_that_the_kernel_refuses_is_named(run: Run) -> None:
    with pytest.raises(StartError, match=r"cannot set sysctl net\.core\.somaxconn to many: invalid argument"):
        run("true", sysctls={"net.core.somaxconn": "many"})
    with pytest.raises(StartError, match=r"cannot set sysctl net\.none to 1: no such file"):
        run("true", sysctls={"net.none": "1"})


def test_the_oom_score(run: Run) -> None:
    assert run("cat /proc/self/oom_score_adj", oom_score_adj=500) == "500\n"
    assert run("cat /proc/self/oom_score_adj") == Path("/proc/self/oom_score_adj").read_text()
    try:
        assert run("cat /proc/self/oom_score_adj", oom_score_adj=-500) == "-500\n"
    except LimitRefused as exc:  # without CAP_SYS_RESOURCE it can only go up
        assert str(exc) == "cannot set oom_score_adj to -500: permission denied"


def test_a_limit_that_the_kernel_refuses_names_file_and_value(run: Run) -> None:
    with pytest.raises(
        LimitRefused, match=r"^cannot set pids.max to 9000000000: invalid argument$"
    ) as caught:
        run("true", pids_limit=9_000_000_000)
    assert (caught.value.step, caught.value.path) == ("write_at", "pids.max")
    with pytest.raises(LimitRefused, match=r"^cannot set cpuset.cpus to 4000: "):
        run("true", cpuset_cpus="4000")


@pytest.mark.parametrize(("options", "words"), [
    ({"memory_bytes": 64 * M, "memory_swap_bytes": 32 * M}, "memory_swap_bytes: .* should be >= memory limit"),
    ({"memory_swap_bytes": 32 * M}, "memory_swap_bytes: .* without memory limit"),
    ({"memory_bytes": -2}, "memory_bytes must be an integer"), ({"memory_bytes": 1 << 63}, "memory_bytes must be"),
    ({"memory_bytes": 1.5}, "memory_bytes must be"), ({"memory_bytes": True}, "memory_bytes must be"),
    ({"cpus": 0}, "cpus must be a number"), ({"cpus": float("nan")}, "cpus must be"),
    ({"cpus": float("inf")}, "cpus must be"), ({"cpus": "1"}, "cpus must be"),
    ({"cpus": 1, "cpu_quota_us": 1000}, "cpus cannot be combined"),
    ({"cpu_quota_us": 10}, "cpu_quota_us: .* at least 1000"), ({"cpu_period_us": 10}, "cpu_period_us: .* 1000"),
    ({"pids_limit": -2}, "pids_limit"), ({"oom_score_adj": 1001}, "oom_score_adj"), ({"umask": 0o1000}, "umask"),
    ({"sysctls": {"net.x": 1}}, "sysctls"), ({"rlimits": {"core": "1"}}, "rlimits"),
    ({"rlimits": {"core": -2}}, "rlimits"),
    ({"read_bps": {"/dev/null": -1}}, "read_bps"), ({"blkio_weight": 5}, "blkio_weight"),
])  # fmt: skip
def test_what_no_limit_can_be(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{words}"):
        run("true", **options)


def test_too_little_memory_to_start(run: Run) -> None:
    for size in (4096, 64 << 10):
        with pytest.raises((OutOfMemory, LimitRefused)):
            run("true", memory_bytes=size)


def test_a_cgroup_parent_is_made_and_removed(rootfs: Path) -> None:
    top = f"/pyrunc-test-{os.getpid()}"
    hierarchy = next(iter(detect().hierarchies)).mountpoint
    with running(rootfs, cgroup_parent=f"{top}/a/b/", pids_limit=5) as cgroup:
        own = [path for name, path in cgroup.paths.items() if "=" not in name and (name or not V1)]
        assert own and all(path.startswith(f"{top}/a/b/") for path in own)
        assert cgroup.read("pids", "pids.max") == "5"
    assert not os.path.exists(hierarchy + top)
    os.mkdir(f"{hierarchy}{top}")
    try:
        with running(rootfs, cgroup_parent=top):
            pass
        assert os.listdir(f"{hierarchy}{top}")  # it was there before, and stays
    finally:
        os.rmdir(f"{hierarchy}{top}")
    for wrong in ("a", "/a/../b", "/a\nb", "/a\0b", "/" + "x" * 300):
        with pytest.raises(InvalidArgument, match="cgroup_parent"):
            Sandbox(rootfs, cgroup_parent=wrong)


def test_a_cgroup_parent_whose_maker_was_killed_before_it_was_filled(rootfs: Path) -> None:
    """A v1 cpuset starts without cpus and mems, and nobody can be in it, nor in any below, until it is given some."""
    hierarchy = detect().of("cpuset")
    if hierarchy is None or hierarchy.version == 2:
        pytest.skip("needs a v1 cpuset")
    top = Path(f"{hierarchy.mountpoint}/pyrunc-test-{os.getpid()}-empty")
    (top / "a/b").mkdir(parents=True)
    (top / "cgroup.clone_children").write_text("0")
    try:
        assert (top / "a/b/cpuset.mems").read_text() == "\n"
        with Sandbox(rootfs, cgroup_parent=f"/{top.name}/a/b") as box:
            assert box.run(["/bin/true"]).exit_code == 0
            with box.start(["/bin/sleep", "100"]):
                assert (top / "a/b/cpuset.mems").read_text() == (top.parent / "cpuset.mems").read_text()
    finally:
        for directory in (top / "a/b", top / "a", top):
            directory.rmdir()


def test_two_containers_share_a_cgroup_parent(rootfs: Path) -> None:
    top = f"/pyrunc-test-{os.getpid()}-shared"
    with Sandbox(rootfs, cgroup_parent=top) as box:
        first = box.start(["/bin/sleep", "100"])
        second = box.start(["/bin/sleep", "100"])
        first.close()
        assert list(Path("/sys/fs/cgroup").glob(f"*{top}/*"))
        second.close()
    assert not list(Path("/sys/fs/cgroup").glob(f"*{top}"))


def test_many_short_containers_share_a_cgroup_parent_that_goes_with_each(rootfs: Path) -> None:
    top = f"/pyrunc-test-{os.getpid()}-short"
    with Sandbox(rootfs, cgroup_parent=top) as box, ThreadPoolExecutor(4) as threads:
        assert {result.exit_code for result in threads.map(lambda _: box.run(["/bin/true"]), range(120))} == {
            0
        }
    assert not list(Path("/sys/fs/cgroup").glob(f"*{top}"))


def test_a_cgroup_parent_below_the_default_one_goes_too(rootfs: Path) -> None:
    name = f"test-{os.getpid()}"
    with running(rootfs, cgroup_parent=f"/pyrunc/{name}"):
        assert list(Path("/sys/fs/cgroup").glob(f"*/pyrunc/{name}"))
    assert not list(Path("/sys/fs/cgroup").glob(f"*/pyrunc/{name}"))


def test_the_default_parent_may_be_removed_between_two_containers(rootfs: Path) -> None:
    """A supervisor keeps it open: what its path leads to counts, not what was there."""
    hierarchies = [hierarchy.mountpoint for hierarchy in detect().hierarchies]
    with Sandbox(rootfs) as box:
        removed = 0
        for _ in range(20):
            lines = box.run(["/bin/cat", "/proc/self/mountinfo"]).stdout.decode().splitlines()
            roots = {line.split()[3] for line in lines if " - cgroup" in line}
            assert roots
            for hierarchy in hierarchies:
                try:
                    os.rmdir(f"{hierarchy}/pyrunc")
                    removed += 1
                except OSError:
                    pass  # another program's container is in it
        if not removed:
            pytest.skip("other programs have containers all the time")
        with box.start(["/bin/sleep", "100"]) as process:
            cgroup = Cgroup(process.pid)
            for controller in ("pids", "memory", "cpu"):
                of = detect().of(controller)
                assert of is not None
                place = Path(f"{of.mountpoint}{cgroup.paths[controller if V1 else '']}")
                assert place.parent.name == "pyrunc"
                assert str(process.pid) in (place / "cgroup.procs").read_text().split()
