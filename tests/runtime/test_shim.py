"""Containers that outlive their starter: who ends what, who hears of it, and what stays open."""

import gc
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import errors
from pyrunc.runtime import cgroup_control, shim, spawner
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.cgroup_layout import detect
from pyrunc.runtime.launcher import Launcher
from tests import rootfs
from tests.runtime.shim_support import Place, ended, eventually, in_process, place, small_tmpfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
_UP = "echo up; while :; do sleep 0.01; done"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    root = rootfs.make(tmp_path_factory.mktemp("shim") / "root")
    return Launcher.of_options(root, {"seccomp": "unconfined"})


@pytest.fixture
def here(launcher: Launcher, tmp_path: Path) -> Iterator[Place]:
    with place(launcher, tmp_path) as made:
        yield made


def test_the_owner_hears_of_the_end_and_no_exit_command_runs(here: Place) -> None:
    process = here.start("echo out; echo err >&2; exit 7")
    end = process.wait(60)
    assert (end.exit_code, end.signal) == (7, 0)
    status = shim.status(str(here.state))
    assert status is not None
    assert (status.exit_code, status.signal, status.maxrss_bytes) == (7, 0, end.maxrss_bytes)
    assert abs(status.finished_ns - time.time_ns()) < 60e9
    assert [(r["log"], r["stream"]) for r in here.records()] in (
        [("out\n", "stdout"), ("err\n", "stderr")],
        [("err\n", "stderr"), ("out\n", "stdout")],
    )
    assert shim.is_alive(process.running.shim, process.running.shim_started)  # it waits for our word
    process.finished()
    eventually(lambda: ended(process.running))
    assert here.commands() == 0


def test_running_says_who_runs_before_the_starter_knows(here: Place) -> None:
    process = here.start("exec sleep 60")
    who = shim.running(str(here.state))
    assert who is not None
    assert (who.pid, who.shim) == (process.pid, process.shim_pid)
    assert shim.is_alive(who.pid, who.pid_started)
    assert not shim.is_alive(who.pid, who.pid_started + 1)
    assert Path(f"/proc/{who.shim}/comm").read_text() == "pyrunc-shim\n"
    assert abs(who.started_ns - time.time_ns()) < 60e9
    assert shim.status(str(here.state)) is None
    with pytest.raises(errors.TimedOut):
        process.wait(0.01)
    assert shim.signal(who, signal.SIGKILL)
    assert process.wait(60).exit_code == 137
    assert not shim.signal(who, signal.SIGKILL)
    process.finished()


@pytest.mark.parametrize("torn", [b"", b"{", b'{"pid":', b"\0" * 512, b"\xff"])
def test_what_a_crash_of_the_machine_has_torn_says_nothing(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "running").write_bytes(torn)
    (tmp_path / "status").write_bytes(torn)
    assert shim.running(str(tmp_path)) is None
    assert shim.status(str(tmp_path)) is None


def test_a_container_whose_owner_lets_go_ends_with_the_exit_command(here: Place) -> None:
    process = here.start(f"trap 'echo later; exit 3' TERM; {_UP}")
    eventually(lambda: here.log.exists() and here.logged() == "up\n")
    process.release()
    assert shim.is_alive(process.running.pid, process.running.pid_started)
    shim.signal(process.running, signal.SIGTERM)
    eventually(here.commands)
    eventually(lambda: ended(process.running))
    assert here.marker.read_text() == "finished\n"
    assert here.logged() == "up\nlater\n"
    status = shim.status(str(here.state))
    assert status is not None
    assert status.exit_code == 3


def test_an_owner_that_goes_after_the_end_leaves_the_rest_to_the_exit_command(here: Place) -> None:
    process = here.start("exit 0")
    process.wait(60)
    process.release()
    eventually(here.commands)
    eventually(lambda: ended(process.running))
    assert here.commands() == 1


def test_without_keep_running_the_owner_s_end_is_the_container_s(here: Place) -> None:
    process = here.start("exec sleep 60", keep_running=False)
    process.release()
    eventually(here.commands)
    status = shim.status(str(here.state))
    assert status is not None
    assert (status.exit_code, status.signal) == (137, 9)
    eventually(lambda: ended(process.running))
    assert here.commands() == 1


