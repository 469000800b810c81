"""The planner: a resident Python that turns command lines of the front door into plans.

It is started by the first `create`, `run` or `exec` that had to start Python anyway, and ends when nobody asks for a
while, or when a file that it was made of has changed. It saves its callers the start of an interpreter; they do without
it in every other way, and it tells no error: it declines, and the caller finds the words itself.

| it must not                | so                                                                              |
|----------------------------|---------------------------------------------------------------------------------|
| be waited for              | it is nobody's child, in a session of its own, with no descriptor of its starter |
| hold a directory or cgroup | it works in `/`, and in a cgroup of its own in each hierarchy                    |
| serve a stranger           | its socket is in a directory of its user's, and both ends look at the other's   |
| see another world          | who asks says its namespaces, root and executable, and they have to be its own  |

The messages are drawn in `pyrunc/_native/oci_planner.pxd`.
"""

from __future__ import annotations

import _socket  # without what the socket module adds: its import costs milliseconds
import os
import select
import sys
from _struct import Struct

from pyrunc._native import plan as native
from pyrunc.oci.planner import let_go
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IDLE_MS = 60_000
_MAGIC, _VERSION = 0x52504F50, 1
_PLAN, _DECLINE = 1, 2
_ROOM = 1 << 16
_PATIENCE_MS = 100  # a caller sends at once
_LOOK_AGAIN_NS = 500_000_000
_BACKLOG = 64
_CGROUP = "/pyrunc-planner"
_ASK = Struct("=6I4Q2Q8Q")
_ANSWER = Struct("=II")
_NAMESPACES = ("mnt", "user", "pid", "net", "cgroup", "uts", "ipc", "time")
# What of the environment a caller sends, and so what of its own a planner does not use.
_MATTERS = ("LISTEN_", "PYRUNC_", "NOTIFY_SOCKET=", "XDG_RUNTIME_DIR=", "DBUS_SESSION_BUS_ADDRESS=")
_SO_PEERCRED = 17
_SCM_RIGHTS = 1
_MSG_CMSG_CLOEXEC = 0x40000000


def leave() -> None:
    """Part with everything of the starter's; its descriptors first, of which others wait for the end."""
    let_go()
    os.chdir("/")
    os.umask(0o077)
    try:
        # A daemon's starter may be spared by the OOM killer; who is there to save time shall not be.
        _write("/proc/self/oom_score_adj", b"0")
    except OSError:
        pass
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _end(*_: object) -> None:
    """End as if nobody had asked for long, and leave nothing."""
    raise SystemExit


class World(NamedTuple):
    """What has to be the same for a path to mean the same."""

    executable: tuple[int, ...]
    root: tuple[int, ...]
    namespaces: tuple[int, ...]


def own_world(front_door: str) -> World:
    """Where we are, as callers of *front_door* would say it. Raises OSError."""
    exe, root = os.stat(front_door), os.stat("/")
    return World(
        (exe.st_dev, exe.st_ino, exe.st_size, exe.st_mtime_ns),
        (root.st_dev, root.st_ino),
        tuple(map(_namespace, _NAMESPACES)),
    )


