"""A further program in a running container, with a shim of its own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import errors
from pyrunc.runtime import joining, shim, shim_exec
from pyrunc.runtime.attach import AttachClient
from pyrunc.runtime.launcher import Launcher
from tests import rootfs
from tests.runtime.shim_support import Place, ended, eventually, place
from tests.runtime.test_shim_attach import ready, to_the_end, wait

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    root = rootfs.make(tmp_path_factory.mktemp("exec") / "root")
    (root / "bin/stty").symlink_to("busybox")
    (root / "bin/tty").symlink_to("busybox")
    return Launcher.of_options(root, {"seccomp": "unconfined"})


@pytest.fixture
def here(launcher: Launcher, tmp_path: Path) -> Iterator[Place]:
    with place(launcher, tmp_path) as made:
        made.start("exec sleep 60", keep_running=True)
        yield made


def execute(
    here: Place,
    number: int,
    script: str,
    client: int | None = None,
    *,
    tty: bool = False,
    command: str = "/bin/sh",
    **changes: Any,
) -> tuple[shim.ShimProcess, Path]:
    """Run *script* in the container of *here*; and the state directory."""
    state = here.state / "exec" / str(number)
    state.mkdir(parents=True)
    settings = here.settings(state_dir=str(state), log=None, terminal=tty, **changes)
    who = here.processes[0]
    pidfd = joining.open_init(here.id, who.pid, who.pid_started)
    try:
        target = joining.Target(here.launcher, here.id, who.pid, pidfd, {"PATH": "/bin"})
        wanted = joining.Wanted([command, "-c", script], tty=tty, size=(24, 80) if tty else (0, 0))
        with joining.Joining(target, wanted) as program:
            process = shim_exec.start(program, settings, client)
    finally:
        os.close(pidfd)
    here.processes.append(process.running)
    return process, state


def test_a_detached_program_runs_on_without_its_starter(here: Place) -> None:
    process, state = execute(here, 1, "read x; exit $x", stdin_open=True)
    who = shim.running(str(state))
    assert who is not None
    assert who.pid == process.pid != here.processes[0].pid
    assert shim.is_alive(who.pid, who.pid_started)
    process.release()
    client = ready(AttachClient.connect(str(state), stdin=True))
    client.send(b"4\n")
    to_the_end(client)
    assert client.exit_status is not None
    assert client.exit_status.exit_code == 4
    eventually(here.commands)
    eventually(lambda: ended(who))
    assert shim.is_alive(here.processes[0].pid, here.processes[0].pid_started)  # the container goes on


def test_an_attached_program_s_owner_hears_of_its_end(here: Place) -> None:
    client, theirs = AttachClient.pair(stdin=False, stdout=True, stderr=True)
    process, _ = execute(here, 1, "echo out; echo err >&2; kill -TERM $$", theirs, keep_running=False)
    os.close(theirs)
    assert to_the_end(client) == (b"out\n", b"err\n")
    assert process.wait(60).signal == signal.SIGTERM
    process.finished()
    assert here.commands() == 0


def test_a_program_ends_with_its_container_and_a_late_one_is_refused(here: Place) -> None:
    process, _ = execute(here, 1, "exec sleep 60")
    shim.signal(here.processes[0], signal.SIGKILL)
    assert process.wait(60).exit_code == 137
    process.finished()
    with pytest.raises(errors.FailedPrecondition, match="is not running"):
        execute(here, 2, "true")


def test_a_failed_program_leaves_no_shim(here: Place) -> None:
    with pytest.raises(errors.CommandNotFound):
        execute(here, 1, "", command="/bin/nothing")
    assert not (here.state / "exec/1/running").exists()
    assert here.commands() == 0


def test_a_terminal_is_the_shim_s_and_a_client_s_resize_reaches_it(here: Place) -> None:
    client, theirs = AttachClient.pair(stdin=True, stdout=True, stderr=True)
    process, _ = execute(
        here,
        1,
        "tty; stty size; read x; stty size; exit 5",
        theirs,
        tty=True,
        stdin_open=True,
        rows=24,
        columns=80,
    )
    os.close(theirs)
    out, _ = wait(client, lambda out, _: out.endswith(b"24 80\r\n"))
    assert out.startswith(b"/dev/pts/")
    client.resize(33, 44)
    client.send(b"\r")
    rest, errors_ = to_the_end(client)
    assert rest.endswith(b"33 44\r\n")
    assert errors_ == b""
    assert process.wait(60).exit_code == 5
    process.finished()


def test_a_terminal_is_there_for_the_next_client_though_its_input_opens_once(here: Place) -> None:
    settings: dict[str, Any] = {"tty": True, "stdin_open": True, "stdin_once": True}
    process, state = execute(here, 1, "echo up; read x; echo got $x; exit 5", **settings)
    client = ready(AttachClient.connect(str(state), stdin=True))
    client.close()
    client = ready(AttachClient.connect(str(state), stdin=True))
    client.send(b"more\r")
    assert to_the_end(client)[0].endswith(b"got more\r\n")
    assert process.wait(60).exit_code == 5
    process.finished()


def test_a_terminal_s_last_words_are_not_lost(here: Place) -> None:
    for number in range(20):
        client, theirs = AttachClient.pair(stdin=False, stdout=True, stderr=True)
        process, _ = execute(
            here, number, "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done", theirs, tty=True
        )
        os.close(theirs)
        assert to_the_end(client)[0] == b"".join(b"line %d\r\n" % n for n in range(300))
        process.wait(60)
        process.finished()
