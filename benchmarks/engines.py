"""Whole engines side by side: pyrunc's command, podman and docker, each with roots of its own on one disk.

All of them run in a private mount namespace, in which /etc, /var/lib, /run and /dev/shm are copies or empty; what they
leave there dies with it. Their roots are on the disk below /var/tmp, where an engine's root is in real life, and all
have the same image, which is made of one tar.
"""

import compileall
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import host
from benchmarks.host import Unable

IMAGE = "bench"
TIMEOUT_S = 120
NOTES_S = 10.0
REPOSITORY = Path(__file__).resolve().parent.parent


class Contender(NamedTuple):
    """An engine's command line: what comes before each verb, the environment, and what `run` needs to work here."""

    name: str
    program: str
    before: tuple[str, ...]
    environment: dict[str, str]
    run_flags: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        """The whole command; the flags of `run` follow its name."""
        first, *rest = arguments
        return [self.program, *self.before, first, *(self.run_flags if first == "run" else ()), *rest]

    def call(self, *arguments: str) -> str:
        """Run it to its end; what it wrote to stdout. Raises RuntimeError with what it said if it fails."""
        # In a session of its own, an interrupt at the terminal ends it no more than any other measurement.
        done = subprocess.run(
            self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=TIMEOUT_S, check=False, start_new_session=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {done.returncode}, {done.stderr.strip()}")
        return done.stdout

    def timed(self, *arguments: str) -> int:
        """Run it to its end with its output thrown away; nanoseconds of wall time. Raises RuntimeError if it fails."""
        command = self.command(*arguments)
        null = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        null += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        begin = time.perf_counter_ns()
        pid = os.posix_spawn(self.program, command, self.environment, file_actions=null, setsid=True)
        _, status = os.waitpid(pid, 0)
        elapsed = time.perf_counter_ns() - begin
        if status:
            raise RuntimeError(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
        return elapsed


class Place:
    """A directory on a disk for the roots of engines; :meth:`close` removes it, and what still runs."""

    def __init__(self) -> None:
        """Make it and the image's tar; the caller is single-threaded and in a private mount namespace.

        Raises Unable when a tool is missing.
        """
        self.path = Path(tempfile.mkdtemp(prefix="pyrunc-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
        self.state = self.path / "state"  # of all roots of pyrunc's
        self.peers: dict[str, Contender] = {}
        self._engines: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()
        self._stack.callback(_remove, self.path)
        self._stack.callback(_kill, self.state)
        try:
            self._cover()
            rootfs = self.path / "rootfs"
            host.make_rootfs(rootfs)
            (rootfs / "bin/sleep").symlink_to("busybox")
            self.archive = self.path / "rootfs.tar"
            subprocess.run(["tar", "-C", rootfs, "-cf", self.archive, "."], check=True)
        except BaseException:
            self.close()
            raise

    def _cover(self) -> None:
        """Let nothing that podman or docker write to the host's directories reach the host."""
        memory = self.path / "memory"
        memory.mkdir()
        self._mount("tmpfs", memory, "tmpfs", "mode=755")
        for directory in ("/etc", "/var/lib"):
            upper, work = (memory / (directory.replace("/", "_") + kind) for kind in ("", "_work"))
            upper.mkdir()
            work.mkdir()
            self._mount(
                "overlay", directory, "overlay", f"lowerdir={directory},upperdir={upper},workdir={work}"
            )
        for directory in ("/run", "/dev/shm"):
            self._mount("tmpfs", directory, "tmpfs", "mode=1777")
        host.hide_hybrid_controllers(memory)

    def _mount(self, source: str, target: str | Path, kind: str, data: str) -> None:
        host.mount(source, str(target), kind, 0, data)
        self._stack.callback(host.detach, str(target))

    def pyrunc(self, name: str = "pyrunc") -> Contender:
        """A root of pyrunc's with the image in it, and its command as pip installs it."""
        if name not in self.peers:
            compileall.compile_dir(REPOSITORY / "pyrunc", quiet=1)  # as an installation has it
            script = self.path / "bin" / "pyrunc"
            script.parent.mkdir(exist_ok=True)
            text = (REPOSITORY / "bin/pyrunc").read_text()
            script.write_text(text.replace("#!python", f"#!{sys.executable}", 1))  # as pip does
            script.chmod(0o755)
            environment = {
                **os.environ, "PYTHONPATH": str(REPOSITORY), "PYRUNC_ROOT": str(self.path / name),
                "PYRUNC_STATE": str(self.state),
            }  # fmt: skip
            contender = Contender(name, str(script), (), environment)
            self._stack.callback(self.empty, contender)
            contender.call("import", str(self.archive), IMAGE)
            self.peers[name] = contender
        return self.peers[name]

    def engine(self, name: str = "pyrunc") -> Any:
        """A `pyrunc.Engine` on the root of :meth:`pyrunc`, closed with the place."""
        import pyrunc

        if name not in self._engines:
            environment = self.pyrunc(name).environment
            os.environ["PYRUNC_STATE"] = environment["PYRUNC_STATE"]
            self._engines[name] = self._stack.enter_context(pyrunc.Engine(environment["PYRUNC_ROOT"]))
        return self._engines[name]

    def podman(self) -> Contender:
        """Prepare podman with the image; raises Unable where it is missing or does not run."""
        program = _need("podman")
        cgroup = f"/pyrunc-bench-podman-{os.getpid()}"
        self._stack.callback(_remove_cgroups, cgroup)
        # podman asks for more files and processes than a host may allow.
        limits = []
        for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            limit = min(
                4096, *(each for each in resource.getrlimit(number) if each != resource.RLIM_INFINITY)
            )
            limits += ["--ulimit", f"{name}={limit}:{limit}"]
        contender = Contender(
            "podman", program,
            ("--root", str(self.path / "podman"), "--runroot", "/run/podman", "--tmpdir", "/run/podman-tmp",
             "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
            {**os.environ, "HOME": str(self.path), "TMPDIR": str(self.path)},
            (*limits, "--cgroup-parent", cgroup),
        )  # fmt: skip
        return self._proven(contender)

    def docker(self) -> Contender:
        """Prepare docker, with a daemon of its own and the image; raises Unable where it is missing or does not run."""
        from tests import dockerd

        program = _need("docker")
        _need("dockerd")
        manager = dockerd.daemon(self.path / "docker")
        try:
            environment = self._stack.enter_context(manager)
        except BaseException as reason:  # pytest's, which says why it does not run
            if isinstance(reason, KeyboardInterrupt | SystemExit):
                raise
            raise Unable(f"dockerd: {reason}") from reason
        return self._proven(Contender("docker", program, (), environment))

    def _proven(self, contender: Contender) -> Contender:
        try:
            contender.call("import", str(self.archive), IMAGE)
            contender.call("run", "--rm", "--network", "none", IMAGE, "/bin/true")
        except RuntimeError as reason:
            raise Unable(f"{contender.name} cannot start a container: {reason}") from reason
        self.peers[contender.name] = contender
        return contender

    def all(self, names: tuple[str, ...], say: Callable[[str], None]) -> dict[str, str]:
        """Prepare those of *names* that can be had; what is missing, and why."""
        missing = {}
        for name in names:
            if name not in self.peers:
                try:
                    getattr(self, name)()
                except Unable as reason:
                    missing[name] = str(reason)
                    say(f"not measured: {name}: {reason}")
        return missing

    def empty(self, contender: Contender) -> None:
        """Remove all containers of an engine; where its command fails, that is said and no more."""
        try:
            ids = contender.call("ps", "-aq", "--no-trunc").split()
            for first in range(0, len(ids), 50):
                contender.call("rm", "-f", "-v", *ids[first : first + 50])
        except (RuntimeError, subprocess.TimeoutExpired) as reason:
            print(f"{contender.name}: containers are left: {reason}", file=sys.stderr)

    def close(self) -> None:
        """End containers and daemons, detach what is mounted, and remove the directory."""
        self._stack.close()


def _need(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise Unable(f"{name} is missing: apt-get install {'docker.io' if 'docker' in name else name}")
    return program


def _remove(path: Path) -> None:
    """Remove a directory in which what was just killed may still write its last words."""
    for _ in range(100):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.05)


def _kill(state: Path) -> None:
    """End what no command could, and wait for those who take note of ends: they would make the root anew."""
    for pid in processes_of(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + NOTES_S
    while _noting(state) and time.monotonic() < deadline:
        time.sleep(0.05)


def _noting(state: Path) -> bool:
    """Whether a process runs that was given *state*: a shim that is about to note an end, or whoever does that."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if bytes(state) in path.read_bytes() or _holds(path.parent, state):
                return True
    return False


def _holds(process: Path, state: Path) -> bool:
    if (process / "comm").read_text() != "pyrunc-shim\n":
        return False
    return any(os.readlink(path).startswith(f"{state}/") for path in (process / "fd").iterdir())


def processes_of(state: Path, *, programs: bool = True) -> Iterator[int]:
    """The shims that run for the containers whose state is below *state*, and the *programs* in these."""
    from pyrunc.runtime import shim

    for directory in sorted(state.iterdir()) if state.is_dir() else ():
        running = shim.running(str(directory)) if len(directory.name) == 64 else None
        if running is None:
            continue
        if programs and shim.is_alive(running.pid, running.pid_started):
            yield running.pid
        if shim.is_alive(running.shim, running.shim_started):
            yield running.shim


def _remove_cgroups(path: str) -> None:
    """Remove the cgroup *path*, and what is empty below it, from all hierarchies."""
    for top in (host.CGROUP_ROOT, *host.CGROUP_ROOT.iterdir()):
        place = Path(f"{top}{path}")
        for directory, _, _ in sorted(os.walk(place), reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
