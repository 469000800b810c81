"""Whoever is killed at whatever moment, containers, logs and exit codes live on, and nothing is left in the end."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.engine import finish, observing
from pyrunc.engine.container import Container
from pyrunc.errors import FailedPrecondition, NotFound
from pyrunc.runtime import shim
from tests.engine.test_life import SLEEP, catching, left, state
from tests.engine.test_run import python, said, until

ENDS = ["sh", "-c", "while [ ! -e /go ]; do busybox sleep 0.02; done; echo done; exit 6"]


@pytest.fixture
def driver() -> str:
    return "overlay2"


def settled_row(engine: Engine, container: Container) -> str:
    """The state that the row says, without looking after the container as `record` does."""
    row = engine._parts.containers.by_id(container.id)
    return "gone" if row is None else row.record.state


def elsewhere(code: str, tmp_path: Path, *, dies: bool = True) -> "subprocess.Popen[str]":
    """Run *code* in another process until it says that it is ready, then kill it."""
    other = python(code + "\nprint('ready', flush=True)\ntime.sleep(100)\n", tmp_path / "root", "overlay2")
    assert other.stdout is not None
    line = other.stdout.readline()
    assert line == "ready\n", other.communicate()
    if dies:
        other.kill()
        other.communicate()
    return other


def kill_shim(container: Container) -> None:
    os.kill(container.record().shim_pid, signal.SIGKILL)


def let_end(container: Container) -> None:
    """Let a container of `ENDS` end."""
    Path(f"/proc/{container.pid}/root/go").touch()


def any_empty(group: str) -> bool:
    """Whether *group* is there without any process, in one of the hierarchies."""
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        with suppress(OSError):  # there is none, or it goes just now
            if (hierarchy / group / "cgroup.procs").read_text() == "":
                return True
    return False


def is_dead(pid: int) -> bool:
    """Whether there is no such process, or only its zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True


# --- the owner


def test_a_container_outlives_its_starter_and_the_next_command_finds_it(
    loaded: Engine, tmp_path: Path
) -> None:
    elsewhere(f"engine.start('beta', {ENDS}, name='one')", tmp_path)
    container = loaded.containers.get("one")
    assert state(container) == "running"
    let_end(container)
    assert container.wait(60) == 6
    assert said(container) == "done\n"
    container.remove()
    until(lambda: left(tmp_path, container.id) == [])


@pytest.mark.parametrize("remove", [False, True])
def test_an_end_that_nobody_sees_is_taken_note_of(loaded: Engine, tmp_path: Path, remove: bool) -> None:
    elsewhere(f"engine.start('beta', {ENDS}, name='one', remove={remove})", tmp_path)
    container = loaded.containers.get("one")
    let_end(container)
    wanted = "gone" if remove else "exited"
    until(lambda: settled_row(loaded, container) == wanted)  # by the exit command, since nobody has asked
    until(lambda: left(tmp_path / "state", container.id) == [])
    if not remove:
        assert container.record().exit_code == 6
        container.remove()
    until(lambda: left(tmp_path, container.id) == [])


@pytest.mark.parametrize("remove", [False, True])
def test_a_run_ends_with_its_owner(loaded: Engine, tmp_path: Path, remove: bool) -> None:
    code = f"engine.run('beta', ['sh', '-c', 'echo x > /x; sleep 100'], name='one', remove={remove})"
    other = python(code, tmp_path / "root", "overlay2")
    until(lambda: [each.name for each in loaded.containers.list()] == ["one"])
    container = loaded.containers.get("one")
    other.kill()
    other.communicate()
    until(lambda: settled_row(loaded, container) == ("gone" if remove else "exited"))
    if not remove:
        assert container.record().exit_code == 137
        container.remove()
    until(lambda: left(tmp_path, container.id) == [])


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_starter_that_dies_before_the_start_leaves_a_container_that_never_ran(
    loaded: Engine, tmp_path: Path, remove: bool, again: bool
) -> None:
    code = (
        "import os\nfrom pyrunc.engine import starting\n"
        "starting._start = lambda *_: os.kill(os.getpid(), 9)\n"
        f"engine.start('beta', ['true'], name='one', remove={remove})"
    )
    if again:
        code = f"engine.start('beta', ['true'], name='one').wait()\n{code}".replace(
            f"start('beta', ['true'], name='one', remove={remove})", "containers.get('one').start()"
        )
    other = python(code, tmp_path / "root", "overlay2")
    assert other.communicate(timeout=300)[1] == ""
    found = loaded.containers.list(all=True)
    if not again:
        assert found == []  # it was not even made
        assert [each for each in os.listdir(tmp_path / "state") if len(each) == 64] == []
        return
    (record,) = found
    assert record.state == "exited"
    assert record.error == "the process that started it was killed"
    container = loaded.containers.get("one")
    assert container.start() and container.wait(60) == 0
    container.remove()
    until(lambda: left(tmp_path, container.id) == [])


