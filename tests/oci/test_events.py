"""Statistics in runc's shape, and notifications of the out-of-memory killer."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.oci.live import live, own_part, remove_cgroups
from tests.oci.native import Made
from tests.oci.play import Player, python_player
from tests.oci.test_verbs import log_of
from tests.oci.waiting import until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root


@contextmanager
def events(player: Player, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`events` at work, its lines on a pipe; ended."""
    command = [*player.program, "--root", str(player.root), "events", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def shape(value: Any) -> Any:
    """A document with the kinds of its values in their place."""
    if isinstance(value, dict):
        return {key: shape(member) for key, member in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


@pytest.mark.vm
def test_the_statistics_of_a_container_have_the_shape_of_runcs(tmp_path: Path) -> None:
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    player = python_player(tmp_path)
    runc = Player(["runc"], "runc", tmp_path / "theirs", player.cgroup)
    runc.work.mkdir()
    try:
        runc.play("% bundle box")
        assert runc.run("run", "-d", "-b", "box", "box") == (0, "", "")
        state = json.loads(runc.run("state", "box")[1])
        Made(player.root, "box", state["pid"], **own_part(f"{player.cgroup}/box"))
        for _ in range(2):
            theirs = json.loads(runc.run("events", "--stats", "box")[1])
            ours = json.loads(player.run("events", "--stats", "box")[1])
        newer = json.loads(json.dumps(ours))
        for member in ("cpu", "memory", "blkio"):
            newer["data"][member].pop("psi", None)
        if "max" not in theirs["data"]["memory"]["usage"]:
            # Of cgroup v2, from Linux 5.19 on, which runc 1.1 does not look for.
            newer["data"]["memory"]["usage"].pop("max", None)
        assert shape(newer) == shape(theirs)
        assert list(ours["data"]) == list(theirs["data"])
        assert ours["data"]["memory"]["usage"]["limit"] == theirs["data"]["memory"]["usage"]["limit"]
        assert ours["data"]["cpuset"] == theirs["data"]["cpuset"]
        assert ours["data"]["pids"] == theirs["data"]["pids"] == {"current": 1}
        assert ours["data"]["cpu"]["usage"]["total"] >= theirs["data"]["cpu"]["usage"]["total"] > 0
    finally:
        runc.run("delete", "--force", "box")
        remove_cgroups(player.cgroup)


@pytest.mark.vm
def test_statistics_count_what_the_container_uses(tmp_path: Path) -> None:
    command = "x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo; sleep 1000 & while :; do sleep 1000; done"
    with live(tmp_path, command) as box:
        assert box.run("update", "--memory", "256m", "--pids-limit", "33")[0] == 0
        processes = box.file("cgroup.procs")
        until(lambda: len(processes.read_text().split()) == 3, "not all have begun")
        event = json.loads(box.run("events", "--stats")[1])
        assert (event["type"], event["id"]) == ("stats", "box")
        data = event["data"]
        assert data["pids"] == {"current": 3, "limit": 33}
        assert data["memory"]["usage"]["limit"] == 256 << 20
        assert 8_000_000 < data["memory"]["usage"]["usage"] < 256 << 20
        assert data["cpu"]["usage"]["total"] > 0 and data["network_interfaces"] is None


def test_statistics_come_at_the_interval_until_the_container_ends(tmp_path: Path) -> None:
    with live(tmp_path) as box, events(box.player, "--interval", "20ms", "box") as process:
        assert process.stdout is not None
        for _ in range(3):
            assert json.loads(process.stdout.readline())["type"] == "stats"
        os.kill(box.pid, signal.SIGKILL)
        assert process.wait(timeout=60) == 0


@pytest.mark.vm
def test_a_kill_for_want_of_memory_is_told(tmp_path: Path) -> None:
    greedy = "echo; read x; head -c 100000000 /dev/zero | tail -c 100000000 > /dev/null; exec sleep 1000"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with live(tmp_path, greedy.replace("read x", f"read x < {fifo}")) as box:
        assert box.run("update", "--memory", "32m", "--memory-swap", "32m")[0] == 0
        with events(box.player, "--interval", "10ms", "box") as process:
            assert process.stdout is not None
            # It watches when its first statistics are there.
            assert json.loads(process.stdout.readline())["type"] == "stats"
            fifo.write_text("\n")
            for line in process.stdout:
                event = json.loads(line)
                if event["type"] == "oom":
                    break
            assert event == {"type": "oom", "id": "box"}


def test_the_end_of_its_cgroup_is_no_kill_for_want_of_memory(tmp_path: Path) -> None:
    """cgroup v1 notifies both alike; whoever is slow finds the container ended and its cgroup gone at once."""
    with live(tmp_path) as box, events(box.player, "--interval", "20ms", "box") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "stats"
        process.send_signal(signal.SIGSTOP)
        assert box.run("delete", "--force") == (0, "", "")
        time.sleep(0.2)  # the kernel notifies in its own time
        process.send_signal(signal.SIGCONT)
        assert "oom" not in {json.loads(line)["type"] for line in process.stdout}
        assert process.wait(timeout=60) == 0


def test_ctrl_c_ends_it_as_it_ends_any_program(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        command = [*box.player.program, "--root", str(box.player.root), "events", "--interval", "10ms", "box"]
        # A job in the background would ignore the signal.
        interruptible = ["env", "--default-signal=INT", *command]
        process = subprocess.Popen(interruptible, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (-signal.SIGINT, "")


def test_an_interval_must_be_positive(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        assert log_of(box.run("events", "--interval", "0s")) == "duration interval must be greater than 0"
