"""`pyrunc system check` tells what a damaged store has lost, and whom it concerns."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc.cli.main import main
from pyrunc.engine.engine import Engine
from tests.cli import samples

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root(tmp_path: Path, busybox: Path) -> Path:
    """A root with alpha:1, beta:latest and its other names, and a container of beta."""
    samples.write(tmp_path, busybox)
    with Engine(tmp_path / "root") as engine:
        engine.images.load(tmp_path / "alpha.tar")
        engine.images.load(tmp_path / "beta.tar")
        engine.run("beta", ["sh", "-c", "echo > /kept"], name="one", remove=False)
    return tmp_path / "root"


@pytest.fixture
def check(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run it; its exit code and what it says."""

    def run(*flags: str) -> tuple[int, str]:
        code = main(["--root", str(root), "system", "check", *flags])
        out, err = capsys.readouterr()
        assert err == ""
        return code, out

    return run


def layers(root: Path, name: str) -> list[str]:
    with Engine(root) as engine:
        return [
            layer.digest for layer in engine._parts.images.manifest(engine._parts.images.get(name)).layers
        ]


def blob(root: Path, digest: str) -> Path:
    return root / "content/blobs/sha256" / digest.removeprefix("sha256:")


def test_a_whole_store_is_told_so(check: Callable[..., tuple[int, str]]) -> None:
    code, out = check()
    assert code == 0
    assert out.endswith(" are whole; nothing is lost\n")
    assert check("-q") == (0, "")


def test_flipped_cut_and_missing_blobs_are_told_with_whom_they_concern_and_healed_by_loading(
    root: Path, check: Callable[..., tuple[int, str]]
) -> None:
    for damage in ("flipped", "cut", "missing"):
        digest = layers(root, "beta")[-1]
        file = blob(root, digest)
        file.chmod(0o600)
        if damage == "flipped":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        elif damage == "cut":
            os.truncate(file, file.stat().st_size - 1)
        else:
            file.unlink()
        code, out = check()
        assert code == 1
        first, *_, names, containers, last = out.splitlines()
        assert first.startswith("missing: " if damage == "missing" else "damaged: ") and digest in first
        assert names.startswith("    names: ") and "docker.io/library/beta:latest" in names
        assert "docker.io/library/alpha:1" in names  # they share the layer
        assert containers.startswith("    containers: ")
        assert last.endswith(" are whole; 1 problem")
        assert check("-q") == (1, f"{digest}\n")
        with Engine(root) as engine:
            engine.images.load(root.parent / "beta.tar")
        assert check()[0] == 0


def test_lost_files_of_a_snapshot_are_told(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    with Engine(root) as engine:
        driver = engine._parts.snapshotter.name
        (container,) = engine.containers.list(all=True)
    numbers = sorted(
        int(path.name) for path in (root / "snapshots" / driver).iterdir() if path.name.isdigit()
    )
    shutil.rmtree(root / "snapshots" / driver / str(numbers[-1]))
    code, out = check()
    assert code == 1
    assert "cannot be mounted" in out
    assert f"    containers: {container.id[:12]}\n" in out


def test_a_damaged_database_is_told_and_the_blobs_are_read_all_the_same(
    root: Path, check: Callable[..., tuple[int, str]]
) -> None:
    damaged = blob(root, layers(root, "beta")[-1])
    os.truncate(damaged, 10)
    (root / "images.db").write_bytes(b"this is no database" * 1000)
    code, out = check()
    assert code == 1
    assert "images.db is damaged" in out
    assert damaged.name in out
    assert out.endswith("; 2 problems\n")
