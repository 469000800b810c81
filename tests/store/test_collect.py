"""Garbage collection: what no row and no live lease names goes, and nothing else, whoever writes meanwhile."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from pyrunc.errors import FailedPrecondition, NotFound
from pyrunc.store import leases
from pyrunc.store.collect import Collected, collect
from pyrunc.store.content import ContentStore
from pyrunc.store.metadata import Metadata
from tests.store.support import Snapshots, in_ingest, put

Kit = tuple[ContentStore, Metadata]


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return ContentStore(str(tmp_path)), Metadata(str(tmp_path))


def test_what_a_row_names_stays_and_the_rest_goes(kit: Kit) -> None:
    content, metadata = kit
    row = put(*kit, "kept", "name")
    content.add(b"12345")
    (Path(content.root) / "content/ingest/stale").write_bytes(b"123")
    assert collect(*kit) == Collected(1, 8, 0)
    assert {blob.digest for blob in content.walk()} == {digest for digest, _ in metadata.blobs(row.id)}
    assert in_ingest(content.root) == []
    assert collect(*kit) == Collected(0, 0, 0)


def test_shared_layers_go_with_the_last_image(kit: Kit) -> None:
    content, metadata = kit
    one, two = put(*kit, "one"), put(*kit, "two")
    shared = metadata.blobs(one.id)[2][0]
    metadata.delete_image(one.id)
    assert collect(*kit).blobs == 2
    assert content.read(shared) == b"layer"
    metadata.delete_image(two.id)
    assert collect(*kit).blobs == 3
    assert list(content.walk()) == []


def test_a_lease_protects_until_it_ends(kit: Kit) -> None:
    content, metadata = kit
    with metadata.lease() as lease:
        blob = content.add(b"leased", lease=lease)
        lease.protect_snapshot("key")
        snapshots = Snapshots(key="parent", parent=None, other=None)
        assert collect(*kit, [snapshots]) == Collected(0, 0, 1)
        assert set(snapshots.parents) == {"key", "parent"}
        assert content.read(blob.digest) == b"leased"
    assert collect(*kit, [snapshots]) == Collected(1, 6, 2)


def test_a_lease_protects_what_comes_later(kit: Kit) -> None:
    content, metadata = kit
    with metadata.lease() as lease:
        blob = content.add(b"x")
        content.remove(blob.digest)
        lease.protect(blob.digest)
        content.add(b"x")
        assert collect(*kit).blobs == 0
    assert collect(*kit).blobs == 1


def test_the_lease_of_a_dead_process_protects_nothing(kit: Kit) -> None:
    content, metadata = kit
    code = (
        "import sys, time\n"
        "from pyrunc.store.content import ContentStore\n"
        "from pyrunc.store.metadata import Metadata\n"
        "lease = Metadata(sys.argv[1]).lease()\n"
        "writer = ContentStore(sys.argv[1]).ingest()\n"
        "writer.write(b'unfinished')\n"
        "print(ContentStore(sys.argv[1]).add(b'leased', lease=lease).digest, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, content.root], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        digest = child.stdout.readline().strip()
        assert collect(*kit) == Collected(0, 0, 0)
        assert content.read(digest) == b"leased"
        assert len(in_ingest(content.root)) == 1
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
        assert collect(*kit) == Collected(1, len(b"unfinished") + len(b"leased"), 0)
    assert metadata.database.query("SELECT * FROM leases") == []
    assert metadata.database.query("SELECT * FROM lease_names") == []


def test_who_holds_a_lease_is_known_by_more_than_the_pid() -> None:
    me = leases.this_process()
    assert leases.is_alive(me)
    for other in (
        me._replace(started=me.started + 1),
        me._replace(boot="of another time"),
        me._replace(pid=2**22 + 1),
        me._replace(pid_namespace=1),  # cannot be looked up, and its row is not of today
    ):
        assert not leases.is_alive(other)
    assert leases.is_alive(me._replace(pid_namespace=1), 2**62)


def test_a_forked_child_neither_has_nor_ends_the_lease(kit: Kit) -> None:
    content, metadata = kit
    lease = metadata.lease()
    blob = content.add(b"leased", lease=lease)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            lease.release()
            try:
                lease.protect("sha256:" + "0" * 64)
            except FailedPrecondition:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert collect(*kit).blobs == 0
    lease.release()
    assert collect(*kit).blobs == 1
    assert blob


def test_snapshots_go_from_the_leaves_to_what_is_named(kit: Kit) -> None:
    content, metadata = kit
    row = put(*kit, "image", chain_ids=("low", "high"))
    snapshots = Snapshots(
        low=None,
        high="low",
        container="high",
        junk="high",
        junkier="junk",
        other=None,
        kept="other",
        volume=None,
    )
    metadata.use_image("container", row.id)
    metadata.use_image("c2", row.id, snapshot="kept")
    assert collect(*kit, [snapshots]).snapshots == 3
    assert set(snapshots.parents) == {"low", "high", "container", "other", "kept"}
    metadata.unuse("c2")
    metadata.delete_image(row.id)
    assert collect(*kit, [snapshots]) == Collected(0, 0, 2)  # of an image that a container still uses
    assert set(snapshots.parents) == {"low", "high", "container"}
    metadata.unuse("container")
    assert collect(*kit, [snapshots]).snapshots == 3
    assert snapshots.reclaimed == 3
    assert list(content.walk()) == []


def test_a_child_that_appears_keeps_its_parent(kit: Kit) -> None:
    class Busy(Snapshots):
        def remove(self, key: str) -> None:
            self.parents["late"] = "base"
            super().remove(key)

    snapshots = Busy(base=None)
    assert collect(*kit, [snapshots]).snapshots == 0
    assert snapshots.parents == {"base": None, "late": "base"}


def test_a_driver_that_forgets_quickly_is_asked_for_that(kit: Kit) -> None:
    class Quick(Snapshots):
        def forget(self, key: str) -> None:
            Snapshots.remove(self, key)

        def remove(self, key: str) -> None:
            raise AssertionError(key)

    assert collect(*kit, [Quick(a=None, b="a")]).snapshots == 2


# The race of a collector and a writer of the same digest, each stopped at its worst moment by the other.


def raced(kit: Kit, monkeypatch: pytest.MonkeyPatch, given_s: float) -> tuple[list[str], bool]:
    """Let a writer come when the collector has decided that its blob goes: what happened, and whether it is there.

    The writer has *given_s* seconds, as far as it gets.
    """
    content, _ = kit
    digest = content.add(b"wanted").digest
    order: list[str] = []

    def write() -> None:
        ingest(kit, digest)
        order.append("written")

    writer = threading.Thread(target=write)
    take: Callable[[ContentStore, str], None] = ContentStore.set_aside

    def slowly(self: ContentStore, name: str) -> None:
        writer.start()
        writer.join(given_s)
        order.append("taken")
        take(self, name)

    monkeypatch.setattr(ContentStore, "set_aside", slowly)
    assert collect(*kit).blobs == 1
    writer.join()
    return order, digest in {blob.digest for blob in content.walk()}


def test_a_writer_between_the_look_and_the_removal_waits_and_then_writes(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert raced(kit, monkeypatch, 0.5) == (["taken", "written"], True)


def test_a_collector_without_a_transaction_would_lose_it(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def unsafe(self: Metadata, kind: Literal["blob"], names: list[str]) -> Iterator[list[str]]:
        yield [name for name in names if not self.is_named(kind, name)]

    monkeypatch.setattr(Metadata, "unnamed", unsafe)
    assert raced(kit, monkeypatch, 60) == (["written", "taken"], False)


def ingest(kit: Kit, digest: str) -> None:
    """Name it first, then look, then write what is missing: as everyone has to."""
    content, metadata = kit
    lease = metadata.lease()
    lease.protect(digest)
    try:
        content.stat(digest)
    except NotFound:
        content.add(b"wanted", digest, lease=lease)


def test_a_lease_between_the_look_at_all_and_the_look_at_one_is_seen(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, _ = kit
    digest = content.add(b"wanted").digest
    look: Callable[[Metadata], list[str]] = Metadata.named_blobs

    def and_then(self: Metadata) -> list[str]:
        found = look(self)
        ingest(kit, digest)
        return found

    monkeypatch.setattr(Metadata, "named_blobs", and_then)
    assert collect(*kit).blobs == 0
    assert content.read(digest) == b"wanted"


def test_two_collectors_share_the_work(kit: Kit) -> None:
    content, _ = kit
    for number in range(300):
        content.add(str(number).encode())
    done: list[Collected] = []
    threads = [threading.Thread(target=lambda: done.append(collect(*kit))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.blobs for each in done) == 300
    assert list(content.walk()) == []
    assert in_ingest(content.root) == []
