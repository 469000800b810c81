"""Every example runs as it is, in an interpreter of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make namespaces and cgroups")


def run(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, path],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def table(text: str) -> dict[str, str]:
    """Return the rows of a table, by their first column."""
    return {name.strip(): value for name, value in re.findall(r"^  (\S.{20}) {2}(\S.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs_and_says_something(path: Path) -> None:
    assert run(path)


def test_hello_shows_the_isolation_that_is_docker_s_default() -> None:
    isolation, _, stages = run(EXAMPLES / "hello.py").partition("How long each stage took:")
    seen = table(isolation)
    own = set(seen["namespaces of its own"].split(", "))
    assert own == {"cgroups", "IPC", "mounts", "network", "processes", "host name"}
    assert seen["shared with the host"] == "users"
    assert seen["process"] == "pid 1, user 0, group 0"
    assert seen["network interfaces"] == "lo"
    assert seen["root"].startswith("overlay, writable")
    assert seen["capabilities"].startswith("14 of 41: ")
    assert seen["seccomp"] == "a filter judges every system call"
    assert "/proc/" in seen["masked"]
    assert "/proc/sys" in seen["read-only"].split(", ")
    assert {"request", "clone", "mounts", "program", "together"} <= table(stages).keys()
