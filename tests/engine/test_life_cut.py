"""Verbs that end in their middle: killed, interrupted, or failing where nobody thinks of it."""

import errno
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Engine
from pyrunc.drivers.graph import trees
from pyrunc.engine import exit_command, finish, starting, stopping
from pyrunc.engine.container import Container
from pyrunc.engine.owners import Owners
from pyrunc.errors import FailedPrecondition, InvalidArgument, PyruncError, TimedOut
from pyrunc.runtime import cgroup_control, cgroup_layout
from tests.engine.test_life import is_gone, left, state
from tests.engine.test_life_crash import settled_row
from tests.engine.test_run import python, said, until

DEAF = ["sh", "-c", "trap 'exit 5' TERM; trap : USR1; echo ready; while :; do busybox sleep 0.05; done"]


@pytest.fixture
def driver() -> str:
    return "overlay2"


def ready(engine: Engine, **options: Any) -> Container:
    """A container that hears what it is told."""
    container = engine.start("beta", DEAF, **options)
    until(lambda: said(container) == "ready\n")
    return container


# --- restart of what goes with its end


def test_a_restart_that_is_killed_leaves_nothing_of_what_goes_with_its_end(
    loaded: Engine, tmp_path: Path
) -> None:
    container = ready(loaded, name="one", remove=True)
    code = (
        "import os\nfrom pyrunc.engine.container import Container\n"
        "Container.start = lambda self: os.kill(os.getpid(), 9)\nengine.containers.get('one').restart()"
    )
    other = python(code, tmp_path / "root", "overlay2")
    assert other.communicate(timeout=300)[1] == ""
    until(lambda: loaded.containers.list(all=True) == [])
    is_gone(tmp_path, container.id)


