"""What each stage of a start costs by itself: the plan, the cgroups, the overlay, and from clone to execve.

python -m pytest benchmarks/test_stages.py
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pyrunc
from benchmarks.host import make_rootfs
from pyrunc._native import cgroup, mount
from pyrunc.runtime import cgroup_layout
from pyrunc.runtime.compile import compile_spec
from pyrunc.runtime.options import to_request
from pyrunc.runtime.plan import PlanTemplate

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start containers"),
    pytest.mark.benchmark(group="stages"),
]

ARGV = ("/bin/true",)
ENV = ("PATH=/bin", "HOSTNAME=bench", "HOME=/root")
RUNS = 200


@pytest.fixture(scope="module")
def rootfs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-", dir="/dev/shm") as name:
        make_rootfs(Path(name) / "rootfs")
        yield Path(name) / "rootfs"


def template(rootfs: Path) -> PlanTemplate:
    """A compiled plan of a default Sandbox."""
    request = to_request([str(rootfs)], {})
    return compile_spec(request.spec, request.rootfs, request.files)


def test_plan_template(benchmark: BenchmarkFixture, rootfs: Path) -> None:
    """Once for each Sandbox: its options to a plan template."""
    benchmark(template, rootfs)


def test_plan_finish(benchmark: BenchmarkFixture, rootfs: Path) -> None:
    """Once for each start: the template to the bytes that are sent."""
    ready = template(rootfs)
    benchmark(ready.finish, "0" * 64, ARGV, ENV, ARGV)


def test_cgroups(benchmark: BenchmarkFixture) -> None:
    """One container's cgroups, made and removed in every hierarchy that a container joins."""
    hierarchies = [os.fsencode(h.mountpoint) for h in cgroup_layout.detect().hierarchies]
    path = f"/pyrunc-bench-{os.getpid()}".encode()

    def make_and_remove() -> None:
        for hierarchy in hierarchies:
            cgroup.make(hierarchy, path, cpuset=b"cpuset" in hierarchy, seed=b"cpuset" in hierarchy)
        for hierarchy in hierarchies:
            cgroup.remove(hierarchy, path)

    benchmark(make_and_remove)


def test_overlay(benchmark: BenchmarkFixture, rootfs: Path, tmp_path: Path) -> None:
    """A detached overlay of one layer, made and dropped."""
    upper = rootfs.parent / "scratch" / tmp_path.name
    for name in ("upper", "work"):
        (upper / name).mkdir(parents=True)
    options = [
        (b"lowerdir", os.fsencode(rootfs)),
        (b"upperdir", os.fsencode(upper / "upper")),
        (b"workdir", os.fsencode(upper / "work")),
    ]
    benchmark(lambda: os.close(mount.new_mount(b"overlay", options)))


def test_clone_to_execve(benchmark: BenchmarkFixture, rootfs: Path) -> None:
    """A whole run of /bin/true; extra_info has the median of each stage in microseconds."""
    stages: dict[str, list[int]] = {}
    with pyrunc.Sandbox(rootfs) as box:

        def run() -> None:
            for stage, ns in box.run(ARGV).timings_ns.items():
                stages.setdefault(stage, []).append(ns)

        benchmark.pedantic(run, rounds=RUNS, warmup_rounds=3)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(
        {stage: round(statistics.median(ns) / 1e3, 1) for stage, ns in stages.items()}
    )
