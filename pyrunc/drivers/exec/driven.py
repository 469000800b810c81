"""Containers that another runtime makes, and programs in them: `pyrunc-init drive` is what their shim starts.

It is in a mount namespace of its own, where the container's root is mounted, and it is the runtime's and the
container's parent. `_native/drive.pxd` says what it does, and draws the files.
"""

from __future__ import annotations

import os
import select
import time

from pyrunc._native import plan as native
from pyrunc.drivers.exec import monitor_place
from pyrunc.errors import PyruncError, TimedOut
from pyrunc.records import NamedTuple, loads
from pyrunc.runtime import shim, shim_state, spawner
from pyrunc.runtime.compile_beside import Beside, compile_beside
from pyrunc.runtime.compile_host import Rootfs
from pyrunc.runtime.launcher import Launcher
from pyrunc.runtime.option_privileges import own_capabilities
from pyrunc.runtime.options import Request
from pyrunc.runtime.plan import ID
from pyrunc.runtime.supervised import ATTEMPTS, NotTaken, Supervised
from pyrunc.spec import defaults

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pyrunc.runtime.shim_state import Running

_SHIM, _TERMINAL, _LEASH = 1, 2, 4  # FLAGS of drive.pxd
_VERBS = {1: "create", 2: "start"}
_WORD_MAX = 65536
_END_S = 5.0
_SIGKILL = 9
_ROOT = Rootfs(("/",))


class Drive(NamedTuple):
    """What is driven: the runtime's commands *create*, *start* and *end*, whatever it is, in the directory *files*.

    *monitor_id* (64 hex digits) names the driver's own cgroup. *counter* is the file that counts whom a limit of memory
    kills, or "". With *terminal* the streams are one of *size* rows and columns. *beside* is a root to be mounted, and
    *mounts* are what else is, as in an OCI document.
    """

    monitor_id: str
    files: str
    create: Sequence[str]
    start: Sequence[str] = ()
    end: Sequence[str] = ()
    counter: str = ""
    terminal: bool = False
    size: tuple[int, int] = (0, 0)
    beside: Beside | None = None
    mounts: Sequence[Mapping[str, Any]] = ()

    def argv(self, place: str, flags: int) -> list[str]:
        """The command line, for the directory *place*."""
        flags |= _TERMINAL if self.terminal else 0
        found = [spawner.init_path(), "drive", place, self.files, str(flags), self.counter]
        for words in (self.create, self.start, self.end):
            found += [str(len(words)), *words]
        return found


class Failed(Exception):
    """A runtime has not done what it should: its *verb*, "" for us, wait *status*, *errno*, and its *words*."""

    def __init__(self, verb: str, status: int, errno: int, words: str) -> None:
        super().__init__(verb, status, errno, words)
        self.verb, self.status, self.errno, self.words = verb, status, errno, words


class DrivenProcess(shim.ShimProcess):
    """The owner's end of a container, or of a program, whose process is another than its shim's own program.

    *send* sends a signal to it.
    """

    def __init__(
        self, process: shim.ShimProcess, running: Running, send: Callable[[Running, int], object]
    ) -> None:
        super().__init__(process._child, running)  # noqa: SLF001 - it takes its place
        self.pid = running.pid
        self._send = send

    def kill(self, number: int = _SIGKILL) -> None:
        """See ShimProcess."""
        self._send(self.running, number)


def start(
    drive: Drive, settings: shim.ShimSettings, client: int | None, until: float | None,
    send: Callable[[Running, int], object],
) -> DrivenProcess:  # fmt: skip
    """Start what *drive* says with a shim, and return when its program runs.

    *client* is attached from the first byte on; at *until* (monotonic seconds) TimedOut is raised. Raises Failed, and
    what pyrunc.runtime.shim.start does.
    """
    place = settings.state_dir
    settings = settings._replace(hold=True)
    with _Word(place) as word:
        for attempt in range(ATTEMPTS):
            try:
                process = shim.start(
                    _launcher(drive), drive.argv(place, _SHIM), None, settings, drive.monitor_id, client, until
                )  # fmt: skip
                break
            except NotTaken:
                if attempt == ATTEMPTS - 1:
                    raise
        try:
            return DrivenProcess(process, word.hear(process.fileno(), until), send)
        except BaseException:
            _abandon(process)
            raise


class Leashed(Supervised):
    """A program in a container that a runtime has started: it ends with this process."""

    _word: _Word | None = None
    _who: Running | None = None

    def held_by(self, word: _Word) -> None:
        """From now on *word* is what it hangs on. Waits until it runs. Raises Failed, and what `take` does."""
        self._word = word
        self.take()
        self._who = word.hear(self.fileno(), None)
        self.pid = self._who.pid

    def take(self) -> int:
        """See Supervised."""
        try:
            return super().take()
        finally:
            if self._who is not None:
                self.pid = self._who.pid
            if self.over:
                self._let_loose()

    def kill(self, signal: int) -> None:
        """See Supervised; one that has not begun never will."""
        if self._who is not None:
            shim_state.signal(self._who, signal)
        else:
            self._let_loose()

    def close(self) -> None:
        """See Supervised."""
        self._let_loose()
        super().close()

    def _let_loose(self) -> None:
        word, self._word = self._word, None
        if word is not None:
            word.close()


