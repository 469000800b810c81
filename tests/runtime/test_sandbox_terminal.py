"""Programs with a terminal of the container's own: what they find there, and what happens at its other end."""

import errno
import hashlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrunc import ExecProcess, IdMap, Mount, Sandbox, SandboxProcess, errors
from tests.safety.support import in_time, wait_until

pytestmark = pytest.mark.usefixtures("host_unchanged")
Process = SandboxProcess | ExecProcess
Begin = Callable[..., Any]
# tmpfs, where the root may be, since Linux 6.3.
IDMAPPED = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 3)
USERNS: dict[str, Any] = {"uid_maps": [IdMap(0, 100000, 65536)]}
KINDS: dict[str, dict[str, Any]] = {
    "default": {}, "user": {"user": "web"}, "userns": USERNS, "user in userns": {**USERNS, "user": "web"},
    "host pids": {"pid": "host"}, "no new privileges": {"no_new_privileges": True}, "read-only": {"writable": "no"},
}  # fmt: skip


def need_idmapped(options: dict[str, Any]) -> None:
    if "uid_maps" in options and not IDMAPPED:
        pytest.skip("needs an idmapped tmpfs, Linux 6.3")


@pytest.fixture(params=["start", "exec"])
def begin(rootfs: Path, request: pytest.FixtureRequest) -> Begin:
    """Start a program on a terminal, as a container's own or as a further one, in a ``with`` block."""

    @contextmanager
    def as_own(argv: list[str], size: tuple[int, int] = (0, 0), **options: Any) -> Iterator[Process]:
        need_idmapped(options)
        with Sandbox(rootfs, tty=True, console_size=size, **options) as box, box.start(argv) as process:
            yield process

    @contextmanager
    def as_further(argv: list[str], size: tuple[int, int] = (0, 0), **options: Any) -> Iterator[Process]:
        need_idmapped(options)
        with (
            Sandbox(rootfs, **options) as box,
            box.start(["sleep", "600"]) as process,
            process.exec_start(argv, tty=True, size=size) as program,
        ):
            yield program

    return as_own if request.param == "start" else as_further


def read_until(process: Process, what: bytes) -> bytes:
    """What appears on the terminal up to *what*, or to its end."""
    found = b""
    while what not in found:
        assert select.select([process.terminal], [], [], 60)[0], found
        try:
            found += os.read(process.terminal, 65536)
        except OSError as exc:
            assert exc.errno == errno.EIO
            break
    return found


def rest(process: Process) -> bytes:
    return read_until(process, b"\0no such thing\0")


@pytest.mark.vm
@pytest.mark.parametrize("kind", KINDS)
def test_the_program_has_it_for_its_own(begin: Begin, kind: str) -> None:
    script = (
        "tty; stty size; stat -c '%u %g %a' $(tty); echo heard >/dev/tty; cut -d ' ' -f 6,8 </proc/self/stat;"
        " echo $TERM; stat -c %t:%T /dev/pts/0; echo end; read x; exit 3"
    )
    with begin(["sh", "-c", script], (24, 132), **KINDS[kind]) as process:
        lines = read_until(process, b"end\r\n").decode().replace("\r", "").splitlines()
        assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]
        os.write(process.terminal, b"\n")
        assert process.wait(60) == 3
        assert lines[0] == "/dev/pts/0"
        assert lines[1] == "24 132"
        assert lines[2] == f"{1000 if 'web' in KINDS[kind].values() else 0} 5 620"
        assert lines[3] == "heard"
        session, foreground = map(int, lines[4].split())
        assert session == foreground
        assert lines[5:] == ["xterm", "88:0", "end"]


@pytest.mark.vm
def test_it_is_the_console_of_the_container(rootfs: Path) -> None:
    with Sandbox(rootfs, tty=True) as box:
        result = box.run(["sh", "-c", "echo to the console >/dev/console; stat -c %t:%T /dev/console"])
        assert result.stdout == b"to the console\r\n88:0\r\n"
    with Sandbox(rootfs) as box:
        assert box.run(["ls", "/dev/console"]).exit_code != 0
    shared = (Mount("/dev", "/dev"), Mount("/dev/pts", "devpts", "devpts", ["newinstance", "ptmxmode=0666"]))
    for mounts in (shared, shared[:1]):
        with Sandbox(rootfs, tty=True, mounts=mounts) as box:
            before = set(os.listdir("/dev"))
            assert box.run(["sh", "-c", "tty >/dev/null && echo yes"]).stdout.endswith(b"yes\r\n")
            assert set(os.listdir("/dev")) == before


def test_the_document_says_so(rootfs: Path) -> None:
    document: dict[str, Any] = {
        "root": {"path": str(rootfs)},
        "process": {"terminal": True, "consoleSize": {"height": 11, "width": 22}, "env": ["PATH=/bin"]},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
        ],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }
    assert Sandbox.from_spec(document).run(["stty", "size"]).stdout == b"11 22\r\n"
    del document["mounts"][2]
    with pytest.raises(errors.StartError, match="cannot make a terminal: there is no devpts at /dev/pts"):
        Sandbox.from_spec(document).run(["true"])
    document["process"]["consoleSize"]["width"] = 65536
    with pytest.raises(errors.InvalidSpec, match=r"process\.consoleSize\.width"):
        Sandbox.from_spec(document)
    with pytest.raises(errors.InvalidArgument, match="console_size"):
        Sandbox(rootfs, tty=True, console_size=(1, 65536))


