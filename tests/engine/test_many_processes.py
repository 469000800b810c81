"""Many processes act on one root at once, some of them are killed, and in the end everything is as its row says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.chaos_worker import CHECKOUT


def chaos(place: Path, seed: int, seconds: int, *more: str) -> None:
    """Run it in a process of its own, which takes all orphans; what it has found fails the test."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.chaos", "--seed", str(seed), "--seconds", str(seconds), *more, str(place)],
        cwd=CHECKOUT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    print(done.stdout[-20_000:], done.stderr[-5_000:])
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND: ")]
    assert (done.returncode, found) == (0, [])


@pytest.mark.usefixtures("busybox")
@pytest.mark.parametrize("kills", [True, False], ids=["kills", "no-kills"])
def test_random_verbs_of_eight_processes(tmp_path: Path, kills: bool) -> None:
    chaos(tmp_path / "place", 1, 12, *([] if kills else ["--no-kills"]))


@pytest.mark.soak
@pytest.mark.usefixtures("busybox")
@pytest.mark.parametrize("seed", range(1, 7))
def test_random_verbs_of_eight_processes_for_five_minutes(tmp_path: Path, seed: int) -> None:
    chaos(tmp_path / "place", seed, 300, *(["--no-kills"] if seed == 6 else []))