def _namespace(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except FileNotFoundError:
        return 0  # the kernel has none of this kind


class Planner:
    """One planner; it serves one caller after another."""

    def __init__(self, front_door: str, directory: str, name: str) -> None:
        self._directory = directory
        self._name = name
        self._world = own_world(front_door)
        self._front_door = front_door
        self._files: dict[str, tuple[int, int]] = {}
        self._looked_ns = 0
        self._own_cgroups: list[str] = []
        # Readable is what has changed since it was last looked at; proc_pid_mountinfo(5).
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._mounts = select.poll()
        self._mounts.register(self._mountinfo, select.POLLPRI)

    def serve(self, idle_ms: int = IDLE_MS) -> None:
        """Answer until nobody has asked for *idle_ms* milliseconds. Raises OSError where there is a planner already."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        lock = _locked(f"{self._name}.lock")
        if lock < 0:
            return
        listener = self._listen()
        try:
            self._own_cgroups = _move_to_own_cgroups()
            self._unchanged()
            _settle()
            poller = select.poll()
            poller.register(listener.fileno(), select.POLLIN)
            while poller.poll(idle_ms):
                fd, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
                caller = _socket.socket(fileno=fd)
                try:
                    if not self._answer(caller):
                        break
                finally:
                    caller.close()
        finally:
            # In this order: nobody is to find a socket that nobody serves, or a lock that somebody holds.
            os.unlink(self._name)
            listener.close()
            os.unlink(f"{self._name}.lock")
            os.close(lock)
            _remove(self._directory)
            _leave_cgroups(self._own_cgroups)

    def _listen(self) -> _socket.socket:
        """Listen under a temporary name, and take the real one when callers need not wait."""
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        here = os.open(self._directory, os.O_PATH | os.O_CLOEXEC)
        temporary = f"{os.path.basename(self._name)}.new"
        try:
            _unlink(f"{self._directory}/{temporary}")
            listener.bind(f"/proc/self/fd/{here}/{temporary}")
            listener.listen(_BACKLOG)
            os.rename(f"{self._directory}/{temporary}", self._name)
        finally:
            os.close(here)
        return listener

    def _answer(self, caller: _socket.socket) -> bool:
        """Serve one caller; False if it is time to go."""
        pid, uid = _peer(caller)
        if uid != os.geteuid():
            return True
        caller.setblocking(False)
        message, descriptors = _receive(caller)
        try:
            if not self._unchanged():
                _send(caller, _DECLINE)
                return False
            plan = self._plan(message, descriptors, pid)
            if plan is None:
                _send(caller, _DECLINE)
            else:
                _send(caller, _PLAN, plan)
        except OSError:
            pass  # the caller has gone
        finally:
            for fd in descriptors:
                os.close(fd)
        return True

    def _plan(self, message: bytes, descriptors: Sequence[int], pid: int) -> bytes | None:
        """The plan that is asked for; None for what is another world's, not understood, or an error of any kind."""
        if len(message) < _ASK.size:
            return None
        magic, version, plan_version, argc, envc, has_bundle, *rest = _ASK.unpack_from(message)
        world = World(tuple(rest[:4]), tuple(rest[4:6]), tuple(rest[6:]))
        if (magic, version, plan_version) != (_MAGIC, _VERSION, native.VERSION) or world != self._world:
            return None
        words = os.fsdecode(message[_ASK.size :]).split("\0")
        if len(words) != argc + envc + 1 or len(descriptors) != 1 + bool(has_bundle):
            return None
        env = dict(word.partition("=")[::2] for word in words[argc:-1])
        env["PYRUNC_CALLER"] = str(pid)
        try:
            os.fchdir(descriptors[0])
            self._see_as(env)
            plan = _prepare(words[:argc], descriptors[0], descriptors[1] if has_bundle else -1, env)
        except Exception:  # noqa: BLE001
            return None  # whatever it is, the caller finds it too, and has the words
        else:
            # What names this process may not be there any more when the plan is carried out.
            return None if f"/proc/{os.getpid()}/".encode() in plan else plan
        finally:
            os.chdir("/")

    def _see_as(self, env: Mapping[str, str]) -> None:
        """Have what is read of this process be as it is for the caller, and of the host as it is now."""
        for key in [key for key in os.environ if f"{key}=".startswith(_MATTERS)]:
            del os.environ[key]
        os.environ.update(env)
        if self._mounts.poll(0):
            from pyrunc.runtime import cgroup_layout

            cgroup_layout.detect.cache_clear()

    def _unchanged(self) -> bool:
        """Whether the files that this process was made of are as they were, when that was last looked at."""
        now = _monotonic_ns()
        if now - self._looked_ns < _LOOK_AGAIN_NS:
            return True
        self._looked_ns = now
        found: dict[str, tuple[int, int]] = {}
        for module in [*sys.modules.values()]:
            path = getattr(module, "__file__", None)
            if path is not None and module.__name__.startswith("pyrunc"):
                try:
                    status = os.stat(path)
                except OSError:
                    return False
                found[path] = status.st_mtime_ns, status.st_size
        if any(found.get(path) != seen for path, seen in self._files.items()):
            return False
        self._files = found
        try:
            return own_world(self._front_door) == self._world
        except OSError:
            return False


def _prepare(arguments: list[str], cwd_fd: int, bundle_fd: int, env: Mapping[str, str]) -> bytes:
    # Each verb is a module of its own, imported when it is first asked for.
    module = __import__("pyrunc.oci.create" if bundle_fd >= 0 else "pyrunc.oci.exec", fromlist=["prepare"])
    plan: bytes = module.prepare(arguments, cwd_fd, bundle_fd, env)
    return plan


def _settle() -> None:
    """What is here stays: the collector need not look at it again and again."""
    import gc

    gc.collect()
    gc.freeze()


def _monotonic_ns() -> int:
    import time

    return time.monotonic_ns()


def _peer(connection: _socket.socket) -> tuple[int, int]:
    """Pid and uid of who is at the other end."""
    data = connection.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, 12)
    return int.from_bytes(data[:4], sys.byteorder), int.from_bytes(data[4:8], sys.byteorder)


