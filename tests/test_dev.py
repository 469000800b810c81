"""`./dev` is plain sh, says all that is missing at once, and does nothing twice."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
NOBODY = 65534


def dev(place: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([place / "dev", *arguments], check=False, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def public_copy() -> Iterator[Path]:
    """A copy of what `./dev` reads, where an ordinary user may see it."""
    with tempfile.TemporaryDirectory(prefix="pyrunc-dev-") as path:
        Path(path).chmod(0o755)
        shutil.copy(CHECKOUT / "dev", path)
        yield Path(path)


def test_every_command_is_in_the_usage() -> None:
    usage = dev(CHECKOUT, "help").stdout
    commands = {line.split()[0] for line in usage.splitlines() if line.startswith("    ") and line[4] != " "}
    assert commands == {"hello", "test", "bench", "soak", "vm", "lint", "docs", "build", "wheel"}
    assert dev(CHECKOUT).stdout == usage
    unknown = dev(CHECKOUT, "nonsense")
    assert (unknown.returncode, unknown.stdout, unknown.stderr) == (2, "", usage)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg")
@pytest.mark.parametrize(("command", "root"), [("hello", True), ("test", True), ("build", False)])
def test_without_root_everything_that_is_missing_is_said(public_copy: Path, command: str, root: bool) -> None:
    # dpkg's own switch for another system, in which nothing is installed.
    nothing = public_copy / "dpkg"
    nothing.mkdir(0o755)
    environment = {**os.environ, "DPKG_ADMINDIR": str(nothing)}
    done = dev(public_copy, command, user=NOBODY, group=NOBODY, extra_groups=[], env=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert ("it needs root" in done.stderr) == root
    (install,) = [line for line in done.stderr.splitlines() if "apt-get install" in line]
    assert {"gcc", "libseccomp-dev", "musl-tools", "python3-venv"} < set(install.split())
    assert ("runc" in install.split()) == (command == "test")
    assert sorted(path.name for path in public_copy.iterdir()) == ["dev", "dpkg"]


@pytest.mark.skipif(
    Path(sys.prefix) != CHECKOUT / ".venv", reason="runs by ./dev test, which has done it all"
)
def test_what_is_done_is_not_done_again() -> None:
    program = CHECKOUT / "pyrunc/_native/pyrunc-init"
    before = program.stat().st_mtime_ns
    done = dev(CHECKOUT, "build")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert program.stat().st_mtime_ns == before
