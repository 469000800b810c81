"""pyrunc-oci on cgroup v2 with its controllers: every limit, devices, freezing, killing, delegation, out of memory."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.oci.bundles import TOP, Runtime, document
from tests.oci.waiting import until
from tests.vm import needs
from tests.vm.guest import SPARE_DISK

pytestmark = [pytest.mark.vm, needs.root(), needs.cgroup_v2("cpu", "io", "memory", "pids")]
M = 1 << 20
SLEEP = ["/bin/sleep", "1000"]


def group(oci: Runtime) -> Path:
    """The container's cgroup."""
    return TOP / "pyrunc-test" / oci.id


def value(oci: Runtime, name: str) -> str:
    """What is in a file of the container's cgroup."""
    return (group(oci) / name).read_text().rstrip("\n")


def keyed(oci: Runtime, name: str) -> dict[str, int]:
    """A flat keyed file of the container's cgroup."""
    return {key: int(number) for key, number in (line.split() for line in value(oci, name).splitlines())}


def spec_of(
    oci: Runtime, args: list[str], resources: dict[str, Any], *, delegated: bool = False
) -> dict[str, Any]:
    """A document with limits; *delegated*: with a cgroup namespace and a cgroup file system that it may write."""
    spec = document(oci.rootfs, args)
    spec["linux"]["resources"].update(resources)
    spec["linux"]["namespaces"].append({"type": "cgroup"})
    for mount in spec["mounts"]:
        if mount["type"] == "cgroup" and delegated:
            mount["options"] = [option for option in mount["options"] if option != "ro"]
    return spec


def launched(oci: Runtime, path: Path, args: list[str] = SLEEP, **resources: Any) -> int:
    """A container with limits, running; its pid."""
    oci.write(path / "b", spec_of(oci, args, resources))
    oci.call("run", "--detach", "--bundle", path / "b", oci.id)
    return int(oci.state()["pid"])


def test_the_limits_of_a_document_are_in_the_files(oci: Runtime, tmp_path: Path) -> None:
    pid = launched(
        oci, tmp_path,
        memory={"limit": 64 * M, "swap": 96 * M, "reservation": 32 * M},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "burst": 10000},
        pids={"limit": 77},
    )  # fmt: skip
    assert Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1] == f"0::/pyrunc-test/{oci.id}"
    expected = {
        "memory.max": str(64 * M), "memory.low": str(32 * M), "cpu.max": "50000 100000", "cpu.weight": "59",
        "cpu.max.burst": "10000", "pids.max": "77",
    }  # fmt: skip
    if (group(oci) / "memory.swap.max").exists():
        expected["memory.swap.max"] = str(32 * M)
    assert {name: value(oci, name) for name in expected} == expected


@needs.cgroup_v2("cpuset", "hugetlb")
def test_the_limits_of_the_other_controllers_are_in_the_files(oci: Runtime, tmp_path: Path) -> None:
    launched(
        oci, tmp_path, cpu={"cpus": "0", "mems": "0"}, hugepageLimits=[{"pageSize": "2MB", "limit": 4 * M}]
    )  # fmt: skip
    assert value(oci, "cpuset.cpus.effective") == "0"
    assert value(oci, "cpuset.mems.effective") == "0"
    assert value(oci, "hugetlb.2MB.max") == str(4 * M)


@needs.spare_disk()
def test_the_limits_of_a_disk_are_in_the_file(oci: Runtime, tmp_path: Path) -> None:
    number = os.stat(SPARE_DISK).st_rdev
    major, minor = os.major(number), os.minor(number)
    device = {"major": major, "minor": minor}
    launched(
        oci, tmp_path,
        blockIO={
            "throttleReadBpsDevice": [{**device, "rate": M}], "throttleWriteBpsDevice": [{**device, "rate": 2 * M}],
            "throttleReadIOPSDevice": [{**device, "rate": 100}], "throttleWriteIOPSDevice": [{**device, "rate": 200}],
        },
    )  # fmt: skip
    assert value(oci, "io.max") == f"{major}:{minor} rbps={M} wbps={2 * M} riops=100 wiops=200"


def test_unified_is_written_as_it_stands(oci: Runtime, tmp_path: Path) -> None:
    launched(
        oci, tmp_path,
        memory={"limit": 64 * M},
        unified={"memory.high": str(48 * M), "memory.oom.group": "1", "pids.max": "31", "memory.max": str(80 * M)},
    )  # fmt: skip
    names = ("memory.high", "memory.oom.group", "pids.max", "memory.max")
    # What is said twice is what unified says.
    assert [value(oci, name) for name in names] == [str(48 * M), "1", "31", str(80 * M)]


