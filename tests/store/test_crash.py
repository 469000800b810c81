"""Eight processes at one store, and kill -9 at any moment: no row without its blobs, no wrong byte, no garbage left."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc.store.check import check
from pyrunc.store.collect import collect
from pyrunc.store.content import ContentStore
from pyrunc.store.metadata import Metadata
from tests.store.support import in_ingest
from tests.store.worker import StoredSnapshots

PROCESSES = 8
ENDLESS = 3600


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where a second holds ten times as many acts; fsync matters to no killed process."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as directory:
        yield Path(directory)


def start(root: Path, seed: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.worker", str(root), str(seed), str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended_well(worker: subprocess.Popen[str]) -> None:
    _, text = worker.communicate()
    assert worker.returncode in (0, -signal.SIGKILL), text


def is_whole(root: Path) -> None:
    """What is left serves all that its rows name, and a collection leaves nothing else."""
    content, metadata, snapshots = ContentStore(str(root)), Metadata(str(root)), StoredSnapshots(str(root))
    assert check(content, metadata, [snapshots]) == []
    collect(content, metadata, [snapshots])
    assert {blob.digest for blob in content.walk()} == set(metadata.named_blobs())
    assert in_ingest(str(root)) == []
    assert metadata.database.query("SELECT count(*) FROM leases") == [(0,)]
    named = {key for image in metadata.images() for key in metadata.chain_ids(image.id)}
    for container, image, snapshot in metadata.uses():
        named |= {snapshot, *metadata.chain_ids(image)}
        assert container == snapshot
    assert {snapshot.key for snapshot in snapshots.walk()} <= named
    assert check(content, metadata, [snapshots]) == []
    assert not snapshots.database.integrity()
    metadata.close()
    snapshots.database.close()


def storm(root: Path, seconds: float, seed: int) -> None:
    """Kill and replace one worker after another, for so many seconds and no fewer than six of them."""
    rng = random.Random(seed)
    workers = [start(root, rng.randrange(1 << 30), ENDLESS) for _ in range(PROCESSES)]
    killed = 0
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end or killed < 6:
            time.sleep(rng.uniform(0, 0.3))
            at = rng.randrange(PROCESSES)
            os.kill(workers[at].pid, signal.SIGKILL)
            ended_well(workers[at])
            killed += 1
            workers[at] = start(root, rng.randrange(1 << 30), ENDLESS)
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            ended_well(worker)


def test_processes_that_share_a_store_disturb_one_another_in_nothing(memory: Path) -> None:
    workers = [start(memory, seed, 3) for seed in range(PROCESSES)]
    for worker in workers:
        ended_well(worker)
        assert worker.returncode == 0
    is_whole(memory)


def test_a_store_is_whole_however_its_users_die(memory: Path) -> None:
    for seed in range(2):
        storm(memory, 3, seed)
        is_whole(memory)


@pytest.mark.soak
def test_a_store_is_whole_after_a_minute_of_it(tmp_path: Path, memory: Path) -> None:
    for seed in range(3):
        for root in (tmp_path, memory):
            storm(root, 10, 100 + seed)
            is_whole(root)


def test_a_store_opens_however_early_its_maker_died(tmp_path: Path) -> None:
    """Killed while the directories and the database are made."""
    code = (
        "import sys; from tests.store.worker import Worker\nprint(flush=True); Worker(sys.argv[1], 1).load()"
    )
    rng = random.Random(7)
    for number in range(25):
        root = tmp_path / str(number)
        with subprocess.Popen([sys.executable, "-c", code, root], stdout=subprocess.PIPE) as child:
            assert child.stdout
            child.stdout.readline()
            time.sleep(rng.uniform(0, 0.03))
            child.kill()
        is_whole(root)
