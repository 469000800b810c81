"""The same commands through each runtime: a user sees no difference but the name."""

import fcntl
import json
import os
import select
import shutil
import struct
import tarfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.drivers.exec.conftest import Pyrunc
from tests.safety.support import wait_until

FOR_EVER = 'trap "echo bye; exit 7" TERM; echo up; while :; do sleep 0.05; done'


@pytest.fixture(autouse=True)
def _nothing_stays(pyrunc: Pyrunc) -> Iterator[None]:
    """No container of one test is there in the next, nor anything of it in cgroups or in the directory of states."""
    yield
    names = pyrunc("ps", "-aq", "--no-trunc").stdout.split()
    if names:
        pyrunc("rm", "-fv", *names)
    left = [entry for entry in os.listdir(pyrunc.state) if len(entry) == 64]
    assert left == []


def logged(pyrunc: Pyrunc, name: str, text: str) -> str:
    """The log of *name*, once *text* is in it."""
    assert wait_until(lambda: text in pyrunc("logs", name).stdout), pyrunc("logs", name)
    return pyrunc("logs", name).stdout


def cgroups_of(container_id: str) -> list[Path]:
    places = [Path(each.mountpoint) for each in (*detect().hierarchies, *detect().named)]
    found = [place / "pyrunc" / container_id for place in places]
    found += [place / "pyrunc/monitors" / container_id for place in places]
    return [path for path in found if path.exists()]