@pytest.mark.parametrize(
    ("unified", "words"),
    [
        ({"bogus.max": "1"}, "linux.resources.unified"),
        ({"memory.bogus": "1"}, "memory.bogus"),
        ({"../memory.max": "1"}, "linux.resources.unified"),
        ({"memory.max": "many"}, "memory.max"),
    ],
)
def test_what_unified_cannot_be_is_named(
    oci: Runtime, tmp_path: Path, unified: dict[str, str], words: str
) -> None:
    oci.write(tmp_path / "b", spec_of(oci, SLEEP, {"unified": unified}))
    done = oci.call("create", "--bundle", tmp_path / "b", oci.id, code=1)
    assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not oci.directory.exists() and not group(oci).exists()


@needs.spare_disk()
def test_device_rules_are_kept(oci: Runtime, tmp_path: Path) -> None:
    # Nodes of a disk, of memory and of zeros; what the rules do not allow cannot be opened.
    number = os.stat(SPARE_DISK).st_rdev
    disk = {"type": "b", "major": os.major(number), "minor": os.minor(number)}
    script = "for n in disk mem zero; do (: <$n) && echo $n r; (: >$n) && echo $n w; done"
    spec = spec_of(
        oci,
        ["/bin/sh", "-c", f"cd /dev/x; {script}"],
        {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, **disk, "access": "r"},
            ]
        },
    )  # fmt: skip
    spec["linux"]["devices"] = [
        {**disk, "path": "/dev/x/disk", "fileMode": 0o666},
        {"type": "c", "path": "/dev/x/mem", "major": 1, "minor": 1, "fileMode": 0o666},
        {"type": "c", "path": "/dev/x/zero", "major": 1, "minor": 5, "fileMode": 0o666},
    ]
    oci.write(tmp_path / "b", spec)
    done = oci.call("run", "--bundle", tmp_path / "b", oci.id, code=None)
    # Those of zeros are among what every container may use.
    assert done.stdout.splitlines() == ["disk r", "zero r", "zero w"]
    assert done.stderr.count("Operation not permitted") == 3


def test_a_container_is_paused_and_resumed_by_the_file(oci: Runtime, tmp_path: Path) -> None:
    launched(oci, tmp_path)
    oci.call("pause", oci.id)
    assert keyed(oci, "cgroup.events")["frozen"] == 1
    assert oci.state()["status"] == "paused"
    assert "paused" in oci.call("exec", oci.id, "/bin/true", code=255).stderr
    oci.call("resume", oci.id)
    assert keyed(oci, "cgroup.events")["frozen"] == 0
    assert oci.state()["status"] == "running"
    oci.call("exec", oci.id, "/bin/true")


def test_a_killed_container_dies_paused_and_in_every_cgroup_below(oci: Runtime, tmp_path: Path) -> None:
    script = (
        "trap '' TERM INT HUP; mkdir /sys/fs/cgroup/deep /sys/fs/cgroup/deep/er;"
        "(echo 0 >/sys/fs/cgroup/deep/er/cgroup.procs; exec sleep 1000) & echo ready; sleep 1000"
    )
    spec = spec_of(oci, ["/bin/sh", "-c", script], {}, delegated=True)
    # Without a pid namespace the end of the first process takes nobody along.
    spec["linux"]["namespaces"] = [ns for ns in spec["linux"]["namespaces"] if ns["type"] != "pid"]
    oci.write(tmp_path / "b", spec)
    oci.call("run", "--detach", "--bundle", tmp_path / "b", oci.id)
    deep = group(oci) / "deep/er/cgroup.procs"
    until(lambda: deep.exists() and deep.read_text(), "a process below")
    oci.call("pause", oci.id)
    oci.call("kill", oci.id, "KILL")
    until(lambda: keyed(oci, "cgroup.events")["populated"] == 0, "everybody dead")
    oci.wait("stopped")
    oci.call("delete", oci.id)
    assert not group(oci).exists()


def test_a_container_makes_cgroups_of_its_own_and_limits_them(oci: Runtime, tmp_path: Path) -> None:
    script = (
        "cd /sys/fs/cgroup && cat /proc/self/cgroup && mkdir leaf inner && echo 1 >leaf/cgroup.procs &&"
        "echo '+pids +memory' >cgroup.subtree_control && echo 5 >inner/pids.max && cat inner/pids.max;"
        "echo 100 >/sys/fs/cgroup/pids.max; cat /proc/self/cgroup; exec sleep 1000"
    )
    out = tmp_path / "out"
    oci.write(
        tmp_path / "b", spec_of(oci, ["/bin/sh", "-c", script], {"pids": {"limit": 50}}, delegated=True)
    )
    with out.open("w") as stream:
        oci.call("run", "--detach", "--bundle", tmp_path / "b", oci.id, stdout=stream, stderr=stream)
    until(lambda: len(out.read_text().splitlines()) >= 3, "its output")
    assert out.read_text().splitlines()[:2] == ["0::/", "5"]
    assert "0::/leaf" in out.read_text()
    assert (group(oci) / "inner/pids.max").read_text() == "5\n"
    # The container's cgroup takes no process now: a program joins where the first one has gone.
    done = oci.call("exec", oci.id, "/bin/sh", "-c", "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/leaf")
    assert done.stdout.splitlines() == ["0::/leaf", "/sys/fs/cgroup/leaf"]
    done = oci.call("exec", "--cgroup", "inner", oci.id, "/bin/cat", "/proc/self/cgroup")
    assert done.stdout == "0::/inner\n"
    # All of them are paused, killed and removed as one.
    oci.call("pause", oci.id)
    assert "frozen 1" in (group(oci) / "leaf/cgroup.events").read_text()
    oci.call("resume", oci.id)
    oci.call("delete", "--force", oci.id)
    assert not group(oci).exists()


