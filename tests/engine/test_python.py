"""What a script may rely on: names asked for by many at once, blocks that always reap, two deadlines, timings."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

from pyrunc import Engine, Mount
from pyrunc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, TimedOut
from pyrunc.runtime import spawner
from pyrunc.store.files import Lock
from tests.cli import samples
from tests.engine.conftest import PATIENCE_S, clear
from tests.safety.support import wait_until

pytestmark = [
    pytest.mark.usefixtures("host_unchanged"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
SLEEP = ["sleep", "600"]


@pytest.fixture
def engine(tmp_path: Path, busybox: Path) -> Iterator[Engine]:
    samples.write(tmp_path, busybox)
    with Engine(tmp_path / "root") as made:
        made.images.load(tmp_path / "beta.tar")
        made.images.load(tmp_path / "alpha.tar")
        yield made
        clear(made)


def names(engine: Engine) -> list[str]:
    return [record.name for record in engine.containers.list(all=True)]


def script(engine: Engine, text: str, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", text, engine._parts.root],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


# --- names


_WORKER = """
import sys, pyrunc
sys.stdin.readline()
with pyrunc.Engine(sys.argv[1]) as engine:
    for number in range(5):
        c = engine.start("beta", ["sleep", "600"], name="w1", exist_ok=True, env={"A": "1", "B": "2"})
        assert c.record().state == "running"
        print(c.id, c.made)
"""


def test_one_name_for_many_processes(engine: Engine) -> None:
    workers = [script(engine, _WORKER) for _ in range(6)]
    told = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    for worker in workers:
        out, errors = worker.communicate(timeout=300)
        assert (worker.returncode, errors) == (0, b"")
        told += out.decode().splitlines()
    assert len({line.split()[0] for line in told}) == 1
    assert len([line for line in told if line.endswith("True")]) == 1
    assert names(engine) == ["w1"]


_REMOVER = """
import sys, pyrunc
with pyrunc.Engine(sys.argv[1]) as engine:
    for number in range(15):
        with engine.start("beta", ["sleep", "600"], name="w1", exist_ok=True, remove=True) as c:
            if number % 3 == 0:
                try:
                    c.kill()
                except (pyrunc.errors.NotFound, pyrunc.errors.FailedPrecondition):
                    pass  # another was faster
"""


def test_one_name_that_is_removed_again_and_again(engine: Engine) -> None:
    workers = [script(engine, _REMOVER) for _ in range(4)]
    for worker in workers:
        assert worker.communicate(timeout=300)[1] == b""
        assert worker.returncode == 0
    assert names(engine) in ([], ["w1"])


def test_what_is_the_same_and_what_is_not(engine: Engine) -> None:
    first = engine.start(
        "beta", SLEEP, name="w1", exist_ok=True, env={"A": "1", "B": "2"}, memory_bytes=64 << 20
    )
    assert first.made
    again = engine.start(
        "beta", SLEEP, name="/w1", exist_ok=True, env={"B": "2", "A": "1"}, memory_bytes=64 << 20
    )
    assert (again.id, again.made) == (first.id, False)
    for words, image, more in (
        (r"its image_id is another", "alpha:1", {}),
        (r"its host_config \(Memory, MemorySwap\) is another", "beta", {"memory_bytes": 32 << 20}),
        (r"its config \(Env\) is another", "beta", {"env": {"A": "2"}}),
    ):
        wanted = {"env": {"A": "1", "B": "2"}, "memory_bytes": 64 << 20, **more}
        with pytest.raises(AlreadyExists, match=words):
            engine.start(image, SLEEP, name="w1", exist_ok=True, **wanted)  # type: ignore[arg-type]
    with pytest.raises(AlreadyExists, match=r'^Conflict\. The container name "/w1" is already in use'):
        engine.start("beta", SLEEP, name="w1")
    first.pause()
    with pytest.raises(FailedPrecondition, match="paused"):
        engine.start("beta", SLEEP, name="w1", exist_ok=True, env={"A": "1", "B": "2"}, memory_bytes=64 << 20)


# --- blocks


def test_a_block_removes_what_it_made_and_nothing_else(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.start("beta", SLEEP, name="one") as container:  # noqa: PT012
        with engine.containers.get("one") as found:
            assert found.id == container.id
        with engine.start("beta", SLEEP, name="one", exist_ok=True):
            pass
        assert container.record().state == "running"
        raise ZeroDivisionError
    assert names(engine) == []


def test_a_block_in_a_thread_and_one_left_by_a_signal(engine: Engine) -> None:
    def work() -> None:
        with engine.start("beta", SLEEP) as container:
            container.exec(["true"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(KeyboardInterrupt), engine.start("beta", SLEEP) as container:  # noqa: PT012
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        container.wait()
    assert names(engine) == []


@pytest.mark.parametrize("after_ms", [1, 3, 6, 10, 15, 25])
def test_a_start_that_is_interrupted_leaves_nothing(after_ms: int, engine: Engine) -> None:
    with engine.start("beta", SLEEP):
        pass  # an import that is interrupted leaves its file open
    for _ in range(4):
        timer = threading.Timer(after_ms / 1000, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            timer.start()
            with engine.start("beta", SLEEP, name="one"):
                time.sleep(10)
        assert names(engine) == []


def test_a_start_that_is_interrupted_when_all_is_done_leaves_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving the container's lock back asks the kernel, and that is when a signal comes to a thread that waited."""
    lock = engine._parts.lock

    @contextmanager
    def interrupted(container_id: str) -> Iterator[None]:
        monkeypatch.setattr(engine._parts, "lock", lock)
        with lock(container_id):
            yield
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._parts, "lock", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.start("beta", SLEEP, name="one")
    assert names(engine) == []


