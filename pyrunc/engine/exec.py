"""Further programs in a container of the engine's, whoever has started it.

What the container was made by is compiled anew from its documents; who it is its shim has told, by pid and start time.
"""

import os
import sys
import time
from contextlib import contextmanager

from pyrunc.drivers import registry
from pyrunc.engine import (
    container_events,
    container_state,
    finish,
    host_config,
    observing,
    starting,
    stopping,
    throwaway,
)
from pyrunc.errors import CommandNotFound, FailedPrecondition, PyruncError, Unavailable
from pyrunc.runtime import joining, shim, shim_exec, shim_state
from pyrunc.runtime.joining import Joining, Target, Wanted
from pyrunc.runtime.sandbox import ExecProcess, Process, RunResult, run_asked, start_asked

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.api import ContainerRecord
    from pyrunc.drivers.exec.driver import AskedExec, ExecDriver, StartExec
    from pyrunc.engine.container import Container
    from pyrunc.engine.parts import Parts
    from pyrunc.runtime.launcher import Launcher
    from pyrunc.runtime.supervised import Supervised

__all__ = ["EngineExec", "Shimmed", "Wanted", "attached", "detached", "run", "start"]

_END_COMMAND = os.path.join(os.path.dirname(os.path.abspath(__file__)), "exec_end.py")
_KILLED = 137
_KEPT_S = 300  # how long what a detached program has left stays, as with Docker
# What only matters to a container's first start, and may have gone since: a device, the source of a mount.
_OF_THE_START = (
    "mounts", "tmpfs", "shm_bytes", "devices", "sysctls", "hosts", "dns", "dns_search", "dns_options", "tty",
    "console_size",
)  # fmt: skip
_MOST = 64  # compiled plans that are kept; each is some 10 KB
_launchers: "dict[tuple[str, int, int], Launcher]" = {}
_JOINED = {"NetworkMode": "net", "PidMode": "pid", "IpcMode": "ipc"}


class Told(Process):
    """One whose end is an event."""

    def __init__(self, child: "Supervised", parts: "Parts", record: "ContainerRecord", exec_id: str) -> None:
        super().__init__(child)
        self.id = exec_id
        self._parts = parts
        self._record = record
        self._said = False

    def _take(self) -> bool:
        try:
            over = super()._take()
        except Unavailable:
            self._tell(_KILLED)  # its supervisor was killed, and so was it
            raise
        if over:
            assert self._child.exit is not None
            self._tell(self._child.exit.exit_code)
        return over

    def _tell(self, exit_code: int) -> None:
        if not self._said:
            self._said = True
            tell_end(self._parts, self._record, self.id, exit_code)


class EngineExec(Told, ExecProcess):
    """A program in a container of the engine's; it ends with this process, or with its container."""


def run(
    parts: "Parts", container_id: str, wanted: Wanted, stdin: bytes, timeout_s: float | None
) -> RunResult:
    """Run a program to its end. Raises what SandboxProcess.exec does, FailedPrecondition in Docker's words."""
    begun = time.monotonic_ns()
    with joining_of(parts, container_id, wanted) as (asked, record, exec_id):
        result = run_asked(asked.request, wanted.argv, stdin, begun, timeout_s, wanted.tty)
    tell_end(parts, record, exec_id, result.exit_code)
    return result


def start(
    parts: "Parts", container_id: str, wanted: Wanted, stdin: int | None, stdout: int | None, stderr: int | None
) -> EngineExec:  # fmt: skip
    """Start a program. Raises what `run` does."""
    with joining_of(parts, container_id, wanted) as (asked, record, exec_id):
        return EngineExec(start_asked(asked.request, stdin, stdout, stderr), parts, record, exec_id)


class Shimmed:
    """A program in a container of the engine's that has a shim of its own: it goes on without this process.

    *place* is where `running` and `status` of its shim are.
    """

    def __init__(
        self, parts: "Parts", record: "ContainerRecord", exec_id: str, place: str, process: shim.ShimProcess
    ) -> None:  # fmt: skip
        self.id = exec_id
        self._parts = parts
        self._record = record
        self._place = place
        self._process = process

    def wait(self) -> int:
        """Wait for its end, and take note of it: the exit code."""
        code = int(self._process.wait().exit_code)
        tell_end(self._parts, self._record, self.id, code)
        self._process.finished()
        finish.drop_state(self._place)
        return code

    def release(self) -> None:
        """Leave it alone: its end is told by a process of its own, and its place stays for some minutes after it."""
        self._process.release()


