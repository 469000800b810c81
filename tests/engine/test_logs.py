"""The log of a container: no line twice or lost, however it is rotated, and from its end without reading it all."""

import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc.engine import logs
from pyrunc.engine.rotated import opened

_SECOND = 1_700_000_000
# Writes as the shim does: one write(2) for a record, and when a file is full, all of them renamed, the last one first.
_WRITER = """
import json, os, random, sys, time
path, count, seed, most, keep = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
rng = random.Random(seed)
def make():
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), rng.randrange(most)
fd, left = make()
for number in range(count):
    text = f"{number} " + "x" * rng.choice((0, 5, 300)) + chr(10)
    line = json.dumps({"log": text, "stream": rng.choice(("stdout", "stderr")),
                       "time": f"2026-01-02T03:04:05.{number:09}Z"}).encode() + b"\\n"
    if left < len(line):
        for old in range(keep - 2, 0, -1):
            if os.path.exists(f"{path}.{old}"):
                os.rename(f"{path}.{old}", f"{path}.{old + 1}")
            if rng.random() < 0.02:
                time.sleep(0.001)
        os.rename(path, f"{path}.1")
        os.close(fd)
        if rng.random() < 0.1:
            time.sleep(0.002)
        fd, left = make()
    left -= os.write(fd, line)
    if rng.random() < 0.05:
        time.sleep(0.001)
"""


def _record(text: str, stream: str = "stdout", second: float = 0, **more: object) -> bytes:
    whole, fraction = divmod(_SECOND * 10**9 + round(second * 10**9), 10**9)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    when = f"{moment}.{fraction:09}".rstrip("0").rstrip(".") + "Z"
    return json.dumps({"log": text, "stream": stream, **more, "time": when}).encode() + b"\n"


def _data(path: Path, **how: object) -> list[str]:
    return [entry.data.decode() for entry in logs.read(str(path), **how)]  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "c-json.log"


def test_entries_are_what_was_written(log: Path) -> None:
    log.write_bytes(
        _record("a é <\n", second=0.5)
        + _record("b", "stderr", 1.25, attrs={"tag": "x"})
        + _record("\n", "stderr")
    )
    first, second, third = logs.read(str(log))
    assert first == ("stdout", "a é <\n".encode(), _SECOND * 10**9 + 500_000_000, True, {})
    assert second == ("stderr", b"b", _SECOND * 10**9 + 1_250_000_000, False, {"tag": "x"})
    assert (third.data, third.whole_line, third.time_ns) == (b"\n", True, _SECOND * 10**9)


def test_a_container_without_a_log_has_written_nothing(log: Path) -> None:
    assert _data(log) == _data(log, tail=3) == _data(log, follow=True, ended=lambda: True) == []


def test_older_files_come_first(log: Path) -> None:
    for number, name in enumerate(("c-json.log.10", "c-json.log.2", "c-json.log.1", "c-json.log")):
        (log.parent / name).write_bytes(_record(f"{number}\n"))
    (log.parent / "c-json.log.old").write_bytes(_record("no\n"))
    assert _data(log) == ["0\n", "1\n", "2\n", "3\n"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 8, 9, 100])
def test_tail_counts_lines_over_all_files(count: int, log: Path) -> None:
    lines = [f"{number}\n" for number in range(8)]
    for name, part in (("c-json.log.2", lines[:3]), ("c-json.log.1", lines[3:4]), ("c-json.log", lines[4:])):
        (log.parent / name).write_bytes(b"".join(map(_record, part)))
    assert _data(log, tail=count) == lines[len(lines) - min(count, 8) :]


def test_tail_takes_a_line_of_several_records_for_one(log: Path) -> None:
    log.write_bytes(b"".join(map(_record, ("a", "b\n", "c", "d", "e\n", "f"))))
    assert _data(log, tail=1) == ["f"]
    assert _data(log, tail=2) == ["c", "d", "e\n", "f"]
    assert _data(log, tail=3) == ["a", "b\n", "c", "d", "e\n", "f"]
    log.write_bytes(_record("a\n") + _record("par") + _record("e\n", "stderr"))
    assert _data(log, tail=1) == ["e\n"]
    assert _data(log, tail=2) == ["par", "e\n"]