@pytest.mark.parametrize("where", ["prepare", "use_image"])
def test_a_container_whose_maker_dies_was_never_made(loaded: Engine, tmp_path: Path, where: str) -> None:
    for verb in ("start", "containers.create"):
        part = "snapshotter" if where == "prepare" else "metadata"
        code = (
            f"import os\nengine.containers.create('beta', ['true']).remove()\nkind = type(engine._parts.{part})\n"
            f"kind.{where} = lambda *_, **__: os.kill(os.getpid(), 9)\nengine.{verb}('beta', ['true'], name='one')"
        )
        other = python(code, tmp_path / "root", "overlay2")
        assert other.communicate(timeout=300)[1] == ""
        assert loaded.containers.list(all=True) == []
        loaded.containers.create("beta", name="one").remove()


# --- the shim, and its exit command


@pytest.mark.usefixtures("host_unchanged")
def test_a_shim_that_is_killed_takes_its_container_with_it(loaded: Engine, tmp_path: Path) -> None:
    container = catching(loaded)
    pid = container.pid
    until(lambda: "pyrunc/shims" in Path(f"/proc/{container.record().shim_pid}/cgroup").read_text())
    kill_shim(container)
    until(lambda: state(container) != "running")
    record = container.record()
    assert (record.state, record.exit_code) == ("exited", 137)
    until(lambda: not any_empty("pyrunc/shims"))  # the killed one was the last there, or those of others are
    assert is_dead(pid)
    assert container.start() and state(container) == "running"
    container.remove(force=True)
    until(lambda: left(tmp_path, container.id) == [])


def test_a_killed_shim_of_one_that_goes_with_its_end(loaded: Engine, tmp_path: Path) -> None:
    elsewhere("engine.start('beta', ['sleep', '100'], name='one', remove=True)", tmp_path)
    container = loaded.containers.get("one")
    kill_shim(container)
    until(lambda: loaded.containers.list(all=True) == [])
    until(lambda: left(tmp_path, container.id) == [])


@pytest.mark.parametrize("command", ["('/bin/false',)", "('/nothing',)"])
@pytest.mark.parametrize("remove", [False, True])
def test_an_exit_command_that_fails_is_made_up_for(
    loaded: Engine, tmp_path: Path, command: str, remove: bool
) -> None:
    code = f"from pyrunc.engine import finish\nfinish.exit_command = lambda *_: {command}\n"
    elsewhere(f"{code}engine.start('beta', {ENDS}, name='one', remove={remove})", tmp_path)
    row = loaded._parts.containers.find("one")
    let_end(loaded.containers.get("one"))
    until(lambda: shim.status(row.record.state_dir) is not None)
    until(lambda: not observing.look(row)[1])
    if remove:
        assert loaded.containers.list(all=True) == []
    else:
        (record,) = loaded.containers.list(all=True)
        assert (record.state, record.exit_code) == ("exited", 6)
        loaded.containers.get("one").remove()
    until(lambda: left(tmp_path, row.record.id) == [])


def test_a_root_that_was_deleted_is_not_made_anew_by_an_end(loaded: Engine, tmp_path: Path) -> None:
    elsewhere("engine.start('beta', ['sleep', '100'], name='one')", tmp_path)
    record = loaded.containers.get("one").record()
    running = shim.running(record.state_dir)
    assert running is not None
    loaded.close()
    shutil.rmtree(tmp_path / "root")
    os.kill(record.pid, signal.SIGKILL)
    until(
        lambda: not shim.is_alive(running.shim, running.shim_started)
    )  # nor the exit command that it became
    assert shim.status(record.state_dir) is not None
    assert not (tmp_path / "root").exists()
    shutil.rmtree(record.state_dir)  # whose root nobody can open any more


def test_after_a_reboot_nothing_runs_and_no_stranger_is_harmed(loaded: Engine, tmp_path: Path) -> None:
    container = loaded.containers.create("beta", ["sh", "-c", "exit 2"], name="one")
    place = tmp_path / "state" / container.id
    place.mkdir(parents=True)
    born = int(Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19])
    stranger = {
        "pid": os.getpid(),
        "pid_started": born,
        "shim": os.getpid(),
        "shim_started": born,
        "started_ns": 5,
    }
    (place / "running").write_text(json.dumps(stranger))
    loaded._parts.containers.starting(container.id, "another boot", str(place), again=False)
    (record,) = loaded.containers.list(all=True)
    assert (record.state, record.exit_code) == ("exited", 255)
    assert container.start() and container.wait(60) == 2
    container.remove()
    until(lambda: left(tmp_path, container.id) == [])


