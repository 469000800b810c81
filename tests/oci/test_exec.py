"""`exec`: the same further programs through runc and ours, and what no recording of runc's says."""

import json
import os
import re
import signal
import socket
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyrunc.oci.flags import NAME
from tests.oci.runtime import OURS, SUBJECT, Runtime
from tests.oci.waiting import executed, until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
Make = Callable[[str], Runtime]
IS_OURS = str(OURS) == SUBJECT
_STATUS = "cat /proc/self/status | grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp:)'"
_ALL = f"{_STATUS}; env; pwd; umask; ulimit -n; cat /proc/self/oom_score_adj; id"
PRIVILEGED = (
    '{"args":["sh","-c","ALL"],"cwd":"/","env":["PATH=/bin"],"noNewPrivileges":true,"user":{"uid":3,"gid":4,'
    '"additionalGids":[5,6]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":80,"soft":80}],"capabilities":'
    '{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]}}'
)
# Command lines behind `exec`; ID is the container, what begins with { a document for --process.
SAME: dict[str, list[str]] = {
    "all": ["ID", "sh", "-c", _ALL],
    "exit 7": ["ID", "sh", "-c", "exit 7"],
    "exit 255": ["ID", "sh", "-c", "exit 255"],
    "killed": ["ID", "sh", "-c", "kill -9 $$"],
    "no container": ["NO", "true"],
    "no program": ["ID"],
    "empty program": ["ID", ""],
    "missing program": ["ID", "nope"],
    "missing path": ["ID", "/nope"],
    "missing here": ["--cwd", "/tmp", "ID", "./nope"],
    "not executable": ["ID", "/etc/passwd"],
    "directory": ["ID", "/etc"],
    "flags of its own": ["ID", "echo", "-n", "--help", "--", "x"],
    "dashes": ["ID", "--", "echo", "x"],
    "cwd": ["--cwd", "/tmp", "ID", "pwd"],
    "missing cwd": ["--cwd", "/nope", "ID", "true"],
    "relative cwd": ["--cwd", "rel", "ID", "true"],
    "user and group": ["--user", "1000:1001", "ID", "sh", "-c", _ALL],
    "user": ["-u", "1000", "ID", "sh", "-c", _ALL],
    "user's streams": ["-u", "1000", "ID", "sh", "-c", "stat -L -c %u /proc/self/fd/1; echo x > /proc/self/fd/2"],
    "unknown user": ["-u", "77", "ID", "env"],
    "no user": ["-u", "", "ID", "id"],
    "user by name": ["-u", "bob", "ID", "id"],
    "group by name": ["-u", "0:bob", "ID", "id"],
    "three ids": ["-u", "1:2:3", "ID", "id"],
    "no uid": ["-u", ":5", "ID", "id"],
    "negative uid": ["-u", "-1", "ID", "id"],
    "groups": ["-u", "1000", "-g", "2000", "-g", "3000", "ID", "sh", "-c", _STATUS],
    "negative group": ["-g", "-1", "ID", "id"],
    "environment": ["-e", "A=1", "-e", "TERM=2", "-e", "A=3", "ID", "env"],
    "empty home": ["-e", "HOME=", "ID", "env"],
    "no variable": ["-e", "NOEQ", "ID", "env"],
    "nameless variable": ["-e", "=x", "ID", "env"],
    "path": ["-e", "PATH=/nowhere", "ID", "echo"],
    "not executable in path": ["-e", "PATH=/etc", "ID", "passwd"],
    "link to itself": ["ID", "/etc/loop"],
    "link to itself in path": ["-e", "PATH=/etc:/bin", "ID", "loop"],
    "too long a name": ["ID", "/" + "x" * 300],
    "too long a name in path": ["ID", "x" * 300],
    "capability": ["--cap", "CAP_SYS_ADMIN", "ID", "sh", "-c", _STATUS],
    "capability of a user": ["-u", "5", "--cap", "CAP_NET_ADMIN", "ID", "sh", "-c", _STATUS],
    "unknown capability": ["--cap", "CAP_NOPE", "ID", "true"],
    "no new privileges": ["--no-new-privs", "ID", "sh", "-c", _STATUS],
    "new privileges": ["--no-new-privs=false", "ID", "sh", "-c", _STATUS],
    "label": ["--process-label", "x", "ID", "true"],
    "above its cgroup": ["--cgroup", "../x", "ID", "true"],
    "unknown controller": ["--cgroup", "bogus:/", "ID", "true"],
    "two controllers": ["--cgroup", "memory:/", "--cgroup", "memory:/", "ID", "true"],
    "no controller": ["--cgroup", "memory:/", "--cgroup", "/", "ID", "true"],
    "colons": ["--cgroup", "memory:/:x", "ID", "true"],
    "own cgroup": ["--cgroup", "memory:/", "ID", "sh", "-c", "grep memory: /proc/self/cgroup | cut -d: -f2"],
    "terminal of nobody": ["-t", "ID", "tty"],
    "detached terminal": ["-d", "-t", "ID", "tty"],
    "socket without terminal": ["--console-socket", "/tmp/x", "ID", "true"],
    "socket without terminal, detached": ["-d", "--console-socket", "/tmp/x", "ID", "true"],
    "socket in the foreground": ["-t", "--console-socket", "/tmp/x", "ID", "true"],
    "no socket": ["-d", "-t", "--console-socket", "/nope/socket", "ID", "true"],
    "pid file nowhere": ["--pid-file", "/nope/p", "ID", "true"],
    "missing document": ["--process", "/nope.json", "ID"],
    "document": ["--process", '{"args":["sh","-c","ALL"],"cwd":"/tmp","env":["PATH=/bin","A=b"]}', "ID"],
    "privileged document": ["-p", PRIVILEGED, "ID"],
    "document without path": ["-p", '{"args":["id"],"cwd":"/"}', "ID"],
    "document without arguments": ["-p", '{"cwd":"/"}', "ID"],
    "document without directory": ["-p", '{"args":["true"]}', "ID"],
    "document in a relative directory": ["-p", '{"args":["true"],"cwd":"x"}', "ID"],
    "document with a terminal": [
        "-p", '{"args":["true"],"cwd":"/","env":["PATH=/bin"],"terminal":true}', "ID"
    ],
    "document and flags": [
        "-p", '{"args":["env"],"cwd":"/","env":["PATH=/bin"]}', "--env", "A=b", "--cwd", "/bin", "-t", "ID"
    ],
}  # fmt: skip


