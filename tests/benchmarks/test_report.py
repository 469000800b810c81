"""The whole report, on the real contenders, and what it says about its goals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import usage, words
from benchmarks.peers import CommandPeer

from .conftest import CLEAN, Traces

REPOSITORY = Path(__file__).resolve().parents[2]
STRACE_TABLE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000006           0        12         2 openat
 40.00    0.000004           0         7           close
------ ----------- ----------- --------- --------- ----------------
100.00    0.000010           0        19         2 total
"""
NEEDED = ("runc", "crun", "busybox", "strace", "cc")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="starting containers needs root")


@needs_root
def test_quick_report_measures_floor_crun_and_runc(tmp_path: Path, traces: Traces) -> None:
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"missing: {', '.join(absent)}")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.report", "--quick", "--out", str(tmp_path)],
        cwd=REPOSITORY,
        env=traces.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert traces.settled() == CLEAN
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["machine"]["kernel"] == os.uname().release
    for name in ("exec", "floor", "crun", "runc"):
        peer = report["peers"][name]
        assert 0 < peer["latency"]["min_ms"] <= peer["latency"]["median_ms"] <= peer["latency"]["p95_ms"]
        assert set(peer["rate_per_s"]) == {"1", "2", "8", "32"}
        assert all(rate > 0 for rate in peer["rate_per_s"].values())
        assert peer["cpu_ms"] > 0
    calls = {name: peer["syscalls"] for name, peer in report["peers"].items()}
    assert calls["exec"] < calls["floor"] < calls["crun"] < calls["runc"]
    assert "pyrunc" in report["peers"] or "pyrunc" in report["missing"]
    floor = report["peers"]["floor"]["latency"]["median_ms"]
    # Of the same unit; where a start is held up in another stage each time, the medians of these tell less of it.
    assert floor / 10 < sum(report["stages"]["floor"].values()) / 1e6 < floor * 10
    table = (tmp_path / "report.md").read_text()
    assert f"{floor:.2f}" in table
    picture = ElementTree.fromstring((tmp_path / "report.svg").read_text())
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    labels = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"floor", "crun", "runc", "8 at once"} <= labels


@needs_root
def test_a_terminated_report_leaves_nothing(tmp_path: Path, traces: Traces) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.report", "--rounds", "100000", "--out", str(tmp_path)],
        cwd=REPOSITORY,
        env=traces.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith("latency") for line in process.stderr), "it came as far as to measure"
        assert traces.left() != CLEAN
        process.terminate()
        assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert traces.settled() == CLEAN
    assert not (tmp_path / "report.json").exists()


def report_of(**medians: float) -> dict[str, Any]:
    return {
        "peers": {
            name: {"latency": {"median_ms": ms}, "rate_per_s": {words.RATE_WIDTH: 1000 / ms}}
            for name, ms in medians.items()
        }
    }


def test_goals_are_judged_in_their_direction() -> None:
    good = words.goals(report_of(floor=2, pyrunc=2.4, crun=7, runc=20))
    assert [goal["reached"] for goal in good] == [True] * 6
    assert good[0]["ratio"] == pytest.approx(1.2)
    slow = words.goals(report_of(floor=2, pyrunc=4, crun=7, runc=20))
    assert [goal["reached"] for goal in slow] == [False] * 6


def test_goals_of_absent_contenders_are_left_out() -> None:
    assert words.goals(report_of(floor=2, crun=7)) == []
    assert [goal["what"] for goal in words.goals(report_of(floor=2, pyrunc=2))] == [
        "latency, pyrunc / floor",
        "rate, 8 at once, pyrunc / floor",
    ]


def test_reads_the_total_of_strace_with_and_without_errors() -> None:
    assert usage.total_calls(STRACE_TABLE) == 19
    assert usage.total_calls("100.00    0.000000           0         1           total\n") == 1


def test_a_trace_without_a_total_is_an_error() -> None:
    with pytest.raises(ValueError, match="total"):
        usage.total_calls("strace: Process 1 attached\n")


@pytest.mark.parametrize("width", [1, 4])
def test_a_command_is_started_as_often_as_asked(tmp_path: Path, width: int) -> None:
    log = tmp_path / "log"
    peer = CommandPeer("sh", "a shell", "/bin/sh", lambda serial: ["-c", f"echo {serial} >> {log}"])
    assert peer.many(10, width) > 0
    peer.close()
    assert sorted(map(int, log.read_text().split())) == list(range(10))


def test_a_failing_command_is_not_measured() -> None:
    peer = CommandPeer("sh", "a shell", "/bin/sh", lambda _serial: ["-c", "exit 3"])
    with pytest.raises(RuntimeError, match="exit status 3"):
        peer.many(4, 2)
    peer.close()
