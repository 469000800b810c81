"""A run's result comes before its container is gone: nobody who asks sees that, and whoever is killed, it goes."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Engine
from pyrunc.engine import finish
from pyrunc.errors import NotFound
from tests.engine.test_run import python
from tests.safety.support import wait_until

pytestmark = pytest.mark.usefixtures("host_unchanged")


@pytest.fixture
def driver() -> str:
    return "overlay2"


def ids(engine: Engine) -> list[str]:
    """The ids of the rows, without waiting for anything."""
    return [row.record.id for row in engine._parts.containers.all()]


def left(root: Path) -> list[str]:
    """What there is of containers on disk: state, locks, and snapshots that are no layer."""
    state = [name for name in os.listdir(os.environ["PYRUNC_STATE"]) if name != "seccomp"]
    locks = [path.name for path in (root / "locks").glob("*.container")]
    return state + locks + [path.name for path in (root / "snapshots/overlay2").glob("*/work")]


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, errors = process.communicate(timeout=300)
    assert errors == ""
    return process.returncode, out


def test_nothing_is_seen_of_it_by_who_asks_the_engine(loaded: Engine) -> None:
    for _ in range(20):
        assert loaded.run("beta", ["sh", "-c", "exit 3"], scratch="disk").exit_code == 3
        assert loaded.containers.list(all=True) == []
        assert ids(loaded) == []
    for _ in range(3):
        loaded.run("beta", ["true"], scratch="disk")
        happened = [event.action for event in loaded.events()]
        assert happened[-4:] == ["create", "start", "die", "destroy"]
    loaded.run("beta", ["true"], scratch="disk")
    loaded.images.remove("beta", force=True)
    with pytest.raises(NotFound):
        loaded.images.get("beta")


def test_it_is_gone_when_the_engine_is_closed(loaded: Engine) -> None:
    workers = [
        threading.Thread(target=lambda: [loaded.run("beta", ["true"], scratch="disk") for _ in range(5)])
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    root = loaded._parts.root
    loaded.close()
    assert left(Path(root)) == []
    with Engine(root) as again:
        assert ids(again) == []


@pytest.mark.parametrize("how", ["ends", "leaves", "is killed"])
def test_whoever_ran_it_ends_at_once(how: str, loaded: Engine, tmp_path: Path) -> None:
    """At the end of Python it is waited for; else the shim finds that nobody did it."""
    last = {"ends": "", "leaves": "os._exit(0)", "is killed": f"os.kill(os.getpid(), {int(signal.SIGKILL)})"}
    code = f"import os; engine.run('beta', ['true'], scratch='disk'); {last[how]}"
    for _ in range(5):
        assert end(python(code, tmp_path / "root", "overlay2"))[0] == (-9 if how == "is killed" else 0)
        if how == "ends":
            assert ids(loaded) == []
        assert wait_until(lambda: ids(loaded) == [])
        assert wait_until(lambda: left(tmp_path / "root") == [])


def test_a_fork_waits_for_it(loaded: Engine) -> None:
    for _ in range(5):
        loaded.run("beta", ["true"], scratch="disk")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                seen = ids(loaded)
                done = loaded.run("beta", ["true"], scratch="disk")
                code = 0 if not seen and done.exit_code == 0 and loaded.containers.list(all=True) == [] else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        loaded.run("beta", ["true"], scratch="disk")
        assert loaded.containers.list(all=True) == []


def test_the_result_does_not_wait_for_it(loaded: Engine) -> None:
    loaded.run("beta", ["true"], scratch="disk")
    assert loaded.containers.list(all=True) == []
    go, settle = threading.Event(), finish.settle

    def slow(*arguments: Any) -> None:
        assert go.wait(60)
        settle(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "settle", slow)
        assert loaded.run("beta", ["true"], scratch="disk").exit_code == 0
        assert len(ids(loaded)) == 1
        go.set()
        assert loaded.containers.list(all=True) == []


def test_what_cannot_be_done_is_left_to_the_exit_command(loaded: Engine, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "settle", fail)
        assert loaded.run("beta", ["true"], scratch="disk").exit_code == 0
        loaded._parts.come_to_rest()
    assert wait_until(lambda: ids(loaded) == [])
    assert wait_until(lambda: left(tmp_path / "root") == [])
