"""The process: working directory, environment, standard streams, time-out, exit codes, and why it could not start."""

import gc
import glob
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox, errors
from pyrunc.runtime import spawner
from pyrunc.runtime.cgroup_layout import detect
from tests.conftest import Run
from tests.safety.support import in_time

pytestmark = pytest.mark.usefixtures("host_unchanged")


def test_the_working_directory_is_made_where_it_is_missing(run: Run) -> None:
    assert run("pwd") == "/\n"
    assert run("pwd", cwd="/tmp") == "/tmp\n"
    assert run("pwd; stat -c '%a %u' .", cwd="/made/for/this", user="web") == "/made/for/this\n755 0\n"
    assert run("pwd", cwd="/made", writable="no") == "/made\n"
    assert run("pwd", cwd="/tmp//x/./y/") == "/tmp/x/y\n"
    assert run("pwd", cwd="/m/deep", tmpfs={"/m": ""}) == "/m/deep\n"
    with pytest.raises(errors.StartError, match="/etc/passwd: not a directory"):
        run("true", cwd="/etc/passwd")
    for wrong in ("relative", "/a/../b", "", "/a\0b", "/" + "x" * 5000):
        with pytest.raises(errors.InvalidArgument, match="cwd"):
            run("true", cwd=wrong)


def test_a_working_directory_outside_is_refused(make_rootfs: Callable[[Path], Path], tmp_path: Path) -> None:
    root = make_rootfs(tmp_path / "root")
    (root / "away").symlink_to("/proc/self/fd/0")
    with Sandbox(root, cwd="/away") as box, pytest.raises(errors.StartError):
        box.run(["/bin/true"])


def test_the_environment(rootfs: Path) -> None:
    with Sandbox(rootfs, hostname="box", env={"A": "1", "B": "=x y\n", "ü": "ö"}) as box:
        result = box.run(["cat", "/proc/self/environ"], env={"A": "2", "PATH": "/bin"})
    found = dict(entry.split("=", 1) for entry in result.stdout.decode().split("\0") if entry)
    assert found == {"PATH": "/bin", "HOSTNAME": "box", "HOME": "/root", "A": "2", "B": "=x y\n", "ü": "ö"}
    for wrong in ({"": "x"}, {"a=b": "x"}, {"a": "x\0"}, {"a": 1}, ["a=1"], {1: "a"}, {"a": "\ud800"}):
        with pytest.raises(errors.InvalidArgument, match="env"):
            Sandbox(rootfs, env=wrong)  # type: ignore[arg-type]
        with Sandbox(rootfs) as box, pytest.raises(errors.InvalidArgument, match="env"):
            box.run(["true"], env=wrong)  # type: ignore[arg-type]


def test_a_megabyte_each_way_at_once(rootfs: Path) -> None:
    data = os.urandom(1 << 20)
    with Sandbox(rootfs) as box:
        result = box.run(["sh", "-c", "tee /proc/self/fd/2"], stdin=data, timeout_s=30)
    digests = [hashlib.sha256(part).digest() for part in (data, result.stdout, result.stderr)]
    assert digests[0] == digests[1] == digests[2]


def test_streams_that_nobody_reads_or_feeds(rootfs: Path) -> None:
    with Sandbox(rootfs) as box:
        assert box.run(["true"], stdin=b"x" * (1 << 20)).exit_code == 0  # it never reads
        assert box.run(["sh", "-c", "exec <&-; sleep 0.05"], stdin=b"x" * (1 << 20)).exit_code == 0
        assert box.run(["cat"]).stdout == b""  # nothing to read is the end of input
        closed = box.run(["sh", "-c", "exec >&- 2>&-; sleep 0.05; exit 3"])
    assert (closed.exit_code, closed.stdout) == (3, b"")


