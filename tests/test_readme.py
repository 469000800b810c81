"""The README's section about images does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start containers")


def block(language: str) -> str:
    """The first block of *language* in the section."""
    section = README.read_text().partition("\n## Images\n")[2].partition("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Path:
    """A directory with the shell's session behind it, and what that said in `told`."""
    place = tmp_path_factory.mktemp("readme")
    programs = place / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "busybox").symlink_to(busybox)
    (programs / "pyrunc").write_text(f'#!/bin/sh\nexec {sys.executable} -m pyrunc "$@"\n')
    (programs / "pyrunc").chmod(0o755)
    (place / "told").write_text(run(place, "sh", "-euc", block("sh")))
    return place


def run(place: Path, *command: str) -> str:
    root = place / f"root-{Path(command[0]).name}"
    environment = {**os.environ, "PYTHONPATH": str(README.parent), "PYRUNC_ROOT": str(root)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_the_shell_session(place: Path) -> None:
    told = (place / "told").read_text()
    assert "Hello from a container" in told
    assert "A /greeting\nsha256:" in told and "\nhello\nsha256:" in told
    assert re.search(r"^greeting:1 [0-9.]+MB$", told, re.MULTILINE)
    assert re.search(r"^flat:1 [0-9.]+MB$", told, re.MULTILINE)
    assert '["busybox","cat","/greeting"]\nfirst\nUntagged: greeting:1\n' in told
    assert (place / "both.tar.gz").stat().st_size > 1000


def test_the_python_session(place: Path) -> None:
    told = run(place, sys.executable, "-W", "error", "-c", block("python")).splitlines()
    assert told[:2] == [r"0 b'1000\nhello\n'", "[('A', '/file')]"]
    assert told[2] == "[('made:1',), ('tools:latest',)]"
