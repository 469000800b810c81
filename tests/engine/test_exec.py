"""Further programs in containers of the engine's, whoever has started them."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Engine, errors
from pyrunc.engine import events
from pyrunc.engine import exec as execs
from pyrunc.engine.container import Container
from pyrunc.runtime import joining, shim
from tests.cli import samples
from tests.engine.conftest import clear
from tests.safety.support import wait_until

pytestmark = [
    pytest.mark.usefixtures("host_unchanged"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
SLEEP = ["sleep", "600"]
_RIGHTS = ("Uid", "Gid", "Cap", "Sec", "NoN")  # rows of /proc/<pid>/status
_ELSEWHERE = """
import json, sys
from pyrunc import Engine
engine = Engine(sys.argv[1])
engine.start("beta", ["sleep", "600"], name="one", **json.loads(sys.argv[2]))
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("PYRUNC_STATE", str(tmp_path / "state"))
    samples.write(tmp_path, Path("/bin/busybox"))
    with Engine(tmp_path / "root") as made:
        made.images.load(str(tmp_path / "beta.tar"))
        yield made
        clear(made)


def elsewhere(engine: Engine, options: str = "{}") -> Container:
    """A container that another process has started, which is no more."""
    subprocess.run([sys.executable, "-c", _ELSEWHERE, engine._parts.root, options], check=True, timeout=300)
    return engine.containers.get("one")


def shell(container: Container, script: str, **options: object) -> str:
    result = container.exec(["sh", "-c", script], timeout_s=60, **options)  # type: ignore[arg-type]
    assert result.exit_code == 0, result
    return result.stdout.decode()


