"""`pyrunc run` as a process among processes: streams, signals, exit codes, and what goes on without it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli import samples

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.usefixtures("host_unchanged"),
]  # fmt: skip
_CHECKOUT = Path(__file__).parents[2]
_LOOP = "while :; do sleep 0.05; done"


class Command:
    """`pyrunc` with a root and a state of its own."""

    def __init__(self, top: Path) -> None:
        self.environment = {
            **os.environ, "PYTHONPATH": str(_CHECKOUT), "PYRUNC_ROOT": str(top / "root"),
            "PYRUNC_STATE": str(top / "state"),
        }  # fmt: skip
        self._top = top

    @contextmanager
    def begin(self, *argv: str, **more: object) -> "Iterator[subprocess.Popen[bytes]]":
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "pyrunc", *argv], env=self.environment, cwd=self._top, **more  # type: ignore[call-overload]
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    def __call__(self, *argv: str, stdin: bytes = b"", code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pyrunc", *argv], env=self.environment, cwd=self._top, input=stdin, timeout=60,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done
        return done.stdout.decode()

    def until(self, name: str, state: str) -> None:
        deadline = time.monotonic() + 60
        while self("ps", "-a", "-f", f"name={name}", "--format", "{{.State}}").strip() != state:
            assert time.monotonic() < deadline, f"{name} is never {state}"
            time.sleep(0.05)


@pytest.fixture
def pyrunc(tmp_path: Path, busybox: Path) -> Iterator[Command]:
    samples.write(tmp_path, busybox)
    command = Command(tmp_path)
    command("load", "-q", "-i", "beta.tar")
    yield command
    left = command("ps", "-aq").split()
    if left:
        command("rm", "-fv", *left)


def test_the_streams_are_those_of_the_command(pyrunc: Command) -> None:
    with pyrunc.begin(
        "run", "--rm", "-i", "beta", "sh", "-c", "cat; echo err >&2; exit 3",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        data = os.urandom(3 << 20)
        out, err = process.communicate(data, timeout=60)
    assert (out == data, err, process.returncode) == (True, b"err\n", 3)
    assert pyrunc("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [("exit 42", 42), ("/nothing", 127), ("/etc/passwd", 126), ("sleep 100 & kill -9 $!; wait $!", 137)],
)
def test_exit_codes(pyrunc: Command, words: str, code: int) -> None:
    argv = [words] if words.startswith("/") else ["sh", "-c", words]
    pyrunc("run", "--rm", "beta", *argv, code=code)
    assert pyrunc("ps", "-aq") == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 7), (signal.SIGINT, 8), (signal.SIGUSR1, 9)])
def test_signals_are_passed_on(pyrunc: Command, number: signal.Signals, code: int) -> None:
    script = f"trap 'exit 7' TERM; trap 'exit 8' INT; trap 'exit 9' USR1; echo up; {_LOOP}"
    with pyrunc.begin("run", "--name", "one", "beta", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(60) == code


def test_without_sig_proxy_a_signal_ends_the_command_alone(pyrunc: Command) -> None:
    with pyrunc.begin("run", "--sig-proxy=false", "--name", "one", "beta", "sh", "-c", _LOOP) as process:
        pyrunc.until("one", "running")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    assert pyrunc("ps", "--format", "{{.Names}}") == "one\n"


def test_a_killed_command_leaves_its_container_running(pyrunc: Command) -> None:
    with pyrunc.begin(
        "run", "--rm", "--name", "one", "beta", "sh", "-c", f"trap 'exit 5' TERM; {_LOOP}"
    ) as process:
        pyrunc.until("one", "running")
        process.kill()
    assert pyrunc("ps", "--format", "{{.Names}}") == "one\n"
    pyrunc("stop", "-t", "10", "one")
    assert pyrunc("ps", "-aq") == ""  # --rm holds all the same


def test_detached(pyrunc: Command) -> None:
    script = "while [ ! -e /go ]; do sleep 0.05; done; exit 4"
    found = pyrunc("run", "-d", "--name", "one", "beta", "sh", "-c", script).strip()
    assert len(found) == 64 and pyrunc("ps", "-q", "--no-trunc").strip() == found
    with pyrunc.begin("wait", "one", stdout=subprocess.PIPE) as waits:
        pyrunc("exec", "one", "sh", "-c", ": > /go")
        assert waits.communicate(timeout=60)[0] == b"4\n"
    assert pyrunc("ps", "-a", "--format", "{{.Status}}").startswith("Exited (4)")


def test_detached_and_removed_at_its_end(pyrunc: Command) -> None:
    pyrunc("run", "-d", "--rm", "--name", "one", "beta", "sh", "-c", _LOOP)
    with pyrunc.begin("wait", "one", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waits:
        pyrunc("kill", "one")
        out, err = waits.communicate(timeout=60)
    assert out == b"137\n" or b"No such container: one" in err  # it may have come too late
    deadline = time.monotonic() + 60
    while pyrunc("ps", "-aq"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_reader_that_goes_away_ends_the_command_and_not_the_container(pyrunc: Command) -> None:
    script = f"while :; do echo x 2>/dev/null; sleep 0.01; done; {_LOOP}"
    with pyrunc.begin("run", "--name", "one", "beta", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"x\n"
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE
    assert pyrunc("ps", "--format", "{{.Names}}") == "one\n"


def test_the_cidfile_names_the_container_even_if_it_cannot_start(pyrunc: Command, tmp_path: Path) -> None:
    pyrunc("run", "--cidfile", "cid", "beta", "/nothing", code=127)
    assert pyrunc("ps", "-aq", "--no-trunc").strip() == (tmp_path / "cid").read_text()


def test_start_in_the_foreground(pyrunc: Command) -> None:
    pyrunc("create", "-i", "--name", "one", "beta", "sh", "-c", "read x; echo got $x; exit 6")
    assert pyrunc("start", "-ai", "one", stdin=b"a\n", code=6) == "got a\n"
    assert pyrunc("start", "-ai", "one", stdin=b"b\n", code=6) == "got b\n"


def test_a_name_that_is_taken_starts_nothing(pyrunc: Command) -> None:
    pyrunc("run", "-d", "--name", "one", "beta", "sh", "-c", _LOOP)
    pyrunc("run", "--rm", "--name", "one", "beta", "true", code=125)
    assert pyrunc("ps", "-a", "--format", "{{.Names}} {{.State}}") == "one running\n"


def test_a_full_disk_is_no_error_of_the_container(pyrunc: Command) -> None:
    with open("/dev/full", "wb") as full, pyrunc.begin(
        "run", "--name", "full", "beta", "sh", "-c", "echo out", stdout=full, stderr=subprocess.PIPE
    ) as process:  # fmt: skip
        _, err = process.communicate(timeout=60)
    assert (err, process.returncode) == (b"write /dev/stdout: no space left on device\n", 1)
    pyrunc.until("full", "exited")


def test_an_image_for_another_platform(pyrunc: Command) -> None:
    pyrunc("run", "--platform", "linux/s390x", "beta", "true", code=125)
    pyrunc("create", "--platform", "linux/s390x", "beta", "true", code=1)
    assert pyrunc("ps", "-aq") == ""
