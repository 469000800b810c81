"""containerd's shim calls the runtime that is tried: `ctr run`, and tasks."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.oci.house import House, house
from tests.oci.runtime import SUBJECT, program
from tests.oci.waiting import until

SPACE = f"pyrunc-test-{os.getpid()}-ctr"
CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{place}/sock"
"""


class Ctr:
    """A client of a containerd of its own; the root directory of its containers is one of the host's."""

    def __init__(self, inside: House, rootfs: Path) -> None:
        self.inside = inside
        self.rootfs = rootfs
        self.words = ["ctr", "--address", f"{inside.place}/sock", "--namespace", SPACE]

    def __call__(self, *words: str, code: int | None = 0, given: str = "") -> str:
        return self.inside(*self.words, *words, code=code, given=given).out.strip()

    def run(
        self, name: str, *words: str, flags: tuple[str, ...] = (), code: int | None = 0, given: str = ""
    ) -> str:
        """`ctr run` of a program."""
        found = ["run", "--runc-binary", program(SUBJECT), "--env", "PATH=/bin", *flags, "--rootfs"]
        return self(*found, str(self.rootfs), name, *words, code=code, given=given)

    def status(self, name: str) -> str:
        """What `task ls` says of a container."""
        lines = [line.split() for line in self("task", "ls").splitlines()]
        return next((line[2] for line in lines if line[0] == name), "")


