"""SCMP_ACT_NOTIFY: an agent gets the filter's listener and decides calls of the container, init's among them."""

import errno
import fcntl
import json
import os
import platform
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.oci.bundles import Runtime, cgroups, document

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_NUMBERS = {"x86_64": {"mkdir": 83, "mkdirat": 258}, "aarch64": {"mkdirat": 34}}

pytestmark = pytest.mark.skipif(platform.machine() not in _NUMBERS, reason="numbers of system calls")


class Agent:
    """Takes listeners at the socket *path*, refuses mkdir with ENOMEDIUM, and lets everything else happen.

    After *patience* notifications it gives up the listener.
    """

    patience = 1 << 30

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: list[dict[str, Any]] = []
        self.asked: list[int] = []
        self._refused = set(_NUMBERS[platform.machine()].values())
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._over, self.over = os.pipe()
        home = os.open(path.parent, os.O_PATH)
        self._socket.bind(f"/proc/self/fd/{home}/{path.name}")
        os.close(home)
        self._socket.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while self._wait(self._socket.fileno()):
            connection, _ = self._socket.accept()
            with connection:
                # All of it comes at once, as agents expect that read it with one call.
                text, fds, _, _ = socket.recv_fds(connection, 65536, 2)
            (listener,) = fds
            self.states.append(json.loads(text))
            self._threads.append(threading.Thread(target=self._serve, args=(listener,)))
            self._threads[-1].start()

    def _serve(self, listener: int) -> None:
        try:
            while self.patience > len(self.asked) and self._wait(listener):
                notice = bytearray(80)
                try:
                    fcntl.ioctl(listener, _RECEIVE, notice)
                    (number,) = struct.unpack_from("=i", notice, 16)
                    self.asked.append(number)
                    answer = (0, -errno.ENOMEDIUM, 0) if number in self._refused else (0, 0, _CONTINUE)
                    fcntl.ioctl(
                        listener, _SEND, struct.pack("=Qqii", *struct.unpack_from("=Q", notice), *answer)
                    )
                except FileNotFoundError:
                    continue  # who asked was killed
        finally:
            os.close(listener)

    def _wait(self, fd: int) -> bool:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.register(self._over, select.POLLIN | select.POLLHUP)
        return (fd, select.POLLIN) in poller.poll()

    def close(self) -> None:
        os.close(self.over)
        for thread in self._threads:
            thread.join()
        os.close(self._over)
        self._socket.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """With a path that is longer than the address of a socket can be."""
    home = tmp_path / ("d" * 120)
    home.mkdir()
    found = Agent(home / "agent")
    yield found
    found.close()


def watched(oci: Runtime, agent: Agent, script: str, names: list[str], **process: Any) -> dict[str, Any]:
    spec = document(oci.rootfs, ["sh", "-c", script], **process)
    spec["annotations"] = {"a": "b"}
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(agent.path), "listenerMetadata": 'who "I" am',
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    }  # fmt: skip
    return spec


MAKES = "mkdir /dev/shm/x; echo $?"


@pytest.mark.parametrize("privileges", [True, False])
def test_run_with_an_agent(oci: Runtime, agent: Agent, tmp_path: Path, privileges: bool) -> None:
    spec = watched(oci, agent, MAKES, ["mkdir", "mkdirat"], noNewPrivileges=privileges)
    bundle = oci.write(tmp_path / "b", spec)
    done = oci.call("run", "--bundle", bundle, oci.id)
    assert done.stdout == "1\n"
    assert "No medium found" in done.stderr
    (state,) = agent.states
    pid = state["pid"]
    assert pid > 0
    assert state == {
        "ociVersion": "1.0.2", "fds": ["seccompFd"], "metadata": 'who "I" am', "pid": pid,
        "state": {
            "ociVersion": "1.0.2", "id": oci.id, "status": "creating", "pid": pid, "bundle": str(bundle),
            "annotations": {"a": "b"},
        },
    }  # fmt: skip


@pytest.mark.parametrize("privileges", [True, False])
def test_the_agent_answers_for_what_init_itself_calls(
    oci: Runtime, agent: Agent, tmp_path: Path, privileges: bool
) -> None:
    """Whatever stands between the filter and the program, also `write`, which runc refuses to have notified."""
    names = ["mkdir", "mkdirat", "execve", "close", "sendto", "recvfrom", "write", "prctl", "close_range"]
    spec = watched(oci, agent, MAKES, names, noNewPrivileges=privileges)
    oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    pid = oci.state()["pid"]
    assert agent.states[0]["state"]["pid"] == pid
    # The agent alone has the listener.
    held = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [name for name in held if "seccomp" in name]
    oci.call("start", oci.id)
    oci.wait("stopped")
    assert {83, 258, 34} & set(agent.asked)
    assert len(set(agent.asked)) > 4