def test_standard_streams_of_the_caller(rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout, Sandbox(rootfs) as box:
        script = "cat; echo err >&2; ls /proc/self/fd | wc -l"
        with box.start(["sh", "-c", script], stdin=stdin.fileno(), stdout=stdout.fileno()) as process:
            assert process.wait(60) == 0
    assert (tmp_path / "out").read_bytes() == b"from a file4\n"  # the three, and the directory that ls reads
    with Sandbox(rootfs) as box, pytest.raises(errors.InvalidArgument, match="must be open descriptors"):
        box.start(["true"], stdin=987654)


def test_a_time_out_keeps_what_was_written(rootfs: Path) -> None:
    with Sandbox(rootfs) as box:
        script = ["sh", "-c", "echo out; echo err >&2; sleep 600 & sleep 600"]
        late = in_time(lambda timeout_s: box.run(script, timeout_s=timeout_s), b"err\n")
        assert (late.stdout, late.stderr) == (b"out\n", b"err\n")
        assert isinstance(late, TimeoutError)
        with box.start(["sleep", "600"]) as process:
            with pytest.raises(errors.TimedOut):
                process.wait(0.05)
            assert process.exit_code is None
        for wrong in (-1, float("nan"), float("inf"), "1", True):
            with pytest.raises(errors.InvalidArgument, match="timeout_s"):
                box.run(["true"], timeout_s=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("script", "code"), [
    ("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("sleep 9 & kill -9 $!; wait $!", 137),
])  # fmt: skip
def test_exit_codes(run: Run, script: str, code: int) -> None:
    run(script, code=code)


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGRTMIN])
def test_the_signal_that_ended_it(rootfs: Path, number: signal.Signals) -> None:
    """With the host's pid namespace, so that init is not shielded from what it does not handle."""
    with Sandbox(rootfs, pid="host") as box, box.start(["sleep", "600"]) as process:
        process.kill(number)
        assert process.wait(60) == 128 + number


def test_signals_are_as_a_fresh_program_expects_them(rootfs: Path) -> None:
    """Python ignores SIGPIPE; a caller may block what it likes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        with Sandbox(rootfs) as box:
            status = box.run(["cat", "/proc/self/status"]).stdout.decode()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert {
        int(line.split()[1], 16) for line in status.splitlines() if line[:6] in ("SigBlk", "SigIgn", "SigCgt")
    } == {0}


@pytest.mark.parametrize(("command", "kind", "code", "words"), [
    ("nosuch", errors.CommandNotFound, 127, 'exec: "nosuch": executable file not found in $PATH'),
    ("/no/such", errors.CommandNotFound, 127, 'exec: "/no/such": no such file or directory'),
    ("/etc/passwd/x", errors.CommandNotFound, 127, 'exec: "/etc/passwd/x": no such file or directory'),
    ("/etc/passwd", errors.CommandNotExecutable, 126, 'exec: "/etc/passwd": permission denied'),
    ("/tmp", errors.CommandNotExecutable, 126, 'exec: "/tmp": permission denied'),
])  # fmt: skip
def test_programs_that_cannot_be_executed(
    rootfs: Path, command: str, kind: type[errors.StartError], code: int, words: str
) -> None:
    with Sandbox(rootfs) as box:
        for start in (box.run, box.start):
            with pytest.raises(kind) as caught:
                start([command])
            assert (str(caught.value), caught.value.exit_code, caught.value.path) == (words, code, command)
            assert isinstance(caught.value, OSError)


def test_what_is_no_program(make_rootfs: Callable[[Path], Path], tmp_path: Path) -> None:
    root = make_rootfs(tmp_path / "root")
    (root / "bin/empty").touch(0o755)
    (root / "bin/script").write_text("#!/no/interpreter\n")
    (root / "bin/script").chmod(0o755)
    with Sandbox(root) as box:
        with pytest.raises(errors.CommandNotExecutable, match="exec format error"):
            box.run(["empty"])
        with pytest.raises(errors.CommandNotFound):
            box.run(["/bin/script"])
        with pytest.raises(errors.StartError, match="argument list too long"):
            box.run(["true", "x" * (1 << 20)])
        for wrong in ([], "true", [""], [b"true"], ["true", 1], ["a\0b"], None, 5, {"true"}):
            with pytest.raises(errors.InvalidArgument, match="argv"):
                box.run(wrong)  # type: ignore[arg-type]
        for stdin in ("text", 5, [1]):
            with pytest.raises(errors.InvalidArgument, match="stdin"):
                box.run(["true"], stdin=stdin)  # type: ignore[arg-type]


def test_killed_by_seccomp_before_it_starts(rootfs: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["capset"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }  # fmt: skip
    with (
        Sandbox(rootfs, seccomp=profile) as box,
        pytest.raises(errors.KilledBySeccomp, match="seccomp filter killed"),
    ):
        box.run(["/bin/true"])
    for wrong in ({"defaultAction": "nonsense"}, {}, {"defaultAction": 5}, "own", 5):
        with pytest.raises(errors.InvalidArgument, match="seccomp"):
            Sandbox(rootfs, seccomp=wrong)  # type: ignore[arg-type]


def killing(*names: str) -> dict[str, Any]:
    """A profile that kills who makes one of these system calls."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_KILL_PROCESS"}],
    }  # fmt: skip


