"""With a planner and without one: the same container, the same words, and in the first case no Python."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.oci import bundles
from tests.oci.native import PYTHON, install
from tests.oci.planning import await_end, forget_cgroups
from tests.oci.starting import start_planner
from tests.oci.waiting import until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not bundles.FRONT_DOOR.exists(),
    reason="needs root and a checkout that was built in place",
)

LOOK = """
grep -E '^(Cap|NoNewPrivs|Seccomp|Umask|Sig|Groups|Uid|Gid)' /proc/self/status
cut -d' ' -f4- /proc/self/mountinfo
cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj
env; id; hostname; pwd; ls /proc/self/fd; ls -l /dev; echo "$0" >&2
exit 7
"""


class Planned(NamedTuple):
    """A front door with a planner of its own in *directory*; what it leaves to Python fails."""

    front_door: Path
    directory: Path


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Planned]:
    front_door = install(tmp_path / "installed")
    directory = tmp_path / "planner"
    pid = start_planner(front_door, directory)
    yield Planned(front_door, directory)
    os.kill(pid, signal.SIGKILL)
    await_end(pid)
    forget_cgroups()


def warm(
    oci: bundles.Runtime, planned: Planned, *words: object, **more: Any
) -> "subprocess.CompletedProcess[str]":
    """Call the front door that has a planner and no Python, on *oci*'s root, until its planner is in time."""
    line = [str(planned.front_door), "--root", str(oci.root), *map(str, words)]
    environment = {**os.environ, "PYRUNC_OCI_PLANNER": str(planned.directory)}
    done: list[subprocess.CompletedProcess[str]] = []

    def in_time() -> bool:
        done.append(
            subprocess.run(
                line, check=False, text=True, env=environment, stdin=subprocess.DEVNULL, timeout=120,
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
            )
        )  # fmt: skip
        return done[-1].returncode != PYTHON

    until(in_time, lambda: done[-1])
    return done[-1]


def test_a_program_finds_the_same_and_its_end_is_the_same(
    oci: bundles.Runtime, planned: Planned, tmp_path: Path
) -> None:
    path = oci.bundle(tmp_path / "b", ["/bin/sh", "-c", LOOK, "name"], cwd="/tmp")
    cold = oci.call("run", "--bundle", path, oci.id, code=7, cwd=tmp_path)
    done = warm(oci, planned, "run", "--bundle", "b", oci.id, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (7, cold.stderr)
    # How many signals wait is counted for all processes of the user.
    ours, theirs = (re.sub(r"SigQ:.*", "", text) for text in (done.stdout, cold.stdout))
    assert ours == theirs
    assert "CapEff" in done.stdout


def test_the_states_of_a_container_are_the_same(
    oci: bundles.Runtime, planned: Planned, tmp_path: Path
) -> None:
    path = oci.bundle(tmp_path / "b", ["/bin/sleep", "1000"])

    def state() -> str:
        done = warm(oci, planned, "state", oci.id)
        assert done.returncode == 0
        return re.sub(r'"created": "[^"]+"', "", re.sub(r'"pid": [1-9]\d*', "", done.stdout))

    def life() -> list[str]:
        found = [state()]
        assert warm(oci, planned, "start", oci.id).returncode == 0
        found.append(state())
        assert warm(oci, planned, "kill", oci.id, "KILL").returncode == 0
        oci.wait("stopped")
        found.append(state())
        assert warm(oci, planned, "delete", oci.id).returncode == 0
        return found

    oci.call("create", "--bundle", path, oci.id)
    cold = life()
    assert not oci.directory.exists()
    # Its streams are the container's, which a pipe's reader would wait for.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert warm(oci, planned, "create", "--bundle", path, oci.id, **quiet).returncode == 0
    assert life() == cold


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"ociVersion": "1.0.2"}'),
        ("config.json", '{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"args": 7}}'),
        ("none", ""),
    ],
)
def test_what_is_wrong_with_a_bundle_is_told_in_the_same_words(
    oci: bundles.Runtime, tmp_path: Path, file: str, text: str
) -> None:
    (tmp_path / file).write_text(text)
    cold = oci.call("create", "--bundle", tmp_path, oci.id, code=1)
    directory = tmp_path / "planner"
    pid = start_planner(bundles.FRONT_DOOR, directory)
    try:
        oci.environment["PYRUNC_OCI_PLANNER"] = str(directory)
        done = oci.call("create", "--bundle", tmp_path, oci.id, code=1)
    finally:
        oci.environment["PYRUNC_OCI_PLANNER"] = "0"
        os.kill(pid, signal.SIGKILL)
        await_end(pid)
        forget_cgroups()
    when = re.compile(r'time="[^"]*"')
    assert when.sub("", done.stderr) == when.sub("", cold.stderr) != ""
    assert done.stdout == cold.stdout


def test_a_warning_is_told_with_a_planner_too(oci: bundles.Runtime, tmp_path: Path) -> None:
    path = oci.bundle(tmp_path / "b", ["/bin/true"], capabilities={"bounding": ["CAP_KILL", "CAP_NOPE"]})
    cold = oci.call("run", "--bundle", path, oci.id)
    directory = tmp_path / "planner"
    pid = start_planner(bundles.FRONT_DOOR, directory)
    try:
        oci.environment["PYRUNC_OCI_PLANNER"] = str(directory)
        done = oci.call("run", "--bundle", path, oci.id)
    finally:
        oci.environment["PYRUNC_OCI_PLANNER"] = "0"
        os.kill(pid, signal.SIGKILL)
        await_end(pid)
        forget_cgroups()
    assert "CAP_NOPE" in cold.stderr
    when = re.compile(r'time="[^"]*"')
    assert when.sub("", done.stderr) == when.sub("", cold.stderr)
