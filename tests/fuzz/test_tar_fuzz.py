"""Mutated archives, under AddressSanitizer and UndefinedBehaviorSanitizer too, stay inside their root."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import tar_mutants

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
NATIVE = CHECKOUT / "pyrunc" / "_native"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
Fuzz = Callable[[int, int], dict[str, int]]


def check(outcomes: dict[str, int], count: int) -> None:
    """All were judged, and neither nearly none nor nearly all were applied."""
    assert sum(outcomes.values()) == count
    assert count / 20 < outcomes["applied"] < count * 0.8
    assert outcomes["refused"] > count / 20


def build(directory: Path, replace: tuple[str, str, str] | None = None) -> Path:
    """Build the applier with sanitizers; *replace* is (file, text, text instead)."""
    package = directory / "pyrunc" / "_native"
    shutil.copytree(NATIVE, package, ignore=shutil.ignore_patterns("*.so", "*.c", "*.h", "pyrunc-init*"))
    (package.parent / "__init__.py").touch()
    if replace is not None:
        name, text, instead = replace
        source = package / name
        assert text in source.read_text()
        source.write_text(source.read_text().replace(text, instead))
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", "pyrunc/_native/layer_apply.pyx"], check=True, cwd=directory
    )
    target = directory / "layer_apply.abi3.so"
    built = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-g", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         "-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_paths()['include']}", "-o", target,
         package / "layer_apply.c"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "cannot find" in built.stderr:
        pytest.skip("gcc has no AddressSanitizer here")
    assert built.returncode == 0, built.stderr
    return target


def run(module: Path, count: int, seed: int) -> dict[str, int]:
    """Apply mutants in a process of its own with *module*; AssertionError if a sanitizer finds something."""
    # Roots go beside the module: a process that a sanitizer ends leaves its own.
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.tar_mutants", str(count), str(seed), str(module)],
        capture_output=True, text=True, cwd=CHECKOUT, check=False,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "LD_PRELOAD": library.stdout.strip(),
             "TMPDIR": str(module.parent), "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16"},
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    outcomes: dict[str, int] = ast.literal_eval(done.stdout)
    return outcomes


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    module = build(tmp_path_factory.mktemp("tar-fuzz"))
    return lambda count, seed: run(module, count, seed)


def test_mutants_stay_inside_their_root() -> None:
    check(tar_mutants.run(600, 1), 600)


def test_mutants_stay_inside_their_memory(fuzz: Fuzz) -> None:
    check(fuzz(600, 2), 600)


@pytest.mark.soak
def test_many_mutants_stay_inside_their_memory(fuzz: Fuzz) -> None:
    for seed in range(3, 23):
        outcomes = fuzz(10_000, seed)
        print(f"seed {seed}: {outcomes}")
        check(outcomes, 10_000)


def test_a_missing_check_is_found(tmp_path: Path) -> None:
    module = build(
        tmp_path, ("tar_text.pxd", "length > size - start or length < used + 3", "length < used + 3")
    )
    with pytest.raises(AssertionError, match="Sanitizer"):
        run(module, 600, 1)
