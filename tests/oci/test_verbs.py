"""The verbs in Python, on a process in cgroups of its own."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.oci.live import cgroup_directories, live
from tests.oci.native import started
from tests.oci.play import python_player
from tests.oci.waiting import until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
_STUBBORN = "trap '' TERM; echo; while :; do sleep 1000; done"


def ended(pid: int) -> bool:
    """Whether a child of ours is a zombie by now, waited for a while."""
    until(lambda: ended_now(pid), "it lives")
    return True


def log_of(answer: tuple[int, str, str]) -> str:
    """The message of the line that a verb logged."""
    code, out, err = answer
    assert code == 1 and not out, answer
    return err.partition('msg="')[2].rstrip("\n").removesuffix('"')


def test_state_says_what_is_true_now(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        assert box.run("state") == (
            0,
            box.made.expected("running").replace("<&>", "\\u003c\\u0026\\u003e"),
            "",
        )
        with box.made.waiting():
            assert box.status() == "running", "who started it was killed before it could take the socket away"
        os.unlink(box.made.directory / "start")
        os.kill(box.pid, signal.SIGKILL)
        assert ended(box.pid)
        state = json.loads(box.run("state")[1])
        assert (state["status"], state["pid"]) == ("stopped", 0)


def test_a_process_with_another_start_time_is_not_the_container(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        box.made.own["start_time"] = started(box.pid) - 1
        box.made.write()
        assert box.status() == "stopped"
        assert log_of(box.run("kill")) == "container not running"
        assert log_of(box.run("pause")) == "container not running"
        assert log_of(box.run("update", "--pids-limit", "3")) == "container not running"
        assert log_of(box.run("events", "--stats")) == "container with id box is not running"
        assert not ended_now(box.pid)


def ended_now(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.vm
def test_pause_stops_every_process_and_resume_lets_them_go_on(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    command = f"echo 0 > {counter}; echo; i=0; while :; do i=$((i+1)); echo $i > {counter}; sleep 0.01; done"
    with live(tmp_path, command) as box:
        assert log_of(box.run("resume")) == "container not paused"
        assert box.run("pause") == (0, "", "")
        assert box.status() == "paused"
        before = counter.read_text()
        time.sleep(0.2)
        assert counter.read_text() == before
        assert log_of(box.run("pause")) == "container not running"
        assert log_of(box.run("start")) == "cannot start a container in the paused state"
        assert box.run("resume") == (0, "", "")
        assert box.status() == "running"
        until(lambda: counter.read_text() not in ("", before), "it does not go on")


@pytest.mark.parametrize("word", ["TERM", "SIGTERM", "sigterm", "15", ""])
def test_kill_takes_numbers_and_names(word: str, tmp_path: Path) -> None:
    with live(tmp_path) as box:
        assert box.player.run("kill", "box", *[word] if word else []) == (0, "", "")
        assert ended(box.pid)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("BOGUS", 'unknown signal \\"BOGUS\\"'),
        ("99", "unable to signal init: invalid argument"),
        ("-1", "unable to signal init: invalid argument"),
    ],
)
def test_kill_refuses_what_is_no_signal(word: str, message: str, tmp_path: Path) -> None:
    with live(tmp_path) as box:
        assert log_of(box.player.run("kill", "box", word)) == message
        assert box.status() == "running"


@pytest.mark.vm
def test_kill_all_reaches_every_process(tmp_path: Path) -> None:
    with live(tmp_path, "sleep 1000 & sleep 1000 & echo; exec sleep 1000") as box:
        pids = box.file("cgroup.procs").read_text().split()
        assert len(pids) == 3
        assert box.run("kill", "--all") == (0, "", "")
        until(lambda: not box.file("cgroup.procs").read_text(), "not all have ended")


@pytest.mark.vm
def test_killing_a_container_without_a_pid_namespace_of_its_own_kills_all(tmp_path: Path) -> None:
    with live(tmp_path, "sleep 1000 & echo; exec sleep 1000", own_pids=False) as box:
        assert box.player.run("kill", "box", "KILL") == (0, "", "")
        assert box.file("cgroup.procs").read_text() == ""
        assert box.status() == "stopped"


@pytest.mark.vm
def test_a_paused_container_can_be_killed(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        assert box.run("pause")[0] == 0
        assert box.player.run("kill", "box", "9") == (0, "", "")
        assert ended(box.pid)


def test_ps_shows_the_processes_of_the_container_only(tmp_path: Path) -> None:
    if subprocess.run(["ps", "-ef"], capture_output=True, check=False).returncode:
        pytest.skip("ps(1) does not work under this kernel")
    with live(tmp_path, "sleep 1001 & echo; exec sleep 1000") as box:
        pids = sorted(map(int, box.file("cgroup.procs").read_text().split()))
        # The one in the background is a shell for a moment.
        sleeps = b"sleep\0"
        until(lambda: all(Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sleeps) for pid in pids), pids)
        code, out, _ = box.run("ps", "--format", "json")
        assert code == 0 and sorted(json.loads(out)) == pids
        header, *rows = box.run("ps")[1].splitlines()
        assert header.split()[:3] == ["UID", "PID", "PPID"]
        assert sorted(row.split(maxsplit=7)[7] for row in rows) == ["sleep 1000", "sleep 1001"]
        rows = box.player.run("ps", "box", "-o", "pid,args")[1].splitlines()
        assert rows[0].split() == ["PID", "COMMAND"] and len(rows) == 3
        assert log_of(box.player.run("ps", "box", "-o", "args")) == "couldn't find PID field in ps output"
        assert log_of(box.run("ps", "--format", "xml")) == "invalid format option"


@pytest.mark.vm
def test_delete_refuses_what_runs_and_force_removes_everything(tmp_path: Path) -> None:
    with live(tmp_path, _STUBBORN, own_pids=False) as box:
        nested = Path(cgroup_directories(box.cgroup)[-1]) / "inner"
        nested.mkdir()
        assert log_of(box.run("delete")) == "cannot delete container box that is not stopped: running"
        assert box.run("delete", "--force") == (0, "", "")
        assert ended(box.pid)
        assert not box.made.directory.exists()
        assert [path for path in cgroup_directories(box.cgroup) if os.path.exists(path)] == []
        assert log_of(box.run("delete")) == "container does not exist"
        assert box.run("delete", "--force") == (0, "", "")


def test_delete_takes_a_stopped_container_and_one_that_was_never_started(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        os.kill(box.pid, signal.SIGKILL)
        assert ended(box.pid)
        assert box.run("delete") == (0, "", "")
        assert not box.made.directory.exists()
    second = tmp_path / "second"
    second.mkdir()
    with live(second, waits=True) as box, box.made.waiting():
        assert box.status() == "created"
        assert box.run("delete") == (0, "", "")
        assert not box.made.directory.exists()


@pytest.mark.vm
def test_what_a_killed_create_left_is_deleted_by_force(tmp_path: Path) -> None:
    player = python_player(tmp_path)
    (player.root / "early").mkdir(parents=True)
    assert player.run("delete", "--force", "early") == (0, "", "")
    assert not (player.root / "early").exists()
    with live(tmp_path) as box:
        box.made.shown["status"] = "creating"
        box.made.shown["pid"] = 0
        box.made.write()
        assert box.run("delete", "--force") == (0, "", "")
        assert ended(box.pid)  # it was in the cgroups of the container
        assert not box.made.directory.exists()
        assert [path for path in cgroup_directories(box.cgroup) if os.path.exists(path)] == []


def test_poststop_hooks_run_when_the_container_is_gone(tmp_path: Path) -> None:
    told = tmp_path / "told"
    hooks = {
        "poststop": [
            {"path": "/bin/sh", "args": ["sh", "-c", f"exit 3; test ! -e {tmp_path}/root/box"]},
            {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {told}; test ! -e {tmp_path}/root/box"]},
        ]
    }
    with live(tmp_path, native=False) as box:
        box.made.own["spec"] = {"hooks": hooks}
        box.made.write()
        code, _, err = box.run("delete", "-f")
        assert code == 0 and "level=warning" in err and "error running hook #0" in err
    state = json.loads(told.read_text())
    assert (state["id"], state["status"], "pid" in state) == ("box", "stopped", False)


def test_list_shows_containers_and_fails_without_its_root(tmp_path: Path) -> None:
    player = python_player(tmp_path)
    assert log_of(player.run("list")) == f"open {player.root}: no such file or directory"
    with live(tmp_path) as box:
        rows = box.player.run("list")[1].splitlines()
        assert (
            rows[0]
            == "ID          PID         STATUS      BUNDLE      CREATED                          OWNER"
        )
        assert rows[1].split() == [
            "box",
            str(box.pid),
            "running",
            "/b",
            "2026-11-25T22:00:00.123456789Z",
            "root",
        ]
        assert box.player.run("list", "-q") == (0, "box\n", "")
        (found,) = json.loads(box.player.run("list", "-f", "json")[1])
        assert (found["id"], found["pid"], found["status"], found["owner"]) == (
            "box",
            box.pid,
            "running",
            "root",
        )


def test_what_nobody_thought_of_is_one_line_in_the_log_too(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        box.made.own["spec"]["process"] = 7  # a state that nobody writes
        box.made.write()
        code, out, err = box.player.run("exec", "box", "true")
        assert (code, out) == (255, "")
        assert "internal error: TypeError" in err
        assert err.count("\n") == 1


def test_two_deletes_at_once_leave_nothing_and_no_crash(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        words = [*box.player.program, "--root", str(box.player.root), "delete", "--force", "box"]
        racing = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
        for process in racing:
            err = process.communicate(timeout=60)[1]
            assert (process.returncode, err) == (0, "")
        assert not box.made.directory.exists()