def test_the_group_dies_together_out_of_memory(oci: Runtime, tmp_path: Path) -> None:
    script = "sleep 1000 & x=0123456789abcdef; while true; do x=$x$x; done"
    spec = spec_of(
        oci,
        ["/bin/sh", "-c", f"sh -c '{script}'; echo survived"],
        {"memory": {"limit": 24 * M, "swap": 24 * M}, "unified": {"memory.oom.group": "1"}},
    )
    oci.write(tmp_path / "b", spec)
    oci.call("create", "--bundle", tmp_path / "b", oci.id)
    oci.call("start", oci.id)
    oci.wait("stopped")
    # The shell, the one in it, and the program that uses nothing.
    assert keyed(oci, "memory.events")["oom_kill"] >= 3


def test_events_tell_of_an_out_of_memory_kill_once(oci: Runtime, tmp_path: Path) -> None:
    script = "while [ ! -e /sys/fs/cgroup/go ]; do sleep 0.1; done; x=0123456789abcdef; while true; do x=$x$x; done"
    spec = spec_of(
        oci,
        ["/bin/sh", "-c", f"sh -c '{script}'; sleep 1000"],
        {"memory": {"limit": 24 * M, "swap": 24 * M}},
        delegated=True,
    )
    oci.write(tmp_path / "b", spec)
    oci.call("run", "--detach", "--bundle", tmp_path / "b", oci.id)
    command = oci.command("events", "--interval", "100ms", oci.id)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        try:
            # It watches when its first statistics are there.
            assert json.loads(watcher.stdout.readline())["type"] == "stats"
            (group(oci) / "go").mkdir()
            line = next(found for found in map(json.loads, watcher.stdout) if found["type"] == "oom")
            assert line == {"type": "oom", "id": oci.id}
        finally:
            watcher.kill()
    assert keyed(oci, "memory.events")["oom_kill"] == 1


def test_statistics_are_those_of_the_files(oci: Runtime, tmp_path: Path) -> None:
    launched(oci, tmp_path, memory={"limit": 64 * M}, pids={"limit": 12})
    oci.call("pause", oci.id)
    found: dict[str, Any] = {}

    def settled() -> bool:
        """What processors count in advance comes to the files one by one, though nothing runs."""
        found.update(json.loads(oci.call("events", "--stats", oci.id).stdout))
        data = found["data"]
        return bool(
            data["memory"]["usage"]["usage"] == int(value(oci, "memory.current"))
            and data["cpu"]["usage"]["total"] == keyed(oci, "cpu.stat")["usage_usec"] * 1000
            and data["memory"]["raw"]["anon"] == keyed(oci, "memory.stat")["anon"]
        )

    until(settled, lambda: f"other than in the files: {found}")
    assert (found["type"], found["id"]) == ("stats", oci.id)
    assert found["data"]["pids"] == {"current": 1, "limit": 12}
    assert found["data"]["memory"]["usage"]["limit"] == 64 * M


def test_update_changes_each_file_and_no_other(oci: Runtime, tmp_path: Path) -> None:
    launched(
        oci, tmp_path, memory={"limit": 64 * M}, cpu={"shares": 1024, "quota": 50000}, pids={"limit": 12}
    )
    for words, name, wanted in (
        (("--memory", "80M"), "memory.max", str(80 * M)),
        (("--memory-reservation", "16M"), "memory.low", str(16 * M)),
        (("--pids-limit", "40"), "pids.max", "40"),
        (("--cpu-quota", "20000", "--cpu-period", "40000"), "cpu.max", "20000 40000"),
        (("--cpu-share", "2048"), "cpu.weight", "174"),
        (("--cpu-burst", "1000"), "cpu.max.burst", "1000"),
        (("--cpu-idle", "1"), "cpu.idle", "1"),
    ):
        names = ("memory.max", "memory.low", "pids.max", "cpu.max", "cpu.max.burst", "cpu.idle")
        before = {other: value(oci, other) for other in names if other != name}
        oci.call("update", *words, oci.id)
        assert value(oci, name) == wanted
        assert {other: value(oci, other) for other in before} == before, words
    text = json.dumps({"unified": {"memory.high": str(50 * M)}, "memory": {"limit": -1, "swap": -1}})
    (tmp_path / "limits.json").write_text(text)
    oci.call("update", "--resources", tmp_path / "limits.json", oci.id)
    assert (value(oci, "memory.high"), value(oci, "memory.max")) == (str(50 * M), "max")