class Box(NamedTuple):
    """A running container of a runtime."""

    runtime: Runtime
    id: str

    def __call__(self, *words: str, **more: Any) -> tuple[int, str, str]:
        """Run `exec` with these words, ID for the container's; how it ended, and its log line's message."""
        code, out, err = self.runtime(
            "exec", *(self.id if word == "ID" else word for word in words), code=None, **more
        )
        err = re.sub(r'time="[^"]*" level=(\w+) msg=', r"\1: ", err)
        return code, out.replace(self.id, "ID"), err.replace(self.id, "ID").replace(NAME, "runc")

    def pid(self) -> int:
        found: int = self.runtime.state(self.id)["pid"]
        return found


@pytest.fixture
def make_box(make_runtime: Make, bundle: Callable[..., Path]) -> Callable[..., Box]:
    """Starts a container: `make_box(runtime, changes of the document)`."""

    def make(path: str = SUBJECT, **changes: Any) -> Box:
        runtime = make_runtime(path)
        place = bundle(f"bundle-{runtime.name}", "sleep", "1000", **changes)
        (place / "rootfs/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/tmp:/bin/sh\n")
        (place / "rootfs/etc/group").write_text("root:x:0:\nextra:x:2000:bob\n")
        (place / "rootfs/etc/loop").symlink_to("loop")
        name = runtime.create(place)
        runtime("start", name)
        return Box(runtime, name)

    return make


@pytest.fixture
def box(make_box: Callable[..., Box]) -> Box:
    return make_box()


@pytest.fixture
def both(make_box: Callable[..., Box]) -> tuple[Box, Box]:
    if not IS_OURS:
        pytest.skip("a peer is tried")
    return make_box("runc"), make_box()


def test_what_runc_does_ours_does(both: tuple[Box, Box], tmp_path: Path) -> None:
    unlike = {}
    for name, words in SAME.items():
        given = list(words)
        for place, word in enumerate(given):
            if word.startswith("{"):
                (tmp_path / "process.json").write_text(word.replace("ALL", _ALL))
                given[place] = str(tmp_path / "process.json")
        theirs, ours = (box(*given) for box in both)
        if theirs != ours:
            unlike[name] = (theirs, ours)
    assert unlike == {}


