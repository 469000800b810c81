"""NOTIFY_SOCKET and LISTEN_FDS: what systemd hands to a service reaches the program, and its readiness comes back.

Each is asked of runc too, but where runc waits for ever: for readiness of a program that has ended without a word.
"""

import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oci.runtime import OURS, SUBJECT, Runtime, unique_id
from tests.oci.waiting import PATIENCE_S, until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
Make = Callable[[str], Runtime]
Bundle = Callable[..., Path]
# A planner is only of ours. What runc waits for for ever, or passes on once only, is not asked of it.
OURS_ALONE = ("ours", "planned") if str(OURS) == SUBJECT else ("ours",)
WAYS = (*OURS_ALONE, "runc")


class Service:
    """A runtime as a service of systemd's, whose socket *host* is."""

    def __init__(self, runtime: Runtime, host: socket.socket, address: str) -> None:
        self.runtime = runtime
        self.host = host
        self.environment = {**os.environ, "NOTIFY_SOCKET": address, "PYRUNC_OCI_PLANNER": "0"}
        if runtime.planner is not None:
            self.environment["PYRUNC_OCI_PLANNER"] = str(runtime.planner)
        self.name = unique_id()

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start a command and do not wait for it."""
        self.runtime.made.append(self.name)
        self.runtime.root.parent.mkdir(exist_ok=True)
        null = self.runtime.root.parent / "nothing"
        with null.open("a+b") as file:
            return subprocess.Popen(
                self.runtime.command(*words, self.name),
                env=self.environment,
                stdin=file,
                stdout=file,
                stderr=file,
            )

    def until(self, *statuses: str) -> int:
        """Wait until there is a container with one of the *statuses*; its pid."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = self.runtime("state", self.name, code=None)
            found = re.search(r'"status": "(\w+)"', done.out)
            if found is not None and found[1] in statuses:
                return int(re.search(r'"pid": (\d+)', done.out)[1])  # type: ignore[index]
            assert time.monotonic() < deadline, done
            time.sleep(0.02)

    def say(self, pid: int, *messages: bytes) -> None:
        """Say something as a program of the container's could."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inside:
            inside.connect(f"/proc/{pid}/root/run/notify/notify.sock")
            for message in messages:
                inside.send(message)

    def heard(self) -> list[bytes]:
        """The next two messages that come to the caller's socket."""
        return [self.host.recv(100), self.host.recv(100)]

    def silent(self) -> bool:
        """Whether nothing more has come."""
        self.host.setblocking(False)
        try:
            self.host.recv(100)
        except BlockingIOError:
            return True
        finally:
            self.host.settimeout(PATIENCE_S)
        return False


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "h") if request.param == "path" else f"@pyrunc-test-{os.getpid()}"


@pytest.fixture(params=WAYS)
def service(
    request: pytest.FixtureRequest, make_runtime: Make, planner: Path, address: str
) -> Iterator[Service]:
    runtime = make_runtime(SUBJECT if request.param != "runc" else "runc")
    if request.param == "planned":
        runtime.planner = planner
    with tempfile.TemporaryDirectory(prefix="pyrunc-", dir="/tmp") as short:
        if request.param == "runc":
            runtime.root = Path(short) / "root"  # runc's socket has no more room than an address has
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
            host.bind(address.replace("@", "\0"))
            host.settimeout(PATIENCE_S)
            yield Service(runtime, host, address)
            runtime.clean()


def ours(service: Service) -> bool:
    return service.runtime.name != "runc"


def test_a_run_tells_that_its_program_is_ready(service: Service, bundle: Bundle) -> None:
    """Whom systemd is to watch is the command: it passes signals on and ends as the program does."""
    path = bundle("b", "/bin/sh", "-c", "trap 'exit 5' TERM; : >/dev/shm/set; while :; do sleep 0.05; done")
    command = service.start("run", "--bundle", str(path))
    pid = service.until("running")
    until(Path(f"/proc/{pid}/root/dev/shm/set").exists, "it does not begin")
    service.say(pid, b"STATUS=getting there", b"READY=1\nSTATUS=here\n")
    assert service.heard() == [b"READY=1\n", b"MAINPID=%d\n" % command.pid]
    service.say(pid, b"WATCHDOG=1", b"STOPPING=1")
    command.send_signal(signal.SIGTERM)
    assert command.wait(PATIENCE_S) == 5
    assert service.silent()
    assert not (service.runtime.root / service.name).exists()


