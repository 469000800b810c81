"""The shim's Python face: containers that outlive their starter, and what they leave in their state directory.

| file      | by       | what                                                                            |
|-----------|----------|---------------------------------------------------------------------------------|
| `attach`  | `start`  | the socket on which the shim listens, see pyrunc.runtime.attach                 |
| `running` | the shim | who runs: written before the starter hears of it                                |
| `status`  | the shim | how it ended: written when the log is whole and the container's cgroups are gone |
"""

from __future__ import annotations

import _socket  # see pyrunc.runtime.spawner
import os
import select
import time

from pyrunc._native import plan as native
from pyrunc._native.descriptor import Descriptor
from pyrunc.errors import InvalidArgument, TimedOut, Unavailable
from pyrunc.records import NamedTuple
from pyrunc.runtime import cgroup_layout
from pyrunc.runtime.plan import Shim
from pyrunc.runtime.shim_state import Running, Status, is_alive, is_child, numbers_of, running, signal, status
from pyrunc.runtime.spawner import DEFAULT_PARENT
from pyrunc.runtime.stdio import Stdio
from pyrunc.runtime.supervised import ATTEMPTS, Exit, NotTaken, Supervised, give_up

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from socket import socket

    from pyrunc.runtime.launcher import Launcher

__all__ = [
    "LogFile", "Running", "ShimProcess", "ShimSettings", "Shimmed", "Status", "check", "is_alive", "is_child",
    "listening", "numbers_of", "running", "signal", "start", "started", "status",
]  # fmt: skip

FILES = ("attach", "running", "status")  # in a state directory
CGROUP = f"{DEFAULT_PARENT}/shims"
_BACKLOG = 128
_EADDRINUSE = 98
_SIGKILL = 9


class LogFile(NamedTuple):
    """A log in Docker's json-file format at *path*.

    From *max_bytes* on (0: never) the next one is begun; *max_files* is how many there may be.
    """

    path: str
    max_bytes: int = 0
    max_files: int = 1


class ShimSettings(NamedTuple):
    """What a shim does for its container.

    *state_dir* exists; *log* may be None. *exit_command*, with *exit_env* ("K=V") as its whole environment, runs when
    the container has ended and no owner says that it takes note of it. *stdin_open* gives the program an input, which
    ends with the first client that had it if *stdin_once*. With *terminal* its streams are a terminal of *rows* by
    *columns*. Unless *keep_running* the owner's death ends the container. With *hold* what the program writes
    is nobody's until a client says BEGIN.
    """

    state_dir: str
    log: LogFile | None = None
    exit_command: tuple[str, ...] = ()
    exit_env: tuple[str, ...] = ()
    terminal: bool = False
    rows: int = 0
    columns: int = 0
    stdin_open: bool = False
    stdin_once: bool = False
    keep_running: bool = True
    hold: bool = False

    def block(self, client: bool) -> Shim:
        """As the plan has it; *client* says that one is attached from the start."""
        layout = cgroup_layout.detect()
        log = self.log or LogFile("")
        flags = (
            native.FLAG_LISTEN
            | (native.FLAG_CLIENT if client else 0)
            | (native.FLAG_STDIN if self.stdin_open else 0)
            | (native.FLAG_STDIN_ONCE if self.stdin_once else 0)
            | (native.FLAG_TERMINAL if self.terminal else 0)
            | (native.FLAG_HOLD if self.hold else 0)
        )
        return Shim(
            self.state_dir, flags, log.path, log.max_bytes, log.max_files, self.exit_command, self.exit_env,
            CGROUP if self.keep_running else "",
            tuple(hierarchy.mountpoint for hierarchy in (*layout.hierarchies, *layout.named)),
            rows=self.rows, columns=self.columns,
        )  # fmt: skip


class Shimmed(Supervised):
    """A container that was asked for with a shim; hanging up ends it only where its plan says so."""

    keep_running = False

    def end(self) -> None:
        """At the end of this process a container that shall outlive it goes on."""
        if not self.keep_running:
            super().end()

    def finished(self) -> None:
        """Tell the shim that nothing is left to be done."""
        self._channel.finished()

    def _remove_cgroups(self) -> None:
        """Not once it has run: they may be those of its next start by now, of which a late owner has not heard.

        Who takes note of the end, with the lock of the container held, removes what is left.
        """
        if not self.started:
            super()._remove_cgroups()


