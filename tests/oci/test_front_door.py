"""How the front door finds its Python, and that nothing of the caller's environment decides which."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.oci.bundles import FRONT_DOOR

# It prints what it was called with, one word a line.
SHOWS = '#!/bin/sh\necho "$0"\nfor word; do case "$word" in import*) ;; *) echo "$word";; esac; done\n'


@pytest.fixture
def front_door(tmp_path: Path) -> Path:
    """A front door that was installed in an empty directory."""
    path = tmp_path / "bin/pyrunc-oci"
    path.parent.mkdir()
    shutil.copy2(FRONT_DOOR, path)
    return path


def interpreter(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(SHOWS)
    path.chmod(0o755)
    return path


def call(front_door: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/nonexistent", "PYTHONPATH": "/nonexistent"}
    return subprocess.run(
        [front_door, *words], check=False, capture_output=True, text=True, env=environment, cwd="/"
    )


def test_the_recorded_interpreter_gets_the_place_of_the_package_and_every_word(front_door: Path) -> None:
    python = interpreter(front_door.parent / "sub/any")
    Path(f"{front_door}.python").write_text(f"{python}\n/where/it is\n")
    done = call(front_door, "--root", "", "new\nline", "ünïcode")
    assert done.stdout.splitlines()[:4] == [str(python), "-I", "-S", "-c"]
    words = [str(front_door), "/where/it is", "--root", "", "new", "line", "ünïcode"]
    assert done.stdout.splitlines()[4:] == words


def test_an_installed_one_takes_the_interpreter_of_the_command_beside_it(front_door: Path) -> None:
    python = interpreter(front_door.parent / "sub/any")
    (front_door.parent / "pyrunc").write_text(f"#!{python}\nimport pyrunc\n")
    done = call(front_door, "features")
    assert done.stdout.splitlines() == [str(python), "-I", "-S", "-c", str(front_door), "", "features"]


@pytest.mark.parametrize("head", [None, "#!python\n", "#!/bin/sh\n'''exec' \"/a path/python\" ...\n"])
def test_else_it_takes_the_python_beside_it(front_door: Path, head: str | None) -> None:
    if head is not None:
        (front_door.parent / "pyrunc").write_text(head)
    python = interpreter(front_door.parent / "python3")
    assert call(front_door, "x").stdout.splitlines()[0] == str(python)


def test_without_any_it_says_which_it_has_looked_for(front_door: Path) -> None:
    done = call(front_door, "state", "x")
    assert done.returncode == 1
    assert done.stderr == (f"pyrunc-oci: cannot execute its Python interpreter {front_door.parent}/python3\n")


def test_a_link_to_it_is_no_other_one(front_door: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere/pyrunc-oci"
    link.parent.mkdir()
    link.symlink_to(front_door)
    interpreter(front_door.parent / "python3")
    assert str(front_door) in call(link, "x").stdout.splitlines()
