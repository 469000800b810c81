"""`pyrunc` as a command whose containers one runtime runs, each runtime in its turn."""

import fcntl
import os
import struct
import subprocess
import sys
import tarfile
import termios
import textwrap
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from pyrunc.drivers.registry import exec_names
from pyrunc.runtime.cgroup_layout import detect

RUNTIMES = ("native", "runc", "crun", "pyrunc-oci", "lxc")
APPLETS = (
    "cat",
    "dd",
    "false",
    "head",
    "hostname",
    "id",
    "ls",
    "mount",
    "sh",
    "sleep",
    "stty",
    "touch",
    "true",
)
# What programs of tests begin with: `until`, and whether a process has `ended`, reaped or not.
_BEGIN = """
import os, time, pyrunc

def until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)

def ended(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True

engine = pyrunc.Engine()
"""
_V2_CONTROLLERS = "/sys/fs/cgroup/unified/cgroup.controllers"


class Answer(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Pyrunc:
    """The command, on a root of its own; *runtime* is for `made`."""

    def __init__(self, top: Path, runtime: str) -> None:
        self.runtime = runtime
        self.state = top / "state"
        self._env = {**os.environ, "PYRUNC_ROOT": str(top / "root"), "PYRUNC_STATE": str(self.state)}
        begin: list[str] = []
        if runtime == "crun" and detect().mode == "hybrid" and Path(_V2_CONTROLLERS).read_text().strip():
            # It refuses such a host; a cover in a mount namespace of the command's changes nothing for others.
            empty = top / "no-controllers"
            empty.touch()
            script = f'mount --bind {empty} {_V2_CONTROLLERS} && exec "$@"'
            begin = ["unshare", "-m", "sh", "-c", script, "sh"]
        self._begin = [*begin, sys.executable, "-m", "pyrunc"]
        self._python = [*begin, sys.executable, "-c"]

    def __call__(self, *argv: str, code: int | None = 0, stdin: bytes = b"") -> Answer:
        """Run a command, which must end with *code*."""
        done = subprocess.run(
            [*self._begin, *argv], env=self._env, input=stdin, capture_output=True, check=False
        )
        answer = Answer(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code is None or answer.code == code, answer
        return answer

    def python(self, body: str) -> None:
        """Run *body* in a process of its own, with `engine`, and `runtime`, a HostConfig that names ours."""
        with self.python_process(body) as process:
            try:
                stdout, stderr = process.communicate(timeout=120)
            except BaseException:
                process.kill()
                raise
        assert (process.returncode, stderr) == (0, b""), (stdout, stderr)

    def python_process(self, body: str) -> subprocess.Popen[bytes]:
        """The same, which goes on."""
        begin = f"{_BEGIN}runtime = {{'Runtime': {self.runtime!r}}}\n"
        return subprocess.Popen(
            [*self._python, begin + textwrap.dedent(body)],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def begun(self, *argv: str) -> subprocess.Popen[bytes]:
        """A command that goes on, with pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen([*self._begin, *argv], env=self._env, stdin=pipe, stdout=pipe, stderr=pipe)

    def on_terminal(self, *argv: str) -> tuple[subprocess.Popen[bytes], int]:
        """A command on a terminal of its own, of 40 rows by 100 columns, and the other end of that."""
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        begin = ["setsid", "--ctty", "--wait", *self._begin]
        with open(slave, "r+b", buffering=0) as end:
            process = subprocess.Popen([*begin, *argv], env=self._env, stdin=end, stdout=end, stderr=end)
        return process, master

    def made(
        self, verb: str, *argv: str, code: int | None = 0, stdin: bytes = b"", image: str = "tools"
    ) -> Answer:
        """`run` or `create` with the flags of *argv* up to "--", and the command after it."""
        cut = argv.index("--") if "--" in argv else len(argv)
        flags, command = argv[:cut], argv[cut + 1 :]
        return self(verb, "--runtime", self.runtime, *flags, image, *command, code=code, stdin=stdin)

    def end(self) -> None:
        names = self("ps", "-aq").stdout.split()
        if names:
            self("rm", "-fv", *names)


def image(busybox: Path) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(busybox, "bin/busybox")
        for name in APPLETS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        passwd = b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(passwd)
        tar.addfile(entry, BytesIO(passwd))
    return buffer.getvalue()


def needs(runtime: str) -> None:
    if runtime != "native" and exec_names().get(runtime) is None:
        pytest.skip(f"needs {runtime}")


@pytest.fixture(scope="module", params=RUNTIMES)
def pyrunc(
    request: pytest.FixtureRequest, busybox: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pyrunc]:
    runtime = str(request.param)
    if os.geteuid() != 0:
        pytest.skip("needs root")
    needs(runtime)
    found = Pyrunc(tmp_path_factory.mktemp(runtime), runtime)
    found("import", "-", "tools", stdin=image(busybox))
    yield found
    found.end()