def test_a_restart_that_fails_removes_what_goes_with_its_end(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = ready(loaded, name="one", remove=True)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(container), "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        container.restart()
    assert loaded._parts.containers.by_id(container.id) is None
    is_gone(tmp_path, container.id)


def test_two_who_restart_what_goes_with_its_end_do_not_remove_it(loaded: Engine, tmp_path: Path) -> None:
    container = ready(loaded, name="one", remove=True)
    failures: list[BaseException] = []

    def again() -> None:
        for _ in range(5):
            try:
                loaded.containers.get("one").restart(0)
            except BaseException as exc:  # noqa: BLE001 - told below
                failures.append(exc)

    threads = [threading.Thread(target=again) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert state(container) == "running" and container.record().auto_remove
    container.stop()
    assert loaded.containers.list(all=True) == []
    is_gone(tmp_path, container.id)


def test_a_restart_that_kills_what_another_has_started_does_not_remove_it(
    loaded: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = ready(loaded, name="one", remove=True)
    ended = stopping.ended

    def late(*_: object) -> int:
        monkeypatch.setattr(stopping, "ended", ended)
        container.restart(0)  # by another, who is done with it
        raise TimedOut("the time is over")

    monkeypatch.setattr(stopping, "ended", late)
    container.restart(0)
    assert state(container) == "running" and container.record().auto_remove
    container.remove(force=True)


# --- who was to take note of an end


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_owner_that_is_interrupted_leaves_the_end_to_the_exit_command(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    container = ready(loaded, name="one")
    row = loaded._parts.containers.find("one").record
    settle, called = finish.settle, []

    def fails(*arguments: object, **more: object) -> object:
        called.append(1)
        if len(called) == 1:
            raise failure
        return settle(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("pyrunc.engine.owners.finish.settle", fails)
    if failure is KeyboardInterrupt:
        watched, pid = Owners._watched, container.pid

        def ends(self: Owners, owned: Any, events: int) -> int:
            """It ends when it is us who will see that, and no thread."""
            fd = watched(self, owned, events)
            if events == 0:
                os.kill(pid, signal.SIGTERM)
            return fd

        monkeypatch.setattr(Owners, "_watched", ends)
        with pytest.raises(KeyboardInterrupt):
            loaded._owners.wait(container.id, None)
    else:
        os.kill(container.pid, signal.SIGTERM)
    until(lambda: bool(called) and not Path(row.state_dir).exists())  # and nobody has looked
    assert settled_row(loaded, container) == "exited"
    container.remove()
    is_gone(tmp_path, container.id)


def test_the_owner_looks_after_others_when_one_end_could_not_be_noted(
    loaded: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = finish.settle
    one = ready(loaded, name="one")
    two = ready(loaded, name="two")

    def fails(parts: object, container_id: str, **more: object) -> object:
        if container_id == one.id and threading.current_thread() is not threading.main_thread():
            raise OSError(24, "Too many open files")
        return settle(parts, container_id, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("pyrunc.engine.owners.finish.settle", fails)
    os.kill(one.pid, signal.SIGTERM)
    until(lambda: settled_row(loaded, one) == "exited")
    monkeypatch.setattr("pyrunc.engine.finish.exit_command", lambda *_: ("/bin/false",))
    os.kill(two.pid, signal.SIGTERM)
    until(lambda: settled_row(loaded, two) == "exited")


def test_an_owner_takes_the_end_of_another_for_none(loaded: Engine) -> None:
    """What it was told of may be over, and the number of its descriptor another container's, before it comes to it."""
    container = ready(loaded, remove=True)
    over = os.eventfd(0, os.EFD_CLOEXEC)
    loaded._owners._watch(Stale(loaded._owners._owned[container.id].process.fileno(), over), over)  # type: ignore[arg-type]
    with pytest.raises(TimedOut):
        container.wait(0.1)
    os.kill(container.pid, signal.SIGTERM)
    until(lambda: settled_row(loaded, container) == "gone")
    assert container.wait(60) == 5  # and not that of a shim that was killed


class Stale:
    """An epoll that tells of *fd*, where nothing is to be read, and then that it is *over*."""

    def __init__(self, fd: int, over: int) -> None:
        self._told = [[(fd, select.EPOLLIN)], [(over, select.EPOLLIN)]]

    def poll(self) -> list[tuple[int, int]]:
        return self._told.pop(0)

    def close(self) -> None:
        """It has nothing."""


def test_an_exit_command_makes_no_root_anew(tmp_path: Path) -> None:
    script = exit_command.__file__
    command = [
        sys.executable,
        "-I",
        script,
        str(tmp_path / "root"),
        str(tmp_path / "state"),
        "overlay2",
        "f" * 64,
    ]
    subprocess.run(command, check=True, timeout=300)
    assert list(tmp_path.iterdir()) == []


# --- what a row says


def test_a_signal_that_lets_a_paused_container_go_on_says_so(loaded: Engine) -> None:
    container = ready(loaded, name="one")
    container.pause()
    container.kill("USR1")  # as docker: whatever is not the stop signal of its own
    assert state(container) == "running"
    assert settled_row(loaded, container) == "running"
    container.pause()
    assert container.stop() == 5


def test_the_next_exit_is_seen_though_the_clock_went_back(
    loaded: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = loaded.start("beta", ["true"], name="one")
    container.wait(60)
    loaded._parts.containers.change(container.id, finished_ns=1 << 62)
    looks = []

    def meanwhile(_deadline: float | None) -> None:
        looks.append(1)
        assert len(looks) == 1, "its end was not seen"
        container.start()
        container.wait(60)

    monkeypatch.setattr("pyrunc.engine.stopping._sleep", meanwhile)
    assert container.wait(60, "next-exit") == 0


# --- what cannot be done now


def test_one_that_cannot_be_removed_does_not_hide_the_others(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = loaded.containers.create("beta", name="one"), loaded.containers.create("beta", name="two")

    def fails(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "immutable")

    with monkeypatch.context() as patch:
        patch.setattr(type(loaded._parts.snapshotter), "remove", fails)
        with pytest.raises(PermissionError):
            one.remove()
        assert [each.id for each in loaded.containers.list(all=True)] == [two.id]
    assert [each.id for each in loaded.containers.list(all=True)] == [two.id]
    is_gone(tmp_path, one.id)


def test_a_log_that_cannot_be_removed_keeps_its_container(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = loaded.start("beta", ["true"], name="one")
    container.wait(60)
    opened = trees.opened

    def fails(path: str) -> object:
        if path.endswith("/containers"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(trees, "opened", fails)
        with pytest.raises(OSError, match="Too many open files"):
            container.remove()
    assert loaded.containers.list(all=True) == []
    is_gone(tmp_path, container.id)


def test_a_pause_that_fails_leaves_nothing_frozen(loaded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    container = ready(loaded, name="one")
    freeze = cgroup_control.freeze

    def fails(layout: cgroup_layout.Layout, path: str) -> None:
        freeze(layout, path)
        raise TimeoutError("it does not stop")

    monkeypatch.setattr(cgroup_control, "freeze", fails)
    with pytest.raises(PyruncError, match="Cannot pause container"):
        container.pause()
    assert state(container) == "running"
    assert container.stop() == 5


def test_a_time_to_stop_that_no_clock_has_is_for_ever(loaded: Engine) -> None:
    config = {"StopTimeout": (1 << 63) - 1}  # of an image, which may say so
    container = ready(loaded, name="one", config=config)
    assert container.stop() == 5
    with pytest.raises(InvalidArgument, match="RestartPolicy must be an object"):
        container.update(RestartPolicy="always")


def test_a_start_that_is_interrupted_when_it_has_begun_leaves_nothing_running(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = loaded.containers.create("beta", DEAF, name="one")
    begin, pids = starting._start, []

    def interrupted(*arguments: object, **more: object) -> None:
        pids.append(begin(*arguments, **more).pid)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(starting, "_start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            container.start()
    until(lambda: not Path(f"/proc/{pids[0]}").exists())
    assert state(container) == "created"
    until(lambda: left(tmp_path / "state", container.id) == [])
    assert container.start()
    container.remove(force=True)
    until(lambda: left(tmp_path, container.id) == [])


def test_a_state_directory_that_cannot_be_removed_keeps_its_row(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = ready(loaded, name="one", remove=True)
    remove = trees.remove

    def fails(directory: int, name: str) -> None:
        if os.readlink(f"/proc/self/fd/{directory}") == str(tmp_path / "state"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        remove(directory, name)

    monkeypatch.setattr("pyrunc.engine.finish.exit_command", lambda *_: ("/bin/false",))
    with monkeypatch.context() as patch:
        patch.setattr(trees, "remove", fails)
        with suppress(OSError):
            container.stop()
    until(lambda: loaded.containers.list(all=True) == [])
    is_gone(tmp_path, container.id)


def test_an_owner_that_is_interrupted_at_its_begin_owns_nothing(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ready(loaded):  # so that there is a thread
        container = loaded.containers.create("beta", DEAF, name="one")
        with monkeypatch.context() as patch:
            patch.setattr(loaded._owners, "_epoll", Interrupted())
            with pytest.raises(KeyboardInterrupt):
                container.start()
        container.kill()
        container.remove()
    until(lambda: left(tmp_path, container.id) == [])


class Interrupted:
    """An epoll at which Ctrl-C comes."""

    def register(self, *_: object) -> None:
        raise KeyboardInterrupt


# --- strangers


@pytest.mark.parametrize("careless", [False, True])
def test_nobody_else_may_own_the_place_of_what_runs(
    loaded: Engine, monkeypatch: pytest.MonkeyPatch, careless: bool
) -> None:
    """Who could would put his own files in the place of a container's, such as the pid that a stop signals."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        place = Path(name, "state")
        place.mkdir(0o755)
        os.chown(place, 1000, 1000)
        monkeypatch.setenv("PYRUNC_STATE", str(place))
        if careless:
            monkeypatch.setattr(starting, "check_private", lambda _: None)
            container = ready(loaded, name="one")
            attack = ["/bin/mv", str(place / container.id), str(place / "theirs")]
            assert subprocess.run(attack, user=1000, group=1000, extra_groups=[], check=False).returncode == 0
            assert not (place / container.id).exists()
            (place / "theirs").rename(place / container.id)
            container.remove(force=True)
        else:
            with pytest.raises(FailedPrecondition, match="belongs to user 1000"):
                loaded.start("beta", DEAF, name="one")
            assert os.listdir(place) == []