def test_the_exit_command_has_nothing_of_the_starter_s(here: Place) -> None:
    look = "ls -l /proc/self/fd; pwd; grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; env; ps -o sid= -p $$"
    with open("/dev/zero") as extra:
        os.set_inheritable(extra.fileno(), True)
        process = here.start("exit 0", exit_command=("/bin/sh", "-c", f"({look}) > {here.marker} 2>&1"))
        process.release()
        eventually(lambda: here.marker.exists() and "PWD" in here.marker.read_text())
        eventually(lambda: ended(process.running))
    text = here.marker.read_text()
    assert "zero" not in text
    assert "socket:" not in text
    assert "\n/\n" in text
    assert f"SigIgn:\t{0:016x}" in text
    assert f"SigBlk:\t{0:016x}" in text
    assert "PATH" not in text.replace("OLDPATH", "")


def test_what_asks_a_shim_to_end_is_not_for_it(here: Place) -> None:
    process = here.start(
        "grep SigIgn /proc/self/status; trap 'echo told; exit 4' TERM; echo ready; while :; do sleep 0.01; done"
    )
    eventually(lambda: here.log.exists() and here.logged().endswith("ready\n"))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        os.kill(process.shim_pid, number)
    process.release()
    os.kill(process.pid, signal.SIGTERM)  # as the end of a service or of the host tells all
    eventually(lambda: here.commands() == 1)
    assert here.logged() == f"SigIgn:\t{0:016x}\nready\ntold\n"
    status = shim.status(str(here.state))
    assert status is not None
    assert (status.exit_code, status.signal) == (4, 0)


def test_a_failed_start_leaves_no_shim_and_runs_no_exit_command(here: Place) -> None:
    settings = here.settings()
    with pytest.raises(errors.CommandNotFound):
        shim.start(here.launcher, ["/bin/nothing"], None, settings, here.id)
    assert shim.running(str(here.state)) is None
    assert shim.status(str(here.state)) is None
    assert here.commands() == 0
    assert {path.name for path in here.state.iterdir()} == {"attach"}


@pytest.mark.parametrize("what", ["state", "log"])
def test_a_state_or_log_that_cannot_be_is_a_failed_start(here: Place, what: str) -> None:
    if what == "log":
        settings = here.settings(log=shim.LogFile(str(here.directory / "no" / "log")))
        with pytest.raises(errors.StartError, match="log or state files"):
            shim.start(here.launcher, ["/bin/true"], None, settings, here.id)
    else:
        with pytest.raises(FileNotFoundError):
            here.start("true", state_dir=str(here.directory / "no"))
    assert here.commands() == 0


def test_the_shim_holds_nothing_of_the_starter_s(here: Place) -> None:
    with open("/dev/zero") as extra:
        os.set_inheritable(extra.fileno(), True)
        process = here.start("exec sleep 60", stdin_open=True)
        proc = Path(f"/proc/{process.shim_pid}")
        eventually(lambda: settled(proc))
        targets = sorted(os.readlink(entry) for entry in (proc / "fd").iterdir())
    assert not [target for target in targets if "zero" in target or "/tasks" in target]
    assert len([target for target in targets if target.startswith("pipe:")]) == 3
    assert (
        len([target for target in targets if target.startswith("socket:")]) == 2
    )  # the owner's, and `attach`
    assert os.readlink(proc / "cwd") == "/"
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) == process.shim_pid  # leads a session of its own
    assert int(fields[4]) == 0  # has no terminal
    assert os.readlink(proc / "ns/net") == os.readlink("/proc/self/ns/net")
    process.kill()
    process.wait(60)
    process.finished()


def settled(proc: Path) -> bool:
    """Whether a shim has moved in every hierarchy that can be reached."""
    lines = (proc / "cgroup").read_text().splitlines()
    return sum(line.endswith(":/pyrunc/shims") for line in lines) == len(
        (*detect().hierarchies, *detect().named)
    )


def test_the_program_has_its_streams_and_nothing_of_the_shim_s(here: Place) -> None:
    process = here.start("ls -l /proc/self/fd /proc/1/fd", stdin_open=True)
    assert process.wait(60).exit_code == 0
    process.finished()
    targets = [line.partition(" -> ")[2] for line in here.logged().splitlines() if " -> " in line]
    streams = [target for target in targets if target.startswith("pipe:")]
    assert len(streams) == 6
    assert {target for target in targets if target not in streams} <= {
        "/proc/6/fd",
        "/proc/7/fd",
        "/proc/2/fd",
    }


def test_who_hears_late_of_a_killed_shim_does_not_end_the_next_start(here: Place) -> None:
    """Another process has taken note of the end, and has started the container again, in the same cgroups."""
    one = here.start("sleep 1000")
    os.kill(one.shim_pid, signal.SIGKILL)
    layout = detect()
    cgroup_control.kill(layout, f"/pyrunc/{here.id}")
    cgroup_control.remove(layout, f"/pyrunc/{here.id}")
    for path in here.state.iterdir():
        path.unlink()
    two = here.start("sleep 1000")
    with pytest.raises(errors.Unavailable):
        one.wait(60)
    assert not ended(two.running)
    assert shim.is_alive(two.running.pid, two.running.pid_started)
    assert here.id in Path(f"/proc/{two.pid}/cgroup").read_text()
    two.kill()
    assert two.wait(60).signal == signal.SIGKILL