def runs(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_output_errors_input_and_exit_code(pyrunc: Pyrunc) -> None:
    answer = pyrunc.made(
        "run", "--rm", "-i", "--", "sh", "-c", "cat; echo err >&2; exit 3", code=3, stdin=b"in\n"
    )
    assert (answer.stdout, answer.stderr) == ("in\n", "err\n")
    assert pyrunc("ps", "-aq").stdout == ""


def test_a_signal_is_128_and_its_number(pyrunc: Pyrunc) -> None:
    pyrunc.made("run", "--rm", "--", "sh", "-c", "trap - TERM; busybox kill -9 -1; exit 0")
    pyrunc.made("run", "-d", "--name", "one", "--", "sleep", "100")
    pyrunc("kill", "one")
    assert pyrunc("wait", "one").stdout == "137\n"


@pytest.mark.parametrize(("command", "code", "words"), [
    ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'), ("/etc/passwd", 126, "ermission denied"),
])  # fmt: skip
def test_what_cannot_be_executed(pyrunc: Pyrunc, command: str, code: int, words: str) -> None:
    if pyrunc.runtime == "crun" and code == 127:
        words = "executable file `nosuch` not found in $PATH"
    answer = pyrunc.made("run", "--name", "one", "--", command, code=code)
    assert words in answer.stderr
    assert answer.stderr.count("\n") == 3, answer.stderr  # one line, and where there is help
    if pyrunc.runtime not in ("native", "lxc"):
        begin = "pyrunc: failed to create task for container: failed to create shim task: OCI runtime create failed: "
        assert answer.stderr.startswith(begin)
        assert answer.stderr.splitlines()[0].endswith(": unknown")
    assert answer.stdout == pyrunc("logs", "one").stdout == pyrunc("logs", "one").stderr == ""
    assert (
        pyrunc("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one").stdout == f"created {code}\n"
    )


def test_what_isolates_it(pyrunc: Pyrunc) -> None:
    flags = (
        "--hostname",
        "box",
        "-e",
        "A=b",
        "-u",
        "web",
        "-w",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--pids-limit",
        "20",
    )
    script = "hostname; echo $A; id -u; busybox pwd; cat /proc/1/comm; busybox grep -E 'CapBnd|Seccomp:' /proc/1/status"
    found = pyrunc.made("run", "--rm", *flags, "--", "sh", "-c", script).stdout.splitlines()
    assert found == ["box", "b", "1000", "/tmp", "sh", "CapBnd:\t0000000000000000", "Seccomp:\t2"]
    found = pyrunc.made("run", "--rm", "--read-only", "--", "touch", "/x", code=1).stderr.splitlines()
    assert found == ["touch: /x: Read-only file system"]
    script = "busybox ip addr; cat /etc/hosts; cat /etc/hostname; hostname"
    text = pyrunc.made("run", "--rm", "--add-host", "other:10.0.0.1", "--", "sh", "-c", script).stdout
    assert "127.0.0.1/8" in text
    assert "10.0.0.1\tother" in text
    assert text.splitlines()[-1] == text.splitlines()[-2]


def test_an_image_whose_devices_are_a_symlink_changes_nothing_of_the_host(
    pyrunc: Pyrunc, tmp_path: Path
) -> None:
    root, victim = tmp_path / "image", tmp_path / "victim"
    (root / "bin").mkdir(parents=True)
    victim.mkdir()
    shutil.copy("/bin/busybox", root / "bin/true")
    (root / "dev").symlink_to(victim)
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        tar.add(root, ".")
    pyrunc("import", str(tmp_path / "image.tar"), "linked")
    answer = pyrunc.made("run", "--rm", "--", "true", code=None, image="linked")
    assert list(victim.iterdir()) == []
    if pyrunc.runtime in ("native", "pyrunc-oci"):
        assert answer.code == 0, answer
    else:
        assert answer.code == 125 and "symlink" in answer.stderr, answer


def test_the_life_of_one(pyrunc: Pyrunc) -> None:
    container_id = pyrunc.made(
        "run", "-d", "--name", "one", "-m", "64m", "--", "sh", "-c", FOR_EVER
    ).stdout.strip()
    logged(pyrunc, "one", "up")
    seen = json.loads(pyrunc("inspect", "one").stdout)[0]
    assert seen["State"]["Status"] == "running"
    assert seen["HostConfig"]["Runtime"] == ("pyrunc" if pyrunc.runtime == "native" else pyrunc.runtime)
    pid = seen["State"]["Pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sh\0-c\0trap")
    assert pyrunc("ps", "--format", "{{.Names}} {{.State}}").stdout == "one running\n"
    assert "sh -c trap" in pyrunc("top", "one", "-eo", "pid,args").stdout
    memory = detect().of("memory")
    assert memory is not None
    limit = "memory.limit_in_bytes" if memory.version == 1 else "memory.max"
    assert int(Path(memory.mountpoint, "pyrunc", container_id, limit).read_text()) == 64 << 20
    pyrunc("update", "-m", "128m", "one")
    assert int(Path(memory.mountpoint, "pyrunc", container_id, limit).read_text()) == 128 << 20
    pyrunc("pause", "one")
    assert pyrunc("inspect", "-f", "{{.State.Status}}", "one").stdout == "paused\n"
    pyrunc("unpause", "one")
    pyrunc("stop", "one")
    assert pyrunc("logs", "one").stdout == "up\nbye\n"
    assert pyrunc("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one").stdout == "exited 7\n"
    assert cgroups_of(container_id) == []
    pyrunc("start", "one")
    logged(pyrunc, "one", "up\nbye\nup")
    pyrunc("restart", "-t", "5", "one")
    logged(pyrunc, "one", "up\nbye\nup\nbye\nup")
    pyrunc("rm", "-f", "one")
    assert cgroups_of(container_id) == []
    assert not runs(pid)


def test_files_go_in_and_out(pyrunc: Pyrunc, tmp_path: Path) -> None:
    (tmp_path / "y").write_text("from outside\n")
    pyrunc.made(
        "run", "-d", "--name", "one", "-v", "data:/data", "--", "sh", "-c", "echo 1 > /data/x; sleep 100"
    )
    pyrunc("cp", str(tmp_path / "y"), "one:/y")
    pyrunc("cp", "one:/y", str(tmp_path / "z"))
    assert (tmp_path / "z").read_text() == "from outside\n"
    assert pyrunc("diff", "one").stdout == "A /data\nA /y\n"
    pyrunc("commit", "one", "made")
    pyrunc("rm", "-f", "one")
    assert pyrunc.made("run", "--rm", "-v", "data:/d:ro", "--", "cat", "/y", "/d/x", image="made").stdout == (
        "from outside\n1\n"
    )
    pyrunc("rmi", "made")
    pyrunc("volume", "rm", "data")


def test_who_eats_too_much_memory_is_told_so(pyrunc: Pyrunc) -> None:
    flags = ("--name", "one", "-m", "16m", "--memory-swap", "16m")
    pyrunc.made("run", *flags, "--", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", code=137)
    assert pyrunc("inspect", "-f", "{{.State.OOMKilled}}", "one").stdout == "true\n"


def test_it_starts_again_by_its_policy(pyrunc: Pyrunc) -> None:
    pyrunc.made(
        "run", "-d", "--name", "one", "--restart", "on-failure:2", "--", "sh", "-c", "echo ran; exit 4"
    )
    shown = ("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "one")
    assert wait_until(lambda: pyrunc(*shown).stdout == "exited 2\n")
    assert pyrunc("logs", "one").stdout == "ran\n" * 3


def test_a_killed_monitor_leaves_nothing(pyrunc: Pyrunc) -> None:
    container_id = pyrunc.made("run", "-d", "--name", "one", "--", "sh", "-c", FOR_EVER).stdout.strip()
    logged(pyrunc, "one", "up")
    pid = int(pyrunc("inspect", "-f", "{{.State.Pid}}", "one").stdout)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, 9)  # its shim, where the runtime is the native one
    assert pyrunc("wait", "one").stdout == "137\n"
    assert pyrunc("inspect", "-f", "{{.State.Status}}", "one").stdout == "exited\n"
    assert cgroups_of(container_id) == []
    assert not runs(pid)


def test_further_programs(pyrunc: Pyrunc) -> None:
    pyrunc.made("run", "-d", "--name", "one", "-e", "A=own", "-w", "/etc", "--", "sh", "-c", FOR_EVER)
    logged(pyrunc, "one", "up")
    answer = pyrunc(
        "exec",
        "-i",
        "one",
        "sh",
        "-c",
        "cat; id -u; echo $A; busybox pwd; echo err >&2; exit 4",
        code=4,
        stdin=b"in\n",
    )
    assert (answer.stdout, answer.stderr) == ("in\n0\nown\n/etc\n", "err\n")
    script = "id -u; echo $A $HOME; busybox pwd; busybox grep CapEff /proc/self/status"
    found = pyrunc("exec", "-u", "web", "-e", "A=new", "-w", "/bin", "one", "sh", "-c", script).stdout
    assert found == "1000\nnew /\n/bin\nCapEff:\t0000000000000000\n"
    # A name alone that is unknown here takes the variable away, as with docker.
    assert pyrunc("exec", "-e", "A", "one", "sh", "-c", "echo ${A-gone}").stdout == "gone\n"
    assert "nosuch" in pyrunc("exec", "one", "nosuch", code=127).stderr
    pyrunc("exec", "-d", "one", "sleep", "321")
    assert wait_until(lambda: "sleep 321" in pyrunc("top", "one", "-eo", "pid,args").stdout)
    pyrunc("rm", "-f", "one")


def heard(master: int, text: bytes) -> bytes:
    """What a terminal shows, up to *text*."""
    found = b""
    end = time.monotonic() + 60
    while text not in found and time.monotonic() < end:
        if select.select([master], [], [], 1)[0]:
            found += os.read(master, 65536)
    assert text in found, found
    return found


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_terminal(pyrunc: Pyrunc, verb: str) -> None:
    if verb == "run":
        line = ["run", "--runtime", pyrunc.runtime, "-it", "--name", "one", "tools", "sh"]
    else:
        pyrunc.made("run", "-d", "--name", "one", "--", "sleep", "600")
        line = ["exec", "-it", "one", "sh"]
    process, master = pyrunc.on_terminal(*line)
    try:
        heard(master, b"# ")
        os.write(master, b"stty size; id -u; exec 3< /dev/tty && echo ct''l\r")
        assert b"40 100\r\n0\r\nctl\r\n" in heard(master, b"\nctl\r\n")
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))

        def shown() -> bytes:
            os.write(master, b"stty size; echo do''ne\r")
            return heard(master, b"\ndone\r\n")

        assert wait_until(lambda: b"33 77" in shown()), "its size stays as it was"
        os.write(master, b"sh -c 'echo be\"\"gun; exec sleep 600'\r")
        heard(master, b"\nbegun\r\n")
        os.write(master, b"\3")
        os.write(master, b"echo wo''ken\r")
        heard(master, b"\nwoken\r\n")
        os.write(master, b"exit 5\r")
        assert process.wait(60) == 5
    finally:
        process.kill()
        process.wait()
        os.close(master)