@pytest.mark.parametrize("privileges", [False, True])
def test_killed_by_seccomp_in_execve_itself(rootfs: Path, privileges: bool) -> None:
    with Sandbox(rootfs, seccomp=killing("execve"), no_new_privileges=privileges) as box:
        for _ in range(20):
            with pytest.raises(errors.KilledBySeccomp, match="killed the container before its program ran"):
                box.run(["/bin/true"])
            with pytest.raises(errors.KilledBySeccomp):
                box.start(["/bin/true"]).wait()


def test_a_program_that_seccomp_kills_has_run(tmp_path: Path, make_rootfs: Callable[[Path], Path]) -> None:
    """Also one whose name looks like the fields of /proc/<pid>/stat, and one that sends itself that signal."""
    root = make_rootfs(tmp_path / "root")
    shutil.copy(root / "bin/busybox", root / "bin/busybox) S 1 64")
    with Sandbox(root, seccomp=killing("sethostname"), pid="host") as box:
        for program in ("busybox", "/bin/busybox) S 1 64"):
            for script in ("busybox hostname x & wait $!; kill -SYS $$", "exec hostname x", "kill -SYS $$"):
                result = box.run([program, "sh", "-c", f"echo ran; {script}"])
                assert (result.stdout, result.exit_code) == (b"ran\n", 159), (program, script)
        with box.start(["/bin/hostname", "x"]) as process:
            assert process.wait(60) == 159


