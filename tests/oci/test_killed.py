"""Whoever is killed at any instant: `delete --force` clears what is left."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oci.observe import places
from tests.oci.runtime import Runtime, unique_id
from tests.oci.waiting import until
from tests.runtime.cgroup_support import needs_root
from tests.safety import stepper

pytestmark = needs_root
Bundle = Callable[..., Path]
# The shell waits for a line before it becomes the runtime: until then it can be seized.
_WAITING = 'read line && exec "$0" "$@"'


def waiting(runtime: Runtime, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
    """A process that becomes the command line *words* once it is given a line."""
    with open(runtime.root.parent / "words", "ab") as said:
        return subprocess.Popen(
            ["sh", "-c", _WAITING, *runtime.command(*words)], stdin=subprocess.PIPE, stdout=said, stderr=said,
            env={**os.environ, **environment},
        )  # fmt: skip


def begin(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def close(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def members(name: str) -> list[int]:
    """The processes of a container, by its cgroups."""
    found: set[int] = set()
    for place in places(name):
        try:
            found.update(int(pid) for pid in Path(place, "cgroup.procs").read_text().split())
        except FileNotFoundError:
            continue
    return sorted(found)


def cleared(runtime: Runtime, name: str, where: object) -> None:
    """`delete --force` succeeds, and neither state nor cgroup nor process is left."""
    result = runtime("delete", "--force", name, code=None)
    assert result.code == 0 and "Traceback" not in result.err, (where, result)
    assert not (runtime.root / name).exists(), where
    assert places(name) == [], where
    again = runtime("state", name, code=1)
    assert "does not exist" in again.err, (where, again)


def steps(most: int) -> list[int]:
    """System calls to be killed at: each of the first, then ever fewer."""
    found, step = [], 1
    while step < most:
        found.append(step)
        step += 1 + step // 8
    return found


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_create_that_is_killed(runtime: Runtime, bundle: Bundle, verb: str) -> None:
    runtime.root.mkdir(parents=True)
    name = unique_id()
    path = bundle(name, "/bin/sleep", "1000", linux__cgroupsPath=f"/{name}")
    runtime.made.append(name)
    for count in steps(6000):
        process = waiting(runtime, verb, "--bundle", str(path), name, PYRUNC_OCI_PLANNER="0")
        done = stepper.kill_at(process.pid, count, lambda process=process: begin(process))  # type: ignore[misc]
        close(process)
        cleared(runtime, name, (verb, count))
        if done < count:
            break


def prepared(runtime: Runtime, path: Path, name: str, verb: str) -> None:
    """Bring a container to where *verb* is due."""
    runtime.create(path, name=name)
    if verb != "start":
        runtime("start", name)
    if verb == "delete":
        runtime("kill", name, "KILL")
        runtime.wait(name, "stopped")


@pytest.mark.parametrize(
    ("verb", "more"),
    [("start", []), ("kill", ["KILL"]), ("delete", []), ("exec", ["/bin/true"]), ("pause", [])],
)
def test_a_verb_that_is_killed(runtime: Runtime, bundle: Bundle, verb: str, more: list[str]) -> None:
    name = unique_id()
    path = bundle(name, "/bin/sleep", "1000", linux__cgroupsPath=f"/{name}")
    for count in steps(4000)[:: 4 if verb in ("exec", "pause") else 1]:
        prepared(runtime, path, name, verb)
        process = waiting(runtime, verb, name, *more, PYRUNC_OCI_PLANNER="0")
        done = stepper.kill_at(process.pid, count, lambda process=process: begin(process))  # type: ignore[misc]
        close(process)
        cleared(runtime, name, (verb, count))
        if done < count:
            break


def test_creates_that_are_killed_at_random(runtime: Runtime, bundle: Bundle) -> None:
    """With the planner too, and however far init has come."""
    name = unique_id()
    path = bundle(name, "/bin/sleep", "1000", linux__cgroupsPath=f"/{name}")
    runtime.made.append(name)
    chance = random.Random(3)
    runtime.root.mkdir(parents=True)
    for number in range(40):
        process = waiting(runtime, "create", "--bundle", str(path), name)
        begin(process)
        time.sleep(chance.random() * 0.06)
        process.send_signal(signal.SIGKILL)
        close(process)
        cleared(runtime, name, number)


def test_an_init_that_is_killed(runtime: Runtime, bundle: Bundle) -> None:
    """Before its start, while it runs, and while it is frozen."""
    name = unique_id()
    path = bundle(name, "/bin/sleep", "1000", linux__cgroupsPath=f"/{name}")
    for verbs in ([], ["start"], ["start", "pause"]):
        runtime.create(path, name=name)
        for verb in verbs:
            runtime(verb, name)
        pid = runtime.state(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        if "pause" in verbs:
            assert runtime.state(name)["status"] in ("paused", "stopped")
        else:
            assert runtime.wait(name, "stopped")["pid"] == 0
            result = runtime("start", name, code=1)
            assert "stopped" in result.err, result
            result = runtime("kill", name, "KILL", code=1)
            assert "container not running" in result.err, result
        cleared(runtime, name, verbs)


def test_a_supervisor_that_is_killed_takes_its_program_along(runtime: Runtime, bundle: Bundle) -> None:
    """`run` in the foreground: its container is there until it is deleted, as runc's is."""
    name = unique_id()
    path = bundle(name, "/bin/sleep", "1000", linux__cgroupsPath=f"/{name}")
    runtime.made.append(name)
    runtime.root.mkdir(parents=True)
    process = waiting(runtime, "run", "--bundle", str(path), name)
    begin(process)
    until(lambda: not runtime("state", name, code=None).code, "it does not begin")
    runtime.wait(name, "running")
    process.send_signal(signal.SIGKILL)
    close(process)
    assert runtime.state(name)["status"] in ("running", "stopped")
    cleared(runtime, name, "run")
    assert members(name) == []
