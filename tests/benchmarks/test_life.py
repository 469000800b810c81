"""The benchmark of containers with a life: it measures what it says, and removes what it started, however it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import life_words

from .conftest import CLEAN, Traces

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = ("runc", "busybox", "cc")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="starting containers needs root")
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)}: what is measured, and with what"
)


def command(tmp_path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.life", "--quick", "--out", str(tmp_path), *arguments]


@needs_root
@needs_tools
def test_quick_measures_and_leaves_nothing(tmp_path: Path, traces: Traces) -> None:
    done = subprocess.run(
        command(tmp_path, "--only", "start,idle,crowd,exec"), cwd=REPOSITORY, env=traces.environment,
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert traces.settled() == CLEAN
    report = json.loads((tmp_path / "life.json").read_text())
    idle = report["sections"]["idle"]
    for way in ("from one process", "each by its own command"):
        slope = idle["slope_bytes"][way]
        assert 0 < slope["pss"] <= slope["rss"]
        assert slope["processes"] >= idle["to"]
    assert idle["ps"]["latency"]["pyrunc"]["median_ms"] > 0
    assert {goal["what"] for goal in report["goals"]} >= {
        "latency, Engine.run / floor", "MiB of PSS an idle container, from one process", "ms, exec in process",
    }  # fmt: skip
    assert "| goal | wanted | measured | reached |" in (tmp_path / "life.md").read_text()


@needs_root
@needs_tools
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(tmp_path: Path, traces: Traces, number: int) -> None:
    with subprocess.Popen(
        command(tmp_path, "--only", "idle"), cwd=REPOSITORY, env=traces.environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("idle, from"):
                break
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("scratch/*/state/*/running")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(120) == 128 + number
    assert traces.settled() == CLEAN


def test_goals_are_judged_by_their_sense() -> None:
    def latency(**medians: float) -> dict[str, Any]:
        return {"latency": {name: {"median_ms": value} for name, value in medians.items()}}

    report = {
        "sections": {
            "start": latency(floor=2.0, run=3.0),
            "cold": latency(pyrunc=50.0, podman=60.0, docker=100.0),
            "idle": {
                "slope_bytes": {"from one process": {"pss": 2**20}},
                "ps": {**latency(pyrunc=100.0), "running": {"pyrunc": 200, "docker": 200}},
            },
        }
    }
    found = {goal["what"]: (round(goal["value"], 2), goal["reached"]) for goal in life_words.goals(report)}
    assert found == {
        "latency, Engine.run / floor": (1.5, True),
        "cold command, podman / pyrunc": (1.2, True),
        "cold command, docker / pyrunc": (2.0, False),
        "MiB of PSS an idle container, from one process": (1.0, False),
        "ms, `ps` with 200 running": (100.0, True),
    }
