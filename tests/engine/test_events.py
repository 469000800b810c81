"""Events: each is read once, in order, whoever writes and is killed meanwhile, and none is the reason of a failure."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import mount
from pyrunc.engine import events
from pyrunc.engine.rotated import RotatedFile
from pyrunc.errors import InvalidArgument

_WRITER = """
import sys
from pyrunc.engine import events
events.FULL_BYTES = int(sys.argv[3])
paced = int(sys.argv[5])
for number in range(int(sys.argv[4])):
    if paced and number % paced == 0:
        sys.stdin.buffer.read(1)
    events.write(sys.argv[1], "container", "start", sys.argv[2], {"number": number, "name": "x" * (number % 97)})
"""


def _writer(root: Path, name: str, full: int, count: int, paced: int = 0) -> "subprocess.Popen[bytes]":
    """A process that writes *count* events; *paced*, it waits for a byte before each so many of them."""
    checkout = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(root), name, str(full), str(count), str(paced)],
        env={**os.environ, "PYTHONPATH": checkout}, stdin=subprocess.PIPE if paced else subprocess.DEVNULL, bufsize=0,
    )  # fmt: skip


def test_a_line_is_dockers_message(tmp_path: Path) -> None:
    before = time.time_ns()
    events.write(str(tmp_path), "container", "create", "c1", {"image": "alpha:1", "name": "w", "a": "b"})
    events.write(str(tmp_path), "image", "tag", "sha256:00", {"name": "beta:latest"})
    events.write(str(tmp_path), "volume", "create", "data", {"driver": "local"})
    container, image, volume = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    for message in (container, image, volume):
        moment = message.pop("timeNano")
        assert before <= moment <= time.time_ns() and message.pop("time") == moment // 10**9
    assert container == {
        "status": "create", "id": "c1", "from": "alpha:1", "Type": "container", "Action": "create",
        "Actor": {"ID": "c1", "Attributes": {"a": "b", "image": "alpha:1", "name": "w"}}, "scope": "local",
    }  # fmt: skip
    assert image == {
        "status": "tag", "id": "sha256:00", "Type": "image", "Action": "tag",
        "Actor": {"ID": "sha256:00", "Attributes": {"name": "beta:latest"}}, "scope": "local",
    }  # fmt: skip
    assert volume == {
        "Type": "volume", "Action": "create", "Actor": {"ID": "data", "Attributes": {"driver": "local"}},
        "scope": "local",
    }  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    odd = {"name": "é\udcff\n\0", "label": '"\\'}
    events.write(str(tmp_path), "container", "die", "c1", {**odd, "exitCode": 137})
    (event,) = events.read(str(tmp_path))
    assert (event.type, event.action, event.id) == ("container", "die", "c1")
    assert event.attributes == {**odd, "exitCode": "137"} and event.scope == "local"
    assert list(events.read(str(tmp_path), since_ns=event.time_ns + 1)) == []
    assert list(events.read(str(tmp_path), until_ns=event.time_ns - 1)) == []
    assert list(events.read(str(tmp_path), since_ns=event.time_ns, until_ns=event.time_ns)) == [event]
    assert list(events.read(str(tmp_path / "nowhere"))) == []


def test_followers_get_every_event_once_while_files_are_renamed(tmp_path: Path) -> None:
    root, full, count, names, paced = tmp_path, 256 << 10, 2000, ["a", "b", "c"], 100
    seen: dict[str, list[int]] = {name: [] for name in names}
    writers = {name: _writer(root, name, full, count, paced) for name in names}
    done = threading.Event()

    def on(name: str) -> None:
        stream = writers[name].stdin
        assert stream is not None
        with suppress(BrokenPipeError):  # it has written all that it has
            stream.write(b"x")

    def follow() -> None:
        for event in events.read(str(root), follow=True):
            seen[event.id].append(int(event.attributes["number"]))
            if len(seen[event.id]) % paced == 0:
                on(event.id)
            if all(len(numbers) >= count for numbers in seen.values()):
                break
        done.set()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    # Whoever follows may miss what is in files that it lets go by unread: no writer is 300 events ahead, and so all
    # of them together less than a file.
    for name in (*names, *names):
        on(name)
    assert [writer.wait(120) for writer in writers.values()] == [0, 0, 0]
    assert done.wait(60), {name: len(numbers) for name, numbers in seen.items()}
    thread.join()
    for writer in writers.values():
        assert writer.stdin is not None
        writer.stdin.close()
    assert seen == {name: list(range(count)) for name in names}
    assert (root / "events.jsonl.1").exists()
    assert sum(path.stat().st_size for path in root.iterdir()) < 3 * full


def test_killed_writers_cost_nobody_elses_event(tmp_path: Path) -> None:
    steady = _writer(tmp_path, "steady", 1 << 30, 2000)
    rng = random.Random(1)
    for number in range(8):
        writer = _writer(tmp_path, f"killed{number}", 1 << 30, 100_000)
        time.sleep(0.1 + rng.random() / 10)
        writer.kill()
        writer.wait()
    assert steady.wait(120) == 0
    found = [each.attributes["number"] for each in events.read(str(tmp_path)) if each.id == "steady"]
    assert found == [str(number) for number in range(2000)]
    with RotatedFile(str(tmp_path / "events.jsonl")) as file:
        for line in filter(None, file.lines()):  # who saw half of another's line has ended it
            json.loads(line)


@pytest.mark.parametrize("torn", [b'{"Type":"contai', b"\0\xff", b"[]", b'{"Type":"container","Actor":[]}'])
def test_a_torn_line_is_ended_and_skipped(torn: bytes, tmp_path: Path) -> None:
    events.write(str(tmp_path), "image", "load", "1", {})
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(torn)
    assert [event.id for event in events.read(str(tmp_path))] == ["1"]
    events.write(str(tmp_path), "image", "load", "2", {})
    assert [event.id for event in events.read(str(tmp_path))] == ["1", "2"]


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path) -> None:
    events.write(str(tmp_path), "image", "load", "1", {})
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.truncate(300 << 20)
    events.write(str(tmp_path), "image", "load", "2", {})
    program = (
        "import sys; from pyrunc.engine import events;"
        "print(*[event.id for event in events.read(sys.argv[1])]);"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=True, timeout=300
    )
    ids, peak_kib = done.stdout.splitlines()
    assert ids == b"1 2" and int(peak_kib) < 100 << 10


def test_what_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    events.write(str(tmp_path / "nowhere"), "image", "load", "1", {})
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "elsewhere")
    events.write(str(tmp_path), "image", "load", "1", {})
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_full_disk_is_no_error_and_what_fits_again_is_whole(tmp_path: Path) -> None:
    mount.mount(b"tmpfs", bytes(tmp_path), b"tmpfs", 0, b"size=64k")
    try:
        for number in range(3000):
            events.write(str(tmp_path), "image", "load", str(number), {})
        there = [int(event.id) for event in events.read(str(tmp_path))]
        assert 100 < len(there) < 3000 and there == list(range(len(there)))
        os.truncate(tmp_path / "events.jsonl", 1000)
        events.write(str(tmp_path), "image", "load", "again", {})
        assert list(events.read(str(tmp_path)))[-1].id == "again"
    finally:
        mount.umount2(bytes(tmp_path))


def _some(root: Path) -> None:
    w = {"image": "alpha:1", "name": "web", "tier": "front"}
    events.write(str(root), "container", "create", "c1", w)
    events.write(str(root), "container", "exec_start: sh -c true", "c1", w)
    events.write(
        str(root), "container", "die", "c2", {"image": "host:5000/x", "name": "other", "exitCode": "0"}
    )
    events.write(str(root), "image", "tag", "sha256:77", {"name": "alpha:2"})
    events.write(str(root), "volume", "mount", "data", {"driver": "local"})


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ([], "create exec_start die tag mount"),
        ([("type", "container")], "create exec_start die"),
        ([("type", "image"), ("type", "volume")], "tag mount"),
        ([("event", "create"), ("event", "die")], "create die"),
        ([("event", "exec_start")], "exec_start"),
        ([("event", "cre")], ""),
        ([("container", "web")], "create exec_start"),
        ([("container", "c1"), ("container", "other")], "create exec_start die"),
        ([("image", "alpha")], "create exec_start tag"),
        ([("image", "alpha:1")], "create exec_start"),
        ([("image", "host:5000/x")], "die"),
        ([("image", "sha256:77")], "tag"),
        ([("image", "sha256")], "tag"),
        ([("image", "alp")], ""),
        ([("volume", "data")], "mount"),
        ([("label", "tier")], "create exec_start"),
        ([("label", "tier=front"), ("label", "tier=back")], ""),
        ([("scope", "swarm")], ""),
    ],
)
def test_filters_are_dockers(filters: list[tuple[str, str]], wanted: str, tmp_path: Path) -> None:
    _some(tmp_path)
    found = [event.action.partition(":")[0] for event in events.read(str(tmp_path), filters=filters)]
    assert found == wanted.split()


def test_an_unknown_filter_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="Invalid filter 'colour'"):
        events.read(str(tmp_path), filters=[("colour", "red")])


def test_following_ends_at_its_time_and_has_nothing_of_before(tmp_path: Path) -> None:
    _some(tmp_path)
    found: list[Any] = []
    following = events.read(str(tmp_path), since_ns=None, until_ns=time.time_ns() + 3 * 10**9, follow=True)
    events.write(str(tmp_path), "container", "start", "late", {})
    found += following
    assert [event.id for event in found] == ["late"]