def _receive(caller: _socket.socket) -> tuple[bytes, list[int]]:
    """Its message and descriptors; nothing from one that sends nothing."""
    poller = select.poll()
    poller.register(caller.fileno(), select.POLLIN)
    if not poller.poll(_PATIENCE_MS):
        return b"", []
    try:
        data, control, flags, _ = caller.recvmsg(_ASK.size + _ROOM, 4096, _MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", []
    descriptors = [
        int.from_bytes(payload[at : at + 4], sys.byteorder)
        for level, kind, payload in control
        if level == _socket.SOL_SOCKET and kind == _SCM_RIGHTS
        for at in range(0, len(payload) - 3, 4)
    ]
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
        data = b""
    return data, descriptors


def _send(caller: _socket.socket, kind: int, plan: bytes = b"") -> None:
    """Answer. Raises OSError when nobody listens any more."""
    message = _ANSWER.pack(_MAGIC, kind)
    if kind != _PLAN:
        caller.send(message, _socket.MSG_NOSIGNAL)
        return
    from pyrunc.runtime.spawner import sealed_memfd

    fd = sealed_memfd("pyrunc-plan", plan)
    try:
        rights = [(_socket.SOL_SOCKET, _SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
        caller.sendmsg([message], rights, _socket.MSG_NOSIGNAL)
    finally:
        os.close(fd)


def _locked(path: str) -> int:
    """An open lock on *path*, or -1 if another process has it. Raises OSError."""
    import fcntl

    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BlockingIOError:
            os.close(fd)
            return -1
        except FileNotFoundError:
            pass  # its holder has just ended
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _remove(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:
        pass


def _move_to_own_cgroups() -> list[str]:
    """Leave the cgroups of the starter, whose owner may want to remove them; the directories of our own."""
    from pyrunc._native import cgroup
    from pyrunc.runtime import cgroup_layout

    made = []
    layout = cgroup_layout.detect()
    for hierarchy in (*layout.hierarchies, *layout.named):
        path = f"{hierarchy.mountpoint}{_CGROUP}"
        cpuset = "cpuset" in hierarchy.controllers and hierarchy.version == 1
        try:
            cgroup.make(
                os.fsencode(hierarchy.mountpoint),
                os.fsencode(_CGROUP),
                cpuset=cpuset,
                seed=cpuset,
                existing=True,
            )
            made.append(path)
            # One thread is all there is; by `tasks` it moves in a fraction of the time.
            _write(f"{path}/{'tasks' if hierarchy.version == 1 else 'cgroup.procs'}", b"0")
        except OSError:
            continue
    return made


def _leave_cgroups(directories: Sequence[str]) -> None:
    for path in directories:
        try:
            version_1 = os.path.exists(f"{path}/tasks")
            _write(f"{os.path.dirname(path)}/{'tasks' if version_1 else 'cgroup.procs'}", b"0")
            os.rmdir(path)
        except OSError:
            continue  # another planner is in there


def _write(path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)