def test_tail_of_a_large_log_reads_its_end_only(log: Path) -> None:
    with open(log, "wb") as file:
        file.truncate(64 << 30)  # a hole, which takes minutes to read
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(_record(f"{number}\n") for number in range(5000)))
    assert _data(log, tail=3) == ["4997\n", "4998\n", "4999\n"]


def test_tail_comes_before_the_times(log: Path) -> None:
    log.write_bytes(b"".join(_record(f"{number}\n", second=number) for number in range(6)))
    base = _SECOND * 10**9
    assert _data(log, tail=4, since_ns=base + 4 * 10**9) == ["4\n", "5\n"]
    assert _data(log, tail=4, until_ns=base + 3 * 10**9) == ["2\n", "3\n"]
    assert _data(log, since_ns=base + 1, until_ns=base + 2 * 10**9) == ["1\n", "2\n"]


@pytest.mark.parametrize(
    "noise",
    [
        b"garbage\n", b"\n", b"{}\n", b"[]\n", b'{"log":1,"stream":"stdout","time":"2026-01-02T03:04:05Z"}\n',
        b"\xff\0\n",
        b'{"log":"x","stream":"stdout","time":"yesterday"}\n', b"[" * 100_000 + b"\n", b"y" * (3 << 20) + b"\n",
    ],
)  # fmt: skip
def test_damaged_records_are_skipped_and_told(noise: bytes, log: Path) -> None:
    log.write_bytes(_record("a\n") + noise + _record("b\n") + b'{"log":"tor')
    for how in ({}, {"tail": 2}):
        notes: list[str] = []
        assert _data(log, note=notes.append, **how) == ["a\n", "b\n"]
        assert notes == [f"{log}: 1 damaged record was skipped"]


def test_a_record_that_is_not_yet_whole_is_read_when_it_is(log: Path) -> None:
    record = _record("abc\n")
    log.write_bytes(record[:20])
    looks = iter((False, False, True))

    def ended() -> bool:
        now = next(looks)
        if not now:
            log.write_bytes(record)
        return now

    assert _data(log, follow=True, ended=ended, sleep=lambda _: None) == ["abc\n"]


def test_memory_is_bounded_for_lines_of_any_length(log: Path) -> None:
    with open(log, "wb") as file:
        file.truncate(400 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + _record("end\n"))
    program = (
        "import sys; from pyrunc.engine import logs\n"
        "for tail in (None, 5): print(*[entry.data for entry in logs.read(sys.argv[1], tail=tail)])\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(log)], capture_output=True, check=True, timeout=300, text=True
    )
    first, second, peak_kib = done.stdout.splitlines()
    assert first == second == "b'end\\n'" and int(peak_kib) < 100 << 10


def _rotate(log: Path) -> None:
    names = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: int(path.suffix[1:]), reverse=True)
    for path in names:
        path.rename(path.with_suffix(f".{int(path.suffix[1:]) + 1}"))
    log.rename(f"{log}.1")


def _steps(log: Path, steps: "list[Callable[[], object]]") -> list[str]:
    """What is read when each of *steps* happens between two looks."""
    left = iter(steps)

    def ended() -> bool:
        step = next(left, None)
        if step is not None:
            step()
        return step is None

    return _data(log, follow=True, ended=ended, sleep=lambda _: None)


def test_several_rotations_between_two_looks(log: Path) -> None:
    log.write_bytes(_record("0\n"))

    def turn() -> None:
        for number in range(1, 5):
            with open(log, "ab") as file:
                file.write(_record(f"{number} old\n"))
            _rotate(log)
            log.write_bytes(_record(f"{number} new\n"))

    found = _steps(log, [lambda: None, turn, lambda: None])
    assert found == ["0\n", *(f"{number} {age}\n" for number in range(1, 5) for age in ("old", "new"))]


def test_a_rotation_that_is_half_done(log: Path) -> None:
    log.write_bytes(_record("0\n"))

    def half() -> None:
        _rotate(log)

    def other_half() -> None:
        log.write_bytes(_record("1\n"))

    assert _steps(log, [lambda: None, half, lambda: None, other_half]) == ["0\n", "1\n"]
    _rotate(log)
    assert _data(log) == _data(log, tail=9) == ["0\n", "1\n"]


