"""What an OCI runtime's container, or a further program in one, has for a parent: PLACE FILES.

It is started by the shim whose state directory is PLACE, in a mount namespace of its own; FILES has what it needs.

It mounts the container's root, has the runtime create and start the container, says so to whoever waits for the
start, and ends as the container does. The container's streams are its own, which the shim holds the other end of.

It is a script, so that it needs nothing but the interpreter's path and its own.
"""

import os
import sys
import time

sys.path.insert(
    0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
)

from signal import SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGTERM, SIGXFSZ, signal

from pyrunc._native import mount, namespaces
from pyrunc.drivers.exec.monitor_place import OOM_KILLED, cgroup
from pyrunc.records import dumps, loads
from pyrunc.runtime.overlay_options import OPTIONS_MAX, option_pairs, option_text, relative, writable

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_ENDS = (
    SIGTERM,
    SIGINT,
    SIGHUP,
    SIGQUIT,
)  # of those that are told to end: the container is, and this waits for it
_STEP_S = 0.001
_FAILED = 125


class _Failed(Exception):
    """The runtime says no."""


class _Runtime:
    """The command line of an OCI runtime, for the container of one state directory."""

    def __init__(self, wanted: "Mapping[str, Any]", files: str) -> None:
        self._program: str = wanted["program"]
        self._log = f"{files}/log"
        self._begin = [
            self._program, "--root", wanted["root"], "--log", self._log, "--log-format", "json",
        ]  # fmt: skip
        self._container: str = wanted["container"]

    def call(self, *verb: str) -> None:
        """Run one of its verbs to the end. Raises _Failed with what it has logged, OSError if it is not there."""
        argv = [*self._begin, *verb, self._container]
        # The container begins with the signals of who creates it, and Python ignores two.
        pid = os.posix_spawn(self._program, argv, os.environ, setsigdef=(SIGPIPE, SIGXFSZ, *_ENDS))
        while True:
            found, status = os.waitpid(pid, 0)
            if found == pid:
                break
        if status:
            raise _Failed(self._last_words() or f"{verb[0]}: exit status {os.waitstatus_to_exitcode(status)}")

    def _last_words(self) -> str:
        try:
            with open(self._log, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            try:
                return str(loads(line)["msg"])
            except (ValueError, KeyError, TypeError):
                continue
        return ""


def main(place: str, files: str) -> int:
    """Run a container, or a program in one, to its end: the exit code."""
    for number in _ENDS:
        signal(number, lambda *_: None)
    with open(f"{files}/monitor.json", encoding="utf-8", errors="surrogateescape") as file:
        wanted: Mapping[str, Any] = loads(file.read())
    runtime = _Runtime(wanted, files)
    rootfs: Mapping[str, Any] | None = wanted.get("rootfs")  # None: a further program
    master = -1
    try:
        namespaces.become_subreaper()
        console = None
        if wanted["terminal"]:
            from pyrunc.drivers.exec.relay import Console

            console = Console(files)
        more = ["--pid-file", f"{files}/pid"]
        if console is not None:
            more += ["--console-socket", console.path]
        if rootfs is None:
            runtime.call("exec", "--detach", "--process", f"{files}/process.json", *more)
        else:
            _mount_root(f"{files}/rootfs", rootfs)
            for hierarchy in wanted["named"]:
                _make_cgroup(f"{hierarchy}{cgroup(wanted['container'])}")
            runtime.call("create", "--bundle", files, *more)
        if console is not None:
            master = console.take()
        with open(f"{files}/pid", encoding="ascii") as file:
            pid = int(file.read())
        try:
            running = _tell(place, pid)
            if rootfs is not None:
                runtime.call("start")
        except BaseException:
            os.kill(pid, SIGKILL)
            os.waitpid(pid, 0)
            if rootfs is not None:
                _delete(runtime)
            raise
    except (_Failed, OSError, ValueError) as exc:
        _say(place, {"error": str(exc)})
        return _FAILED
    # Whoever waits for the end of the program's output, or its input's, does not wait for this process.
    if master < 0:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
    _say(place, {"running": running})
    if master >= 0:
        from pyrunc.drivers.exec.relay import relay

        relay(master, pid)
    while True:
        found, status = os.waitpid(-1, 0)  # also those whom the container's processes have left
        if found == pid:
            break
    if rootfs is not None:
        _note_oom(place, wanted["memory"])
        _delete(runtime)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _mount_root(target: str, rootfs: "Mapping[str, Any]") -> None:
    """Mount what *rootfs* (a Rootfs) tells of at *target*. Raises OSError."""
    layers: list[str] = rootfs["layers"]
    if not rootfs["upper"]:
        _attach(mount.open_tree(-1, os.fsencode(layers[0])), target)
        return
    base, (*lowers, upper, work) = relative([*layers, rootfs["upper"], rootfs["work"]])
    os.chdir(base)
    more = writable(upper, work, volatile=rootfs["volatile"], layer=True)
    text = option_text(lowers, more)
    if len(os.fsencode(text)) <= OPTIONS_MAX:
        mount.mount(b"overlay", os.fsencode(target), b"overlay", 0, os.fsencode(text))
    else:
        pairs = [(key.encode(), os.fsencode(value)) for key, value in option_pairs(lowers, more)]
        _attach(mount.new_mount(b"overlay", pairs), target)
    os.chdir("/")


def _attach(tree: int, target: str) -> None:
    place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mount.move_mount(tree, place)
    os.close(place)
    os.close(tree)


def _make_cgroup(path: str) -> None:
    """Make a directory, and those above, which others remove when they are empty. Raises OSError."""
    while True:
        try:
            os.makedirs(path, exist_ok=True)
            return
        except FileNotFoundError:
            continue


def _tell(place: str, pid: int) -> "dict[str, int]":
    """Say in the file that tells who runs that it is *pid*, and no more this process. Raises OSError, ValueError."""
    while True:
        try:
            with open(f"{place}/running", encoding="ascii") as file:
                running: dict[str, int] = loads(file.read())
            break
        except FileNotFoundError:
            time.sleep(_STEP_S)  # the shim is at it
    with open(f"/proc/{pid}/stat", "rb") as stat:
        born = int(stat.read().rpartition(b")")[2].split()[19])
    running |= {"pid": pid, "pid_started": born, "started_ns": time.time_ns()}
    fd = os.open(f"{place}/.running", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(fd, dumps(running).encode())
    os.close(fd)
    os.rename(f"{place}/.running", f"{place}/running")
    return running


def _note_oom(place: str, counter: str) -> None:
    """Leave word if the file *counter* of the container's cgroup says that its limit of memory has killed anyone."""
    try:
        with open(counter, encoding="ascii") as file:
            kills = sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        if kills:
            os.close(os.open(f"{place}/{OOM_KILLED}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except (OSError, ValueError):
        pass  # it has no limit, or no cgroup any more


def _delete(runtime: _Runtime) -> None:
    try:
        runtime.call("delete", "--force")
    except (_Failed, OSError):
        pass  # what is left in cgroups is removed by whoever takes note of the end


def _say(place: str, word: "Mapping[str, object]") -> None:
    """Tell whoever waits for the start how it went; nobody may."""
    try:
        fd = os.open(f"{place}/word", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, dumps(word).encode())
    except OSError:
        pass
    finally:
        os.close(fd)


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))
