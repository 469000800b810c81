"""The public Sandbox: isolated processes from a root directory, with no image, store or daemon."""

import errno
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

from pyrunc._native import plan as native
from pyrunc.errors import FailedPrecondition, InvalidArgument, PyruncError, TimedOut
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime import users
from pyrunc.runtime.compile import Rootfs, candidates, compile_spec
from pyrunc.runtime.options import IdMap, Mount, Request, SandboxOptions, in_terms_of_options, to_request
from pyrunc.runtime.plan import SHORT_ID
from pyrunc.runtime.supervised import EXITED, Exit, Supervised

__all__ = ["IdMap", "Mount", "RunResult", "Sandbox", "SandboxProcess"]

StrPath = str | os.PathLike[str]
_CHUNK = 65536
_SIGKILL = 9
_TIMEOUT = checks.number(0, 1e6)  # poll(2) counts milliseconds in an int


class RunResult(NamedTuple):
    """What a finished run left.

    *exit_code* is the program's, or 128 + the signal that killed it; *oom_killed* whether
    the memory limit killed a process; *timings_ns* how long each stage took, in the order
    in which they happened; times in microseconds, memory in bytes.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    oom_killed: bool
    timings_ns: dict[str, int]
    utime_us: int
    stime_us: int
    maxrss_bytes: int


class SandboxProcess:
    """A running container; leaving its ``with`` block, or dropping it, kills it."""

    def __init__(self, child: Supervised) -> None:
        self._child = child
        while child.exit is None and not child.started:
            child.take()

    @property
    def pid(self) -> int:
        """The container's init, as the host numbers it."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """As RunResult has it, or None while the container runs."""
        return self._child.exit.exit_code if self._child.exit else None

    def fileno(self) -> int:
        """A descriptor that becomes readable when the container has ended."""
        return self._child.fileno()

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send *signal* to the container's init; one that has ended is no error."""
        if self._child.exit is None:
            self._child.kill(signal)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises TimedOut after *timeout_s* seconds; the container goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + _TIMEOUT(timeout_s, "timeout_s")
        while self._child.exit is None:
            poller = select.poll()
            poller.register(self._child, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poller.poll(left):
                raise TimedOut(f"the container still runs after {timeout_s} s")
            self._child.take()
        return self._child.exit.exit_code

    def close(self) -> None:
        """Kill what still runs, and wait until nothing of it is left."""
        if self._child.exit is None:
            self._child.kill(_SIGKILL)
            try:
                self.wait()
            finally:
                self._child.close()
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Sandbox:
    """A way to run programs, each isolated in a container of its own.

    *rootfs* is a directory, or several (the lowest first) that become one overlay. Every
    `run` and `start` gets fresh namespaces, cgroups and, unless *writable* says otherwise, a
    fresh scratch over *rootfs*. Safe to use from several threads, and after a fork.
    The options are those of SandboxOptions.

    Raises InvalidArgument, NotFound, InvalidSpec or Unsupported, and names the option.
    """

    def __init__(self, rootfs: StrPath | Sequence[StrPath], **options: Unpack[SandboxOptions]) -> None:
        if isinstance(rootfs, bytes) or not isinstance(rootfs, str | os.PathLike | Sequence):
            raise checks.refuse("rootfs", "a directory or a list of them", rootfs)
        paths = [rootfs] if isinstance(rootfs, str | os.PathLike) else list(rootfs)
        if not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
            raise checks.refuse("rootfs", "a directory or a list of them", rootfs)
        request = to_request([os.path.abspath(os.fsdecode(path)) for path in paths], options)
        try:
            self._set_up(request)
        except PyruncError as exc:
            raise in_terms_of_options(exc) from exc

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], bundle: StrPath = ".") -> Self:
        """A sandbox with the isolation of an OCI runtime document; *bundle* is what its root.path is relative to.

        Raises InvalidSpec or Unsupported, naming the field.
        """
        self = cls.__new__(cls)
        root = os.path.abspath(os.path.join(bundle, (spec.get("root") or {}).get("path") or "rootfs"))
        if not os.path.isdir(root):
            raise InvalidArgument(f"root.path: {root}: not a directory")
        process = spec.get("process") or {}
        env = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
        if "HOME" not in env:
            # As runc has it, for programs that stop without one.
            env["HOME"] = users.resolve(str((process.get("user") or {}).get("uid") or 0), (), [root]).home or "/"
        mounts = [_below(bundle, entry) for entry in spec.get("mounts") or ()]
        self._set_up(Request({**spec, "mounts": mounts}, Rootfs((root,)), {}, env))
        return self

    def _set_up(self, request: Request) -> None:
        self._template = compile_spec(request.spec, request.rootfs, request.files)
        self._env = request.env
        self._lock = threading.Lock()
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes = b"",
        timeout_s: float | None = None,
    ) -> RunResult:  # fmt: skip
        """Run a program to its end.

        *env* is added to the sandbox's; *stdin* is what the program can read. After
        *timeout_s* seconds it is killed and TimedOut raised, with what it wrote in ``.stdout`` and ``.stderr``.
        Raises StartError or one of its kind if it cannot start.
        """
        begun = time.monotonic_ns()
        if timeout_s is not None:
            _TIMEOUT(timeout_s, "timeout_s")
        if not isinstance(stdin, bytes | bytearray | memoryview):
            raise checks.refuse("stdin", "bytes", stdin)
        with Pipes(stdin, self._null) as pipes:
            child = self._request(argv, env, pipes.theirs, native.FLAG_QUIET)
            try:
                pipes.close_theirs()
                if not pipes.talk(child, None if timeout_s is None else begun / 1e9 + timeout_s):
                    child.kill(_SIGKILL)
                    pipes.talk(child, None)
                    raise TimedOut(f"{argv[0]}: killed after {timeout_s} s", *pipes.output())
            finally:
                child.close()
            return _result(child.exit, pipes.output(), begun)

    def start(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None,
        stdin: int | None = None, stdout: int | None = None, stderr: int | None = None,
    ) -> SandboxProcess:  # fmt: skip
        """Start a program and return as soon as it runs.

        *stdin*, *stdout* and *stderr* are descriptors of the caller's, who keeps them; None is /dev/null.
        Raises StartError or one of its kind if it cannot start.
        """
        chosen = tuple(self._null if fd is None else fd for fd in (stdin, stdout, stderr))
        return SandboxProcess(self._request(argv, env, chosen, 0))

    def plan(self, argv: Sequence[str]) -> str:
        """What a start does, one step a line, as `pyrunc run --plan` prints it."""
        return f"{self._template.describe()}\nargv {list(argv)}"

    def close(self) -> None:
        """Give up the sandbox's own descriptor; what was started goes on."""
        with self._lock:
            null, self._null = self._null, -1
        if null >= 0:
            os.close(null)

    def _request(
        self, argv: Sequence[str], env: Mapping[str, str] | None, stdio: Sequence[int], flags: int
    ) -> Supervised:
        checks.arguments(argv)
        if self._null < 0:
            raise FailedPrecondition("the sandbox is closed")
        container_id = os.urandom(32).hex()
        variables = self._env if not env else {**self._env, **checks.environment(env)}
        if variables.get("HOSTNAME") == SHORT_ID:
            variables = {**variables, "HOSTNAME": container_id[:12]}
        listed = [f"{key}={value}" for key, value in variables.items()]
        try:
            plan = self._template.finish(container_id, argv, listed, candidates(argv[0], variables.get("PATH")), flags)
        except ValueError as exc:
            raise InvalidArgument(str(exc)) from exc
        try:
            return Supervised(plan, self._template, container_id, stdio, argv[0])
        except OSError as exc:
            if exc.errno == errno.EBADF:
                raise InvalidArgument("stdin, stdout and stderr must be open descriptors") from exc
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_null", -1) >= 0:
            self.close()