def test_rotations_while_the_files_are_looked_for(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(_record("0\n"))
    list_directory, left = os.listdir, iter(range(1, 7))

    def slow(path: str) -> list[str]:
        names = list_directory(path)
        for _, number in zip(range(3), left, strict=False):
            _rotate(log)
            log.write_bytes(_record(f"{number}\n"))
        return names

    monkeypatch.setattr(os, "listdir", slow)
    assert _data(log) == [f"{number}\n" for number in range(7)]


def test_a_file_that_has_two_names_while_it_is_rotated_is_read_once(log: Path) -> None:
    log.write_bytes(_record("0\n"))

    def link() -> None:
        os.link(log, f"{log}.1")

    def replace() -> None:
        log.with_suffix(".new").write_bytes(_record("1\n"))
        log.with_suffix(".new").rename(log)

    assert _steps(log, [lambda: None, link, lambda: None, replace, lambda: None]) == ["0\n", "1\n"]
    os.link(log, f"{log}.2")
    os.rename(f"{log}.1", f"{log}.3")
    os.rename(f"{log}.2", f"{log}.1")
    os.rename(f"{log}.3", f"{log}.2")
    assert _data(log) == _data(log, tail=9) == ["0\n", "1\n"]


def test_what_is_rotated_while_a_log_is_read_once_makes_no_gap(log: Path) -> None:
    log.write_bytes(_record("0\n") + _record("1\n"))
    read = logs.read(str(log))
    found = [next(read).data]
    for number in range(2, 6):
        log.rename(f"{log}.1")  # the one before is gone
        log.write_bytes(_record(f"{number}\n"))
    assert [*found, *(entry.data for entry in read)] == [b"0\n", b"1\n"]


def test_a_file_that_is_replaced_is_read_to_its_end(log: Path) -> None:
    log.write_bytes(_record("0\n"))

    def replace() -> None:
        with open(log, "ab") as file:
            file.write(_record("1\n"))
        log.unlink()  # as with one file only
        log.write_bytes(_record("2\n"))

    assert _steps(log, [lambda: None, replace, lambda: None]) == ["0\n", "1\n", "2\n"]


def test_a_log_that_is_truncated_is_read_on(log: Path) -> None:
    log.write_bytes(_record("0\n") + _record("1\n"))
    assert _steps(log, [lambda: None, lambda: log.write_bytes(_record("2\n"))]) == ["0\n", "1\n", "2\n"]


def test_a_log_that_appears_and_one_that_vanishes(log: Path) -> None:
    found = _steps(log, [lambda: None, lambda: log.write_bytes(_record("0\n")), lambda: None, log.unlink])
    assert found == ["0\n"]


@pytest.mark.parametrize("seed", range(3))
def test_followers_of_a_log_that_is_rotated_hundreds_of_times(seed: int, log: Path) -> None:
    count = 4000
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(log), str(count), str(seed), "4000", "400"])
    rng = random.Random(seed)
    found: list[list[int]] = []

    def follow(begin: float) -> None:
        time.sleep(begin)
        mine: list[int] = []
        found.append(mine)
        for entry in logs.read(str(log), follow=True, ended=lambda: writer.poll() is not None):
            mine.append(int(entry.data.split()[0]))
            if rng.random() < 0.002:
                time.sleep(0.02)

    threads = [threading.Thread(target=follow, args=(begin,)) for begin in (0, 0.3, 0.6)]
    for thread in threads:
        thread.start()
    while writer.poll() is None:
        numbers = [int(text.split()[0]) for text in _data(log)]
        assert numbers == list(range(len(numbers)))
        last = [int(text.split()[0]) for text in _data(log, tail=7)]
        assert last == list(range(last[0], last[0] + len(last))) if last else not numbers
    assert writer.wait() == 0
    for thread in threads:
        thread.join(120)
    assert found == [list(range(count))] * 3
    assert len(list(log.parent.iterdir())) > 100


def test_nothing_is_left_open(log: Path) -> None:
    log.write_bytes(_record("a\n") * 3)
    _rotate(log)
    gc.collect()  # what others have left is not closed meanwhile
    before = os.listdir("/proc/self/fd")

    def look(entries: "Iterator[logs.LogEntry]") -> None:
        next(entries)
        entries.close()  # type: ignore[attr-defined]

    look(logs.read(str(log)))
    look(logs.read(str(log), tail=2, follow=True))
    for _ in range(3):
        for fd in opened(str(log)):
            os.close(fd)
    assert os.listdir("/proc/self/fd") == before