def detached(parts: "Parts", container_id: str, wanted: Wanted) -> str:
    """Start a program that outlives this process, its output nowhere; its id. Raises what `run` does.

    `running` and `status` of its shim are in <state of the container>/exec/<id> until a few minutes after its end.
    """
    program = _shimmed(parts, container_id, wanted)
    program.release()
    return program.id


def attached(container: "Container", wanted: Wanted, client: int, *, stdin: bool) -> Shimmed:
    """Start a program that outlives this process; *client* is attached from its first byte on, *stdin* its input.

    Raises what `run` does.
    """
    return _shimmed(container._parts, container.id, wanted, client, stdin=stdin)  # noqa: SLF001


def _shimmed(
    parts: "Parts", container_id: str, wanted: Wanted, client: int | None = None, *, stdin: bool = False
) -> Shimmed:
    record = stopping.current(parts, container_id)
    driver = registry.exec_driver(record.host_config.get("Runtime"))
    record = _checked(record, wanted)
    if not driver.takes_plans:
        return _driven(parts, driver, record, wanted, client, stdin=stdin)
    with _joining(parts, record, wanted) as (asked, exec_id):

        def begin(settings: shim.ShimSettings) -> shim.ShimProcess:
            return shim_exec.start(asked, settings, client)

        return _placed(parts, record, exec_id, wanted, stdin, begin)


def _driven(
    parts: "Parts", driver: "ExecDriver", record: "ContainerRecord", wanted: Wanted, client: int | None, *, stdin: bool
) -> Shimmed:  # fmt: skip
    """The same by another driver than the native one."""
    who = _who(record)
    exec_id = os.urandom(32).hex()
    _say_begin(parts, record, exec_id, wanted)

    def begin(settings: shim.ShimSettings) -> shim.ShimProcess:
        return driver.start_exec(_start_exec(exec_id, record, who, wanted, settings, client))

    return _placed(parts, record, exec_id, wanted, stdin, begin)


def _placed(
    parts: "Parts", record: "ContainerRecord", exec_id: str, wanted: Wanted, stdin: bool,
    begin: "Callable[[shim.ShimSettings], shim.ShimProcess]",
) -> Shimmed:  # fmt: skip
    """What *begin* starts, with a directory for its shim."""
    place = _make_place(record, exec_id)
    rows, columns = wanted.size
    settings = shim.ShimSettings(
        place, exit_command=_end_command(parts, record, exec_id, place), exit_env=starting.environment(),
        terminal=wanted.tty, rows=rows, columns=columns, stdin_open=stdin, stdin_once=True,
    )  # fmt: skip
    try:
        process = begin(settings)
    except FileNotFoundError as exc:
        if os.path.isdir(place):
            raise
        raise shim_state.not_running(record.id) from exc
    except PyruncError as exc:
        if isinstance(exc, Unavailable) and not os.path.isdir(place):
            # It had begun when the container's end was noted, with which the places of its programs go.
            raise shim_state.not_running(record.id) from exc
        finish.drop_state(place)
        raise
    return Shimmed(parts, record, exec_id, place, process)


def _make_place(record: "ContainerRecord", exec_id: str) -> str:
    """The directory of a program, in the container's own. Raises FailedPrecondition if that is gone."""
    above = os.path.join(record.state_dir, "exec")
    _forget_old(above)
    place = os.path.join(above, exec_id)
    # Not what is above: that goes when the container has ended, and must not come back.
    for directory in (above, place):
        try:
            os.mkdir(directory)
            os.chmod(directory, 0o700)  # under any umask
        except FileExistsError:
            pass
        except FileNotFoundError as exc:
            raise shim_state.not_running(record.id) from exc
    return place


def _checked(record: "ContainerRecord", wanted: Wanted) -> "ContainerRecord":
    """The record, if a further program can be started. Raises CommandNotFound, FailedPrecondition in Docker's words."""
    if isinstance(wanted.argv, list | tuple) and wanted.argv[:1] in ([""], ("",)):
        raise CommandNotFound('exec: "": executable file not found in $PATH')
    if record.state == "paused":
        raise FailedPrecondition(f"Container {record.name} is paused, unpause the container before exec")
    container_state.check("exec", record)
    return record


@contextmanager
def joining_of(
    parts: "Parts", container_id: str, wanted: Wanted
) -> "Iterator[tuple[Joining | AskedExec, ContainerRecord, str]]":
    """What to ask for *wanted* with, the container, and the id of the program."""
    record = _checked(stopping.current(parts, container_id), wanted)
    driver = registry.exec_driver(record.host_config.get("Runtime"))
    if driver.takes_plans:
        with _joining(parts, record, wanted) as (joins, exec_id):
            yield joins, record, exec_id
        return
    asked, exec_id = _asked_of(driver, record, wanted)
    try:
        _say_begin(parts, record, exec_id, wanted)
        yield asked, record, exec_id
    finally:
        asked.close()


