"""state, kill, start and delete without Python: what is plain is done, and nothing else."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc.oci.state import load
from tests.oci.native import (
    FAILED,
    FREEZER,
    MEMORY,
    PYTHON,
    READY,
    Made,
    call,
    forked,
    install,
    program,
    progress,
)  # fmt: skip
from tests.oci.waiting import PATIENCE_S, until
from tests.runtime.cgroup_support import kill_members, remove_busy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.fixture
def front_door(tmp_path: Path) -> Path:
    return install(tmp_path / "installed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # Longer than the path of a socket may be.
    return tmp_path / ("r" * 100) / "root"


@pytest.fixture
def cgroups(tmp_path: Path) -> Iterator[list[Path]]:
    """A cgroup of the freezer and one of memory."""
    if not FREEZER.is_dir():
        pytest.skip("needs the freezer of cgroup v1")
    made = [top / f"pyrunc-test-{os.getpid()}-{tmp_path.name}" for top in (FREEZER, MEMORY)]
    for path in made:
        path.mkdir()
    yield made
    for path in made:
        for below in [*path.glob("*/"), path] if path.exists() else []:
            kill_members(below)
            remove_busy(below)


def listed(cgroups: list[Path]) -> list[dict[str, object]]:
    return [
        {"path": str(path), "version": 1, "controllers": [name]}
        for path, name in zip(cgroups, ("freezer", "memory"), strict=True)
    ]


def state(front_door: Path, root: Path, container: Made) -> str:
    done = call(
        front_door, "--root", root, "--log", "/nonexistent/log", "--log-format=json", "state", container.id
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_state_is_what_is_true_now_and_the_file_says_the_rest(
    front_door: Path, root: Path, cgroups: list[Path]
) -> None:
    with program(*cgroups) as child:
        made = Made(root, "c+1.a_b-", child.pid, freezer=str(cgroups[0]))
        assert state(front_door, root, made) == made.expected("running")
        (cgroups[0] / "freezer.state").write_text("FROZEN")
        assert state(front_door, root, made) == made.expected("paused")
        (cgroups[0] / "freezer.state").write_text("THAWED")
        with made.waiting():
            assert state(front_door, root, made) == made.expected("running"), "who started it was killed"
    with forked(*cgroups) as init:
        made = Made(root, "waits", init.pid, freezer=str(cgroups[0]))
        assert state(front_door, root, made) == made.expected("running"), "as one that criu has restored"
        with made.waiting():
            assert state(front_door, root, made) == made.expected("created")
            init.kill()
            os.waitid(os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)
            assert state(front_door, root, made) == made.expected("stopped"), "a zombie is no container"


def test_a_process_whose_first_thread_has_ended_goes_on(front_door: Path, root: Path) -> None:
    """To proc_pid_stat(5) it is a zombie, but its other threads run on."""
    exit_thread = 60 if os.uname().machine == "x86_64" else 93
    threaded = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(1000,)).start(); "
        f"print(flush=True); ctypes.CDLL(None).syscall({exit_thread}, 0)"
    )
    with program(command=f"exec {sys.executable} -c '{threaded}'") as child:
        made = Made(root, "x", child.pid)
        stat = Path(f"/proc/{child.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "its first thread does not end")
        assert state(front_door, root, made) == made.expected("running")
        assert load(str(root), "x").status() == "running"
        assert call(front_door, "--root", root, "delete", "--force", "x").returncode == 0
        assert child.wait(10) == -signal.SIGKILL


def test_a_process_of_another_birth_is_not_the_containers(front_door: Path, root: Path) -> None:
    with program() as child:
        made = Made(root, "x", child.pid)
        made.own["start_time"] += 1
        made.write()
        assert state(front_door, root, made) == made.expected("stopped")
        assert call(front_door, "--root", root, "kill", "x", "9").returncode == PYTHON
        assert child.poll() is None
        assert call(front_door, "--root", root, "delete", "x").returncode == 0
        assert child.poll() is None
        assert not made.directory.exists()


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ([], signal.SIGTERM),
        (["9"], signal.SIGKILL),
        (["KILL"], signal.SIGKILL),
        (["sigusr1"], signal.SIGUSR1),
        (["SigHup"], signal.SIGHUP),
        (["12"], signal.SIGUSR2),
    ],
)
def test_kill_sends_the_signal_that_is_named(
    front_door: Path, root: Path, words: list[str], number: signal.Signals
) -> None:
    with program() as child:
        Made(root, "x", child.pid)
        done = call(front_door, "--root", root, "kill", "x", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert child.wait(PATIENCE_S) == -number


@pytest.mark.parametrize(
    "words", [["0"], ["65"], ["SIGNOPE"], ["TERM", "x"], [""], ["9x"], ["-9"], ["RTMIN"]]
)
def test_kill_leaves_what_it_does_not_know_to_python(front_door: Path, root: Path, words: list[str]) -> None:
    with program() as child:
        Made(root, "x", child.pid)
        done = call(front_door, "--root", root, "kill", "x", *words)
        assert (done.returncode, done.stdout.strip()) == (
            PYTHON,
            " ".join([f"--root {root} kill x", *words]).strip(),
        )
        assert child.poll() is None


def test_kill_of_a_frozen_container_ends_it(front_door: Path, root: Path, cgroups: list[Path]) -> None:
    with program(*cgroups) as child:
        Made(root, "x", child.pid, freezer=str(cgroups[0]))
        (cgroups[0] / "freezer.state").write_text("FROZEN")
        assert call(front_door, "--root", root, "kill", "x", "9").returncode == 0
        assert child.wait(PATIENCE_S) == -signal.SIGKILL


def test_kill_of_a_container_without_pids_of_its_own_ends_all_of_its_cgroup(
    front_door: Path, root: Path, cgroups: list[Path]
) -> None:
    with program(*cgroups, command="sleep 1001 & echo && exec sleep 1000") as child:
        Made(root, "x", child.pid, own_pids=False, kill=str(cgroups[0]))
        assert len((cgroups[0] / "cgroup.procs").read_text().split()) == 2
        assert call(front_door, "--root", root, "kill", "--all", "x", "KILL").returncode == 0
        assert child.wait(PATIENCE_S) == -signal.SIGKILL
        until(lambda: not (cgroups[0] / "cgroup.procs").read_text(), "not all have ended")


def test_delete_by_force_ends_what_is_frozen_and_removes_cgroups_and_directory(
    front_door: Path, root: Path, cgroups: list[Path]
) -> None:
    with program(*cgroups) as child:
        made = Made(
            root,
            "x",
            child.pid,
            own_pids=False,
            cgroups=listed(cgroups),
            freezer=str(cgroups[0]),
            kill=str(cgroups[0]),
        )
        (cgroups[0] / "below").mkdir()
        (made.directory / "notify").write_text("")
        assert call(front_door, "--root", root, "delete", "x").returncode == PYTHON, "it runs"
        assert child.poll() is None
        (cgroups[0] / "freezer.state").write_text("FROZEN")
        done = call(front_door, "--root", root, "delete", "--force", "x")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert child.wait(PATIENCE_S) == -signal.SIGKILL
    assert not made.directory.exists()
    assert not any(path.exists() for path in cgroups)
    assert os.listdir(root) == []


@pytest.mark.parametrize("own_pids", [True, False])
def test_delete_kills_nobody_who_is_in_the_cgroup_of_a_stopped_container(
    front_door: Path, root: Path, cgroups: list[Path], own_pids: bool
) -> None:
    """It may be another container's, and who has to go without saying is Python's to find out."""
    with program(*cgroups) as other, program(*cgroups) as child:
        made = Made(root, "x", child.pid, cgroups=listed(cgroups), kill=str(cgroups[0]), own_pids=own_pids)
        child.kill()
        child.wait()
        done = call(front_door, "--root", root, "delete", "--force", "x")
        assert (done.returncode, done.stdout) == (PYTHON, f"--root {root} delete --force x\n")
        assert other.poll() is None
        assert made.directory.exists()


def test_delete_by_force_of_what_is_not_there_is_no_error(front_door: Path, root: Path) -> None:
    root.mkdir(parents=True)
    assert call(front_door, "--root", root, "delete", "--force", "x").returncode == 0
    assert call(front_door, "--root", root, "delete", "x").returncode == PYTHON


def test_delete_follows_no_link_out_of_the_root(front_door: Path, root: Path, tmp_path: Path) -> None:
    with program() as child:
        made = Made(tmp_path / "elsewhere", "x", child.pid)
        child.kill()
        child.wait()
        root.mkdir(parents=True)
        (root / "x").symlink_to(made.directory)
        assert call(front_door, "--root", root, "delete", "--force", "x").returncode == PYTHON
        assert made.directory.exists()


def start(front_door: Path, root: Path, made: Made, *records: bytes) -> "subprocess.CompletedProcess[str]":
    """Start *made*, whose init answers with *records*."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for record in records:
                connection.sendall(record)

    with made.waiting() as listener:
        init = threading.Thread(target=serve)
        init.start()
        done = call(front_door, "--root", root, "start", made.id)
        init.join()
    return done


