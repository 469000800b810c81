"""A planner for each user: in their XDG_RUNTIME_DIR, asked by nobody else, and by nobody else to be stood in for."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.native import PYTHON
from tests.oci.planning import MAGIC, await_end, forget_cgroups, socket_of
from tests.oci.starting import pid_of_planner
from tests.oci.unprivileged import UID, USER, Caller
from tests.oci.waiting import until
from tests.vm import needs

OTHER = UID + 1
pytestmark = [needs.root(), needs.namespace("user")]


class Planned(Caller):
    """A user whose commands leave planners behind, at the usual place."""

    def __init__(self, work: Path, busybox: Path) -> None:
        super().__init__(work, busybox)
        del self.environment["PYRUNC_OCI_PLANNER"]

    @property
    def place(self) -> Path:
        """The planner's socket."""
        return socket_of(self.front_door, self.work / "run/pyrunc-planner")

    def pid(self) -> int:
        """The planner's, once it listens."""
        return pid_of_planner(self.front_door, self.place.parent)

    def __call__(self, *words: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Call it, until its planner is in time if it has no Python."""
        found: list[subprocess.CompletedProcess[str]] = []

        def done() -> bool:
            found.append(super(Planned, self).__call__(*words, code=None))
            return found[-1].returncode != PYTHON or code in (PYTHON, None)

        until(done, lambda: found[-1])
        assert code is None or found[-1].returncode == code, (words, found[-1])
        return found[-1]

    def without_python(self) -> None:
        """From now on the front door says what it leaves to Python, and fails."""
        python = self.work / "python"
        python.write_text(f'#!/bin/sh\nshift 6\necho "$@"\nexit {PYTHON}\n')
        python.chmod(0o755)
        (self.work / "bin/pyrunc-oci.python").write_text(f"{python}\n/nonexistent\n")


@pytest.fixture
def caller(busybox: Path) -> Iterator[Planned]:
    work = Path(tempfile.mkdtemp(prefix="pyrunc-rootless-", dir="/tmp"))
    pids: list[int] = []
    try:
        work.chmod(0o755)
        found = Planned(work, busybox)
        found.write("/bin/sh", "-c", "id -u; echo $0", "here")
        yield found
        if found.place.exists():
            pids.append(found.pid())
        for container in (work / "run/pyrunc-oci").iterdir() if (work / "run/pyrunc-oci").exists() else ():
            found("delete", "--force", container.name)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            await_end(pid)
        forget_cgroups()
        shutil.rmtree(work)


def test_a_users_second_command_needs_no_python(caller: Planned) -> None:
    cold = caller("run", "box")
    pid = caller.pid()
    caller.without_python()
    assert caller("run", "box").stdout == cold.stdout == "0\nhere\n"
    caller.write("/bin/sleep", "1000")
    caller("create", "box")
    assert json.loads(caller("state", "box").stdout)["status"] == "created"
    caller("start", "box")
    assert caller("exec", "box", "/bin/sh", "-c", "id -u; exit 3", code=3).stdout == "0\n"
    caller("kill", "box", "KILL")
    caller.wait("box", "stopped")
    caller("delete", "box")
    assert os.stat(f"/proc/{pid}").st_uid == UID
    directory = caller.place.parent.stat()
    assert (directory.st_uid, directory.st_mode & 0o7777) == (UID, 0o700)


def test_it_has_nothing_of_its_starters(caller: Planned) -> None:
    """Neither its pipes, which somebody reads to their end, nor its session, keyring and priority."""
    words = ["chrt", "--batch", "0", *caller.command("run", "box")]
    done = subprocess.run(
        words,
        env=caller.environment,
        cwd=caller.bundle,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "0\nhere\n"), done.stderr
    pid = caller.pid()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
    assert os.getsid(pid) not in (0, os.getsid(0))
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER


def test_root_of_a_user_namespace_has_one_there(caller: Planned) -> None:
    """As podman's containers of users have it: who calls is root by number, and not the host's."""
    names = [{"type": kind} for kind in ("pid", "mount", "uts", "ipc", "network")]
    caller.write("/bin/echo", "here", namespaces=names, uidMappings=[], gidMappings=[])
    python = caller.work / "bin/pyrunc-oci.python"
    before = python.read_text()
    caller.without_python()
    (caller.work / "without").write_text(python.read_text())
    python.write_text(before)
    os.chown(python, UID, UID)
    script = (
        f'"$@" one && until [ -e {caller.place} ]; do sleep 0.05; done && cat {caller.work}/without >{python} && '
        f'until said=$("$@" two); do sleep 0.05; done && echo $said && stat -c %u,%a {caller.place.parent}'
    )
    caller.before = (
        *USER, "unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc",
        "sh", "-c", script, "sh",
    )  # fmt: skip
    assert caller("run").stdout.split() == ["here", "here", "0,700"]
    caller.place.unlink()  # it has ended with its namespaces, at once


# Strangers


def test_it_answers_nobody_else(caller: Planned) -> None:
    """Not even root, who can connect to whatever there is."""
    caller("run", "box")
    caller.pid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(caller.place))
        stranger.send(MAGIC.to_bytes(4, "little"))
        with pytest.raises(ConnectionResetError):  # unread
            stranger.recv(100)
    # The user themselves gets at least a refusal.
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]);"
        "s.send(b'garbage'); print(s.recv(100).hex())"
    )
    words = [*USER, "/usr/bin/python3", "-c", code, str(caller.place)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(MAGIC.to_bytes(4, "little").hex())


def test_another_users_directory_is_not_looked_into(caller: Planned) -> None:
    """Whoever has XDG_RUNTIME_DIR of another user, as after su, neither asks there nor makes anything there."""
    caller("run", "box")
    caller.pid()
    caller.without_python()
    (caller.work / "run").chmod(0o755)
    caller.place.parent.chmod(0o755)
    caller.place.chmod(0o777)
    done = subprocess.run(
        ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups", caller.front_door, "run", "box"],
        env=caller.environment, cwd=caller.bundle, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (PYTHON, "run box\n")
    # Root's own planner is elsewhere.
    done = subprocess.run(
        [caller.front_door, "run", "box"], env=caller.environment | {"PYRUNC_OCI_PLANNER": str(caller.place.parent)},
        cwd=caller.bundle, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (PYTHON, "run box\n")


def test_who_sits_in_its_place_is_not_heard(caller: Planned) -> None:
    """Another user at the very socket, in a directory that is the caller's: they are asked nothing."""
    caller.without_python()
    directory = caller.place.parent
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(caller.place))
        caller.place.chmod(0o777)
        os.chown(directory, UID, UID)
        listener.listen(8)  # root's: the kernel notes who has listened
        assert caller("run", "box", code=PYTHON).stdout == "run box\n"
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b""
    shutil.rmtree(directory)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_planner_is_not_made_where_others_may_write(caller: Planned, mode: int) -> None:
    directory = caller.place.parent
    directory.mkdir()
    os.chown(directory, UID, UID)
    directory.chmod(mode)
    assert caller("run", "box").stdout == "0\nhere\n"
    time.sleep(0.5)
    assert list(directory.iterdir()) == []


def test_without_a_runtime_directory_there_is_none(caller: Planned) -> None:
    caller.environment["XDG_RUNTIME_DIR"] = ""
    caller("--root", caller.work / "run/pyrunc-oci", "run", "box")
    time.sleep(0.3)
    assert not caller.place.parent.exists()
