"""The harness itself, on the host: exit codes, output, time-out, and that nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import debian, linux, machine
from .child import in_child

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 60.0

pytestmark = pytest.mark.skipif(
    shutil.which("linux.uml") is None, reason="needs User-mode Linux: apt-get install user-mode-linux"
)


def _qemu_is_ready() -> bool:
    """Say whether QEMU would start without fetching anything."""
    try:
        return shutil.which("qemu-system-x86_64") is not None and debian.place().exists()
    except machine.MachineError:
        return False


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.vm", *arguments]


def _vm(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(_command(*arguments), check=False, stdin=subprocess.DEVNULL, capture_output=True)


@pytest.fixture(autouse=True)
def nothing_of_the_host_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither a mount nor a file where programs put temporary files and settings."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(home))
    mounts = Path("/proc/self/mountinfo").read_bytes()
    yield
    assert list(home.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_bytes() == mounts


def _and_no_process_is_left(function: Callable[[], None], patience_s: float = 0.0) -> None:
    """Run *function* in a child that inherits every orphan, and see that there is none after *patience_s*."""

    def check() -> None:
        linux.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        function()
        end = time.monotonic() + patience_s
        while True:
            try:
                ended, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            assert ended or time.monotonic() <= end, "a process is left"
            time.sleep(0.01)

    in_child(check)


def test_exit_code_and_output_pass_unchanged() -> None:
    def check() -> None:
        done = _vm("--", "sh", "-c", "printf 'a\\tb\\n\\033[1m\\377 no newline'; exit 7")
        assert (done.stdout, done.stderr, done.returncode) == (b"a\tb\n\033[1m\377 no newline", b"", 7)

    _and_no_process_is_left(check)


@pytest.mark.skipif(not _qemu_is_ready(), reason="needs QEMU and its kernel: ./dev vm --kernel qemu -- true")
def test_qemu_runs_a_command_on_the_same_tree() -> None:
    def check() -> None:
        done = _vm("--kernel", "qemu", "--", "sh", "-c", f"test -e '{__file__}' && uname -r; exit 7")
        assert (done.stderr, done.returncode) == (b"", 7)
        assert done.stdout.endswith(b"-cloud-amd64\n")

    _and_no_process_is_left(check)


def test_a_reader_who_leaves_ends_the_machine() -> None:
    def check() -> None:
        with subprocess.Popen(
            _command("--", "yes"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as harness:
            assert harness.stdout is not None
            assert harness.stderr is not None
            assert harness.stdout.read(4) == b"y\ny\n"
            harness.stdout.close()
            assert harness.wait(_PATIENCE_S) == 128 + signal.SIGPIPE
            assert harness.stderr.read() == b""

    _and_no_process_is_left(check)


def test_a_checkout_and_an_interpreter_below_tmp_stay_visible(tmp_path: Path) -> None:
    """Where the guest has file systems of its own; with a space in the path, too."""
    checkout, environment = tmp_path / "a checkout", tmp_path / "an environment"
    shutil.copytree(Path(__file__).parent, checkout / "tests/vm")
    venv.create(environment)
    done = subprocess.run(
        [environment / "bin/python", "-m", "tests.vm", "--", "sh", "-c", "pwd; touch new; ls -d new tests"],
        check=False,
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert (done.stdout.decode(), done.stderr, done.returncode) == (f"{checkout}\nnew\ntests\n", b"", 0)
    assert not (checkout / "new").exists()


def test_output_is_a_terminal_only_where_the_host_has_one() -> None:
    script = "test -t 1 && echo terminal || echo pipe"
    assert _vm("--", "sh", "-c", script).stdout == b"pipe\n"
    main, peer = os.openpty()
    with open(main, "rb", buffering=0) as terminal:
        with open(peer, "wb") as stdout:
            subprocess.run(
                _command("--", "sh", "-c", script), check=True, stdin=subprocess.DEVNULL, stdout=stdout
            )
        assert terminal.read(64) == b"terminal\r\n"


def test_what_the_command_leaves_running_does_not_hold_the_machine() -> None:
    done = _vm("--", "sh", "-c", "sleep 1000 & echo done; exit 5")
    assert (done.stdout, done.returncode) == (b"done\n", 5)


def test_death_by_signal_and_missing_program() -> None:
    assert _vm("--", "sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL
    done = _vm("--", "/no/such/program")
    assert (done.returncode, done.stdout) == (127, b"/no/such/program: No such file or directory\n")


def test_a_hanging_command_times_out() -> None:
    def check() -> None:
        done = _vm("--timeout", "6", "--", "sleep", "1000")
        assert (done.returncode, done.stderr) == (124, b"dev vm: uml: no result within 6 s\n")

    _and_no_process_is_left(check)


def test_a_panic_is_told_in_one_line() -> None:
    def check() -> None:
        done = _vm("--", "sh", "-c", "echo c > /proc/sysrq-trigger")
        assert done.returncode == 125
        assert done.stderr.startswith(b"dev vm: uml: the kernel stopped without a verdict: ")
        assert b"panic" in done.stderr
        assert done.stderr.count(b"\n") == 1

    _and_no_process_is_left(check)


def test_an_unknown_kernel_parameter_reaches_the_guest() -> None:
    done = _vm("--append", "pyrunc.test=1 apparmor=1 lsm=apparmor", "--", "cat", "/proc/cmdline")
    assert b" pyrunc.test=1 apparmor=1 " in done.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_output_is_live_and_a_signal_takes_everything_down(number: int, code: int) -> None:
    def check() -> None:
        with subprocess.Popen(
            _command("--", "sh", "-c", "echo started; sleep 1000"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as harness:
            assert harness.stdout is not None
            assert harness.stdout.readline() == b"started\n"
            harness.send_signal(number)
            assert harness.wait(_PATIENCE_S) == code

    _and_no_process_is_left(check, patience_s=_PATIENCE_S if number == signal.SIGKILL else 0)


def test_the_guest_writes_in_its_memory_only(tmp_path: Path) -> None:
    """Even as root, and on a file system of the host's mounted once more, writable."""
    victim = tmp_path / "victim"
    victim.write_text("host\n")
    script = f"""
        echo guest > {victim} && cat {victim}
        mount -t hostfs -o {tmp_path} none /mnt && cat /mnt/victim
        echo guest > /mnt/victim || echo refused
    """
    done = _vm("--", "sh", "-c", f"mkdir -p {tmp_path}; {script}")
    assert done.stdout.splitlines()[-1:] == [b"refused"]
    assert b"host" in done.stdout.splitlines()
    assert b"guest" in done.stdout.splitlines()
    assert victim.read_text() == "host\n"


def test_the_command_finds_checkout_interpreter_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRUNC_TEST_WORD", "hello")
    script = "import os, sys, pytest; print(os.getcwd(), sys.executable, os.environ['PYRUNC_TEST_WORD'])"
    done = _vm("--", sys.executable, "-c", script)
    assert done.stdout.decode().split() == [os.getcwd(), sys.executable, "hello"]


def test_without_a_command_pytest_runs_the_tests_marked_vm() -> None:
    done = _vm("tests/vm/test_cgroup_v2.py", "-q", "-k", "memory_max_kills")
    assert done.returncode == 0, done.stdout
    assert b"1 passed" in done.stdout