def test_start_lets_init_go_and_hears_that_it_did(front_door: Path, root: Path) -> None:
    with forked() as child:
        made = Made(root, "x", child.pid)
        done = start(front_door, root, made, progress(READY))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert state(front_door, root, made) == made.expected("running")
        assert call(front_door, "--root", root, "start", "x").returncode == PYTHON, "it runs already"


def test_a_start_that_is_never_accepted_is_pythons(front_door: Path, root: Path) -> None:
    """It came behind another's, or the container was killed before."""
    with forked() as child:
        made = Made(root, "x", child.pid)
        with made.waiting() as listener:

            def hang_up() -> None:
                select.select([listener], [], [])
                listener.close()

            drop = threading.Thread(target=hang_up)
            drop.start()
            done = call(front_door, "--root", root, "start", "x")
            drop.join()
        assert (done.returncode, done.stdout) == (PYTHON, f"--root {root} start x\n")


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ((progress(FAILED, 31, -13, 7),), "31 13 7"),
        ((), "4294967295 0 0"),
        ((progress(READY), progress(FAILED, 5, -8)), "5 8 0"),
    ],
)
def test_start_has_python_tell_why_it_failed(
    front_door: Path, root: Path, records: tuple[bytes, ...], words: str
) -> None:
    with forked() as child:
        made = Made(root, "x", child.pid)
        done = start(front_door, root, made, *records)
        assert (done.returncode, done.stdout) == (PYTHON, f":failed start {words}  text\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--debug", "state", "x"],
        ["--root", "", "state", "x"],
        ["state"],
        ["state", "x", "y"],
        ["state", "--help"],
        ["state", ".."],
        ["state", "a/b"],
        ["kill", "--nope", "x"],
        ["delete", "x", "--force"],
        ["--root"],
        ["--root=", "state", "x"],
        [],
        ["--", "state", "x"],
        ["statex", "x"],
    ],
)
def test_a_line_that_is_not_plain_is_pythons(front_door: Path, tmp_path: Path, words: list[str]) -> None:
    with program() as child:
        Made(tmp_path / "root", "x", child.pid)
        line = [*(["--root", str(tmp_path / "root")] if words and words[0][0] != "-" else []), *words]
        done = call(front_door, *line)
        assert (done.returncode, done.stdout) == (PYTHON, " ".join(line) + "\n")
        assert child.poll() is None


@pytest.mark.parametrize(
    "change",
    [
        ('"native":true', '"native":false'),
        ('"version":1,', '"version":2,'),
        ('"kill":""', '"kill":"a\\u0020b"'),
        ('"status": "created"', '"status": "creating"'),
        ('"status": "created"', '"status":"created"'),
        ('"pid": ', '"pid": -'),
        ('"pid": ', '"pid": 99999999999999999999'),
        ('"cgroups":[]', '"cgroups":[{"path":"relative","version":1,"controllers":[]}]'),
        ('"cgroups":[]', '"cgroups":[{"path":"/x"'),
        ('"owner": ""', '"owner": "\0"'),
        ('  "pyrunc"', '  "pyrun"'),
    ],
)
def test_a_state_that_is_not_as_expected_is_pythons(
    front_door: Path, root: Path, change: tuple[str, str]
) -> None:
    with program() as child:
        made = Made(root, "x", child.pid)
        file = made.directory / "state.json"
        text = file.read_text()
        assert change[0] in text
        file.write_text(text.replace(*change))
        for words in (["state"], ["kill"], ["start"], ["delete", "--force"]):
            assert call(front_door, "--root", root, *words, "x").returncode == PYTHON
        assert child.poll() is None
        assert file.exists()
