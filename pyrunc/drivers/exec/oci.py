"""The driver of OCI runtimes: runc, crun, pyrunc-oci or another, by its command line.

The shim's program is a *monitor* (pyrunc.drivers.exec.monitor) in a mount namespace of its own, where the container's
root is mounted, and which is the runtime's and the container's parent. What it makes is in the container's state
directory: the bundle, the runtime's own state, and who runs.
"""

from __future__ import annotations

import os
import select
import sys
import time

from pyrunc.errors import (
    CommandNotExecutable,
    CommandNotFound,
    FailedPrecondition,
    PyruncError,
    StartError,
    TimedOut,
    Unsupported,
)
from pyrunc.records import dumps, loads
from pyrunc.runtime import cgroup_layout, shim, shim_state
from pyrunc.runtime.supervised import ATTEMPTS, NotTaken

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.drivers.exec.driver import Start, StartExec
    from pyrunc.runtime.launcher import Launcher

_MONITOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "monitor.py")
_NAMES_OTHERS = ("NetworkMode", "PidMode", "IpcMode")
_REST = {
    "uid_maps": "user namespaces are the native driver's",
    "gid_maps": "user namespaces are the native driver's",
}
_WORD_MAX = 65536
_END_S = 5.0
_SIGKILL = 9
_NOT_FOUND = ("executable file not found in $PATH", "no such file or directory", "No such file or directory")
_NOT_EXECUTABLE = ("permission denied", "Permission denied", "exec format error", "Exec format error")


class DrivenProcess(shim.ShimProcess):
    """The owner's end of a container whose init is another process than its shim's program."""

    def __init__(self, process: shim.ShimProcess, driver: Oci, place: str, container_id: str) -> None:
        super().__init__(process._child, process.running)  # noqa: SLF001 - it takes its place
        self._driver = driver
        self._place = place
        self._container_id = container_id

    def became(self, running: shim_state.Running) -> None:
        """The container's init is another process from now on."""
        self.pid, self.started_ns, self.running = running.pid, running.started_ns, running

    def kill(self, number: int = _SIGKILL) -> None:
        """See ShimProcess."""
        self._driver.signal(self._place, self._container_id, self.running, number)