@pytest.fixture(scope="module")
def ctr(make_rootfs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    rootfs = make_rootfs(tmp_path_factory.mktemp("containerd") / "rootfs")
    with house(Path(f"/tmp/pyrunc-{os.getpid()}-ctr"), SUBJECT, (SPACE,)) as inside:
        config = inside.place / "config.toml"
        config.write_text(CONFIG.format(place=inside.place))
        daemon = inside.start(program("containerd"), "--config", str(config), log=inside.place / "log")
        client = Ctr(inside, rootfs)
        try:
            inside.until(*client.words, "version", holds="Server")
            yield client
        finally:
            inside("sh", "-c", f"kill -TERM {inner(daemon)}", code=None)
            daemon.wait(60)


def inner(daemon: "subprocess.Popen[bytes]") -> str:
    """The pid, in its own namespace, of what nsenter has started."""
    child = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()[0]
    return Path(f"/proc/{child}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1]


def test_run(ctr: Ctr) -> None:
    assert ctr.run("one", "echo", "hello", flags=("--rm",)) == "hello"
    ctr.run("two", "sh", "-c", "exit 42", flags=("--rm",), code=42)
    assert "one" not in ctr("containers", "ls", "-q").split()


def test_a_program_that_is_not_there(ctr: Ctr) -> None:
    found = ctr.inside(
        *ctr.words,
        "run",
        "--runc-binary",
        program(SUBJECT),
        "--rm",
        "--rootfs",
        str(ctr.rootfs),
        "no",
        "/no/such",
        code=None,
    )
    assert found.code != 0 and "no such file or directory" in found.err, found


def test_a_task(ctr: Ctr) -> None:
    ctr.run("task", "sleep", "1000", flags=("-d",))
    assert ctr.status("task") == "RUNNING"
    assert ctr("task", "exec", "--exec-id", "e1", "task", "echo", "inside") == "inside"
    ctr("task", "exec", "--exec-id", "e2", "task", "sh", "-c", "exit 7", code=7)
    assert ctr(
        "task",
        "exec",
        "--exec-id",
        "e3",
        "--user",
        "1000:1001",
        "--cwd",
        "/tmp",
        "task",
        "sh",
        "-c",
        "id -u; pwd",
    ).split() == ["1000", "/tmp"]
    ctr("task", "pause", "task")
    assert ctr.status("task") == "PAUSED"
    ctr("task", "resume", "task")
    assert ctr.status("task") == "RUNNING"
    assert len(ctr("task", "ps", "task").splitlines()) == 2
    assert "memory.usage_in_bytes" in ctr("task", "metrics", "task") or "memory.current" in ctr(
        "task", "metrics", "task"
    )
    numbers = json.loads(ctr("task", "metrics", "--format", "json", "task"))
    assert numbers["pids"]["current"] == 1
    ctr("task", "kill", "--signal", "SIGKILL", "task")
    ctr.inside.until(*ctr.words, "task", "ls", holds="STOPPED")
    assert ctr("task", "rm", "task", code=None) is not None
    ctr("containers", "rm", "task")
    assert "task" not in ctr("containers", "ls", "-q").split()


def test_the_exit_of_a_background_task(ctr: Ctr) -> None:
    ctr.run("later", "sh", "-c", "sleep 0.5; exit 5", flags=("-d",))
    ctr.inside.until(*ctr.words, "task", "ls", holds="STOPPED")
    found = ctr.inside(*ctr.words, "task", "rm", "later", code=None)
    assert found.code == 5 or "5" in found.err, found
    ctr("containers", "rm", "later")


def end(ctr: Ctr, name: str) -> None:
    """Kill and remove a task and its container."""
    ctr("task", "kill", "--signal", "SIGKILL", name, code=None)
    ctr.inside.until(*ctr.words, "task", "ls", holds="STOPPED")
    ctr("task", "rm", name, code=None)
    ctr("containers", "rm", name)


def test_limits_reach_the_cgroup(ctr: Ctr) -> None:
    ctr.run("limits", "sleep", "1000", flags=("-d", "--memory-limit", str(64 << 20), "--cpus", "0.5"))
    files = ("memory/{}/memory.limit_in_bytes", "cpu/{}/cpu.cfs_quota_us")
    if detect().mode == "v2":
        files = ("{}/memory.max", "{}/cpu.max")
    place = f"{SPACE}/limits"
    found = [Path("/sys/fs/cgroup", name.format(place)).read_text().split()[0] for name in files]
    assert found == [str(64 << 20), "50000"]
    end(ctr, "limits")


def test_the_pid_is_the_programs(ctr: Ctr) -> None:
    ctr.run("pid", "sleep", "1000", flags=("-d", "--pid-file", str(ctr.inside.place / "pid")))
    told = (ctr.inside.place / "pid").read_text()
    assert next(line.split()[1] for line in ctr("task", "ls").splitlines() if line.startswith("pid ")) == told
    assert ctr.inside("cat", f"/proc/{told}/comm").out == "sleep\n"
    end(ctr, "pid")


def test_programs_of_a_task(ctr: Ctr) -> None:
    """With a terminal, in the background, killed by themselves, and all of them together."""
    ctr.run("more", "sleep", "1000", flags=("-d",))
    script = f"script -qec '{' '.join(ctr.words)} task exec -t --exec-id e1 more /bin/tty' /dev/null"
    assert "/dev/pts/0" in ctr.inside("sh", "-c", script).out
    ctr("task", "exec", "-d", "--exec-id", "e2", "more", "sleep", "500")
    assert len(ctr("task", "ps", "more").splitlines()) == 3
    ctr("task", "kill", "--exec-id", "e2", "--signal", "SIGKILL", "more")
    ctr.inside.until("sh", "-c", f"{' '.join(ctr.words)} task ps more | wc -l", holds="2\n")
    assert ctr.status("more") == "RUNNING"
    ctr("task", "exec", "-d", "--exec-id", "e3", "more", "sleep", "500")
    ctr("task", "kill", "--all", "--signal", "SIGKILL", "more")
    ctr.inside.until(*ctr.words, "task", "ls", holds="STOPPED")
    end(ctr, "more")


def test_being_out_of_memory_is_an_event(ctr: Ctr) -> None:
    told = ctr.inside.place / "events"
    events = ctr.inside.start(*ctr.words, "events", log=told)
    try:
        # What was there before it has subscribed it is not told.
        until(lambda: ctr("namespaces", "label", SPACE, "heard=yes") or told.read_text(), "it hears nothing")
        # In the background: whoever waited for it would remove its cgroup, and containerd might look there too late.
        flags = ("--memory-limit", str(16 << 20), "-d")
        ctr.run("oom", "sh", "-c", "x=a; while :; do x=$x$x; done", flags=flags)
        exited = r'/tasks/exit {"container_id":"oom","id":"oom","pid":\d+,"exit_status":137'
        until(
            lambda: "/tasks/oom" in told.read_text() and re.search(exited, told.read_text()), told.read_text
        )
        end(ctr, "oom")
    finally:
        ctr.inside("sh", "-c", f"kill {inner(events)}", code=None)
        events.wait(60)


def test_a_terminal(ctr: Ctr) -> None:
    flags = f"--runc-binary {program(SUBJECT)} --rm -t --env PATH=/bin --rootfs {ctr.rootfs}"
    script = f"script -qec '{' '.join(ctr.words)} run {flags} tty /bin/tty' /dev/null"
    assert "/dev/pts/0" in ctr.inside("sh", "-c", script).out
