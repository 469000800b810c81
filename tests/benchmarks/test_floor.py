"""The floor does what it stands for, and leaves nothing behind."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import CGROUP_ROOT, CLEAN, Traces

V1 = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
on_v1 = pytest.mark.skipif(
    not all((CGROUP_ROOT / name).is_dir() for name in V1), reason="needs the eight cgroup v1 hierarchies"
)


def command(floor: Path, rootfs: Path, traces: Traces) -> list[str]:
    return [str(floor), str(rootfs), traces.environment["TMPDIR"]]


def run(floor: Path, rootfs: Path, traces: Traces, orders: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(floor, rootfs, traces),
        input=orders,
        env=traces.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("orders", "starts"),
    [("5 1", 5), ("7 3", 7), ("C 6 4", 6), ("3 1\n8 4\n2 1\nC 5 2", 18)],
    ids=["alone", "workers", "brief", "mixed"],
)
def test_does_every_start_and_leaves_nothing(
    floor: Path, rootfs: Path, traces: Traces, orders: str, starts: int
) -> None:
    done = run(floor, rootfs, traces, orders + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    head, *answers = (json.loads(line) for line in done.stdout.splitlines())
    assert sum(answer["done"] for answer in answers) == starts
    for answer, order in zip(answers, orders.splitlines(), strict=True):
        assert len(answer["starts"]) == (0 if order.startswith("C") else answer["done"])
        for marks in answer["starts"]:
            assert len(marks) == len(head["stages"])
            assert all(mark > 0 for mark in marks)
    assert traces.settled() == CLEAN


def test_what_it_holds_goes_at_the_end_of_input(floor: Path, rootfs: Path, traces: Traces) -> None:
    with subprocess.Popen(
        command(floor, rootfs, traces),
        env=traces.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        head = json.loads(process.stdout.readline())
        process.stdin.write("3 3\n")
        process.stdin.flush()
        process.stdout.readline()
        name = f"pyrunc-floor.{process.pid}"
        parents = [Path(place, name) for place, names, _ in os.walk(CGROUP_ROOT) if name in names]
        assert len(parents) == head["hierarchies"]
        assert len(traces.processes()) == 4, "itself and three workers"
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    assert not any(parent.exists() for parent in parents)
    assert traces.settled() == CLEAN


@pytest.mark.parametrize("order", ["2 1", "4 2"], ids=["alone", "workers"])
def test_a_failed_start_is_told_and_leaves_nothing(
    floor: Path, rootfs: Path, traces: Traces, order: str
) -> None:
    (rootfs / "bin" / "true").unlink()
    done = run(floor, rootfs, traces, order + "\n")
    assert done.returncode == 1
    assert "floor: execve: No such file or directory" in done.stderr
    assert traces.settled() == CLEAN


def test_uses_one_cgroup_where_only_v2_is_mounted(floor: Path, rootfs: Path, traces: Traces) -> None:
    (rootfs / "bin" / "true").unlink()
    (rootfs / "bin" / "true").write_text("#!/bin/sh\n/bin/cat /proc/self/cgroup >&2\n")
    (rootfs / "bin" / "true").chmod(0o755)
    script = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command(floor, rootfs, traces)],
        input="1 1\n2 2\n",
        env=traces.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    head = json.loads(done.stdout.splitlines()[0])
    assert (head["cgroup"], head["hierarchies"]) == ("v2", 1)
    assert [line for line in done.stderr.splitlines() if line.startswith("0::")] == ["0::/"] * 3
    assert traces.settled() == CLEAN


def test_refuses_what_is_not_a_command(floor: Path, rootfs: Path, traces: Traces) -> None:
    done = run(floor, rootfs, traces, "many please\n")
    assert done.returncode == 2
    assert "not a command: many please" in done.stderr
    assert traces.settled() == CLEAN


REPORT_FROM_INSIDE = """#!/bin/sh
{
for n in mnt pid ipc uts net cgroup; do echo "ns $n $(/bin/readlink /proc/self/ns/$n)"; done
echo "pid $$"
echo "hostname $(/bin/hostname)"
while read -r line; do echo "cgroup $line"; done < /proc/self/cgroup
while read -r line; do echo "mount $line"; done < /proc/self/mounts
for n in null zero full random urandom tty; do [ -c /dev/$n ] && echo "node $n"; done
[ -s /proc/keys ] && echo "keys are readable"
} >&2
exit 0
"""


def test_isolates(floor: Path, rootfs: Path, traces: Traces) -> None:
    (rootfs / "bin" / "true").unlink()
    (rootfs / "bin" / "true").write_text(REPORT_FROM_INSIDE)
    (rootfs / "bin" / "true").chmod(0o755)
    lines = run(floor, rootfs, traces, "1 1\n").stderr.splitlines()
    namespaces = dict(line.split()[1:] for line in lines if line.startswith("ns "))
    assert len(namespaces) == 6
    for name, inside in namespaces.items():
        assert inside != os.readlink(f"/proc/self/ns/{name}"), name
    assert "pid 1" in lines
    assert "hostname floor" in lines
    assert [line for line in lines if line.startswith("node ")] == [
        f"node {name}" for name in ("null", "zero", "full", "random", "urandom", "tty")
    ]
    assert "keys are readable" not in lines
    mounts = {line.split()[2]: line.split()[3:] for line in lines if line.startswith("mount ")}
    for target, kind in {
        "/": "overlay",
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/dev/mqueue": "mqueue",
        "/sys": "sysfs",
        "/sys/firmware": "tmpfs",
    }.items():
        assert mounts[target][0] == kind
    for target in ("/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"):
        assert "ro" in mounts[target][1].split(","), target
    foreign = [target for target in mounts if target.split("/")[1] not in ("", "proc", "dev", "sys")]
    assert foreign == [], "mounts of the host are still there"


@on_v1
def test_is_in_a_cgroup_of_every_hierarchy(floor: Path, rootfs: Path, traces: Traces) -> None:
    (rootfs / "bin" / "true").unlink()
    (rootfs / "bin" / "true").write_text(REPORT_FROM_INSIDE)
    (rootfs / "bin" / "true").chmod(0o755)
    lines = run(floor, rootfs, traces, "1 1\n").stderr.splitlines()
    inside = {line.split(":")[1]: line.split(":")[2] for line in lines if line.startswith("cgroup ")}
    for name in V1:
        assert inside[name] == "/", "a cgroup namespace made before joining would show a path outside"


def _calls(floor: Path, rootfs: Path, traces: Traces, trace: Path, starts: int) -> dict[str, int]:
    subprocess.run(
        ["strace", "-f", "-o", str(trace), *command(floor, rootfs, traces)],
        input=f"{starts} 1\n",
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    counts: dict[str, int] = {}
    for name in re.findall(r"^\d+\s+(\w+)\(", trace.read_text(), re.MULTILINE):
        counts[name] = counts.get(name, 0) + 1
    return counts


@on_v1
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing")
def test_makes_exactly_the_syscalls_of_a_start(
    floor: Path, rootfs: Path, traces: Traces, tmp_path: Path
) -> None:
    once = _calls(floor, rootfs, traces, tmp_path / "once", 1)
    thrice = _calls(floor, rootfs, traces, tmp_path / "thrice", 3)
    each = {
        name: (thrice[name] - once.get(name, 0)) / 2 for name in thrice if thrice[name] != once.get(name, 0)
    }
    paths = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
    remounts = sum(Path(path).exists() for path in paths)
    mounts = 1 + 1 + 6 + len(paths) + remounts + 8  # propagation, overlay, the six of OCI, read-only, masks
    made = {
        "mkdirat": 8,
        "mkdir": 3,
        "clone3": 1,
        "unshare": 1,
        "mount": mounts,
        "chdir": 1,
        "pivot_root": 1,
        "umount2": 1,
        "sethostname": 1,
        "execve": 1,
        "wait4": 1,
        "unlinkat": 8,
    }
    assert {name: each.get(name) for name in made} == made
    assert each.get("mknod", 0) + each.get("mknodat", 0) == 6
    assert (each["write"], each["close"]) == (10, 10)  # 8 tasks, cpuset.cpus, cpuset.mems