class Oci:
    """See ExecDriver. *path* is the runtime's program."""

    takes_plans = False

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self._launchers: dict[bool, Launcher] = {}

    def check(
        self,
        config: Mapping[str, Any],  # noqa: ARG002 - all of it is the engine's own, or in config.json
        host_config: Mapping[str, Any],
        rest: Mapping[str, Any],
    ) -> None:
        """See ExecDriver."""
        for key in _NAMES_OTHERS:
            if (host_config.get(key) or "").startswith("container:"):
                raise Unsupported(
                    f"{key}: {host_config[key]}: the runtime {self.name} joins no other container yet"
                )
        for option, reason in _REST.items():
            if rest.get(option):
                raise Unsupported(f"{option}: {reason}, and not {self.name}'s")

    def start(self, wanted: Start) -> shim.ShimProcess:
        """See ExecDriver."""
        from pyrunc.drivers.exec import bundle

        place = wanted.settings.state_dir
        files, rootfs = f"{place}/bundle", wanted.rootfs
        assert rootfs is not None
        path = bundle.write(files, wanted.container_id, wanted.argv, rootfs, wanted.options, self.name)
        os.mkdir(f"{place}/runtime", 0o700)
        more = {
            "memory": _memory_counter(path),
            "named": [hierarchy.mountpoint for hierarchy in cgroup_layout.detect().named],
            "rootfs": {
                "layers": list(rootfs.layers), "upper": rootfs.upper, "work": rootfs.work, "volatile": rootfs.volatile,
            },
        }  # fmt: skip
        return self._monitored(
            place, files, wanted, wanted.container_id, wanted.container_id, more, wanted.until
        )

    def start_exec(self, wanted: StartExec) -> shim.ShimProcess:
        """See ExecDriver."""
        from pyrunc.drivers.exec import bundle

        place = wanted.settings.state_dir
        bundle.write_process(place, f"{wanted.place}/bundle", wanted.wanted, wanted.who.pid, wanted.variables)
        return self._monitored(wanted.place, place, wanted, wanted.exec_id, wanted.container_id, {}, None)

    def _monitored(
        self, home: str, files: str, wanted: Start | StartExec, monitor_id: str, container_id: str,
        more: Mapping[str, Any], until: float | None,
    ) -> shim.ShimProcess:  # fmt: skip
        """Start a monitor that has in the directory *files* what it needs, and wait until it says that a program runs.

        *home* is the state directory of the container.
        """
        place = wanted.settings.state_dir
        document = {"program": self.path, "root": f"{home}/runtime", "container": container_id, **more}
        document["terminal"] = wanted.settings.terminal
        with open(f"{files}/monitor.json", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(dumps(document))
        os.mkfifo(f"{place}/word", 0o600)
        word = os.open(f"{place}/word", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            argv = (sys.executable or "python3", "-I", "-S", _MONITOR, place, files)
            process = DrivenProcess(self._shim(argv, wanted, monitor_id, until), self, home, container_id)
            try:
                process.became(self._begun(process, word, until, "create" if more else "exec"))
            except BaseException:
                _abandon(process)
                raise
        finally:
            os.close(word)
        return process

    def _shim(
        self, argv: Sequence[str], wanted: Start | StartExec, monitor_id: str, until: float | None
    ) -> shim.ShimProcess:
        for attempt in range(ATTEMPTS):
            try:
                return shim.start(
                    self._compiled(wanted.settings.terminal),
                    argv,
                    None,
                    wanted.settings,
                    monitor_id,
                    wanted.client,
                    until,
                )
            except NotTaken:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _compiled(self, terminal: bool) -> Launcher:
        """What starts a monitor, with a *terminal* or not."""
        found = self._launchers.get(terminal)
        if found is None:
            from pyrunc.drivers.exec import bundle
            from pyrunc.runtime.compile import Rootfs
            from pyrunc.runtime.launcher import Launcher
            from pyrunc.runtime.option_privileges import own_capabilities
            from pyrunc.runtime.options import Request
            from pyrunc.spec import defaults

            spec = bundle.monitor_spec(sorted(own_capabilities()), terminal)
            # A planner is of no use to who is in a mount namespace of its own.
            env = {"PATH": os.environ.get("PATH") or defaults.PATH, "PYRUNC_OCI_PLANNER": "0"}
            found = self._launchers[terminal] = Launcher(Request(spec, Rootfs(("/",)), {}, env, ""))
        return found

    def _begun(
        self, process: shim.ShimProcess, word: int, until: float | None, verb: str
    ) -> shim_state.Running:
        """Wait until the runtime has started the program, as the monitor tells: who runs."""
        poller = select.poll()
        poller.register(word, select.POLLIN)
        poller.register(process.fileno(), select.POLLIN)
        left = None if until is None else max(0.0, until - time.monotonic()) * 1000
        if not poller.poll(left):
            raise TimedOut("waiting for its start")
        try:
            text = os.read(word, _WORD_MAX)
        except BlockingIOError:
            text = b""
        said: Mapping[str, Any] = loads(text.decode()) if text else {"error": "its monitor has ended"}
        if "error" in said:
            raise _failure(verb, said["error"])
        numbers: Mapping[str, int] = said["running"]
        return shim_state.Running(*(numbers[name] for name in shim_state.Running._fields))

    def signal(self, place: str, container_id: str, who: shim_state.Running, number: int) -> None:
        """See ExecDriver."""
        import subprocess

        argv = [self.path, "--root", f"{place}/runtime", "kill", container_id, str(number)]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError:
            shim_state.signal(who, number)  # the runtime was removed meanwhile
            return
        if done.returncode and shim_state.is_alive(who.pid, who.pid_started):
            words = done.stderr.decode(errors="replace").strip()
            raise FailedPrecondition(f"Cannot kill container: {container_id}: {words}")


def _memory_counter(cgroup: str) -> str:
    """The file that counts whom the limit of memory of a *cgroup* kills, "" where there is none."""
    hierarchy = cgroup_layout.detect().of("memory")
    if hierarchy is None:
        return ""
    name = "memory.events" if hierarchy.version == 2 else "memory.oom_control"
    return f"{hierarchy.mountpoint}{cgroup}/{name}"


def _abandon(process: shim.ShimProcess) -> None:
    """End a start that came to nothing: the monitor, and take note of its end, which is nobody else's."""
    try:
        shim_state.signal(process.running, _SIGKILL)
        process.wait(_END_S)
        process.finished()
    except PyruncError:
        process.release()


def _failure(verb: str, words: str) -> StartError:
    """What a runtime's words mean."""
    text = f"OCI runtime {verb} failed: {words}"
    if "exec" in words or "executable" in words:
        if any(each in words for each in _NOT_FOUND):
            return CommandNotFound(text)
        if any(each in words for each in _NOT_EXECUTABLE):
            return CommandNotExecutable(text)
    return StartError(text)