@contextmanager
def _joining(parts: "Parts", record: "ContainerRecord", wanted: Wanted) -> "Iterator[tuple[Joining, str]]":
    """The native driver's, and the id of the program."""
    who = _who(record)
    pidfd = joining.open_init(record.id, who.pid, who.pid_started)
    try:
        try:
            launcher = _launcher(parts, record, who)
        except PyruncError:
            # Is it, and its snapshot, gone meanwhile?
            container_state.check("exec", stopping.current(parts, record.id))
            raise
        target = Target(launcher, record.id, who.pid, pidfd, launcher.environment(record.id))
        with Joining(target, wanted) as asked:
            exec_id = os.urandom(32).hex()
            _say_begin(parts, record, exec_id, wanted)
            yield asked, exec_id
    finally:
        os.close(pidfd)


def _who(record: "ContainerRecord") -> shim.Running:
    found = observing.who_runs(record)
    if found is None:
        raise shim_state.not_running(record.id)
    return found


def _asked_of(driver: "ExecDriver", record: "ContainerRecord", wanted: Wanted) -> "tuple[AskedExec, str]":
    """What another driver than the native one is asked for, and the program's id."""
    exec_id = os.urandom(32).hex()
    place = _make_place(record, exec_id)
    try:
        settings = shim.ShimSettings(place, terminal=wanted.tty)
        return driver.attach_exec(_start_exec(exec_id, record, _who(record), wanted, settings, None)), exec_id
    except BaseException:
        finish.drop_state(place)
        raise


def _start_exec(
    exec_id: str, record: "ContainerRecord", who: shim.Running, wanted: Wanted, settings: shim.ShimSettings,
    client: int | None,
) -> "StartExec":  # fmt: skip
    from pyrunc.drivers.exec.driver import StartExec

    variables = record.config.get("Env") or ()
    return StartExec(exec_id, record.id, record.state_dir, who, wanted, variables, settings, client)


def _launcher(parts: "Parts", record: "ContainerRecord", who: shim.Running) -> "Launcher":
    """What the container was made by, but for what no further program has a part in; compiled once for each run."""
    key = record.id, who.pid, who.pid_started
    found = _launchers.get(key)
    if found is None:
        found = _compiled(parts, record, who.pid)
        if len(_launchers) >= _MOST:
            _launchers.clear()
        _launchers[key] = found
    return found


def _compiled(parts: "Parts", record: "ContainerRecord", pid: int) -> "Launcher":
    joined = {key: f"/proc/{pid}/ns/{kind}" for key, kind in _JOINED.items()}
    options = host_config.options_of(
        record.config, record.host_config, rest=record.options, joined={**joined, "Shm": "/dev/shm"}
    )
    kept = {option: value for option, value in options.items() if option not in _OF_THE_START}
    return throwaway.launcher(starting.root_of(parts, record), {**kept, "etc_files": False})  # type: ignore[typeddict-item]


def _forget_old(place: str) -> None:
    """Remove what programs have left that ended a while ago."""
    try:
        found = os.listdir(place)
    except FileNotFoundError:
        return
    for name in found:
        directory = os.path.join(place, name)
        try:
            if time.time() - os.stat(f"{directory}/status").st_mtime > _KEPT_S:
                for file in os.listdir(directory):
                    os.unlink(os.path.join(directory, file))
                os.rmdir(directory)
        except OSError:
            pass  # it runs, or another is faster


def _end_command(parts: "Parts", record: "ContainerRecord", exec_id: str, place: str) -> tuple[str, ...]:
    """What tells of a program's end where nobody is there to do it."""
    return (sys.executable or "python3", "-I", _END_COMMAND, parts.root, record.id, exec_id, place)


def _say_begin(parts: "Parts", record: "ContainerRecord", exec_id: str, wanted: Wanted) -> None:
    words = " ".join(wanted.argv)
    _say(parts, record, f"exec_create: {words}", exec_id)
    _say(parts, record, f"exec_start: {words}", exec_id)


def tell_end(parts: "Parts", record: "ContainerRecord", exec_id: str, exit_code: int) -> None:
    """A program has ended."""
    _say(parts, record, "exec_die", exec_id, exitCode=exit_code)


def _say(parts: "Parts", record: "ContainerRecord", action: str, exec_id: str, **more: object) -> None:
    container_events.say(parts, record, action, execID=exec_id, **more)