def test_a_killed_shim_takes_a_container_along_that_shall_not_outlive_its_owner(here: Place) -> None:
    process = here.start("exec sleep 60", keep_running=False)
    os.kill(process.shim_pid, signal.SIGKILL)
    eventually(lambda: ended(process.running))
    with pytest.raises(errors.Unavailable):
        process.wait(60)


def test_the_shim_leaves_the_starter_s_cgroups_and_removes_its_own(here: Place) -> None:
    process = here.start("exec sleep 60")
    proc = Path(f"/proc/{process.shim_pid}")
    shown = (*detect().hierarchies, *detect().named)
    eventually(lambda: settled(proc))
    process.kill()
    process.wait(60)
    process.finished()
    eventually(lambda: ended(process.running))
    # Others' shims may be there at the same time.
    left = [path for h in shown if (path := Path(h.mountpoint, "pyrunc/shims")).exists()]
    assert all((path / "cgroup.procs").read_text() for path in left)


def test_the_spawner_ends_while_its_shim_goes_on(here: Place) -> None:
    process = here.start("exec sleep 60")
    old = spawner.current().pid
    spawner.shut_down()
    eventually(lambda: not Path(f"/proc/{old}").exists())
    assert shim.is_alive(process.running.shim, process.running.shim_started)
    process.kill(signal.SIGTERM)
    process.kill()
    assert process.wait(60).exit_code in (137, 143)
    process.finished()


def test_a_starter_that_is_killed_leaves_a_container_that_ends_by_itself(here: Place) -> None:
    pid = in_process(lambda: void(here.start(f"trap 'exit 5' TERM; {_UP}")))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    who = shim.running(str(here.state))
    assert who is not None
    here.processes.append(who)
    eventually(lambda: here.log.exists() and here.logged() == "up\n")
    assert shim.is_alive(who.shim, who.shim_started)
    shim.signal(who, signal.SIGTERM)
    eventually(here.commands)
    eventually(lambda: ended(who))
    status = shim.status(str(here.state))
    assert status is not None
    assert status.exit_code == 5
    assert here.commands() == 1


def void(_: object) -> None:
    """Drop it."""


def test_a_starter_that_is_killed_at_any_moment_leaves_all_or_nothing(
    launcher: Launcher, tmp_path: Path
) -> None:
    """Either nothing was started, or what was started ends, and the exit command runs exactly once."""
    chance = random.Random(4)
    for number in range(25):
        (tmp_path / str(number)).mkdir()
        with place(launcher, tmp_path / str(number)) as here:
            kill_starter(here, chance.uniform(0, 0.06))


def kill_starter(here: Place, after_s: float) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            here.start("exit 5").release()
            time.sleep(10)
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    places = [Path(hierarchy.mountpoint, "pyrunc", here.id) for hierarchy in detect().hierarchies]
    eventually(lambda: not any(path.exists() for path in places))
    who = shim.running(str(here.state))
    if who is None:
        assert here.commands() <= 1
        return
    here.processes.append(who)
    eventually(here.commands)
    eventually(lambda: ended(who))
    status = shim.status(str(here.state))
    assert status is not None
    assert status.exit_code == 5
    assert here.commands() == 1


def test_a_shim_that_is_killed_is_noticed_by_its_owner(here: Place) -> None:
    process = here.start("exec sleep 60")
    os.kill(process.shim_pid, signal.SIGKILL)
    with pytest.raises(errors.Unavailable):
        process.wait(60)
    eventually(lambda: ended(process.running))
    assert shim.status(str(here.state)) is None
    assert here.commands() == 0
    process.release()


def test_no_zombie_is_left_while_the_starter_lives(here: Place) -> None:
    process = here.start("exit 0")
    process.wait(60)
    process.finished()
    eventually(lambda: not Path(f"/proc/{process.shim_pid}").exists())
    assert not Path(f"/proc/{process.pid}").exists()