def test_its_size_changes(begin: Begin) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
    with begin(["sh", "-c", script]) as process:
        read_until(process, b"ready")
        process.resize(51, 151)
        assert b"51 151" in rest(process)
        assert process.wait(60) == 0
        for wrong in ((-1, 5), (5, 65536), (1.5, 2)):
            with pytest.raises(errors.InvalidArgument):
                process.resize(*wrong)


def test_without_one_there_is_no_size(rootfs: Path) -> None:
    with Sandbox(rootfs) as box, box.start(["sleep", "600"]) as process:
        assert process.terminal == -1
        with pytest.raises(errors.FailedPrecondition, match="has no terminal"):
            process.resize(1, 1)


def test_keys_are_signals(begin: Begin) -> None:
    with begin(["sh", "-c", "echo ready; exec sleep 600"], pid="host") as process:
        read_until(process, b"ready")
        os.write(process.terminal, b"\x03")
        assert process.wait(60) == 130


def test_a_shell_controls_jobs(begin: Begin) -> None:
    with begin(["sh", "-i"], env={"PS1": "$ "}) as process:
        found = read_until(process, b"$ ")
        assert b"job control turned off" not in found
        os.write(process.terminal, b"sh -c 'echo beg\"\"un; exec sleep 600'\n")
        read_until(process, b"\nbegun\r\n")
        os.write(process.terminal, b"\x1a")
        read_until(process, b"Stopped")
        os.write(process.terminal, b"bg; jobs; kill %1; wait; echo do''ne\n")
        assert b"Running" in read_until(process, b"done\r\n")
        os.write(process.terminal, b"exit 6\nexit 6\n")
        assert process.wait(60) == 6


def test_a_large_paste_is_not_lost(begin: Begin) -> None:
    data = os.urandom(1 << 20)
    script = f"stty raw -echo; echo ready; head -c {len(data)} | sha1sum"
    with begin(["sh", "-c", script]) as process:
        read_until(process, b"ready\n")
        left = memoryview(data)
        while left:
            left = left[os.write(process.terminal, left) :]
        assert hashlib.sha1(data).hexdigest().encode() in rest(process)


def test_all_of_a_large_output_arrives(begin: Begin) -> None:
    with begin(["sh", "-c", "stty -opost; yes 0123456789abcde | head -c 300000"]) as process:
        assert len(rest(process)) == 300000
        assert process.wait(60) == 0


@pytest.mark.vm
def test_a_terminal_that_disappears_hangs_its_program_up(begin: Begin) -> None:
    with begin(["sh", "-c", "echo ready; exec sleep 600"], pid="host") as process:
        read_until(process, b"ready")
        process._child.hang_up()
        assert process.wait(60) == 129


def test_a_further_one_ends_with_its_requester_and_not_the_container(rootfs: Path) -> None:
    with Sandbox(rootfs) as box, box.start(["sleep", "600"]) as process:
        program = process.exec_start(["sleep", "601"], tty=True)
        pid = program.pid
        del program
        assert wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
        assert process.exec(["true"]).exit_code == 0


@pytest.mark.vm
def test_run_types_the_input_and_takes_what_appears(rootfs: Path) -> None:
    with Sandbox(rootfs) as box, box.start(["sleep", "600"]) as process:
        result = process.exec(
            ["sh", "-c", "stty -echo; cat; echo err >&2; exit 4"], stdin=b"a\nb\n", tty=True
        )
        assert (result.exit_code, result.stderr) == (4, b"")
        assert result.stdout.endswith(b"a\r\nb\r\nerr\r\n")
        script = ["sh", "-c", "echo out; exec sleep 600"]
        late = in_time(lambda timeout_s: process.exec(script, tty=True, timeout_s=timeout_s), b"out\r\n")
        assert b"out\r\n" in late.stdout
        with pytest.raises(errors.CommandNotFound):
            process.exec(["nosuch"], tty=True)
        assert process.exec(["ls", "/dev/pts"]).stdout == b"ptmx\n"


def test_many_at_once(rootfs: Path) -> None:
    with Sandbox(rootfs) as box, box.start(["sleep", "600"]) as process:
        programs = [process.exec_start(["sh", "-c", "tty; exec sleep 600"], tty=True) for _ in range(20)]
        names = {read_until(program, b"\n") for program in programs}
        assert names == {b"/dev/pts/%d\r\n" % number for number in range(20)}
        process.kill()
        assert [program.wait(60) for program in programs] == [137] * 20
        for program in programs:
            program.close()


def test_privileged(rootfs: Path) -> None:
    with Sandbox(rootfs, user="web") as box, box.start(["sleep", "600"]) as process:
        show = ["grep", "-E", "Cap(Prm|Eff|Bnd)", "/proc/self/status"]
        own = int(
            next(x for x in Path("/proc/self/status").read_text().splitlines() if "CapPrm" in x)[8:], 16
        )
        found = process.exec(show, user="root", privileged=True).stdout.decode().split()
        assert [int(word, 16) for word in found[1::2]] == [own] * 3
        found = process.exec(show, privileged=True).stdout.decode().split()
        assert [int(word, 16) for word in found[1::2]] == [
            0,
            0,
            own,
        ]  # as with Docker: execve takes them from a user


def test_signals_and_the_terminal(begin: Begin) -> None:
    with begin(
        ["sh", "-c", "trap 'echo usr1; exit 7' USR1; echo ready; while :; do sleep 0.01; done"]
    ) as process:
        read_until(process, b"ready")
        process.kill(signal.SIGUSR1)
        assert b"usr1" in rest(process)
        assert process.wait(60) == 7
