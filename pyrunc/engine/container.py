"""A container: a handle with its verbs, which knows no more than the id; what is so now is asked each time."""

import os
import time

from pyrunc.engine import container_events, container_state, finish
from pyrunc.engine.deadlines import check_timeout
from pyrunc.errors import AlreadyExists, InvalidArgument, NotFound, Unsupported

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import IO, Any, Self

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.attachment import Attachment
    from pyrunc.engine.copy import PathStat
    from pyrunc.engine.engine import Engine
    from pyrunc.engine.exec import EngineExec
    from pyrunc.engine.logs import LogEntry
    from pyrunc.engine.stopping import Condition
    from pyrunc.engine.top import Processes
    from pyrunc.runtime.sandbox import RunResult

_SIGKILL = 9


class Container:
    """A container of an engine, by its *id*; leaving its ``with`` block kills and removes it, volumes included.

    That is so where this object has *made* it; one that was found, by `get` or *exist_ok*, goes on, and so it does when
    a forked child leaves the block. *timings_ns* says how long each stage of its latest start took that was made here.
    Other processes may do with it what they like meanwhile: each verb sees what is so now. All of them raise NotFound
    when it has been removed.
    """

    def __init__(self, engine: "Engine", container_id: str, name: str, *, made: bool = False) -> None:
        self.id = container_id
        self.name = name
        self.made = made
        self.timings_ns: dict[str, int] = {}
        self._pid = os.getpid()
        self._engine = engine
        self._parts = engine._parts  # noqa: SLF001 - the other half of it
        self._owners = engine._owners  # noqa: SLF001

    def __repr__(self) -> str:
        return f"<Container {self.name} {self.id[:12]}>"

    def record(self, *, begun: bool = False) -> "ContainerRecord":
        """What is known of it, in its true state: "created" while it is being started, which is waited for if *begun*.

        Raises NotFound.
        """
        from pyrunc.engine import stopping

        return stopping.current(self._parts, self.id, begun=begun)

    def inspect(self) -> "dict[str, Any]":
        """What is known of it as Docker shows it (Engine API v1.51, ContainerInspectResponse). Raises NotFound."""
        from pyrunc.engine import inspecting

        return inspecting.inspect(self._engine, self.record())

    @property
    def pid(self) -> int:
        """The process of its init, as the host numbers it; 0 while it does not run."""
        return self.record(begun=True).pid

    def start(self, *, client: int | None = None, keep_running: bool = True) -> bool:
        """Start it; False if it runs already.

        *client* is the shim's end of an AttachClient.pair, which so misses nothing. Without *keep_running* the
        container ends with this process. Raises StartError or one of its kind, which its record tells too;
        FailedPrecondition in Docker's words, such as for a paused one.
        """
        begun = time.monotonic_ns()
        with finish.Locked(self._parts, self.id) as found:
            record = self._found(found)
            if not container_state.check("start", record):
                return False
            from pyrunc.engine import starting, timings

            process = starting.start(self._parts, record, client=client, keep_running=keep_running)
            container_events.say(self._parts, record, "start")
            self._owners.add(self.id, process)
            self.timings_ns = timings.of_start(process, begun)
        return True

    def attach(self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> "Attachment":
        """Its streams, from now on: what it writes, and with *stdin* its input, if it was made with one.

        Any number may be attached at once. Raises FailedPrecondition, in Docker's words, for one that does not run.
        """
        from pyrunc.engine import attachment

        return attachment.attached(self.record(begun=True), stdin=stdin, stdout=stdout, stderr=stderr)

    def start_attached(
        self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True, keep_running: bool = True
    ) -> "Attachment":
        """Start it, attached from its first byte on; the rest is as for `attach` and `start`.

        Raises what `start` does, FailedPrecondition if it runs already.
        """
        from pyrunc.engine import attachment

        return attachment.started(self, stdin=stdin, stdout=stdout, stderr=stderr, keep_running=keep_running)

    def stop(self, timeout_s: float | None = None, signal: "int | str | None" = None) -> int | None:
        """Ask its program to end, and kill what has not *timeout_s* seconds later: the exit code.

        None if it did not run. The signal is the image's, or SIGTERM where it has none or no known one; the time is the
        container's StopTimeout, or 10 s; -1 waits for ever. A restart policy does not start it again.
        Raises InvalidArgument for a signal that there is not.
        """
        from pyrunc.engine import stopping

        number = None if signal is None else _number(signal)
        if timeout_s is not None:
            from pyrunc.runtime import option_checks

            option_checks.number(-1e9, 1e9)(timeout_s, "timeout_s")
        return stopping.stop(self._parts, self._owners, self.id, timeout_s, number)

    def kill(self, signal: "int | str" = _SIGKILL) -> None:
        """Send a signal, by number or name ("KILL", "SIGRTMIN+3"), to its init; after SIGKILL it has ended.

        Raises FailedPrecondition if it does not run, InvalidArgument for a signal that there is not.
        """
        from pyrunc.engine import stopping

        stopping.kill(self._parts, self._owners, self.id, _number(signal))

    def restart(self, timeout_s: float | None = None, signal: "int | str | None" = None) -> None:
        """Stop it, if it runs, and start it; raises what `start` does."""
        from pyrunc.engine import stopping

        number = None if signal is None else _number(signal)
        with finish.Locked(self._parts, self.id) as record:
            container_state.check("restart", self._found(record))
        try:
            stopping.stop(self._parts, self._owners, self.id, timeout_s, number, again=True)
            self.start()
        except BaseException:
            from pyrunc.engine import restarting

            restarting.give_up(self._parts, self.id)
            raise
        container_events.say(self._parts, self.record(), "restart")

    def pause(self) -> None:
        """Stop all its processes where they are. Raises FailedPrecondition in Docker's words, or without a freezer."""
        from pyrunc.engine import pausing

        pausing.pause(self._parts, self.id)

    def unpause(self) -> None:
        """Let its processes go on. Raises FailedPrecondition in Docker's words."""
        from pyrunc.engine import pausing

        pausing.unpause(self._parts, self.id)

    def wait(self, timeout_s: float | None = None, condition: "Condition" = "not-running") -> int:
        """Wait until it does not run, until its "next-exit", or until it is "removed": the exit code.

        Raises TimedOut after *timeout_s* seconds; the container goes on.
        """
        from pyrunc.engine import stopping

        if condition not in stopping.CONDITIONS:
            raise InvalidArgument(f"invalid condition: {condition!r}")
        if timeout_s is not None:
            check_timeout(timeout_s, "timeout_s")
        return stopping.wait(self._parts, self._owners, self.id, timeout_s, condition)

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it, and its anonymous *volumes*; *force* kills it first.

        Raises FailedPrecondition, in Docker's words, for one that runs.
        """
        from pyrunc.engine import removal

        removal.remove(self._parts, self._owners, self.id, force=force, volumes=volumes)

    def rename(self, name: str) -> None:
        """Give it another name. Raises InvalidArgument, AlreadyExists in Docker's words."""
        from pyrunc.engine.argument_checks import check_text
        from pyrunc.engine.container_rows import check_name

        if name is not None:
            check_text("name", name)
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        with finish.Locked(self._parts, self.id) as found:
            record = self._found(found)
            bare = name.removeprefix("/")
            if bare == record.name:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            try:
                self._parts.containers.rename(self.id, check_name(f"/{bare}"))
            except (AlreadyExists, InvalidArgument) as exc:
                raise type(exc)(f"Error when allocating new name: {exc}") from exc
            container_events.say(self._parts, record._replace(name=bare), "rename", oldName=f"/{record.name}")
        self.name = bare

    def update(self, **changes: "Any") -> None:
        """Change limits and the restart policy, by their HostConfig names (``Memory=64 << 20``), at once if it runs.

        Raises InvalidArgument, FailedPrecondition in Docker's words.
        """
        from pyrunc.engine import updating

        updating.update(self._parts, self.id, changes)

    def logs(
        self, *, follow: bool = False, tail: int | None = None, since_ns: int = 0, until_ns: int | None = None,
        note: "Callable[[str], object] | None" = None, sleep: "Callable[[float], object]" = time.sleep,
    ) -> "Iterator[LogEntry]":  # fmt: skip
        """What it has written, in its order; the arguments are those of pyrunc.engine.logs.read.

        Raises InvalidArgument, and Unsupported, in Docker's words, for one whose log driver is none.
        """
        from pyrunc.engine import logs

        return logs.read(
            self._log_path(), follow=follow, tail=tail, since_ns=since_ns, until_ns=until_ns, ended=self._over,
            note=note, sleep=sleep,
        )  # fmt: skip

    def _log_path(self) -> str:
        path = self.record().log_path
        if not path:
            raise Unsupported("configured logging driver does not support reading")
        return path

    def _over(self) -> bool:
        """Whether it writes nothing any more."""
        try:
            return self.record(begun=True).state not in ("running", "paused", "restarting")
        except NotFound:
            return True

    def exec(
        self, argv: "Sequence[str]", *, env: "Mapping[str, str | None] | None" = None, cwd: str | None = None,
        user: str | None = None, groups: "Sequence[str]" = (), stdin: bytes = b"", timeout_s: float | None = None,
        tty: bool = False, size: tuple[int, int] = (0, 0), privileged: bool = False,
    ) -> "RunResult":  # fmt: skip
        """Run a further program in it to its end; the arguments are those of SandboxProcess.exec.

        Raises what that does, with Docker's words for what is wrong with the container.
        """
        from pyrunc.engine import exec as execs

        wanted = execs.Wanted(argv, env, cwd, user, groups, tty, size, privileged)
        return execs.run(self._parts, self.id, wanted, stdin, timeout_s)

    def exec_start(
        self, argv: "Sequence[str]", *, env: "Mapping[str, str | None] | None" = None, cwd: str | None = None,
        user: str | None = None, groups: "Sequence[str]" = (), stdin: int | None = None, stdout: int | None = None,
        stderr: int | None = None, tty: bool = False, size: tuple[int, int] = (0, 0), privileged: bool = False,
    ) -> "EngineExec":  # fmt: skip
        """Start a further program in it, which ends with this process too.

        The arguments are those of SandboxProcess.exec_start. Raises what `exec` raises.
        """
        from pyrunc.engine import exec as execs

        wanted = execs.Wanted(argv, env, cwd, user, groups, tty, size, privileged)
        return execs.start(self._parts, self.id, wanted, stdin, stdout, stderr)

    def exec_detached(
        self, argv: "Sequence[str]", *, env: "Mapping[str, str | None] | None" = None, cwd: str | None = None,
        user: str | None = None, groups: "Sequence[str]" = (), tty: bool = False, size: tuple[int, int] = (0, 0),
        privileged: bool = False,
    ) -> str:  # fmt: skip
        """Start a further program in it that goes on without this process, its output nowhere; its id.

        Raises what `exec` raises.
        """
        from pyrunc.engine import exec as execs

        wanted = execs.Wanted(argv, env, cwd, user, groups, tty, size, privileged)
        return execs.detached(self._parts, self.id, wanted)

    def commit(
        self, reference: str = "", *, changes: "Sequence[str]" = (), author: str = "", message: str = "",
        pause: bool = True,
    ) -> str:  # fmt: skip
        """Make an image of what it changed; its id.

        *changes* are instructions of a Dockerfile; *pause* stops a running container meanwhile.
        Raises InvalidArgument, FailedPrecondition, StorageFull.
        """
        from pyrunc.api import CommitRequest
        from pyrunc.engine import commit

        request = CommitRequest(self.id, reference, changes, author, message, pause)
        return commit.commit(self._parts, self._engine.images, request)

    def diff(self) -> "list[tuple[str, str]]":
        """What it changed: ("A", "C" or "D", path), sorted. Raises NotFound."""
        from pyrunc.engine import commit

        return commit.changes_of(self._parts, self.id)

    def export(self, sink: "Callable[[memoryview], object]") -> None:
        """Write its whole tree as a tar to *sink*, which takes bytes. Raises NotFound."""
        from pyrunc.engine import commit

        commit.export(self._parts, self.id, sink)

    def stat_path(self, path: str) -> "PathStat":
        """What is at *path* in it, running or not. Raises NotFound in Docker's words."""
        from pyrunc.engine import copy

        return copy.stat_path(self._parts, self.id, path, self.name)

    def get_archive(self, path: str, sink: "Callable[[bytes], object]") -> "PathStat":
        """Write the file or directory at *path*, a symlink as such, as a tar to *sink*; what it is.

        Names in it begin with the last part of *path*; with "/." at its end, they are what is in the directory. A
        container that does not run is read too, with its volumes. Raises NotFound, FailedPrecondition, OSError.
        """
        from pyrunc.engine import copy

        return copy.get_archive(self._parts, self.id, path, sink, self.name)

    def put_archive(
        self, path: str, source: "IO[bytes]", *, overwrite: bool = False, copy_owner: bool = False,
        rename: "Callable[[str], str] | None" = None,
    ) -> None:  # fmt: skip
        """Extract the tar that *source* reads, plain or by gzip, bzip2 or xz, to the directory *path*.

        Unless *overwrite* nothing but a directory takes the place of a directory, nor the other way round. Files belong
        to whom the archive says; with *copy_owner*, to the user of the container. *rename* changes each name first.
        Raises NotFound, FailedPrecondition for what is read-only, InvalidArgument for a bad archive, OSError.
        """
        from pyrunc.engine import copy

        copy.put_archive(
            self._parts, self.id, path, source, self.name, overwrite=overwrite, copy_owner=copy_owner, rename=rename
        )  # fmt: skip

    def top(self, arguments: "Sequence[str]" = ()) -> "Processes":
        """What the host's ps, with *arguments* (none: -ef), says of its processes; a column PID is needed.

        Raises FailedPrecondition for one that does not run, Unsupported where the host has no ps.
        """
        from pyrunc.engine import top

        return top.top(self._parts, self.id, arguments)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if self.made and self._pid == os.getpid():
            self._reap()

    def _reap(self) -> None:
        """Remove it, whatever it does, also when the engine is closed."""
        try:
            if self._parts.closed:
                with type(self._engine)(self._parts.root, graph=self._parts.graph) as engine:
                    engine.containers.get(self.id).remove(force=True, volumes=True)
            else:
                self.remove(force=True, volumes=True)
        except NotFound:
            pass  # somebody was faster

    def _found(self, record: "ContainerRecord | None") -> "ContainerRecord":
        if record is None:
            raise NotFound(f"No such container: {self.id}")
        return record


def _number(signal: "int | str") -> int:
    from pyrunc.image.changes import check_signal

    if isinstance(signal, bool) or not isinstance(signal, int | str):
        raise InvalidArgument(f"Invalid signal: {signal!r}")
    text = str(signal)
    try:
        return check_signal(text)
    except InvalidArgument:
        if text.isdigit() and int(text):
            raise InvalidArgument(f"The linux daemon does not support signal {text}") from None
        raise
