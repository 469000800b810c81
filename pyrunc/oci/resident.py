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
| see more than a caller     | the kernel says what either may, and that has to be the same                    |
| be held up                 | a caller says all at once or is not heard; files are regular; time is limited   |

The messages are drawn in `pyrunc/_native/oci_planner.pxd`.
"""

from __future__ import annotations

import _socket  # without what the socket module adds: its import costs milliseconds
import os
import select
import signal
import stat
import sys
from _struct import Struct

from pyrunc._native import plan as native
from pyrunc._native import standing
from pyrunc.oci.guests import Guests, receive
from pyrunc.oci.parting import leave_cgroups, move_to_own_cgroups
from pyrunc.records import NamedTuple
from pyrunc.runtime import caller as served

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IDLE_MS = 60_000
_MAGIC, _VERSION = 0x52504F50, 2
_PLAN, _DECLINE = 1, 2
_ROOM = 1 << 16
_PATIENCE_MS = 300  # as PLANNER_PATIENCE_MS
_OVERDUE_MOST = 8
_LOOK_AGAIN_NS = 500_000_000
_BACKLOG = 256
_ASK = Struct("=6I4Q2Q8Q2Q")
_ANSWER = Struct("=II")
_NAMESPACES = ("mnt", "user", "pid", "net", "cgroup", "uts", "ipc", "time")
# What of the environment a caller sends, and so what of its own a planner does not use.
_MATTERS = (
    "LISTEN_", "PYRUNC_", "NOTIFY_SOCKET=", "XDG_RUNTIME_DIR=", "PATH=", "USER=", "DBUS_SESSION_BUS_ADDRESS=",
)  # fmt: skip
# Of /proc/<pid>/status.
_RIGHTS = (b"Uid:", b"Gid:", b"Groups:", b"Cap", b"NoNewPrivs:", b"Seccomp")
_SO_PEERCRED, _SO_PEERPIDFD = 17, 77
_SCM_RIGHTS = 1


class World(NamedTuple):
    """What has to be the same for a path to mean the same."""

    executable: tuple[int, ...]
    root: tuple[int, ...]
    namespaces: tuple[int, ...]
    standing: tuple[int, ...]


def own_world(front_door: str) -> World:
    """Where we are, as callers of *front_door* would say it. Raises OSError."""
    exe, root = os.stat(front_door), os.stat("/")
    return World(
        (exe.st_dev, exe.st_ino, exe.st_size, exe.st_mtime_ns),
        (root.st_dev, root.st_ino),
        tuple(map(_namespace, _NAMESPACES)),
        standing.standing(),
    )


def _namespace(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except FileNotFoundError:
        return 0  # the kernel has none of this kind


def rights_of(pid: int | str, *, labelled: bool) -> tuple[bytes, ...]:
    """Whatever decides what a process may read, as the kernel says it; not what it says itself. Raises OSError.

    Where a security module has them, a process is *labelled*, too.
    """
    with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
        found = [line for line in status.read().split(b"\n") if line.startswith(_RIGHTS)]
    if labelled:
        with open(f"/proc/{pid}/attr/current", "rb", buffering=0) as label:
            found.append(label.read())
    return tuple(found)


def has_label() -> bool:
    """Whether a security module gives labels to processes."""
    try:
        with open("/proc/self/attr/current", "rb", buffering=0) as label:
            return bool(label.read())
    except OSError:
        return False


class Planner:
    """One planner; it serves one caller after another."""

    def __init__(self, front_door: str, directory: str, name: str) -> None:
        self._directory = directory
        self._name = name
        self._world = own_world(front_door)
        self._labelled = has_label()
        self._rights = rights_of("self", labelled=self._labelled)
        self._front_door = front_door
        self._files: dict[str, tuple[int, int]] = {}
        self._looked_ns = 0
        self._served_ns = _monotonic_ns()
        self._overdue = 0
        self._own_cgroups: list[str] = []
        # Readable is what has changed since it was last looked at; proc_pid_mountinfo(5).
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._mounts = select.poll()
        self._mounts.register(self._mountinfo, select.POLLPRI)

    def serve(self, idle_ms: int = IDLE_MS) -> None:
        """Answer until nobody was served for *idle_ms* milliseconds; not at all where there is a planner already.

        Raises OSError.
        """
        os.makedirs(self._directory, 0o700, exist_ok=True)
        if not _is_ours(self._directory):
            return
        lock = _locked(f"{self._name}.lock")
        if lock < 0:
            return
        listener = self._listen()
        try:
            self._own_cgroups = move_to_own_cgroups()
            self._unchanged()
            _settle()
            signal.signal(signal.SIGALRM, _too_late)
            guests = Guests(listener)
            while (left_ms := idle_ms - (_monotonic_ns() - self._served_ns) // 1_000_000) > 0:
                for caller in guests.wait(left_ms):
                    try:
                        if not self._answer(caller):
                            return
                    finally:
                        caller.close()
        finally:
            # In this order: nobody is to find a socket that nobody serves, or a lock that somebody holds.
            _unlink(self._name)
            listener.close()
            _unlink(f"{self._name}.lock")
            os.close(lock)
            _remove(self._directory)
            leave_cgroups(self._own_cgroups)

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
        message, descriptors = receive(caller, _ASK.size + _ROOM)
        if not message and not descriptors:
            return True  # it has gone
        try:
            if not self._unchanged():
                _send(caller, _DECLINE)
                return False
            plan = self._plan(message, descriptors, pid) if self._is_alike(caller, pid) else None
            if plan is None:
                _send(caller, _DECLINE)
            else:
                self._served_ns = _monotonic_ns()
                _send(caller, _PLAN, plan)
        except OSError:
            pass  # the caller has gone
        finally:
            for fd in descriptors:
                os.close(fd)
        # What was interrupted may have left something open: a few times only.
        return self._overdue < _OVERDUE_MOST

    def _is_alike(self, caller: _socket.socket, pid: int) -> bool:
        """Whether the caller may do what we may: else it would be told what it could not find out itself."""
        pidfd = _peer_pidfd(caller)
        try:
            if rights_of(pid, labelled=self._labelled) != self._rights:
                return False
        except OSError:
            return False
        else:
            return pidfd < 0 or not _has_ended(pidfd)  # the number may have become another's
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def _plan(self, message: bytes, descriptors: Sequence[int], pid: int) -> bytes | None:
        """The plan that is asked for; None for what is another world's, not understood, or an error of any kind."""
        if len(message) < _ASK.size:
            return None
        magic, version, plan_version, argc, envc, has_bundle, *rest = _ASK.unpack_from(message)
        world = World(tuple(rest[:4]), tuple(rest[4:6]), tuple(rest[6:14]), tuple(rest[14:]))
        if (magic, version, plan_version) != (_MAGIC, _VERSION, native.VERSION) or world != self._world:
            return None
        words = os.fsdecode(message[_ASK.size :]).split("\0")
        if len(words) != argc + envc + 1 or len(descriptors) != 1 + bool(has_bundle):
            return None
        env = dict(word.partition("=")[::2] for word in words[argc:-1])
        try:
            # Whoever has waited for longer does without; who names what never answers holds nobody else up.
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE_MS / 1000)
            served.serve(pid)
            os.fchdir(descriptors[0])
            self._see_as(env)
            plan = _prepare(words[:argc], descriptors[0], descriptors[1] if has_bundle else -1, env)
        except _TooLateError:
            self._overdue += 1
            return None
        except Exception:  # noqa: BLE001
            return None  # whatever it is, the caller finds it too, and has the words
        else:
            # What names this process may not be there any more when the plan is carried out.
            return None if f"/proc/{os.getpid()}/".encode() in plan else plan
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            served.serve(0)
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


def _peer_pidfd(connection: _socket.socket) -> int:
    """A pidfd of who is at the other end; -1 before Linux 6.5."""
    try:
        return connection.getsockopt(_socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return -1


def _has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


class _TooLateError(BaseException):
    """The caller has given up."""


def _too_late(*_: object) -> None:
    raise _TooLateError


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


def _is_ours(directory: str) -> bool:
    """Whether nobody else can put anything in its place, or in it."""
    status = os.lstat(directory)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


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
