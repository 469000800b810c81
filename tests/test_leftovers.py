"""The plugin that watches the host sees what it is for, and only that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyrunc._native import mount, namespaces
from tests import leftovers
from tests.child import in_child

_ROOT = Path(__file__).parent.parent


def session(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """A pytest session of one test, in namespaces of its own, so that what it leaves is not left here."""
    (tmp_path / "test_it.py").write_text(f"import os, subprocess\ndef test_it(tmp_path):\n    {body}\n")
    result: list[subprocess.CompletedProcess[str]] = []
    reading, writing = os.pipe()

    def run() -> None:
        mount.mount(b"tmpfs", b"/mnt", b"tmpfs")
        mount.mount(b"tmpfs", b"/run", b"tmpfs")
        Path("/run/pyrunc").mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "tests.leftovers", "-p", "no:cacheprovider",
             "--leftovers-wait-s=1", f"--basetemp={tmp_path / 'base'}", "-c", "/dev/null",
             str(tmp_path / "test_it.py")],
            cwd=_ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        os.write(writing, f"{done.returncode}\n{done.stdout[-3000:]}{done.stderr[-500:]}".encode())

    in_child(run, namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET)
    os.close(writing)
    with open(reading) as pipe:
        code, _, text = pipe.read().partition("\n")
    result.append(subprocess.CompletedProcess([], int(code), text, ""))
    return result[0]


def test_a_session_that_leaves_nothing_passes(tmp_path: Path) -> None:
    done = session(tmp_path, "pass")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("os.mkdir('/mnt/left')", "left: path /mnt/left"),
        ("subprocess.Popen(['sleep', '20'], start_new_session=True)", "left: process"),
        ("os.mkdir('/run/pyrunc/' + 'f' * 64)", "left: path /run/pyrunc/ffff"),
        ("os.makedirs(tmp_path / 'state' / ('f' * 64) / 'attach')", "left: state of a container"),
        ("subprocess.run(['mount', '-t', 'tmpfs', 'x', '/mnt'], check=True)", "left: mount /mnt"),
        ("subprocess.run(['mount', '-t', 'tmpfs', 'x', '/dev'], check=True)", "gone: device /dev/null"),
    ],
)
def test_what_is_left_fails_the_session(tmp_path: Path, body: str, told: str) -> None:
    done = session(tmp_path, body)
    assert done.returncode == 1, done.stdout
    assert told in done.stdout


def test_cgroups_are_seen() -> None:
    name = f"pyrunc-safety-{os.getpid()}-seen"
    place = next(path for path in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if path.is_dir())
    (place / name).mkdir()
    try:
        assert f"cgroup {place / name}" in set(leftovers.cgroups())
    finally:
        (place / name).rmdir()
    assert f"cgroup {place / name}" not in set(leftovers.cgroups())