def test_a_detached_run_waits_until_its_program_is_ready(service: Service, bundle: Bundle) -> None:
    path = bundle("b", "/bin/sleep", "1000")
    command = service.start("run", "--detach", "--bundle", str(path))
    pid = service.until("running")
    time.sleep(0.3)
    assert command.poll() is None
    service.say(pid, b"READY=1")
    assert service.heard() == [b"READY=1\n", b"MAINPID=%d\n" % pid]
    assert command.wait(PATIENCE_S) == 0
    service.until("running")
    with pytest.raises(ConnectionRefusedError):  # nobody hears any more
        service.say(pid, b"STATUS=alone")
    service.runtime.end(service.name)
    assert not (service.runtime.root / service.name).exists()


def test_a_created_container_is_told_of_by_its_start(service: Service, bundle: Bundle) -> None:
    path = bundle("b", "/bin/sleep", "1000")
    assert service.start("create", "--bundle", str(path)).wait(PATIENCE_S) == 0
    command = service.start("start")
    pid = service.until("running")
    service.say(pid, b"READY=1")
    assert service.heard() == [b"READY=1\n", b"MAINPID=%d\n" % pid]
    assert command.wait(PATIENCE_S) == 0


def test_what_the_program_finds(service: Service, bundle: Bundle) -> None:
    script = (
        "echo $NOTIFY_SOCKET; stat -c %a,%F /run/notify /run/notify/notify.sock;"
        "grep -o '/run/notify ro[a-z,]*' /proc/self/mountinfo; touch /run/notify/x 2>/dev/null || echo no"
    )
    path = bundle("b", "/bin/sh", "-c", script, root__readonly=False)
    out = path / "out"
    with out.open("wb") as file:
        words = service.runtime.command("run", "--bundle", str(path), service.name)
        command = subprocess.Popen(words, env=service.environment, stdin=subprocess.DEVNULL, stdout=file)
    service.runtime.made.append(service.name)
    if not ours(service):
        until(lambda: out.read_text().endswith("no\n"), out.read_text)
        command.kill()  # it waits for readiness
    assert command.wait(PATIENCE_S) == (0 if ours(service) else -signal.SIGKILL)
    assert out.read_text().splitlines() == [
        "/run/notify/notify.sock", "755,directory", "777,socket",
        "/run/notify ro,nosuid,nodev,noexec,relatime", "no",
    ]  # fmt: skip


@pytest.mark.parametrize("service", OURS_ALONE, indirect=True)
@pytest.mark.parametrize("flags", [[], ["--detach"]], ids=["foreground", "detached"])
def test_who_ends_without_a_word_is_not_waited_for(
    service: Service, bundle: Bundle, flags: list[str]
) -> None:
    """runc waits for ever: in the foreground for its own end, else for that of a child which it does not reap."""
    command = service.start("run", *flags, "--bundle", str(bundle("b", "/bin/sh", "-c", "sleep 0.2; exit 4")))
    assert command.wait(PATIENCE_S) == (0 if flags else 4)
    assert service.silent()


@pytest.mark.parametrize("service", OURS_ALONE, indirect=True)
def test_last_words_are_passed_on(service: Service, bundle: Bundle) -> None:
    """What was said just before the end, and again and again as after a reload."""
    path = bundle("b", "/bin/sh", "-c", "until [ -e /dev/shm/go ]; do sleep 0.02; done")
    command = service.start("run", "--bundle", str(path))
    pid = service.until("running")
    main = b"MAINPID=%d\n" % command.pid
    service.say(pid, b"STATUS=no\nREADY=1\n")
    assert service.heard() == [b"READY=1\n", main]
    service.say(pid, *[b"X=" + bytes(10000)] * 3, b"READY=2")
    assert service.heard() == [b"READY=2\n", main]
    command.send_signal(signal.SIGSTOP)
    service.say(pid, b"READY=3")
    Path(f"/proc/{pid}/root/dev/shm/go").touch()
    service.until("stopped")
    command.send_signal(signal.SIGCONT)
    assert command.wait(PATIENCE_S) == 0
    assert service.heard() == [b"READY=3\n", main]


