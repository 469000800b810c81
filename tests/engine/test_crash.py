"""kill -9 at any moment of load, run, commit, import, save and rmi: the next one finds a store that is whole."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.errors import NotFound
from pyrunc.store.check import check

_WORK = """
import sys
from pyrunc import Engine, errors
engine = Engine(sys.argv[1], graph=sys.argv[2])
print("ready", flush=True)
for turn in range(100):
    try:
        engine.images.load("beta.tar")
        engine.run("beta", ["sh", "-c", "echo x > /x"], name="one", remove=False)
        engine.containers.get("one").commit("made:1")
        engine.images.import_("root.tar", "root:1")
        engine.images.save(["made:1"], lambda data: None)
        engine.run("made:1", ["busybox", "cat", "/x"])
        engine.containers.get("one").remove(force=True)
        for name in ("made:1", "root:1", "beta", "beta:old", "example.org:5000/team/beta:v2"):
            engine.images.remove(name)
    except (errors.NotFound, errors.AlreadyExists):
        # What one that was killed has left; this one begins anew.
        for container in engine.containers.list(all=True):
            try:
                engine.containers.get(container.id).remove(force=True)
            except errors.NotFound:
                pass
        for image in engine.images.list(everything=True):
            try:
                engine.images.remove(image.id, force=True)
            except (errors.NotFound, errors.FailedPrecondition):
                pass
"""


def _problems(engine: Engine) -> list[str]:
    parts = engine._parts
    return [str(problem) for problem in check(parts.content, parts.metadata)]


@pytest.mark.parametrize("turns", [8, pytest.param(150, marks=pytest.mark.soak)])
def test_whoever_is_killed_whenever_the_store_is_whole(
    open_engine: Callable[[], Engine], archives: Path, tmp_path: Path, driver: str, turns: int
) -> None:
    chance = random.Random(turns)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _WORK, str(tmp_path / "root"), driver]
    for _ in range(turns):
        with subprocess.Popen(
            command, cwd=archives, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as work:
            assert work.stdout is not None and work.stderr is not None
            assert work.stdout.readline() == b"ready\n", work.stderr.read()
            time.sleep(chance.uniform(0, 0.6))
            assert work.poll() is None, work.stderr.read()
            work.send_signal(signal.SIGKILL)
    engine = open_engine()
    assert _problems(engine) == []
    # What the last one that was killed has begun ends with it, and with what its shim has to do.
    deadline = time.monotonic() + 60
    while any(each.running for each in engine.containers.list(all=True)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for container in engine.containers.list(all=True):
        assert container.state != "running"
        with suppress(NotFound):
            engine.containers.get(container.id).remove()
    for image in engine.images.list(everything=True):
        if engine._parts.metadata.get_image(image.id):
            engine.images.remove(image.id, force=True)
    # Nothing of all that is left, and all of it works.
    engine._parts.collect()
    assert list(engine._parts.content.walk()) == []
    assert [info.key for info in engine._parts.snapshotter.walk()] == []
    # An exit command that has waited for one of the locks finds nothing to do, and lets go of it.
    deadline = time.monotonic() + 60
    while os.listdir(tmp_path / "root/locks") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(tmp_path / "root/locks") == []
    engine.images.load(archives / "beta.tar")
    assert engine.run("beta", ["true"]).exit_code == 0
