"""A verb that ends before any of its steps leaves true rows, and nothing else."""

from pathlib import Path

import pytest

from pyrunc import Engine
from tests.engine import steps

_SOAK = pytest.mark.soak
_EVERY = 41  # of some hundred steps; all of them take minutes


@pytest.fixture
def driver() -> str:
    return "overlay2"


@pytest.mark.parametrize("mode", ["kill", "interrupt", "full"])
@pytest.mark.parametrize("every", [_EVERY, pytest.param(1, marks=_SOAK)])
@pytest.mark.parametrize(
    "verb", ["start-new", "restart-rm", "remove-force", "commit", "stop-restarting", "pause"]
)
def test_a_verb_that_is_cut_short(loaded: Engine, tmp_path: Path, verb: str, mode: str, every: int) -> None:
    loaded.close()
    found = [
        (at, where, wrong)
        for at, where, wrong in steps.walk(
            tmp_path / "root", tmp_path / "state", verb, mode, every, every // 2 + 1
        )
        if wrong
    ]
    assert found == []