def test_a_container_is_to_be_had_while_its_readiness_is_waited_for(service: Service, bundle: Bundle) -> None:
    command = service.start("run", "--detach", "--bundle", str(bundle("b", "/bin/sleep", "1000")))
    service.until("running")
    assert service.runtime("exec", service.name, "/bin/echo", "inside").out == "inside\n"
    if not ours(service):
        command.kill()  # else for ever
    service.runtime("delete", "--force", service.name)
    assert command.wait(PATIENCE_S) == (0 if ours(service) else -signal.SIGKILL)
    assert not (service.runtime.root / service.name).exists()


@pytest.mark.parametrize("where", ["/nonexistent/socket", "/" + "x" * 300, "nonsense", "vsock:2:1"])
def test_a_caller_that_cannot_be_told_is_no_failure(make_runtime: Make, bundle: Bundle, where: str) -> None:
    runtime = make_runtime(SUBJECT)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        service = Service(runtime, host, where)
        path = bundle("b", "/bin/sh", "-c", "until [ -e /dev/shm/go ]; do sleep 0.02; done; exit 3")
        command = service.start("run", "--bundle", str(path))
        pid = service.until("running")
        service.say(pid, b"READY=1")
        Path(f"/proc/{pid}/root/dev/shm/go").touch()
        assert command.wait(PATIENCE_S) == 3


def test_the_socket_is_reached_by_a_user_of_the_container(
    make_runtime: Make, bundle: Bundle, tmp_path: Path
) -> None:
    """Root's state directory is nobody's business; its socket is anybody's who is inside."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(tmp_path / "h"))
        host.settimeout(PATIENCE_S)
        service = Service(make_runtime(SUBJECT), host, str(tmp_path / "h"))
        path = bundle("b", "/bin/sleep", "1000", process__user={"uid": 1000, "gid": 1000})
        command = service.start("run", "--detach", "--bundle", str(path))
        pid = service.until("running")
        code = (
            "import os, socket, sys; os.chroot(f'/proc/{sys.argv[1]}/root'); os.setgid(1000); os.setuid(1000);"
            "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', '/run/notify/notify.sock')"
        )
        subprocess.run(["python3", "-c", code, str(pid)], check=True)
        assert service.heard() == [b"READY=1\n", b"MAINPID=%d\n" % pid]
        assert command.wait(PATIENCE_S) == 0
        mode = (service.runtime.root / service.name / "notify").stat().st_mode
        assert stat.S_IMODE(mode) == 0o755


# LISTEN_FDS

LISTENING: dict[str, str] = {
    "ours": "LISTEN_FDS=2 LISTEN_PID=$$", "nobody's": "LISTEN_FDS=2", "another's": "LISTEN_FDS=2 LISTEN_PID=1",
    "none": "LISTEN_FDS=0 LISTEN_PID=$$", "no number": "LISTEN_FDS=x LISTEN_PID=$$",
    "nothing": "LISTEN_FDS= LISTEN_PID=$$",
    "named": "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b",
}  # fmt: skip


@pytest.mark.parametrize("which", LISTENING)
@pytest.mark.parametrize("preserved", ["0", "1"])
def test_sockets_of_systemd(
    make_runtime: Make, planner: Path, bundle: Bundle, tmp_path: Path, which: str, preserved: str
) -> None:
    """By create, run and exec, as runc has it: exactly these descriptors come along, and the program is told."""
    script = "for fd in 3 4 5 6 7; do readlink /proc/$$/fd/$fd; done; env | grep LISTEN_; true"
    found: list[list[str]] = []
    for number, way in enumerate(WAYS):
        runtime = make_runtime(SUBJECT if way != "runc" else "runc")
        path = bundle(f"b{number}", "/bin/sh", "-c", script)
        shell = f'export {LISTENING[which]}; exec "$0" "$@" 3</etc 4</usr 5</proc'
        runtime.planner = planner if way == "planned" else None
        runtime.prefix = ["sh", "-c", shell]
        flags = ("--preserve-fds", preserved)
        outs = [runtime.run(path, *flags).out]
        out = tmp_path / f"out{number}"
        name = runtime.create(path, *flags, output=out)
        runtime.prefix = []
        runtime("start", name)
        runtime.wait(name, "stopped")
        outs.append(out.read_text())
        path = bundle(f"c{number}", "/bin/sleep", "1000")
        name = runtime.create(path)
        runtime("start", name)
        runtime.prefix = ["sh", "-c", shell]
        outs.append(runtime("exec", *flags, name, "/bin/sh", "-c", script).out)
        runtime.prefix = []
        runtime.end(name)
        found.append(outs)
    assert all(outs == found[0] for outs in found), found
