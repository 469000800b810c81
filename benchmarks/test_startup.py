"""How long a program waits for its first container: fresh interpreters, each in a process of its own.

    python -m pytest benchmarks/test_startup.py

The interpreter alone stands beside the others: what pyrunc adds is the difference. Goals, on a quiet machine:
30 ms for `import pyrunc`, 60 ms from a fresh interpreter to the exit of the first container.
Byte code is compiled beforehand, as an installation has it.
"""

import compileall
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.host import make_rootfs

ROUNDS = 21
CASES = {
    "interpreter": "",
    "import": "import pyrunc",
    "import-sandbox": "import pyrunc; pyrunc.Sandbox",
    "import-async-sandbox": "import pyrunc; pyrunc.AsyncSandbox",
    "first-exit": "import pyrunc\nwith pyrunc.Sandbox(ROOTFS) as box: box.run(['/bin/true'])",
    "first-exit-unconfined": (
        "import pyrunc\nwith pyrunc.Sandbox(ROOTFS, seccomp='unconfined') as box: box.run(['/bin/true'])"
    ),
}


@pytest.fixture(scope="module")
def rootfs() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to start containers")
    compileall.compile_dir(Path(__file__).parents[1] / "pyrunc", quiet=1)
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-") as name:
        make_rootfs(Path(name) / "rootfs")
        yield Path(name) / "rootfs"


@pytest.mark.benchmark(group="startup", min_rounds=ROUNDS)
@pytest.mark.parametrize("case", CASES)
def test_startup(benchmark: BenchmarkFixture, rootfs: Path, case: str) -> None:
    source = Path(__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(source)!r}); ROOTFS = {str(rootfs)!r}\n{CASES[case]}"
    command = [sys.executable, "-I", "-c", code]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=ROUNDS, warmup_rounds=2)  # type: ignore[no-untyped-call]