def test_a_forked_child_leaves_the_block_and_the_container(engine: Engine) -> None:
    with engine.start("beta", SLEEP, name="one") as container:
        child = os.fork()
        if not child:
            code = 1
            try:
                container.__exit__(None, None, None)
                code = 0 if container.record().state == "running" else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert container.record().state == "running"
    assert names(engine) == []


def test_a_block_reaps_when_its_engine_is_closed(engine: Engine) -> None:
    other = Engine(engine._parts.root)
    with other.start("beta", SLEEP, name="one"):
        other.close()
    assert names(engine) == []
    with pytest.raises(FailedPrecondition, match=r"^the engine is closed$"):
        other.start("beta", SLEEP)


@pytest.mark.parametrize("scratch", ["memory", "disk"])
def test_a_run_in_another_thread_ends_after_its_engine_is_closed(
    scratch: Literal["memory", "disk"], engine: Engine, tmp_path: Path
) -> None:
    other, found = Engine(engine._parts.root), queue.SimpleQueue[object]()
    script = "busybox touch /d/here; while [ ! -e /d/go ]; do busybox sleep 0.02; done; echo done"
    shared = Mount("/d", str(tmp_path))

    def run() -> None:
        try:
            found.put(other.run("beta", ["sh", "-c", script], scratch=scratch, mounts=[shared]).stdout)
        except FailedPrecondition as exc:
            found.put(str(exc))

    thread = threading.Thread(target=run)
    thread.start()
    assert wait_until((tmp_path / "here").exists, 60)
    other.close()
    (tmp_path / "go").touch()
    thread.join(60)
    assert found.get(timeout=1) == b"done\n"
    assert wait_until(lambda: not names(engine), 60)


_KILLED = """
import os, sys, pyrunc
engine = pyrunc.Engine(sys.argv[1])
with engine.start("beta", ["sleep", "600"], name="goes-on"):
    with engine.start("beta", ["sleep", "600"], name="ends", keep_running=False):
        print("here", flush=True)
        engine.run("beta", ["sleep", "600"], name="run")
"""


def test_what_a_killed_script_leaves_is_there_for_the_next(engine: Engine) -> None:
    process = script(engine, _KILLED)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    assert wait_until(lambda: len(engine.containers.list()) == 3)
    process.kill()
    process.communicate()
    assert wait_until(lambda: [record.name for record in engine.containers.list()] == ["goes-on"])
    assert wait_until(lambda: names(engine) == ["ends", "goes-on"])  # a run that nobody waits for is removed
    assert engine.containers.get("ends").record().exit_code == 137
    assert engine.containers.get("goes-on").exec(["true"]).exit_code == 0


# --- deadlines


