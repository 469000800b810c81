"""`start` in Python: what it says to the first process of a container, and to systemd."""

import os
import select
import socket
import subprocess
import threading
from pathlib import Path

from tests.oci.live import live
from tests.oci.native import READY, progress
from tests.oci.test_verbs import log_of
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root


def answering(listener: socket.socket, *records: bytes) -> threading.Thread:
    """Be init: accept once, and say *records*."""

    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            for record in records:
                connection.send(record)

    thread = threading.Thread(target=accept)
    thread.start()
    return thread


def test_start_lets_the_first_process_go_on_once(tmp_path: Path) -> None:
    with live(tmp_path, waits=True) as box:
        with box.made.waiting() as listener:
            thread = answering(listener, progress(READY))
            assert box.run("start") == (0, "", "")
            thread.join()
            assert not (box.made.directory / "start").exists()
        assert log_of(box.run("start")) == "cannot start an already running container"


def test_a_socket_at_which_nobody_waits_is_no_container_to_start(tmp_path: Path) -> None:
    with live(tmp_path, waits=True) as box:
        with box.made.waiting():
            pass  # closed, the file stays
        assert log_of(box.run("start")) == "cannot start an already running container"


def test_poststart_hooks_run_and_a_failed_one_kills_the_container(tmp_path: Path) -> None:
    told = tmp_path / "told"
    good = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {told}"]}
    late = {"path": "/bin/sh", "args": ["sh", "-c", f"echo late > {told}"]}
    bad = {"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}
    with live(tmp_path, waits=True, native=False) as box:
        box.made.own["spec"] = {"hooks": {"poststart": [good, bad, late]}}
        box.made.write()
        with box.made.waiting() as listener:
            thread = answering(listener, progress(READY))
            assert log_of(box.run("start")).startswith(
                "error running hook #1: error running hook: exit status 3"
            )
            thread.join()
        assert '"status":"running"' in told.read_text()
        assert box.status() == "stopped"


def test_whoever_comes_while_another_starts_it_is_told_that_it_runs(tmp_path: Path) -> None:
    """Its starter was killed while a hook ran: it has executed nothing yet, and takes no other."""
    with live(tmp_path, waits=True) as box, box.made.waiting() as listener:

        def drop() -> None:
            select.select([listener], [], [])
            listener.close()

        thread = threading.Thread(target=drop)
        thread.start()
        assert log_of(box.run("start")) == "cannot start an already running container"
        thread.join()


def test_readiness_is_told_to_systemd_with_the_pid_to_watch(tmp_path: Path) -> None:
    host_path = tmp_path / "host.sock"
    with live(tmp_path, waits=True) as box, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(host_path))
        host.settimeout(60)
        (box.made.directory / "notify").mkdir()
        with box.made.waiting() as listener:
            thread = answering(listener, progress(READY))
            words = [*box.player.program, "--root", str(box.player.root), "start", "box"]
            start = subprocess.Popen(words, env={**os.environ, "NOTIFY_SOCKET": str(host_path)})
            thread.join()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inside:
            inside.connect(str(box.made.directory / "notify/notify.sock"))
            inside.send(b"STATUS=getting there\n")
            inside.send(b"READY=1\nSTATUS=here\n")
        assert host.recv(100) == b"READY=1\n"
        assert host.recv(100) == b"MAINPID=%d\n" % box.pid
        assert start.wait(timeout=60) == 0


def test_start_waits_for_readiness_no_longer_than_the_container_lives(tmp_path: Path) -> None:
    with live(tmp_path, waits=True) as box:
        (box.made.directory / "notify").mkdir()
        with box.made.waiting() as listener:
            thread = answering(listener, progress(READY))
            words = [*box.player.program, "--root", str(box.player.root), "start", "box"]
            start = subprocess.Popen(words, env={**os.environ, "NOTIFY_SOCKET": "/nonexistent"})
            thread.join()
        assert box.player.run("kill", "box", "KILL")[0] == 0
        assert start.wait(timeout=60) == 0