def test_streams_go_through(box: Box, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("typed\n")
    with open(tmp_path / "input") as file:
        assert box("ID", "sh", "-c", "cat; echo err >&2", stdin=file) == (0, "typed\n", "err\n")


def test_exec_works_in_a_created_container_and_in_none_that_has_stopped(
    make_runtime: Make, bundle: Callable[..., Path]
) -> None:
    runtime = make_runtime(SUBJECT)
    box = Box(runtime, runtime.create(bundle("bundle", "sleep", "1000")))
    assert box("ID", "echo", "early") == (0, "early\n", "")
    runtime("start", box.id)
    runtime("kill", box.id, "KILL")
    runtime.wait(box.id, "stopped")
    assert box("ID", "true") == (255, "", 'error: "exec failed: cannot exec in a stopped container"\n')


def test_exec_works_in_none_whose_first_process_is_about_to_end(box: Box, tmp_path: Path) -> None:
    """It has left its namespaces, and waits for one of its own that cannot end: frozen below it, on v1."""
    if not IS_OURS:
        pytest.skip("a peer is tried")
    saved = json.loads((box.runtime.root / box.id / "state.json").read_text())
    first, freezer = saved["pid"], Path(saved["pyrunc"]["freezer"])
    if not (freezer / "freezer.state").exists():
        pytest.skip("needs the freezer of cgroup v1: on v2 what is frozen can be killed")
    below = freezer / "below"
    below.mkdir()
    command = box.runtime.command("exec", "--pid-file", str(tmp_path / "pid"), box.id, "sleep", "1000")
    with subprocess.Popen(command) as child:
        until((tmp_path / "pid").exists, "it does not begin")
        (below / "cgroup.procs").write_text((tmp_path / "pid").read_text())
        (below / "freezer.state").write_text("FROZEN")
        try:
            os.kill(first, signal.SIGKILL)
            until(lambda: not _namespace(first), "it goes on")
            found = box("ID", "true")
        finally:
            (below / "freezer.state").write_text("THAWED")
        assert found == (255, "", 'error: "exec failed: cannot exec in a stopped container"\n')
        assert child.wait(60) == 128 + signal.SIGKILL


def _namespace(pid: int) -> str:
    """The mount namespace of a process, "" if it has left it."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def test_a_paused_container_is_left_alone_unless_that_is_ignored(box: Box) -> None:
    if not IS_OURS:
        pytest.skip("a peer is tried")
    freezer = json.loads((box.runtime.root / box.id / "state.json").read_text())["pyrunc"]["freezer"]
    file = Path(freezer) / (
        "freezer.state" if (Path(freezer) / "freezer.state").exists() else "cgroup.freeze"
    )
    frozen, thawed = ("FROZEN", "THAWED") if file.name == "freezer.state" else ("1", "0")
    file.write_text(frozen)
    try:
        assert box("ID", "true") == (
            255, "", 'error: "exec failed: cannot exec in a paused container (use --ignore-paused to override)"\n'
        )  # fmt: skip
        command = box.runtime.command("exec", "--ignore-paused", box.id, "sh", "-c", "exit 3")
        with subprocess.Popen(command) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.3)
            file.write_text(thawed)
            assert waiting.wait(60) == 3
    finally:
        file.write_text(thawed)


def test_a_detached_program_goes_on_and_its_pid_is_told(box: Box, tmp_path: Path) -> None:
    code, _, _ = box("-d", "--pid-file", str(tmp_path / "pid"), "ID", "sleep", "1000")
    assert code == 0
    pid = int((tmp_path / "pid").read_text())
    executed(pid, "sleep", "1000")
    assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{box.pid()}/ns/pid")
    # Its own parent has ended, so it is not ended with it.
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "pyrunc" not in Path(f"/proc/{parent}/comm").read_text()
    assert "SigBlk:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()


def test_it_is_in_every_cgroup_and_namespace_of_the_container(box: Box, tmp_path: Path) -> None:
    box("-d", "--pid-file", str(tmp_path / "pid"), "ID", "sleep", "1000")
    pid = int((tmp_path / "pid").read_text())
    for name in os.listdir("/proc/self/ns"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{box.pid()}/ns/{name}"), name
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{box.pid()}/cgroup").read_text()
    assert os.readlink(f"/proc/{pid}/root") == os.readlink(f"/proc/{box.pid()}/root")


def test_a_cgroup_below_the_containers_can_be_chosen(box: Box) -> None:
    saved = json.loads((box.runtime.root / box.id / "state.json").read_text())
    if not IS_OURS:
        pytest.skip("a peer is tried")
    directories = [Path(entry["path"]) / "sub" for entry in saved["pyrunc"]["cgroups"]]
    for directory in directories:
        directory.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (directory / file).exists():
                (directory / file).write_text((directory.parent / file).read_text())
    try:
        code, out, _ = box("--cgroup", "/sub", "ID", "cat", "/proc/self/cgroup")
        assert code == 0
        assert sum(line.endswith("/sub") for line in out.splitlines()) == len(directories)
        assert box("--cgroup", "/nope", "ID", "true")[0] == 255
    finally:
        for directory in directories:
            directory.rmdir()


def test_only_the_descriptors_that_are_asked_for_are_passed_on(box: Box, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    listing = "ls -l /proc/self/fd"
    # In a process of its own: here the numbers are others' already.
    box.runtime.prefix[:] = [
        "sh",
        "-c",
        'exec 3</dev/null 4</dev/null 5<"$0"; exec "$@"',
        str(tmp_path / "secret"),
    ]
    assert "secret" not in box("ID", "sh", "-c", listing)[1]
    assert "5 -> /" not in box("--preserve-fds", "2", "ID", "sh", "-c", listing)[1]
    code, out, _ = box("--preserve-fds", "3", "ID", "sh", "-c", f"{listing}; cat <&5")
    assert code == 0
    assert out.endswith("secret")
    # Those of a socket activation are for a container's first program.
    box.runtime.prefix[2] = 'exec 3<"$0"; export LISTEN_FDS=1; exec "$@"'
    code, out, _ = box("ID", "sh", "-c", f"env; {listing}")
    assert code == 0
    assert "LISTEN_FDS" not in out
    assert "secret" not in out


def test_signals_are_passed_on(box: Box, tmp_path: Path) -> None:
    script = 'trap "echo got; exit 4" USR1; echo ready; while :; do sleep 0.1; done'
    command = box.runtime.command("exec", box.id, "sh", "-c", script)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGUSR1)
        assert child.stdout.read() == b"got\n"
        assert child.wait(60) == 4
    command = box.runtime.command("exec", "--pid-file", str(tmp_path / "pid"), box.id, "sleep", "1000")
    with subprocess.Popen(command) as child:
        until((tmp_path / "pid").exists, "it does not begin")
        child.terminate()
        assert child.wait(60) == 128 + signal.SIGTERM


def test_a_pid_that_has_become_anothers_is_not_joined(box: Box) -> None:
    if not IS_OURS:
        pytest.skip("a peer is tried")
    file = box.runtime.root / box.id / "state.json"
    before = file.read_text()
    document = json.loads(before)
    document["pid"] = os.getpid()
    file.write_text(json.dumps(document))
    try:
        assert box("ID", "true") == (255, "", 'error: "exec failed: cannot exec in a stopped container"\n')
    finally:
        file.write_text(before)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[socket.socket, Path]]:
    """A unix socket, with a path that no address has room for; that is beyond runc."""
    directory = tmp_path / ("long" * 30 if IS_OURS else "short")
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        holder = os.open(directory, os.O_PATH)
        made.bind(f"/proc/self/fd/{holder}/socket")
        os.close(holder)
        made.listen()
        made.settimeout(60)
        yield made, directory / "socket"


def received(made: socket.socket) -> tuple[bytes, int]:
    """What somebody sends over *made*: the payload and a descriptor."""
    connection, _ = made.accept()
    with connection:
        payload, descriptors, _, _ = socket.recv_fds(connection, 4096, 4)
    assert len(descriptors) == 1
    return payload, descriptors[0]


def test_the_terminals_other_side_goes_to_the_console_socket(
    box: Box, listener: tuple[socket.socket, Path], tmp_path: Path
) -> None:

    made, path = listener
    process = {
        "args": ["sh", "-c", "stty size; tty; exec sleep 1000"], "cwd": "/", "env": ["PATH=/bin"], "terminal": True,
        "consoleSize": {"height": 33, "width": 99},
    }  # fmt: skip
    (tmp_path / "process.json").write_text(json.dumps(process))
    command = ["exec", "-d", "-p", str(tmp_path / "process.json"), "--console-socket", str(path), box.id]
    with subprocess.Popen(box.runtime.command(*command), stdin=subprocess.DEVNULL) as child:
        payload, master = received(made)
        try:
            assert child.wait(60) == 0
            assert payload == b"/dev/ptmx"
            assert termios.tcgetattr(master)[1] & termios.ONLCR
            shown = b""
            while shown.count(b"\n") < 2:
                shown += os.read(master, 4096)
            assert re.fullmatch(rb"33 99\r\n/dev/pts/\d+\r\n", shown)
        finally:
            os.close(master)


def test_a_pidfd_goes_to_the_pidfd_socket(
    box: Box, listener: tuple[socket.socket, Path], tmp_path: Path
) -> None:
    if not IS_OURS:
        pytest.skip("runc 1.1 has none")
    made, path = listener
    pid_file = tmp_path / "pid"
    command = [
        "exec",
        "-d",
        "--pid-file",
        str(pid_file),
        "--pidfd-socket",
        str(path),
        box.id,
        "sleep",
        "1000",
    ]
    with subprocess.Popen(box.runtime.command(*command)) as child:
        payload, pidfd = received(made)
        assert child.wait(60) == 0
    info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)
    assert payload == b"pidfd"
    assert f"Pid:\t{pid_file.read_text()}\n" in info


def test_it_has_the_containers_session_keyring(make_box: Callable[..., Box]) -> None:
    box = make_box(linux__maskedPaths=[])
    keyring = f"_ses.{box.id}."
    script = f"grep -F {keyring} /proc/keys"
    first, second = (box("ID", "sh", "-c", script) for _ in range(2))
    # The same one each time, and so that which was there before: else there were as many as programs.
    assert first[0] == second[0] == 0
    assert first[1].count("\n") == second[1].count("\n") == 1
    assert first[1].split()[0] == second[1].split()[0]