def test_a_removal_that_was_killed_is_ended_by_who_looks_next(loaded: Engine, tmp_path: Path) -> None:
    container = loaded.start("beta", ["true"], name="one")
    container.wait(60)
    loaded._parts.containers.change(container.id, state="removing")
    loaded._parts.snapshotter.remove(container.id)
    assert loaded.containers.list(all=True) == []
    until(lambda: left(tmp_path, container.id) == [])
    with pytest.raises(NotFound):
        container.record()


# --- restart policies


def policy(name: str, most: int = 0) -> dict[str, object]:
    return {"RestartPolicy": {"Name": name, "MaximumRetryCount": most}}


def pauses(container: Container) -> None:
    """Wait until its restart is some seconds away: the pause doubles each time, from 0.1 s on."""

    def long() -> bool:
        record = container.record()
        return record.restart_count >= 5 and record.state == "restarting"

    until(long)


@pytest.mark.parametrize("orphan", [False, True])
def test_on_failure_it_is_started_again_so_often(loaded: Engine, tmp_path: Path, orphan: bool) -> None:
    code = "engine.start('beta', ['sh', '-c', 'echo x; exit 3'], name='one', host_config={})"
    if orphan:
        elsewhere(code.format(policy("on-failure", 2)), tmp_path)
    else:
        loaded.start("beta", ["sh", "-c", "echo x; exit 3"], name="one", host_config=policy("on-failure", 2))
    container = loaded.containers.get("one")
    until(lambda: settled_row(loaded, container) == "exited")
    record = container.record()
    assert (record.exit_code, record.restart_count, said(container)) == (3, 2, "x\n" * 3)
    container.start()  # by hand: it counts from the beginning
    until(lambda: container.record().restart_count == 2 and settled_row(loaded, container) == "exited")
    container.remove()
    until(lambda: left(tmp_path, container.id) == [])


def test_who_stops_it_ends_its_restarts(loaded: Engine, tmp_path: Path) -> None:
    container = loaded.start("beta", SLEEP, host_config=policy("always"))
    kill_shim(container)
    until(lambda: state(container) == "running" and container.record().restart_count == 1)
    container.stop(0)
    time.sleep(0.3)
    assert state(container) == "exited"
    container.start()
    container.kill()
    time.sleep(0.3)
    assert state(container) == "exited"
    container.remove()
    until(lambda: left(tmp_path, container.id) == [])


def test_what_waits_for_its_restart_is_stopped_at_once(loaded: Engine, tmp_path: Path) -> None:
    container = loaded.start("beta", ["sh", "-c", "exit 1"], host_config=policy("always"))
    rows = loaded._parts.containers
    pauses(container)
    with pytest.raises(FailedPrecondition, match="You cannot remove a restarting container"):
        container.remove()
    with pytest.raises(FailedPrecondition, match="is restarting, wait until the container is running"):
        container.pause()
    row = rows.find(container.id)
    assert shim.is_alive(row.restarter, row.restarter_started)
    container.stop()
    assert state(container) == "exited"
    until(lambda: not shim.is_alive(row.restarter, row.restarter_started))
    container.start()
    until(lambda: state(container) == "restarting")
    container.remove(force=True)
    until(lambda: left(tmp_path, container.id) == [])


def test_who_was_to_restart_it_is_killed_and_another_takes_over(loaded: Engine) -> None:
    container = loaded.start("beta", ["sh", "-c", "exit 1"], host_config=policy("always"))
    pauses(container)
    row = loaded._parts.containers.find(container.id)
    os.kill(row.restarter, signal.SIGKILL)
    until(lambda: not shim.is_alive(row.restarter, row.restarter_started))
    count = row.record.restart_count
    until(lambda: container.record().restart_count > count)
    container.remove(force=True)


# --- several at once

_WORK = """
import random, sys
from pyrunc import Engine, errors
engine = Engine(sys.argv[1], graph="overlay2")
chance = random.Random(int(sys.argv[2]))
names = ["one", "two"]
acts = {
    "start": lambda c: c.start(), "stop": lambda c: c.stop(chance.choice([0, 0.05])), "kill": lambda c: c.kill(),
    "remove": lambda c: c.remove(force=chance.random() < 0.5), "pause": lambda c: c.pause(),
    "unpause": lambda c: c.unpause(), "restart": lambda c: c.restart(0), "wait": lambda c: c.wait(0.05),
    "rename": lambda c: c.rename(chance.choice(names)), "update": lambda c: c.update(PidsLimit=50),
}
print("ready", flush=True)
for turn in range(int(sys.argv[3])):
    name = chance.choice(names)
    try:
        if chance.random() < 0.3:
            engine.start("beta", chance.choice([["sleep", "100"], ["true"]]), name=name,
                         remove=chance.random() < 0.3, exist_ok=True)
        elif chance.random() < 0.1:
            engine.containers.list(all=True)
        else:
            acts[chance.choice(list(acts))](engine.containers.get(name))
    except (errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition, errors.TimedOut, errors.InvalidArgument):
        pass
"""