def test_the_run_has_its_own_deadline(engine: Engine) -> None:
    for more in ({}, {"scratch": "disk"}, {"name": "one"}, {"name": "two", "remove": False}):
        for timeout_s in PATIENCE_S:
            with pytest.raises(TimedOut) as late:
                engine.run(
                    "beta", ["sh", "-c", "echo one; sleep 600"], timeout_s=timeout_s, create_timeout_s=60, **more
                )  # fmt: skip
            if late.value.stdout:
                break
            if "remove" in more:
                engine.containers.get("two").remove()
        assert (late.value.stage, late.value.stdout) == ("run", b"one\n")
        assert engine.run("beta", ["true"], timeout_s=60, create_timeout_s=60).exit_code == 0
    assert names(engine) == ["two"]


def test_the_creation_has_its_own_deadline(engine: Engine) -> None:
    """What it does is waited for: another process that unpacks the image, and a spawner that does not answer."""
    with Engine(engine._parts.root) as other:  # which has unpacked nothing
        row = other._parts.images.get("alpha:1")
        chain_ids = other._parts.metadata.chain_ids(row.id)
        for chain_id in reversed(chain_ids):
            other._parts.snapshotter.remove(chain_id)
        lock = os.path.join(other._parts.locks, chain_ids[0].removeprefix("sha256:"))
        with Lock(lock, transient=True):
            _too_late(other, "alpha:1")
    engine.run("beta", ["true"], scratch="disk")
    engine.run("beta", ["true"])
    pid = spawner.current().pid
    stopped = [pid]
    os.kill(pid, signal.SIGSTOP)
    try:
        for each in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with suppress(ProcessLookupError):  # a shim that has just ended; the others wait for work
                os.kill(each, signal.SIGSTOP)
                stopped.append(each)
        _too_late(engine, "beta")
    finally:
        for each in stopped:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
    assert engine.run("beta", ["true"], create_timeout_s=60).exit_code == 0


def _too_late(engine: Engine, image: str) -> None:
    for call in (
        lambda: engine.run(image, SLEEP, create_timeout_s=0.3),
        lambda: engine.run(image, SLEEP, create_timeout_s=0.3, scratch="disk", timeout_s=100),
        lambda: engine.run(image, SLEEP, create_timeout_s=0.3, name="one"),
        lambda: engine.start(image, SLEEP, create_timeout_s=0.3),
        lambda: engine.start(image, SLEEP, create_timeout_s=0.3, name="one", remove=True),
    ):
        with pytest.raises(TimedOut, match=r"^the container was not there after 0\.3 s: ") as late:
            call()
        assert late.value.stage == "create"
        assert names(engine) == []


def test_a_deadline_is_a_number(engine: Engine) -> None:
    for wrong in (-1, "1", float("nan")):
        with pytest.raises(InvalidArgument, match="create_timeout_s"):
            engine.start("beta", SLEEP, create_timeout_s=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="timeout_s"):
            engine.run("beta", SLEEP, name="one", timeout_s=wrong)  # type: ignore[arg-type]
    with pytest.raises(TimedOut):
        engine.containers.create("beta", SLEEP, create_timeout_s=0)
    assert names(engine) == []


# --- timings


def test_stages(engine: Engine) -> None:
    kept = engine.run("beta", ["true"], name="one").timings_ns
    thrown = engine.run("beta", ["true"]).timings_ns
    with engine.start("beta", SLEEP) as container:
        started = dict(container.timings_ns)
        container.kill()
        container.start()
        again = container.timings_ns
        assert engine.containers.get(container.id).timings_ns == {}
    steps = ["host", "clone", "init", "namespaces", "root", "mounts"]
    assert list(kept)[:9] == ["image", "create", "request", *steps]
    assert list(thrown)[:8] == ["image", "request", *steps]
    assert list(started)[:9] == ["image", "create", "request", *steps]
    assert list(again)[:7] == ["request", *steps]
    assert list(started)[-2:] == ["process", "reply"]
    for each in (kept, thrown, started, again):
        assert all(0 <= ns < 60 * 10**9 for ns in each.values())


def test_a_handle_of_what_is_gone(engine: Engine) -> None:
    container = engine.start("beta", SLEEP)
    container.remove(force=True)
    for verb in (
        container.start,
        container.record,
        container.pause,
        container.stop,
        container.attach,
        container.remove,
    ):
        with pytest.raises(NotFound, match=r"^No such container: "):
            verb()
