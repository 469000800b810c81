"""`pyrunc run -it`, `exec` and `attach` as a person at a terminal uses them, on a pty of the test's."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli import samples
from tests.cli.test_interactive import Person
from tests.safety.support import wait_until

pytestmark = [
    pytest.mark.usefixtures("host_unchanged"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
_PYRUNC = ["-m", "pyrunc"]
Sit = Callable[..., Person]


class Store:
    """A store with an image of busybox, and the commands on it."""

    def __init__(self, directory: Path) -> None:
        self.environment = {
            "PYRUNC_ROOT": str(directory / "root"), "PYRUNC_STATE": str(directory / "state"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }  # fmt: skip
        samples.write(directory, Path("/bin/busybox"))
        self.ok("load", "-q", "-i", str(directory / "beta.tar"))

    def command(self, *words: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [sys.executable, *_PYRUNC, *words], env={**os.environ, **self.environment}, input=stdin,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def ok(self, *words: str) -> str:
        done = self.command(*words)
        assert done.returncode == 0, done
        return done.stdout.decode()

    def state(self, name: str) -> str:
        (found,) = json.loads(self.ok("inspect", name))
        return str(found["State"]["Status"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    for name in made.ok("ps", "-aq").split():
        made.ok("rm", "-f", name)


@pytest.fixture
def sit(store: Store) -> Iterator[Sit]:
    """Sit at a terminal where a command of pyrunc runs."""
    persons: list[Person] = []

    def begin(*words: str, size: tuple[int, int] = (24, 80)) -> Person:
        os.environ.update(store.environment)
        try:
            persons.append(Person([*_PYRUNC, *words], size))
        finally:
            for name in store.environment:
                os.environ.pop(name, None)
        return persons[-1]

    yield begin
    for person in persons:
        person.close()


def test_run_detach_attach(store: Store, sit: Sit) -> None:
    person = sit("run", "-it", "--name", "one", "beta", "sh", size=(30, 100))
    person.sees(b"# ")
    person.type(b"busybox stty size; busybox tty; echo $TERM\n")
    person.sees(b"30 100\r\n/dev/pts/0\r\nxterm\r\n")
    person.resizes(40, 120, b"busybox stty")
    person.type(b"\x10")
    time.sleep(0.1)
    person.type(b"\x11")
    assert person.waits() == 0
    assert person.is_as_before()
    assert store.state("one") == "running"

    first, second = sit("attach", "one"), sit("attach", "--detach-keys", "ctrl-x", "one")
    assert wait_until(lambda: first.is_raw() and second.is_raw())

    def both_see() -> bool:
        first.type(b"echo to $((40 + 2)) both\n")
        first.sees(b"to 42 both")
        return second.shows(b"to 42 both", 0.5)

    assert wait_until(both_see)
    second.type(b"\x18")
    assert second.waits() == 1
    second.sees(b"read escape sequence")
    first.type(b"exit 9\n")
    assert first.waits() == 9
    assert store.state("one") == "exited"


def test_a_terminal_that_disappears_ends_the_client_and_not_the_container(store: Store, sit: Sit) -> None:
    person = sit("run", "-it", "--name", "one", "beta", "sh")
    person.sees(b"# ")
    person.goes()
    person.waits()
    assert store.state("one") == "running"
    again = sit("attach", "one")
    assert wait_until(again.is_raw)
    again.type(b"exit 3\n")
    assert again.waits() == 3


def test_a_shell_in_a_container_that_another_process_has_started(store: Store, sit: Sit) -> None:
    store.ok("run", "-d", "--name", "one", "-e", "FROM=image", "beta", "sleep", "600")
    person = sit("exec", "-it", "one", "sh", size=(33, 99))
    person.sees(b"# ")
    person.type(b"busybox stty size; echo $FROM $TERM $HOSTNAME\n")
    assert b"33 99" in person.sees(b"image xterm")
    person.runs_and_interrupts()
    person.sees(b"# ")
    person.type(b"exit 7\n")
    assert person.waits() == 7
    assert person.is_as_before()
    detached = sit("exec", "-it", "--detach-keys", "a,b", "one", "sh")
    detached.sees(b"# ")
    detached.type(b"ab")
    assert detached.waits() == 1
    detached.sees(b"read escape sequence")
    assert store.state("one") == "running"


def test_a_large_paste_is_not_lost(sit: Sit) -> None:
    data = os.urandom(1 << 20).replace(b"\x10", b"x")
    script = f"busybox stty raw -echo; echo ready; busybox head -c {len(data)} | busybox sha1sum; busybox sleep 0.2"
    person = sit("run", "-it", "--name", "one", "beta", "sh", "-c", script)
    person.sees(b"ready")
    person.type(data)
    assert hashlib.sha1(data).hexdigest().encode() in person.sees(b"  -")
    assert person.waits() == 0


def test_a_program_ends_with_its_container(store: Store, sit: Sit) -> None:
    store.ok("run", "-d", "--name", "one", "beta", "sleep", "600")
    person = sit("exec", "-it", "one", "sh")
    person.sees(b"# ")
    store.ok("kill", "one")
    assert person.waits() == 137
    assert person.is_as_before()


@pytest.mark.parametrize("tty", [False, True])
def test_nobody_in_a_container_can_type_into_the_callers_terminal(store: Store, tty: bool) -> None:
    """TIOCSTI of a program that holds all capabilities, on each of its streams."""
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("needs /usr/bin/python3, to run it inside")
    places = [path for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]
    binds = [word for path in places for word in ("-v", f"{path}:{path}:ro")]
    store.ok("run", "-d", "--privileged", "--name", "one", *binds, "beta", "sleep", "600")
    source = (
        "import fcntl, termios\n"
        "for fd in (0, 1, 2):\n"
        "    try: [fcntl.ioctl(fd, termios.TIOCSTI, bytes([byte])) for byte in b'echo hacked\\n']\n"
        "    except OSError: pass\n"
    )
    flags = ["-it"] if tty else ["-i"]
    program = ["/usr/bin/python3", "-I", "-S", "-c", source]
    shell = shlex.join([sys.executable, *_PYRUNC, "exec", *flags, "one", *program])
    os.environ.update(store.environment)
    script = (
        f"import os\nos.system({shell!r})\nprint('over', flush=True)\n"
        "print('typed', ascii(os.read(0, 99)), flush=True)"
    )
    person = Person(["-c", script])
    try:
        person.sees(b"over\r\n")
        person.type(b"by hand\n")
        person.sees(b"typed b")
        assert person.sees(b"\r\n") == b"'by hand\\n'"
    finally:
        person.close()
        for name in store.environment:
            os.environ.pop(name, None)


def test_exec_with_pipes(store: Store) -> None:
    store.ok("run", "-d", "--name", "one", "beta", "sleep", "600")
    data = os.urandom(1 << 20)
    done = store.command("exec", "-i", "one", "busybox", "cat", stdin=data)
    assert (done.returncode, done.stdout) == (0, data)
    done = store.command("exec", "one", "sh", "-c", "echo out; echo err >&2; exit 3", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    done = store.command("exec", "one", "sh", "-c", "sleep 600 & echo over")
    assert (done.returncode, done.stdout) == (0, b"over\n")
    for argv, code in ((["nothing"], 127), ([""], 127), (["/etc"], 126), (["sh", "-c", "kill -9 $$"], 137)):
        assert store.command("exec", "one", *argv).returncode == code


def test_exec_detached_goes_on_alone(store: Store) -> None:
    store.ok("run", "-d", "--name", "one", "beta", "sleep", "600")
    assert (
        store.ok("exec", "-d", "one", "sh", "-c", "busybox sleep 0.5; echo done >/file; exec sleep 601") == ""
    )
    assert store.ok("exec", "-dt", "one", "sh", "-c", "busybox tty >/tty; exec sleep 602") == ""
    assert wait_until(lambda: store.command("exec", "one", "busybox", "cat", "/file").stdout == b"done\n")
    assert wait_until(
        lambda: store.command("exec", "one", "busybox", "cat", "/tty").stdout == b"/dev/pts/0\n"
    )
    found = store.ok("exec", "one", "busybox", "ps", "-o", "args")
    assert "sleep 601" in found
    assert "sleep 602" in found
    assert store.command("exec", "-d", "one", "nothing").returncode == 1
    store.ok("kill", "one")
    store.ok("wait", "one")
    assert store.command("exec", "one", "true").returncode == 1


@pytest.mark.parametrize("how", ["keys", "killed", "interrupted"])
def test_what_exec_has_started_goes_on_without_it(store: Store, how: str) -> None:
    store.ok("run", "-d", "--name", "one", "beta", "sleep", "600")
    script = "echo begun; while [ ! -e /go ]; do busybox sleep 0.05; done; echo on > /went; exit 7"
    for name, value in store.environment.items():
        os.environ[name] = value
    try:
        if how == "keys":
            person = Person([*_PYRUNC, "exec", "-it", "one", "sh", "-c", script])
            try:
                person.sees(b"begun")
                person.type(b"\x10\x11")
                person.sees(b"read escape sequence")
            finally:
                person.close()
        else:
            command = [sys.executable, *_PYRUNC, "exec", "one", "sh", "-c", script]
            client = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert client.stdout is not None
            assert client.stdout.readline() == b"begun\n"
            client.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
            client.communicate(timeout=60)
    finally:
        for name in store.environment:
            os.environ.pop(name, None)
    assert "begun" in store.ok("exec", "one", "busybox", "ps", "-o", "args")
    store.ok("exec", "one", "busybox", "touch", "/go")
    assert wait_until(lambda: store.command("exec", "one", "busybox", "cat", "/went").stdout == b"on\n")
    assert wait_until(lambda: exec_ends(store).count("7") == 1)


def exec_ends(store: Store) -> list[str]:
    """The exit codes of all that exec has started and that has ended."""
    now = str(int(time.time()) + 1)
    form = "{{.Actor.Attributes.exitCode}}"
    return store.ok(
        "events", "--since", "0", "--until", now, "--filter", "event=exec_die", "--format", form
    ).split()


def test_the_end_of_each_exec_is_an_event(store: Store) -> None:
    store.ok("run", "-d", "--name", "one", "beta", "sleep", "600")
    assert store.command("exec", "one", "sh", "-c", "exit 3").returncode == 3
    store.ok("exec", "-d", "one", "sh", "-c", "busybox sleep 0.2; exit 4")
    assert wait_until(lambda: sorted(exec_ends(store)) == ["3", "4"])
    store.ok("exec", "-d", "one", "sleep", "600")
    store.ok("kill", "one")
    assert wait_until(lambda: sorted(exec_ends(store)) == ["137", "3", "4"])


def test_signals_go_to_the_container_that_is_attached_to(store: Store) -> None:
    store.ok(
        "run", "-d", "--name", "one", "beta", "sh", "-c",
        "trap 'echo usr1; exit 4' USR1; trap 'up=; echo winch' WINCH; trap 'echo cont' CONT;"
        " up='echo up'; while :; do $up; busybox sleep 0.1; done",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *_PYRUNC, "attach", "--no-stdin", "one"], env={**os.environ, **store.environment},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGWINCH)  # which without a terminal is a signal as any
    assert next(line for line in process.stdout if line != b"up\n") == b"winch\n"
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == b"cont\n"
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (4, b"usr1\n")
