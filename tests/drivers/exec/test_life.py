"""How containers are watched, talked to, and ended, or lose who was with them: the same with each runtime."""

import json
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.exec.conftest import Pyrunc
from tests.drivers.exec.test_runtimes import FOR_EVER, cgroups_of, heard, logged, runs
from tests.safety.support import wait_until

ECHO = "while read line; do echo got $line; done"


@pytest.fixture(autouse=True)
def _nothing_stays(pyrunc: Pyrunc) -> Iterator[None]:
    """After a test its containers have left nothing in cgroups or the directory of states, and no process."""
    yield
    ids = pyrunc("ps", "-aq", "--no-trunc").stdout.split()
    pyrunc.end()
    assert [entry for entry in os.listdir(pyrunc.state) if len(entry) == 64] == []
    assert [path for each in ids for path in cgroups_of(each)] == []
    assert processes_with(str(pyrunc.state)) == []


def processes_with(text: str) -> list[str]:
    """The command lines of processes that have *text* in theirs, once those have gone that only just end."""
    found: list[str] = []

    def none() -> bool:
        found[:] = [line for line in command_lines() if text in line]
        return not found

    wait_until(none)
    return found


def command_lines() -> Iterator[str]:
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes() if name.isdigit() else b""
        except OSError:
            continue
        yield words.replace(b"\0", b" ").decode(errors="replace")


