"""Starts that do not come to their end: a runtime that hangs, and a starter that is killed at any moment."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc.drivers import registry
from tests.drivers.exec.conftest import Pyrunc, image, needs
from tests.drivers.exec.test_life import command_lines, processes_with
from tests.drivers.exec.test_runtimes import cgroups_of
from tests.safety.support import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def slow(tmp_path: Path, busybox: Path) -> Iterator[Pyrunc]:
    """Containers of runc, each verb of which takes a while."""
    needs("runc")
    program = tmp_path / "slow"
    program.write_text(
        f'#!/bin/sh\nsleep "$(cat {tmp_path}/pause)"\nexec {registry.exec_driver("runc").path} "$@"\n'
    )
    program.chmod(0o755)
    (tmp_path / "pause").write_text("0")
    found = Pyrunc(tmp_path, str(program))
    found("import", "-", "tools", stdin=image(busybox))
    yield found
    (tmp_path / "pause").write_text("0")
    ids = found("ps", "-aq", "--no-trunc").stdout.split()
    found.end()
    assert [entry for entry in os.listdir(found.state) if len(entry) == 64] == []
    assert [path for each in ids for path in cgroups_of(each)] == []
    assert processes_with(str(tmp_path)) == []


def test_a_runtime_that_hangs_is_late(slow: Pyrunc, tmp_path: Path) -> None:
    (tmp_path / "pause").write_text("600")
    slow.python("""
    from pyrunc.errors import TimedOut
    try:
        engine.start("tools", ["sleep", "600"], name="one", host_config=runtime, create_timeout_s=2)
    except TimedOut as late:
        assert "start" in str(late), late
    else:
        raise AssertionError
    """)
    assert slow("ps", "-aq").stdout == ""


def killed_in_create(slow: Pyrunc, tmp_path: Path) -> None:
    """The starter of `one` is killed while its runtime creates it, which it does for a long time."""
    (tmp_path / "pause").write_text("600")
    with slow.begun(
        "run", "-d", "--runtime", slow.runtime, "--name", "one", "tools", "sleep", "600"
    ) as command:
        assert wait_until(lambda: is_being_created(slow))
        command.send_signal(signal.SIGKILL)


def is_being_created(slow: Pyrunc) -> bool:
    """Whether there is a monitor, which has the runtime create a container."""
    states = os.listdir(slow.state) if slow.state.is_dir() else []
    return any(Path(slow.state, name, "running").exists() for name in states)


def test_one_that_is_still_being_created_is_removed(slow: Pyrunc, tmp_path: Path) -> None:
    killed_in_create(slow, tmp_path)
    assert slow("ps", "-a", "--format", "{{.State}}").stdout == "created\n"
    slow("rm", "-f", "one")
    assert slow("ps", "-aq").stdout == ""


def test_nobody_joins_the_process_that_creates_another(slow: Pyrunc, tmp_path: Path) -> None:
    """It is in the host's namespaces."""
    killed_in_create(slow, tmp_path)
    refused = slow("run", "--rm", "--network", "container:one", "tools", "true", code=125)
    assert "cannot join network of a non running container" in refused.stderr


@pytest.mark.parametrize("after_s", [0, 0.1, 0.3, 0.5, 0.8])
def test_its_starter_is_killed(slow: Pyrunc, tmp_path: Path, after_s: float) -> None:
    """It runs or it does not; it can be removed, and nothing of it is left."""
    (tmp_path / "pause").write_text("0.3")
    with slow.begun(
        "run", "-d", "--runtime", slow.runtime, "--name", "one", "tools", "sleep", "600"
    ) as command:
        assert wait_until(  # the start has begun
            lambda: slow.state.is_dir() and any(len(entry) == 64 for entry in os.listdir(slow.state))
        )
        time.sleep(after_s)
        command.send_signal(signal.SIGKILL)
    (tmp_path / "pause").write_text("0")

    def at_rest() -> bool:
        busy = any(str(tmp_path) in line for line in command_lines())
        state = slow("ps", "-a", "--format", "{{.State}}").stdout.strip()
        return state in ("", "running", "exited") or (state == "created" and not busy)

    assert wait_until(at_rest)


def test_its_starter_is_killed_and_the_start_fails(slow: Pyrunc, tmp_path: Path) -> None:
    (tmp_path / "pause").write_text("2")
    with slow.begun("run", "-d", "--runtime", slow.runtime, "--name", "one", "tools", "nosuch") as command:
        assert wait_until(lambda: is_being_created(slow))
        command.send_signal(signal.SIGKILL)
    shown = ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", "one")
    killed = "created 128 the process that started it was killed\n"
    assert wait_until(lambda: slow(*shown).stdout == killed), slow(*shown)
    assert slow("logs", "one").stderr == ""


def test_a_program_whose_runtime_hangs(slow: Pyrunc, tmp_path: Path) -> None:
    slow.made("run", "-d", "--name", "one", "--", "sleep", "600")
    (tmp_path / "pause").write_text("2")
    body = 'print("up", flush=True); engine.containers.get("one").exec(["sleep", "655"])'
    with slow.python_process(body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert wait_until(
            lambda: any(f"{slow.runtime} " in line and " exec " in line for line in command_lines())
        )
        process.send_signal(signal.SIGKILL)
    (tmp_path / "pause").write_text("0")
    # Whoever is still about to start it, and what was started.
    assert wait_until(lambda: not any(slow.runtime in line and " exec " in line for line in command_lines()))
    assert wait_until(lambda: "655" not in slow("top", "one", "-eo", "pid,args").stdout)
