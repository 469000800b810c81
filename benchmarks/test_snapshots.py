"""What a snapshot costs: made and removed, over 1, 32 and 128 layers, and a container's start on one.

python -m pytest benchmarks/test_snapshots.py
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns as clock

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.host import make_rootfs
from pyrunc import Sandbox
from pyrunc.drivers.graph.snapshotter import Snapshotter
from pyrunc.drivers.registry import graph
from pyrunc.runtime.launcher import Launcher
from pyrunc.runtime.options import to_request

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files and start containers"),
    pytest.mark.benchmark(group="snapshots"),
]

LAYERS = (1, 32, 128)
COPIED = 1  # vfs knows no layers: one image says all
RUNS = 200


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    # Where images are kept: on a disk, not in memory.
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-", dir="/var/tmp") as name:
        yield name


def driver(root: str, name: str, layers: int) -> Snapshotter:
    """The driver *name* with snapshots "1" to *layers*, the lowest a busybox."""
    found = graph(name, root)
    made = {info.key for info in found.walk()}
    for number in range(1, layers + 1):
        if str(number) in made:
            continue
        rootfs = found.prepare("making", str(number - 1) if number > 1 else None)
        if number == 1:
            Path(rootfs.layers[0]).rmdir()
            make_rootfs(Path(rootfs.layers[0]))
        else:
            Path(rootfs.upper, f"file{number}").touch()
        found.commit(str(number), "making")
    return found


@pytest.mark.parametrize(("name", "layers"), [*(("overlay2", count) for count in LAYERS), ("vfs", COPIED)])
def test_prepare_and_remove(benchmark: BenchmarkFixture, root: str, name: str, layers: int) -> None:
    """One container's snapshot, empty; extra_info has the medians of the two in microseconds."""
    snapshots = driver(root, name, layers)
    taken: dict[str, list[int]] = {"prepare": [], "remove": []}

    def prepare_and_remove() -> None:
        begun = clock()
        snapshots.prepare("work", str(layers), volatile=True)
        made = clock()
        snapshots.remove("work")
        taken["prepare"].append(made - begun)
        taken["remove"].append(clock() - made)

    benchmark.pedantic(prepare_and_remove, rounds=RUNS, warmup_rounds=5)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update({what: round(statistics.median(ns) / 1e3, 1) for what, ns in taken.items()})
    snapshots.close()


@pytest.mark.parametrize("layers", LAYERS)
def test_run_on_a_snapshot(benchmark: BenchmarkFixture, root: str, layers: int) -> None:
    """A whole run of /bin/true on an overlay with its upper directory on disk, prepared before and removed after."""
    snapshots = driver(root, "overlay2", layers)

    def run() -> None:
        rootfs = snapshots.prepare("work", str(layers), volatile=True)
        with Sandbox.__new__(Sandbox) as box:
            box._launcher = Launcher(to_request(rootfs.layers, {})._replace(rootfs=rootfs))  # noqa: SLF001
            box.run(["/bin/true"])
        snapshots.remove("work")

    benchmark.pedantic(run, rounds=50, warmup_rounds=3)  # type: ignore[no-untyped-call]
    snapshots.close()