def line_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def end_of(process: subprocess.Popen[bytes], master: int) -> int:
    """The exit code of a command on a terminal, which waits until what it says there is read."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if select.select([master], [], [], 0.02)[0]:
            try:
                os.read(master, 65536)
            except OSError:
                break  # nobody has it open any more
    return process.wait(60)


def test_logs_are_followed(pyrunc: Pyrunc) -> None:
    pyrunc.made("run", "-d", "-i", "--name", "one", "--", "sh", "-c", f"echo first; {ECHO}")
    with pyrunc.begun("logs", "-f", "one") as follows, pyrunc.begun("attach", "one") as talks:
        assert line_of(follows) == b"first\n"
        assert talks.stdin is not None
        for word in (b"a", b"b"):
            talks.stdin.write(word + b"\n")
            talks.stdin.flush()
            assert line_of(follows) == b"got " + word + b"\n"
        pyrunc("kill", "one")
        assert follows.wait(60) == 0
        assert talks.wait(60) == 137
    assert pyrunc("logs", "--tail", "1", "one").stdout == "got b\n"


def test_two_are_attached(pyrunc: Pyrunc) -> None:
    pyrunc.made("run", "-d", "-i", "--name", "one", "--", "sh", "-c", f"{ECHO}; exit 3")
    with pyrunc.begun("attach", "one") as first, pyrunc.begun("attach", "--no-stdin", "one") as second:
        assert first.stdin is not None

        def told() -> bool:
            assert first.stdin is not None and first.stdout is not None and second.stdout is not None
            first.stdin.write(b"are you there\n")
            first.stdin.flush()
            return len(select.select([first.stdout, second.stdout], [], [], 0.2)[0]) == 2

        assert wait_until(told)  # until both are attached
        first.stdin.write(b"hello\n")
        first.stdin.flush()
        for each in (first, second):
            said = line_of(each)
            while said == b"got are you there\n":
                said = line_of(each)
            assert said == b"got hello\n"
        second.send_signal(signal.SIGKILL)
        first.stdin.write(b"again\n")
        first.stdin.flush()
        assert line_of(first) == b"got again\n"
        pyrunc("kill", "one")
        assert first.wait(60) == 137


def test_keys_detach(pyrunc: Pyrunc) -> None:
    process, master = pyrunc.on_terminal(
        "run", "--runtime", pyrunc.runtime, "-it", "--name", "one", "tools", "sh"
    )
    try:
        heard(master, b"# ")
        os.write(master, b"A=kept; echo se''t\r")
        heard(master, b"\nset\r\n")
        for key in (b"\x10", b"\x11"):
            time.sleep(0.1)
            os.write(master, key)
        assert end_of(process, master) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert pyrunc("inspect", "-f", "{{.State.Status}}", "one").stdout == "running\n"
    process, master = pyrunc.on_terminal("attach", "--detach-keys", "ctrl-x,x", "one")
    try:
        # From here on it passes on what is typed.
        assert wait_until(lambda: not termios.tcgetattr(master)[3] & termios.ICANON)
        os.write(master, b"echo $A-it-is; stty size\r")
        heard(master, b"kept-it-is\r\n40 100")
        for key in (b"\x18", b"x"):
            time.sleep(0.1)
            os.write(master, key)
        assert end_of(process, master) == 1  # as with docker
    finally:
        process.kill()
        process.wait()
        os.close(master)
    pyrunc("rm", "-f", "one")


def test_who_does_not_want_to_end_is_killed(pyrunc: Pyrunc) -> None:
    pyrunc.made(
        "run", "-d", "--name", "one", "--", "sh", "-c", 'trap "" TERM; echo up; while :; do sleep 0.1; done'
    )
    logged(pyrunc, "one", "up")
    pyrunc("stop", "-t", "1", "one")
    assert pyrunc("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one").stdout == "exited 137\n"


def test_its_command_is_killed(pyrunc: Pyrunc) -> None:
    """What was in the foreground goes on without it, and its end is noted."""
    with pyrunc.begun(
        "run", "--runtime", pyrunc.runtime, "--name", "one", "tools", "sh", "-c", FOR_EVER
    ) as command:
        assert line_of(command) == b"up\n"
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        for pid in (command.pid, *map(int, children)):  # crun's command has another one above it
            if b"pyrunc-init" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
    assert pyrunc("inspect", "-f", "{{.State.Status}}", "one").stdout == "running\n"
    pyrunc("stop", "one")
    assert logged(pyrunc, "one", "bye") == "up\nbye\n"
    assert pyrunc("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one").stdout == "exited 7\n"


@pytest.mark.parametrize("whose", ["shim", "monitor"])
def test_who_watches_it_is_killed(pyrunc: Pyrunc, whose: str) -> None:
    """The next command that looks finds it ended, and nothing is left."""
    container_id = pyrunc.made("run", "-d", "--name", "one", "--", "sh", "-c", FOR_EVER).stdout.strip()
    logged(pyrunc, "one", "up")
    running = json.loads(Path(pyrunc.state, container_id, "running").read_text())
    parent = int(Path(f"/proc/{running['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(running["shim"] if whose == "shim" else parent, signal.SIGKILL)
    assert wait_until(lambda: pyrunc("ps", "-a", "--format", "{{.State}}").stdout == "exited\n")
    assert pyrunc("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one").stdout == "exited 137\n"
    assert wait_until(lambda: not runs(running["pid"]))
    assert wait_until(lambda: cgroups_of(container_id) == [])
    pyrunc("start", "one")
    logged(pyrunc, "one", "up\nup")


def test_twenty_at_once(pyrunc: Pyrunc) -> None:
    pyrunc.python("""
    from concurrent.futures import ThreadPoolExecutor
    def one(number):
        box = engine.containers.create("tools", ["sh", "-c", f"cat; exit {number}"], name=f"n{number}",
                                       host_config=runtime, stdin_open=True)
        with box, box.start_attached(stdin=True) as streams:
            output = streams.communicate(b"in")
            return box.wait(timeout_s=60), output
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [(number, (b"in", b"")) for number in range(20)]
    assert engine.containers.list(all=True) == []
    """)


def test_what_stays_is_small(pyrunc: Pyrunc) -> None:
    """Beside the container's program there is its shim and, with another runtime, a monitor, both of some 40 KiB."""
    container_id = pyrunc.made("run", "-d", "--name", "one", "--", "sleep", "600").stdout.strip()
    running = json.loads(Path(pyrunc.state, container_id, "running").read_text())
    found = [running["shim"]]
    parent = int(Path(f"/proc/{running['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    found += [parent] if parent != running["shim"] else []
    assert len(found) == 1 + (pyrunc.runtime != "native")

    def kilobytes() -> int:
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1] for pid in found]
        return sum(int(text.split()[0]) for text in texts)

    assert wait_until(lambda: kilobytes() < 200), (
        kilobytes()
    )  # after a second without work pages are given back