def test_one_whose_supervisor_is_killed_has_an_end(engine: Engine) -> None:
    container = engine.start("beta", SLEEP)
    program = container.exec_start(SLEEP)
    supervisor = int(Path(f"/proc/{program.pid}/stat").read_text().rpartition(") ")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(errors.PyruncError):
        program.wait(60)
    program.close()
    told = [event for event in events.read(engine._parts.root) if event.action == "exec_die"]
    assert [event.attributes["exitCode"] for event in told] == ["137"]


def test_it_is_what_the_container_of_another_process_is(engine: Engine) -> None:
    options = {
        "env": {"A": "b"}, "cwd": "/tmp", "hostname": "box", "user": "7:8", "memory_bytes": 64 << 20,
        "rlimits": {"nofile": 100}, "umask": 0o27,
    }  # fmt: skip
    container = elsewhere(engine, json.dumps(options))
    own = container.pid
    with container.exec_start(SLEEP) as program:
        for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert os.stat(f"/proc/{program.pid}/ns/{name}") == os.stat(f"/proc/{own}/ns/{name}"), name
        # As soon as it is executed, and so has started, and for a moment before, it shows none.
        assert wait_until(lambda: Path(f"/proc/{program.pid}/environ").read_bytes() != b"")
        for name in ("cgroup", "limits", "oom_score_adj", "environ"):
            ours, theirs = (Path(f"/proc/{pid}/{name}").read_bytes() for pid in (program.pid, own))
            assert ours == theirs, name
        ours_may, theirs_may = (
            [row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row[:3] in _RIGHTS]
            for pid in (program.pid, own)
        )
        assert ours_may == theirs_may
        assert os.readlink(f"/proc/{program.pid}/cwd") == os.readlink(f"/proc/{own}/cwd")


def test_a_source_that_is_gone_does_not_matter(engine: Engine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    container = engine.containers.create(
        "beta", SLEEP, host_config={"Binds": [f"{source}:/data"], "ShmSize": 1 << 20}
    )
    container.start()
    source.rmdir()
    assert shell(container, "echo here") == "here\n"


def test_options(engine: Engine) -> None:
    container = elsewhere(engine)
    assert shell(container, "echo $A; busybox pwd; busybox id -u", env={"A": "1"}, cwd="/etc", user="7") == (
        "1\n/etc\n7\n"
    )
    assert (
        shell(container, "busybox tty; busybox stty size", tty=True, size=(7, 9)) == "/dev/pts/0\r\n7 9\r\n"
    )
    held = shell(container, "busybox grep CapBnd /proc/self/status", privileged=True).split()[1]
    own = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("CapPrm"))
    assert int(held, 16) == int(own.split()[1], 16)
    with pytest.raises(errors.CommandNotFound):
        container.exec(["nothing"])
    with pytest.raises(errors.NotFound, match="unable to find user nobody"):
        container.exec(["true"], user="nobody")


def test_words_when_it_does_not_run(engine: Engine) -> None:
    container = engine.containers.create("beta", SLEEP, name="one")
    for verb in (container.exec, container.exec_start, container.exec_detached):
        with pytest.raises(errors.FailedPrecondition, match=f"^Container {container.id} is not running$"):
            verb(["true"])
    container.start()
    container.pause()
    with pytest.raises(errors.FailedPrecondition, match=r"^Container one is paused, unpause the container"):
        container.exec(["true"])
    container.unpause()
    assert container.exec(["true"]).exit_code == 0


def test_words_when_it_is_removed_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    container = engine.start("beta", SLEEP)
    compiled = execs._compiled

    def late(*arguments: Any) -> Any:
        container.remove(force=True)
        return compiled(*arguments)

    monkeypatch.setattr(execs, "_compiled", late)
    with pytest.raises(errors.NotFound, match=f"^No such container: {container.id}$"):
        container.exec(["true"])


def test_many_at_once_end_with_the_container(engine: Engine) -> None:
    container = elsewhere(engine)
    programs = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(5):
            program = container.exec_start(SLEEP, tty=True)
            with lock:
                programs.append(program)
            assert container.exec(["true"]).exit_code == 0

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(programs) == 30
    container.kill()
    assert [program.wait(60) for program in programs] == [137] * 30
    for program in programs:
        program.close()


def test_a_detached_one_is_told_of_by_its_shim(engine: Engine) -> None:
    container = elsewhere(engine)
    exec_id = container.exec_detached(["sh", "-c", "exit 5"])
    place = f"{container.record().state_dir}/exec/{exec_id}"
    assert wait_until(lambda: shim.status(place) is not None)
    status = shim.status(place)
    assert status is not None
    assert status.exit_code == 5


def test_one_whose_container_is_over_before_it_is_heard_of(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the container's end go the places of its programs, wherever their starter is just then."""
    container = elsewhere(engine)
    look = shim.running

    def late(place: str) -> Any:
        if "/exec/" in place:
            container.kill()
            container.wait(60)
            assert wait_until(lambda: not os.path.isdir(place))
        return look(place)

    monkeypatch.setattr(shim, "running", late)
    with pytest.raises(errors.FailedPrecondition, match=f"Container {container.id} is not running"):
        container.exec_detached(["sleep", "100"])


def test_another_process_with_its_number_is_not_joined(engine: Engine) -> None:
    """The pid that its shim has written may be another's by now: the start time tells."""
    container = elsewhere(engine)
    running = shim.running(container.record().state_dir)
    assert running is not None
    with pytest.raises(errors.FailedPrecondition, match="is not running"):
        joining.open_init(container.id, os.getpid(), running.pid_started)
    os.close(joining.open_init(container.id, running.pid, running.pid_started))
    with pytest.raises(errors.FailedPrecondition, match="is not running"):
        joining.open_init(container.id, 1 << 22, running.pid_started)


def test_events(engine: Engine) -> None:
    container = elsewhere(engine)
    container.exec(["sh", "-c", "exit 3"])
    found = [each for each in events.read(engine._parts.root) if each.action.startswith("exec")]
    assert [each.action for each in found] == [
        "exec_create: sh -c exit 3",
        "exec_start: sh -c exit 3",
        "exec_die",
    ]
    assert found[2].attributes["exitCode"] == "3"
    assert len({each.attributes["execID"] for each in found}) == 1