def test_sixty_shims_leave_nothing_in_the_starter_or_its_spawner(launcher: Launcher, tmp_path: Path) -> None:
    def once(number: int) -> None:
        (tmp_path / str(number)).mkdir()
        with place(launcher, tmp_path / str(number)) as here:
            process = here.start("exit 0", keep_running=number % 2 == 0)
            process.wait(60)
            process.finished()

    def held() -> tuple[int, int]:
        gc.collect()  # what tests before this one have dropped
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{spawner.current().pid}/fd"))

    once(0)
    before = held()
    for number in range(1, 60):
        once(number)
    children = Path(f"/proc/{spawner.current().pid}/task/{spawner.current().pid}/children")
    eventually(lambda: len(children.read_text().split()) == 1)
    eventually(lambda: held() == before)


def test_an_idle_shim_sleeps(here: Place) -> None:
    process = here.start("echo x; exec sleep 60")

    def switches() -> list[str]:
        lines = Path(f"/proc/{process.shim_pid}/status").read_text().splitlines()
        return [line for line in lines if "ctxt_switches" in line]

    def sleeps() -> bool:
        before = switches()
        time.sleep(1.5)
        return switches() == before

    eventually(sleeps)  # it gives back its memory a second after there was work
    process.kill()
    process.wait(60)
    process.finished()


def test_a_full_disk_loses_no_exit_code(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with place(launcher, tmp_path / "here") as here, small_tmpfs(tmp_path / "full", "64k") as full:
        process = here.start("read x; exit 6", state_dir=str(full), stdin_open=True)
        eventually((full / ".status").exists)
        with pytest.raises(OSError, match="No space"):
            (full / "ballast").write_bytes(bytes(1 << 20))
        with AttachClient.connect(str(full), stdin=True) as client:
            client.send(b"\n")
            assert process.wait(60).exit_code == 6
        status = shim.status(str(full))
        assert status is not None
        assert status.exit_code == 6
        process.finished()


def test_a_client_that_is_eager_does_not_hide_why_a_start_failed(here: Place) -> None:
    for _ in range(10):
        client, theirs = AttachClient.pair(stdin=True, stdout=True, stderr=True)
        while client.send(bytes(65536)):
            pass
        settings = here.settings(stdin_open=True)
        with pytest.raises(errors.CommandNotFound):
            shim.start(here.launcher, ["/bin/nothing"], None, settings, here.id, theirs)
        os.close(theirs)
        client.close()


def test_a_container_is_started_with_a_shim_in_a_chroot(tmp_path: Path) -> None:
    """What the exit command is, and where state and log are, is the chroot's."""
    root = rootfs.make(tmp_path / "root")
    (root / "inner").mkdir()
    rootfs.make(root / "inner/root")
    (root / "state").mkdir()
    shutil.copy(spawner.init_path(), root / "pyrunc-init")
    for name in ("proc", "sys", "dev"):
        subprocess.run(["mount", "--rbind", "--make-rslave", f"/{name}", root / name], check=True)
    box = os.urandom(32).hex()
    pid = os.fork()
    if pid == 0:
        try:
            os.chroot(root)
            os.chdir("/")
            spawner.init_path = lambda: "/pyrunc-init"
            command = ("/bin/sh", "-c", "echo $WORD > /marker")
            settings = shim.ShimSettings("/state", shim.LogFile("/log"), command, ("WORD=inside",))
            inner = Launcher.of_options("/inner/root", {"seccomp": "unconfined"})
            shim.start(
                inner, ["/bin/sh", "-c", "echo here; sleep 0.2; exit 8"], None, settings, box
            ).release()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        who = shim.running(str(root / "state"))
        assert who is not None
        eventually(lambda: ended(who) and (root / "marker").exists())
        assert (root / "marker").read_text() == "inside\n"
        assert '"here\\n"' in (root / "log").read_text()
        status = shim.status(str(root / "state"))
        assert status is not None
        assert status.exit_code == 8
    finally:
        for name in ("proc", "sys", "dev"):
            subprocess.run(["umount", "-l", root / name], check=True)


def test_the_plan_shows_what_its_shim_does(here: Place) -> None:
    text = here.launcher.plan(["/bin/true"], here.settings(stdin_open=True).block(False))
    assert f"shim  state {here.state}" in text
    assert f"shim  log {here.log} max_bytes=0 max_files=1" in text
    assert "shim  streams listen stdin owner=0:0" in text
    assert "env=['WORD=finished']" in text


@pytest.mark.parametrize(
    "change",
    [
        {"state_dir": "relative"},
        {"log": shim.LogFile("relative")},
        {"log": shim.LogFile("/x", max_files=0)},
        {"log": shim.LogFile("/x", max_bytes=-1)},
        {"rows": 1 << 16},
        {"exit_command": ("/bin/true",) * 65},
    ],
)
def test_what_no_plan_can_say_is_refused(here: Place, change: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument):
        here.start("true", **change)