@pytest.mark.parametrize("kills", [False, True])
@pytest.mark.parametrize("turns", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_several_processes_do_all_at_once_and_the_rows_are_true(
    loaded: Engine, open_engine: Callable[[], Engine], tmp_path: Path, kills: bool, turns: int
) -> None:
    loaded.close()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    chance = random.Random(turns)
    rounds = 4 if kills else 1
    for number in range(rounds):
        said = [tmp_path / f"worker-{each}" for each in range(3)]
        workers = []
        for each, path in enumerate(said):
            command = [
                sys.executable,
                "-c",
                _WORK,
                str(tmp_path / "root"),
                str(number * 10 + each),
                str(turns),
            ]
            with open(path, "w") as file:
                workers.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
        until(lambda said=said: all(path.read_text() for path in said))  # type: ignore[misc]
        if kills:
            time.sleep(chance.uniform(0.1, 1.0))
            for worker in workers:
                worker.kill()
        for worker in workers:
            worker.wait(500)
        assert [path.read_text() for path in said] == ["ready\n"] * 3
    engine = open_engine()

    wrong: list[object] = []

    def true() -> bool:
        """Every row has its processes, or an exit code; no state is left but of what runs."""
        records = engine.containers.list(all=True)
        running = {each.id for each in records if each.state in ("running", "paused")}
        states = {each for each in os.listdir(tmp_path / "state") if len(each) == 64}
        locks = [each for each in os.listdir(tmp_path / "root/locks") if each.endswith(".container")]
        known = ("created", "running", "paused", "exited")
        wrong[:] = [states ^ running, locks, [each for each in records if each.state not in known]]
        wrong.append(
            [each for each in records if each.id in running and not Path(f"/proc/{each.pid}").exists()]
        )
        return not any(wrong)

    try:
        until(true)
    except AssertionError:
        raise AssertionError(wrong) from None
    for record in engine.containers.list(all=True):
        engine.containers.get(record.id).remove(force=True)
    assert [info.key for info in engine._parts.snapshotter.walk() if len(info.key) == 64] == []
    assert not list((tmp_path / "root/containers").iterdir())
    assert finish.state_root() == str(tmp_path / "state")


# --- whoever else is in its cgroups


@pytest.mark.parametrize("frozen", [False, True], ids=["runs", "frozen"])
def test_who_is_left_in_the_cgroups_ends_with_the_container(
    loaded: Engine, tmp_path: Path, frozen: bool
) -> None:
    """Such as a program on its way in, which `pause` has caught in the freezer: no start is in its way later."""
    elsewhere(f"engine.start('beta', {ENDS}, name='one')", tmp_path)
    container = loaded.containers.get("one")
    freezer = Path("/sys/fs/cgroup/freezer/pyrunc", container.id)
    if not freezer.exists():
        pytest.skip("needs the freezer of cgroup v1")
    place = freezer / "sub" if frozen else freezer
    place.mkdir(exist_ok=True)
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            (place / "cgroup.procs").write_text(str(stranger.pid))
            if frozen:
                (place / "freezer.state").write_text("FROZEN")
            let_end(container)
            assert container.wait(60) == 6
            until(lambda: stranger.poll() is not None)
        finally:
            with suppress(OSError):
                (place / "freezer.state").write_text("THAWED")
            stranger.kill()
    assert stranger.returncode == -signal.SIGKILL
    until(lambda: not any(Path("/sys/fs/cgroup").glob(f"*/pyrunc/{container.id}")))
    container.start()
    assert container.wait(60) == 6  # what let it end is still there
    container.remove(force=True)
    until(lambda: left(tmp_path, container.id) == [])


def test_a_cgroup_that_stays_busy_is_removed_when_note_is_taken(loaded: Engine, tmp_path: Path) -> None:
    """The supervisor gives up after a second; what it says of that is heeded."""
    elsewhere(f"engine.start('beta', {ENDS}, name='one')", tmp_path)
    container = loaded.containers.get("one")
    record = container.record()
    group = next(Path("/sys/fs/cgroup").glob(f"*/pyrunc/{container.id}"))
    with finish.Locked(loaded._parts, container.id):  # nobody takes note of its end meanwhile
        let_end(container)
        status = Path(record.state_dir, "status")
        until(status.exists)
        numbers = json.loads(status.read_text())
        assert numbers["cgroups_left"] == 0
        status.write_text(json.dumps(numbers | {"cgroups_left": 1}))
        group.mkdir(parents=True)
    until(lambda: not group.exists())
    container.remove()
    until(lambda: left(tmp_path, container.id) == [])
    with suppress(OSError):
        group.parent.rmdir()  # made here, and so by no start that would remove it