def test_events_in_their_order(pyrunc: Pyrunc) -> None:
    container_id = pyrunc.made("create", "--name", "one", "--", "sh", "-c", FOR_EVER).stdout.strip()
    pyrunc("start", "one")
    logged(pyrunc, "one", "up")
    for words in (("pause",), ("unpause",), ("exec",), ("update", "-m", "64m"), ("stop",), ("rm",)):
        pyrunc(*words, "one", *(("true",) if words == ("exec",) else ()))
    line = ("events", "--since", "1h", "--until", "0s", "--filter", f"container={container_id}")
    said = [
        each.split(":")[0] for each in pyrunc(*line, "--format", "{{.Action}}").stdout.split("\n") if each
    ]
    wanted = [
        "create",
        "start",
        "pause",
        "unpause",
        "exec_create",
        "exec_start",
        "exec_die",
        "update",
        "kill",
        "die",
    ]
    assert said == [*wanted, "stop", "destroy"]


def test_a_start_that_fails(pyrunc: Pyrunc) -> None:
    container_id = pyrunc.made("create", "--name", "one", "-i", "--", "/nothing").stdout.strip()
    for _ in range(2):
        answer = pyrunc("start", "one", code=1)
        assert "no such file or directory" in answer.stderr.lower()
        assert answer.stderr.splitlines()[-1] == "Error: failed to start containers: one"
        assert (
            pyrunc("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one").stdout == "created 127\n"
        )
        assert cgroups_of(container_id) == []
        assert pyrunc("logs", "one").stdout == ""
    error = pyrunc("inspect", "-f", "{{.State.Error}}", "one").stdout.strip()
    assert error and error in answer.stderr


def test_the_flags_of_exec(pyrunc: Pyrunc, tmp_path: Path) -> None:
    pyrunc.made("run", "-d", "--name", "one", "-e", "A=own", "--", "sleep", "600")
    (tmp_path / "env").write_text("B=file\n")
    script = "id -u; echo $A $B $C; busybox pwd; busybox grep CapEff /proc/self/status"
    flags = ("-u", "1000:7", "-e", "C=flag", "--env-file", str(tmp_path / "env"), "-w", "/bin")
    answer = pyrunc("exec", *flags, "one", "sh", "-c", f"busybox id -g; {script}").stdout
    assert answer == "7\n1000\nown file flag\n/bin\nCapEff:\t0000000000000000\n"
    own = pyrunc("exec", "one", "sh", "-c", script).stdout.split()[-1]
    every = pyrunc("exec", "--privileged", "one", "sh", "-c", script).stdout.split()[-1]
    assert int(every, 16) & ~int(own, 16)
    pyrunc("exec", "-d", "-t", "one", "sh", "-c", "exec sleep 602")
    assert wait_until(lambda: "sleep 602" in pyrunc("top", "one", "-eo", "pid,args").stdout)
    for command, code in (("nosuch", 127), ("/nothing", 127), ("/etc/passwd", 126), ("/etc", 126)):
        said = pyrunc("exec", "one", command, code=code)
        words = ("not found", "no such file") if code == 127 else ("permission denied", "not permitted")
        assert any(each in said.stderr.lower() for each in words), said
        if pyrunc.runtime not in ("native", "lxc"):
            assert said.stderr.startswith("OCI runtime exec failed: ") and said.stderr.endswith(
                ": unknown\n"
            ), said
    pyrunc("pause", "one")
    assert "is paused" in pyrunc("exec", "one", "true", code=1).stderr
    pyrunc("unpause", "one")
