"""The driver of OCI runtimes: runc, crun, pyrunc-oci or another, by its command line.

What it makes is in the container's state directory: the bundle, the runtime's own state, and who runs.
"""

from __future__ import annotations

import os
import stat

from pyrunc.errors import (
    CommandNotExecutable,
    CommandNotFound,
    FailedPrecondition,
    PyruncError,
    StartError,
    Unsupported,
)
from pyrunc.records import loads
from pyrunc.runtime import cgroup_layout, shim_state

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.drivers.exec.driven import Asked, Drive, Failed
    from pyrunc.drivers.exec.driver import Start, StartExec
    from pyrunc.runtime.compile_host import Rootfs
    from pyrunc.runtime.shim import ShimProcess

# In what a runtime says, in Docker's order: what a command exits with, and what Docker adds.
# Source: moby daemon/errors.go, translateContainerdStartErr.
_NOT_FOUND = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE = ("permission denied", "is a directory")
_NO_DIRECTORY = "not a directory"
_HINT = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is"
    " the expected type"
)
_OWN = "pyrunc-oci"  # it follows no symlink out of the root


class Oci:
    """See ExecDriver. *path* is the runtime's program."""

    takes_plans = False

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    def check(
        self, config: Mapping[str, Any], host_config: Mapping[str, Any], rest: Mapping[str, Any]
    ) -> None:
        """See ExecDriver: what a runtime lacks it says itself, but for what one older than OCI 1.1 passes over."""
        del host_config, rest
        if config.get("Domainname") and _is_older(self.path, (1, 1)):
            raise Unsupported(
                f"--domainname: the runtime {self.name} is older than OCI 1.1 and would pass over it"
            )

    def start(self, wanted: Start) -> ShimProcess:
        """See ExecDriver."""
        from pyrunc.drivers.exec import bundle, driven, monitor_place
        from pyrunc.runtime.compile_beside import Beside

        place, container_id, rootfs = wanted.settings.state_dir, wanted.container_id, wanted.rootfs
        assert rootfs is not None
        if os.path.basename(self.path) != _OWN and _devices_lead_elsewhere(rootfs):
            raise Unsupported(
                f"--runtime {self.name}: the image's /dev is a symlink, which it would follow on the host"
            )
        files = f"{place}/bundle"
        mounts: list[dict[str, Any]] = []
        spec = bundle.write(files, container_id, wanted.argv, rootfs, wanted.options, self.name, mounts)
        os.mkdir(f"{place}/runtime", 0o700)
        begin = self._begin(place, files)
        drive = driven.Drive(
            container_id, files,
            create=(*begin, "create", "--bundle", files, *_left(files, wanted.settings.terminal), container_id),
            start=(*begin, "start", container_id), end=(*begin, "delete", "--force", container_id),
            counter=monitor_place.memory_counter(spec["linux"]["cgroupsPath"]), terminal=wanted.settings.terminal,
            beside=Beside(rootfs, os.path.join(files, spec["root"]["path"]), spec), mounts=mounts,
        )  # fmt: skip

        def send(who: shim_state.Running, number: int) -> None:
            self.signal(place, container_id, who, number)

        layout = cgroup_layout.detect()
        try:
            monitor_place.begin(layout, container_id)
            return driven.start(drive, wanted.settings, wanted.client, wanted.until, send)
        except driven.Failed as exc:
            monitor_place.end(layout, container_id)
            raise self._failure(exc, "create", files) from exc
        except BaseException:
            monitor_place.end(layout, container_id)
            raise

    def start_exec(self, wanted: StartExec) -> ShimProcess:
        """See ExecDriver."""
        from pyrunc.drivers.exec import driven

        try:
            return driven.start(self._exec(wanted), wanted.settings, wanted.client, None, shim_state.signal)
        except driven.Failed as exc:
            raise self._exec_failure(exc, wanted) from exc

    def attach_exec(self, wanted: StartExec) -> Asked:
        """See ExecDriver."""
        from pyrunc.drivers.exec import driven

        place = wanted.settings.state_dir
        return driven.Asked(self._exec(wanted), place, lambda exc: self._exec_failure(exc, wanted))

    def _exec(self, wanted: StartExec) -> Drive:
        from pyrunc.drivers.exec import bundle, driven

        files, terminal = wanted.settings.state_dir, wanted.settings.terminal
        bundle.write_process(files, wanted)
        words = ("exec", "--detach", "--process", f"{files}/process.json", *_left(files, terminal))
        return driven.Drive(
            wanted.exec_id, files, create=(*self._begin(wanted.place, files), *words, wanted.container_id),
            terminal=terminal, size=wanted.wanted.size if terminal else (0, 0),
        )  # fmt: skip

    def _begin(self, place: str, files: str) -> tuple[str, ...]:
        """How each of its commands begins."""
        return (self.path, "--root", f"{place}/runtime", "--log", f"{files}/log", "--log-format", "json")

    def _exec_failure(self, failed: Failed, wanted: StartExec) -> PyruncError:
        if not shim_state.is_alive(wanted.who.pid, wanted.who.pid_started):
            return shim_state.not_running(wanted.container_id)
        return self._failure(failed, "exec", wanted.settings.state_dir)

    def _failure(self, failed: Failed, verb: str, files: str) -> StartError:
        """What has failed, in Docker's words."""
        words = _last_words(f"{files}/log")
        if not failed.verb:
            why = os.strerror(failed.errno).lower() if failed.errno else "was killed"
            words = f"its monitor: {why}"
        elif not os.access(self.path, os.X_OK):
            words = f"fork/exec {self.path}: no such file or directory"
        elif not words:
            status = os.waitstatus_to_exitcode(failed.status)
            ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
            words = f"{self.path} did not terminate successfully: {ended}"
            words += f": {failed.words}" if failed.words else ""
        verb = "start" if failed.verb == "start" else verb
        task = "failed to create task for container: failed to create shim task: " if verb == "create" else ""
        text = f"{task}OCI runtime {verb} failed: {words}: unknown"
        lower = text.lower()
        if any(each in lower for each in _NOT_FOUND):
            return CommandNotFound(text)
        if any(each in lower for each in _NOT_EXECUTABLE):
            return CommandNotExecutable(text)
        return StartError(text + _HINT if _NO_DIRECTORY in lower else text)

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


def _devices_lead_elsewhere(rootfs: Rootfs) -> bool:
    """Whether /dev is a symlink: runc 1.1 and crun 1.8 make stdin, ptmx and more where that leads on the host."""
    for layer in (rootfs.upper, *reversed(rootfs.layers)):
        try:
            if layer:
                return stat.S_ISLNK(os.lstat(f"{layer}/dev").st_mode)
        except OSError:
            continue  # it has none
    return False


def _is_older(path: str, version: tuple[int, int]) -> bool:
    """Whether a runtime says that it knows no OCI document as new as *version*; one that says nothing is not."""
    import subprocess

    try:
        said = subprocess.run(
            [path, "features"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=10
        )  # fmt: skip
        known = loads(said.stdout)["ociVersionMax"]
        major, minor = known.split(".")[:2]
        return (int(major), int(minor)) < version
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _left(files: str, terminal: bool) -> tuple[str, ...]:
    """Where `create` and `exec`, whose working directory is *files*, shall leave what they have to give."""
    return ("--pid-file", f"{files}/pid", *(("--console-socket", "console") if terminal else ()))


def _last_words(log: str) -> str:
    """The last message of a runtime's log."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            return str(loads(line)["msg"])
        except (ValueError, KeyError, TypeError):
            continue
    return ""
