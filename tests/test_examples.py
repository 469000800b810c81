"""Every example runs as it is shipped, in silence, and prints what it is there to show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import rootfs

EXAMPLES = Path(__file__).parents[1] / "examples"
# What a reader must see; everything that depends on the machine is left open.
SHOWN = {
    "hello_sandbox": r"hello from [0-9a-f]{12}, process 1 of its own world\nexit code 0, \d+ KiB, [\d.]+ ms\n",
    "limits": (
        r"memory: exit code 137, killed for memory: True\n"
        r"processes: wanted more than 50, had (9|10)\n"
        r"time: sh: killed after 2 s; until then it wrote b'working\\n'\n"
        r"refused: memory_bytes must be .*, not -5\n"
    ),
    "parallel": r"200 containers from 8 threads: \d+ a second\n",
    "async_many": r"500 programs that sleep a second: [\d.]+ s, 1 thread\ncancelled: True\n",
    "untrusted_code": (
        r"computes +exit code 0: 42\n"
        r"writes to the root +exit code 1: .*Read-only file system\n"
        r"writes where it may +exit code 0: fine\n"
        r"calls home +exit code 1: .*(unreachable|can't connect).*\n"
        r"looks for the host +exit code 0: 65534 \| sh\n"
        r"wants to be root +exit code 1: .*permission denied.*\n"
        r"never ends +killed after three seconds\n"
    ),
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start containers")


def output(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_what_it_should(name: str) -> None:
    assert re.fullmatch(SHOWN[name], shown := output(name)), shown


def test_an_example_takes_a_root_directory(tmp_path: Path) -> None:
    root = rootfs.make(tmp_path / "root")
    (root / "bin/sh").unlink()
    (root / "bin/sh").write_text("#!/bin/busybox sh\necho elsewhere\n")
    (root / "bin/sh").chmod(0o755)
    assert output("hello_sandbox", str(root)).startswith("elsewhere\n")


def test_examples_are_short_and_all_of_them_are_tested() -> None:
    files = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert files.keys() - SHOWN.keys() <= {"busybox", "hello"}, (
        "hello is ./dev hello, busybox what they share"
    )
    for name in SHOWN:
        assert len(files[name].read_text().splitlines()) <= 60