class Asked:
    """A program that shall run in a container, of which nothing has been asked yet: *drive* with the files in *place*.

    *failed* makes an error of a Failed. *place* goes when the program has ended, or, if none was started, by `close`.
    """

    def __init__(self, drive: Drive, place: str, failed: Callable[[Failed], PyruncError]) -> None:
        self._drive = drive
        self._place = place
        self._failed = failed
        self._taken = False

    def close(self) -> None:
        """No more will be asked for."""
        if not self._taken:
            forget(self._place)

    def request(self, stdio: Sequence[int], flags: int, wait: bool = True) -> Supervised:  # noqa: ARG002
        """Have it started with the three descriptors *stdio*; as Launcher.request."""
        argv = self._drive.argv(self._place, _LEASH)
        # Its end is the monitor's business, which ends with it; and that it begins is told.
        flags = flags & ~native.FLAG_QUIET | native.FLAG_KEEP_RUNNING
        word = _Word(self._place)
        try:
            child = _launcher(self._drive).request(
                argv, None, stdio, flags, True, self._drive.monitor_id, None, Leashed
            )  # fmt: skip
        except BaseException:
            word.close()
            raise
        assert isinstance(child, Leashed)
        try:
            child.held_by(word)
            word.whole = self._taken = True
        except BaseException as exc:
            child.abandon()
            child.close()
            if isinstance(exc, Failed):
                raise self._failed(exc) from exc
            raise
        return child


class _Word:
    """Where a monitor says how a start went; if it is *whole*, the directory *place* goes with it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.whole = False
        try:
            os.mkfifo(f"{place}/word", 0o600)
        except FileExistsError:
            pass  # of a start that was not taken
        self._fd = os.open(f"{place}/word", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def hear(self, process: int, until: float | None) -> Running:
        """Wait until the program runs; the descriptor *process* tells of the end. Raises Failed, TimedOut."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.register(process, select.POLLIN)
        if not poller.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000):
            raise TimedOut("waiting for its start")
        try:
            text = os.read(self._fd, _WORD_MAX)
        except BlockingIOError:
            text = b""
        line, _, words = text.partition(b"\n")
        said: dict[str, int] = loads(line.decode()) if line else {"verb": 0, "status": _SIGKILL, "errno": 0}
        if "verb" in said:
            raise Failed(
                _VERBS.get(said["verb"], ""), said["status"], said["errno"], words.decode(errors="replace").strip()
            )  # fmt: skip
        return shim_state.Running(*(said[name] for name in shim_state.Running._fields))

    def close(self) -> None:
        """Hear no more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            if self.whole:
                forget(self._place)

    def __enter__(self) -> _Word:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def forget(place: str) -> None:
    """Remove the directory *place* with its files; what is left goes with the container."""
    try:
        for name in os.listdir(place):
            os.unlink(f"{place}/{name}")
        os.rmdir(place)
    except OSError:
        pass


_launchers: dict[bool, Launcher] = {}


def _launcher(drive: Drive) -> Launcher:
    """What starts the monitor of *drive*; those without a root of their own are alike."""
    alike = drive.beside is None and drive.size == (0, 0)
    found = _launchers.get(drive.terminal) if alike else None
    if found is None:
        spec = _spec(sorted(own_capabilities()), drive)
        template = compile_beside(spec, _ROOT, drive.beside)
        # A planner is of no use to who is in a mount namespace of its own.
        env = {"PATH": os.environ.get("PATH") or defaults.PATH, "PYRUNC_OCI_PLANNER": "0"}
        found = Launcher(Request(spec, _ROOT, {}, env, ""), template)
        if alike:
            _launchers[drive.terminal] = found
    return found


def _spec(capabilities: Sequence[str], drive: Drive) -> dict[str, Any]:
    """The document of a process that stays on the host, in a mount namespace and in cgroups of its own."""
    flags = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    devpts = {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": flags}
    own = [
        _bound(
            spawner.init_path()
        ),  # whoever gets hold of it by /proc/<pid>/exe cannot write to it (CVE-2019-5736)
        _bound("/dev/null"),  # given for a stream; crun would give the host's node to the container's user
    ]
    process: dict[str, Any] = {
        "user": {"uid": 0, "gid": 0, "umask": 0o022}, "cwd": "/", "terminal": drive.terminal,
        "capabilities": {
            "bounding": list(capabilities), "effective": list(capabilities), "permitted": list(capabilities),
            "inheritable": [],
        },
    }  # fmt: skip
    if drive.terminal:
        process["consoleSize"] = {"height": drive.size[0], "width": drive.size[1]}
    return {
        "process": process, "mounts": [*own, *drive.mounts, *([devpts] if drive.terminal else [])],
        "linux": {
            "namespaces": [{"type": "mount"}], "cgroupsPath": monitor_place.cgroup(ID),
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
        },
    }  # fmt: skip


def _bound(path: str) -> dict[str, Any]:
    """*path* as it is, read-only."""
    return {"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]}


def _abandon(process: shim.ShimProcess) -> None:
    """End a start that came to nothing: the monitor, and take note of its end, which is nobody else's."""
    try:
        shim_state.signal(process.running, _SIGKILL)
        process.wait(_END_S)
        process.finished()
    except PyruncError:
        process.release()
