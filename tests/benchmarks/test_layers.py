"""The comparison of layer appliers, on an archive of a few files."""

import os
from pathlib import Path

import pytest

from benchmarks import layers
from tests.tars import tar


@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
def test_all_contenders_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar(("a", "content"), ("b", "x" * 100_000)))
    assert layers.main(["--rounds", "2", "--archive", str(archive), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "out/layers.md").read_text() == text[:-1]
    for name in layers.CONTENDERS:
        assert text.count(f"| {name} |") == 2
    assert text.count("| yes |") + text.count("| **no** |") == len(layers.GOALS)


def test_goals_are_ratios_of_what_was_measured(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.touch()
    costs = {
        "plain": {
            name: layers.Cost(1.0, cpu, cpu)
            for name, cpu in zip(layers.CONTENDERS, (1.2, 1.5, 1.0, 3.0), strict=True)
        }
    }
    text = layers.markdown(costs, {"plain": archive}, "a test")
    assert "| CPU, applied / GNU tar | 1.30 | 1.20 | yes |" in text
    assert "| CPU, applied / tarfile | 0.33 | 0.40 | **no** |" in text
    assert "wall, gzip" not in text


def test_a_failed_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="applied ended with status"):
        layers.once(layers.applied, tmp_path / "nothing.tar", tmp_path)