def test_without_root_one_line_says_what_is_missing(rootfs: Path) -> None:
    with Sandbox(rootfs) as box:
        box.run(["true"])  # whatever is imported when it is needed, a stranger could not read here
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            Sandbox("/").run(["true"])
        except errors.PermissionDenied as exc:
            os.write(writing, str(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"pyrunc needs root to make namespaces and cgroups; run it with sudo"
    os.waitpid(pid, 0)


def test_an_old_kernel_is_refused_in_one_line(rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner.shut_down()
    with monkeypatch.context() as patch:
        for release, old in (
            ("5.14.0-rc1+", True),
            ("4.18.0-553.el8_10.x86_64", True),
            ("5.15-custom", False),
        ):
            patch.setattr(
                os, "uname", lambda release=release: os.uname_result(("Linux", "h", release, "v", "x86_64"))
            )
            if old:
                with pytest.raises(
                    errors.Unsupported, match=f"^kernel {release.replace('+', '.')} is too old"[:30]
                ):
                    Sandbox(rootfs).run(["true"])
            else:
                assert Sandbox(rootfs).run(["true"]).exit_code == 0


class Interrupt(Exception):
    """What a signal handler raises."""


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # /dev/null, closed by its object's end
# Python itself drops what a handler raises inside of __del__ or of the collector's callbacks, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_handler_may_raise_anywhere(rootfs: Path) -> None:
    """Nothing of a container is left when `run` or `start` raises it; a started one can be closed after it."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    numbers = random.Random(seed)
    top = f"/pyrunc-test-{os.getpid()}-interrupted"

    def interrupt(*_: object) -> None:
        raise Interrupt

    def left() -> list[str]:
        return [
            path
            for hierarchy in detect().hierarchies
            for path in glob.glob(f"{hierarchy.mountpoint}{top}/*/")
        ]

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Sandbox(rootfs, cgroup_parent=top, seccomp="unconfined") as box:
            box.start(["/bin/true"]).close()
            took = 1e-9 * sum(box.run(["/bin/cat"], stdin=b"x" * 200_000).timings_ns.values())
            gc.collect()
            descriptors = len(os.listdir("/proc/self/fd"))
            for number in range(300):
                process = None
                try:
                    signal.setitimer(signal.ITIMER_REAL, numbers.uniform(2e-5, 1.5 * took))
                    try:
                        if number % 2:
                            process = box.start(["/bin/sleep", "600"])
                            process.close()
                        else:
                            box.run(["/bin/cat"], stdin=b"x" * 200_000)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    pass
                if process is not None:
                    process.close()
                    assert process.exit_code == 137
                    del process
            gc.collect()
            assert len(os.listdir("/proc/self/fd")) == descriptors
            assert not left()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_close_can_be_made_again(rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(rootfs) as box:
        process = box.start(["/bin/sleep", "600"])

        def interrupted(*_: object) -> bool:
            raise Interrupt

        with monkeypatch.context() as patch:
            patch.setattr("pyrunc.runtime.sandbox._readable", interrupted)
            with pytest.raises(Interrupt):
                process.close()
        process.close()
        assert process.exit_code == 137


# What is registered first runs last: after pyrunc's own end of everything.
_DAEMON_THREAD = """
import atexit, glob, os, sys, threading, time
def children(pid):
    return " ".join(open(file).read() for file in glob.glob(f"/proc/{pid}/task/*/children")).split()
atexit.register(lambda: print("left:", *children(os.getpid()), flush=True))
import pyrunc
box = pyrunc.Sandbox(sys.argv[1])
def work():
    if sys.argv[2] == "run":
        box.run(["/bin/sleep", "600"])
    else:
        box.start(["/bin/sleep", "600"]).wait()
threading.Thread(target=work, daemon=True).start()
def programs():
    for spawner in children(os.getpid()):
        for supervisor in children(spawner):
            for pid in children(supervisor):
                try:
                    yield open(f"/proc/{pid}/comm").read()
                except OSError:
                    pass
while "sleep\\n" not in programs():
    time.sleep(0.01)
"""


@pytest.mark.parametrize("how", ["run", "start"])
def test_what_a_daemon_thread_waits_for_ends_with_the_program(rootfs: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DAEMON_THREAD, str(rootfs), how], capture_output=True, text=True, timeout=60,
        check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("left:\n", "")


def test_a_closed_sandbox_starts_nothing_and_ends_nothing(rootfs: Path) -> None:
    box = Sandbox(rootfs)
    process = box.start(["sleep", "600"])
    box.close()
    box.close()
    with pytest.raises(errors.FailedPrecondition):
        box.run(["true"])
    assert process.exit_code is None
    process.close()
    assert process.exit_code == 137


def test_what_is_left_running_dies_with_init(rootfs: Path) -> None:
    for options in ({}, {"pid": "host"}):
        with Sandbox(rootfs, **options) as box:  # type: ignore[arg-type]
            begun = time.monotonic()
            assert box.run(["sh", "-c", "sleep 600 & sleep 600 & exit 4"]).exit_code == 4
            assert time.monotonic() - begun < 60  # not that long as what was left would have lasted