class ShimProcess:
    """The owner's end of a container with a shim.

    *pid* and *shim_pid* are processes of the host's, *started_ns* is realtime. An owner that is dropped, or dies,
    leaves what is due at the container's end to the exit command.
    """

    def __init__(self, child: Shimmed, running: Running) -> None:
        self._child = child
        self.pid = child.pid
        self.shim_pid = running.shim
        self.started_ns = running.started_ns
        self.running = running

    @property
    def exit(self) -> Exit | None:
        """How it ended, once `wait` has returned."""
        return self._child.exit

    @property
    def stages_ns(self) -> Mapping[str, int]:
        """When each stage of the start began, monotonic nanoseconds."""
        return self._child.stages_ns

    def fileno(self) -> int:
        """A descriptor that becomes readable when it has ended; -1 after `finished` or `release`."""
        return self._child.fileno()

    def wait(self, timeout_s: float | None = None) -> Exit:
        """Wait for the end, of which everything is over when this returns but what is due to the owner.

        Raises TimedOut after *timeout_s* seconds; the container goes on. Raises Unavailable if the shim was killed;
        the container is then killed too.
        """
        if self._child.exit is None:
            poller = select.poll()
            poller.register(self._child, select.POLLIN)
            if not poller.poll(None if timeout_s is None else timeout_s * 1000):
                raise TimedOut(f"the container still runs after {timeout_s} s")
            try:
                self._child.take()
            except Unavailable:
                signal(self.running, _SIGKILL)
                raise
        assert self._child.exit is not None
        return self._child.exit

    def kill(self, number: int = _SIGKILL) -> None:
        """Send the signal *number* to the container's init; one that has ended is no error."""
        self._child.kill(number)

    def finished(self) -> None:
        """After the end: all that was due has been done, and no exit command shall run."""
        self._child.finished()
        self._child.close()

    def release(self) -> None:
        """Hang up: the container goes on, or, without *keep_running*, is killed; its end is the exit command's."""
        self._child.close()


class _Listener(_socket.socket):
    """One that is closed with its last reference, so that whoever is interrupted leaves none, nor a warning."""

    def __del__(self) -> None:
        self.close()


def listening(state_dir: str, name: str = "attach") -> _socket.socket:
    """A socket that listens at *name* in *state_dir*, however long that path is. Raises OSError."""
    sock = _Listener(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with Descriptor(state_dir, os.O_PATH | os.O_DIRECTORY) as directory:
            try:
                sock.bind(f"/proc/self/fd/{directory}/{name}")
            except OSError as exc:
                if exc.errno != _EADDRINUSE:
                    raise
                os.unlink(name, dir_fd=directory)  # that of a start which was not taken
                sock.bind(f"/proc/self/fd/{directory}/{name}")
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def start(
    launcher: Launcher, argv: Sequence[str], env: Mapping[str, str] | None, settings: ShimSettings,
    container_id: str, client: socket | int | None = None, until: float | None = None,
) -> ShimProcess:  # fmt: skip
    """Start *argv* with *env* added, as the container *container_id* of a shim of its own.

    *client* is the shim's end of a connection that is attached from the start; it stays the caller's.
    At *until* (monotonic seconds) TimedOut is raised.
    Raises what Launcher.request and Supervised.take raise: StartError or one of its kind if it cannot start.
    """
    check(settings)
    shim = settings.block(client is not None)
    flags = native.FLAG_KEEP_RUNNING if settings.keep_running else 0

    def ask(descriptors: Sequence[int]) -> Supervised:
        return launcher.request(argv, env, descriptors, flags, True, container_id, shim, Shimmed)

    return started(ask, settings, client, until)


def started(
    ask: Callable[[Sequence[int]], Supervised],
    settings: ShimSettings,
    client: socket | int | None,
    until: float | None = None,
) -> ShimProcess:
    """Make the descriptors of a request with a shim, *ask* with them, and wait until the program runs."""
    attached = () if client is None else (client if isinstance(client, int) else client.fileno(),)
    attempts = 1
    while True:
        listener = listening(settings.state_dir)
        try:
            with Stdio(None, None, None) as stdio:
                child = ask((*stdio, listener.fileno(), *attached))
        finally:
            listener.close()
        assert isinstance(child, Shimmed)
        try:
            if not _by(child, until):
                give_up(child)
                raise TimedOut("waiting for its start")
            child.take()
            child.keep_running = settings.keep_running
            child.shed()
            who = running(settings.state_dir)
            if who is None:  # it was there before we heard of the start
                raise Unavailable("what it was started in has ended, and somebody has taken note of it")
            return ShimProcess(child, who)
        except BaseException as exc:
            child.abandon()
            child.close()
            if not isinstance(exc, NotTaken) or attempts == ATTEMPTS:
                raise
            attempts += 1


def _by(child: Supervised, until: float | None) -> bool:
    """Whether there is a record to take by *until* (monotonic seconds; None: somebody else waits)."""
    if until is None:
        return True
    poller = select.poll()
    poller.register(child, select.POLLIN)
    return bool(poller.poll(max(0.0, until - time.monotonic()) * 1000))


def check(settings: ShimSettings) -> None:
    """Refuse what no plan can say. Raises InvalidArgument."""
    log = settings.log
    if not settings.state_dir.startswith("/") or (log is not None and not log.path.startswith("/")):
        raise InvalidArgument("a shim's state directory and log must be absolute paths")
    if log is not None and not (0 <= log.max_bytes < 1 << 63 and 1 <= log.max_files <= 1000):
        raise InvalidArgument(f"log: max_bytes={log.max_bytes} max_files={log.max_files}: at most 1000 files")
    if not (0 <= settings.rows < 1 << 16 and 0 <= settings.columns < 1 << 16):
        raise InvalidArgument(f"terminal: {settings.rows}x{settings.columns}: at most 65535 rows or columns")
    if max(len(settings.exit_command), len(settings.exit_env)) > 64:
        raise InvalidArgument("exit command: at most 64 arguments and 64 variables")