def test_everything_may_be_notified(oci: Runtime, agent: Agent, tmp_path: Path) -> None:
    spec = watched(oci, agent, "echo here", ["mkdir"])
    spec["linux"]["seccomp"]["defaultAction"] = "SCMP_ACT_NOTIFY"
    spec["linux"]["seccomp"]["syscalls"] = []
    assert oci.call("run", "--bundle", oci.write(tmp_path / "b", spec), oci.id).stdout == "here\n"


@pytest.mark.parametrize("privileges", [True, False])
@pytest.mark.parametrize("patience", [0, 1, 2, 3, 4, 5])
def test_what_an_agent_that_gives_up_early_has_not_answered_fails(
    oci: Runtime, agent: Agent, tmp_path: Path, patience: int, privileges: bool
) -> None:
    """Nothing waits for who does not answer any more: not init, and not who waits for init."""
    agent.patience = patience
    spec = watched(oci, agent, "echo here", ["mkdir"], noNewPrivileges=privileges)
    spec["linux"]["seccomp"]["defaultAction"] = "SCMP_ACT_NOTIFY"
    spec["linux"]["seccomp"]["syscalls"] = []
    done = oci.call("run", "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"(the seccomp agent at {agent.path} may have given up before it had answered)" in done.stderr
    assert not oci.directory.exists()
    assert not cgroups(oci.id)


@pytest.mark.parametrize("patience", range(12))
def test_a_container_that_waits_does_not_wait_for_an_agent_that_gave_up(
    oci: Runtime, agent: Agent, tmp_path: Path, patience: int
) -> None:
    agent.patience = patience
    spec = watched(
        oci, agent, "echo here", ["recvfrom", "close", "sendto", "accept4", "execve", "getsockopt"]
    )
    if oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=None).returncode == 0:
        oci.call("start", oci.id, code=None)
        oci.wait("stopped")
    else:
        assert not cgroups(oci.id)


@pytest.mark.parametrize("patience", range(4))
def test_a_program_that_joins_does_not_wait_for_an_agent_that_gave_up(
    oci: Runtime, agent: Agent, tmp_path: Path, patience: int
) -> None:
    spec = watched(oci, agent, "", ["recvfrom", "close", "sendto", "execve"])
    spec["process"]["args"] = ["sleep", "100"]  # which makes none of these calls itself
    oci.call("run", "--detach", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    agent.patience = len(agent.asked) + patience
    done = oci.call("exec", oci.id, "echo", "here", code=None)
    assert done.returncode and not done.stdout
    assert oci.state()["status"] == "running"


@pytest.mark.parametrize("privileges", [True, False])
def test_who_joins_is_told_of_with_a_listener_of_its_own(
    oci: Runtime, agent: Agent, tmp_path: Path, privileges: bool
) -> None:
    spec = watched(oci, agent, "sleep 100", ["mkdir", "mkdirat"], noNewPrivileges=privileges)
    oci.call("run", "--detach", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    done = oci.call("exec", oci.id, "sh", "-c", MAKES)
    assert done.stdout == "1\n"
    assert "No medium found" in done.stderr
    _, joined = agent.states
    assert joined["state"]["status"] == "running"
    assert joined["state"]["pid"] == oci.state()["pid"] != joined["pid"]


@pytest.mark.parametrize("flag", ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"])
def test_with_every_flag(oci: Runtime, agent: Agent, tmp_path: Path, flag: str) -> None:
    spec = watched(oci, agent, MAKES, ["mkdir", "mkdirat"])
    spec["linux"]["seccomp"]["flags"] = [f"SECCOMP_FILTER_FLAG_{flag}"]
    assert oci.call("run", "--bundle", oci.write(tmp_path / "b", spec), oci.id).stdout == "1\n"


def test_without_an_agent_nothing_is_left(oci: Runtime, agent: Agent, tmp_path: Path) -> None:
    spec = watched(oci, agent, MAKES, ["mkdir"])
    spec["linux"]["seccomp"]["listenerPath"] = str(tmp_path / "nobody")
    oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=1)
    assert not oci.directory.exists()
    assert not cgroups(oci.id)
