"""Eight processes do the same to one container at the same moment: one of them does it, and all are told the truth."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Engine
from tests.engine.chaos_worker import CHECKOUT
from tests.engine.conftest import clear
from tests.engine.test_run import said as written
from tests.engine.test_run import until

_COUNT = 8
_BEGIN = """
import json, sys, time
from pyrunc import Engine, errors
engine = Engine(sys.argv[1], graph=sys.argv[2])
engine.containers.list(all=True)
print("ready", flush=True)
sys.stdin.readline()
try:
    said = act()
except errors.PyruncError as exc:
    said = f"{type(exc).__name__}: {exc}"
print(json.dumps(said))
engine.close()
"""
Race = Callable[[str], Counter[Any]]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process and those of `race` keep what runs."""
    monkeypatch.setenv("PYRUNC_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def race(loaded: Engine, state: Path, tmp_path: Path, driver: str) -> Iterator[Race]:
    """Eight processes that wait until all are ready, and then do what the body of a function says; what each said."""
    del loaded, state

    def start(body: str) -> Counter[Any]:
        code = "def act():\n" + "".join(f"    {line}\n" for line in body.strip().splitlines()) + _BEGIN
        command = [sys.executable, "-c", code, str(tmp_path / "root"), driver]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        others = [
            subprocess.Popen(
                command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(_COUNT)
        ]  # fmt: skip
        for other in others:
            assert other.stdout is not None and other.stdout.readline() == "ready\n", other.communicate()
        for other in others:
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
        said: Counter[Any] = Counter()
        for other in others:
            out, err = other.communicate(timeout=300)
            assert err == "" and other.returncode == 0, (out, err)
            said[json.loads(out)] += 1
        return said

    yield start
    with Engine(tmp_path / "root", graph=driver) as engine:
        clear(engine)


def test_one_gets_the_name(race: Race, loaded: Engine) -> None:
    said = race("return engine.containers.create('beta', ['true'], name='one').name")
    (refusal,) = set(said) - {"one"}
    assert said == {"one": 1, refusal: _COUNT - 1}
    assert refusal.startswith(
        'AlreadyExists: Conflict. The container name "/one" is already in use by container'
    )
    assert [each.name for each in loaded.containers.list(all=True)] == ["one"]


def test_started_by_all_it_runs_once(race: Race, loaded: Engine) -> None:
    script = "echo started; sleep 60"
    loaded.containers.create("beta", ["sh", "-c", script], name="one")
    said = race("engine.containers.get('one').start()")
    assert said == {None: _COUNT}
    container = loaded.containers.get("one")
    until(lambda: written(container) != "")
    container.stop(timeout_s=0)
    assert b"".join(entry.data for entry in container.logs()) == b"started\n"


def test_killed_by_all_it_ends_once(race: Race, loaded: Engine) -> None:
    container = loaded.start("beta", ["sleep", "60"], name="one")
    said = race("engine.containers.get('one').kill()")
    container.wait(timeout_s=60)
    assert said[None] >= 1
    assert all("is not running" in refusal for refusal in said if refusal)
    assert (container.record().state, container.record().exit_code) == ("exited", 137)


def test_removed_by_all_it_is_gone(race: Race, loaded: Engine, state: Path) -> None:
    loaded.start("beta", ["sleep", "60"], name="one")
    said = race("engine.containers.get('one').remove(force=True)")
    assert said[None] >= 1
    wanted = ("No such container", "is already in progress")
    assert all(any(text in refusal for text in wanted) for refusal in said if refusal), said
    assert loaded.containers.list(all=True) == []
    assert [name for name in os.listdir(state) if name != "seccomp"] == []


def test_all_who_wait_are_told_the_code(race: Race, loaded: Engine) -> None:
    loaded.start("beta", ["sh", "-c", "sleep 1; exit 7"], name="one")
    assert race("return engine.containers.get('one').wait(timeout_s=60)") == {7: _COUNT}
