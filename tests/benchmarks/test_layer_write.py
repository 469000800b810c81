"""All contenders of the benchmark write the whole tree."""

from pathlib import Path

from benchmarks.layer_write import measure


def test_every_contender_writes_the_tree(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    rows = measure(tmp_path, rounds=1)
    assert [row.size > 100_000 for row in rows] == [False, True, True, True, True, True]
    assert rows[1].size == rows[2].size
    assert all(row.cpu_s > 0 for row in rows)