def _below(bundle: StrPath, mount: Mapping[str, Any]) -> Mapping[str, Any]:
    """*mount*, its source absolute: OCI lets the source of a bind mount be relative to the bundle."""
    source = mount.get("source")
    bound = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options") or ())
    if not bound or not isinstance(source, str) or not source or source.startswith("/"):
        return mount
    return {**mount, "source": os.path.abspath(os.path.join(bundle, source))}


class Pipes:
    """The three pipes of one run, and the conversation over them."""

    def __init__(self, stdin: bytes, null: int) -> None:
        self._ours: list[int] = []
        self._theirs: list[int] = []
        self._input = memoryview(stdin)
        self._in = -1
        try:
            first = null
            if stdin:
                first, self._in = self._pair()
                os.set_blocking(self._in, False)
                self._ours.append(self._in)
                self._theirs.append(first)
            self._out, out = self._pair()
            self._ours.append(self._out)
            self._theirs.append(out)
            self._err, err = self._pair()
            self._ours.append(self._err)
            self._theirs.append(err)
        except BaseException:
            self.close()
            raise
        self.theirs = (first, out, err)
        self._chunks: dict[int, list[bytes]] = {self._out: [], self._err: []}
        self._poller = select.poll()
        self._poller.register(self._out, select.POLLIN)
        self._poller.register(self._err, select.POLLIN)
        self._open = 2
        if stdin:
            self._poller.register(self._in, select.POLLOUT)

    @staticmethod
    def _pair() -> tuple[int, int]:
        return os.pipe2(os.O_CLOEXEC)

    def close_theirs(self) -> None:
        """Give up the container's ends, so that its end is the end of the pipe."""
        while self._theirs:
            os.close(self._theirs.pop())

    def talk(self, child: Supervised, deadline: float | None) -> bool:
        """Feed and read until the container has ended; False if *deadline* (monotonic seconds) comes first."""
        if child.exit is None:
            self._poller.register(child, select.POLLIN)
        while child.exit is None or self._open:
            left = None
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic()) * 1000
            ready = self._poller.poll(left)
            if not ready:
                self._poller.unregister(child)
                return False
            for fd, _ in ready:
                if fd in self._chunks:
                    self._read(fd)
                elif fd == self._in:
                    self._write()
                else:
                    if child.take() == EXITED:
                        self._poller.unregister(fd)
        return True

    def _read(self, fd: int) -> None:
        data = os.read(fd, _CHUNK)
        if data:
            self._chunks[fd].append(data)
        else:
            self._poller.unregister(fd)
            self._open -= 1

    def _write(self) -> None:
        try:
            sent = os.write(self._in, self._input[:_CHUNK])
        except BlockingIOError:
            return
        except BrokenPipeError:
            sent = len(self._input)  # nobody reads it: as a shell's pipe, no error
        self._input = self._input[sent:]
        if not self._input:
            self._poller.unregister(self._in)
            self._ours.remove(self._in)
            os.close(self._in)

    def output(self) -> tuple[bytes, bytes]:
        """What the program wrote so far."""
        return b"".join(self._chunks[self._out]), b"".join(self._chunks[self._err])

    def close(self) -> None:
        """Close whatever is still open."""
        self.close_theirs()
        while self._ours:
            os.close(self._ours.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _result(end: Exit | None, output: tuple[bytes, bytes], begun: int) -> RunResult:
    assert end is not None
    marks = [("request", begun), *sorted(end.stages_ns.items(), key=lambda mark: mark[1]), ("", time.monotonic_ns())]
    timings = {name: marks[i + 1][1] - at for i, (name, at) in enumerate(marks[:-1])}
    return RunResult(
        end.exit_code, *output, end.oom_kills > 0, timings, end.utime_us, end.stime_us, end.maxrss_bytes
    )
