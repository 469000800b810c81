"""The spawner as Python sees it: one resident `pyrunc-init spawner` for each Python process.

It is started with the first request, forks a supervisor for each further one, and ends when
its socket closes, however this process dies. A forked child of this process gets its own.
"""

from __future__ import annotations

import _socket  # without what the socket module adds: its import costs milliseconds
import atexit
import fcntl
import os
import select
import sys
from _thread import allocate_lock

from pyrunc._native.requester import send_request
from pyrunc.errors import PermissionDenied, Unavailable, Unsupported
from pyrunc.runtime import cgroup_layout, held

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

_F_ADD_SEALS, _SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 0x1, 0x2, 0x10
_KERNEL_MINIMUM = (5, 15)
_END_WAIT_MS = 5000
_AT_FDCWD = -100
DEFAULT_PARENT = "/pyrunc"

_lock = allocate_lock()
_current: Spawner | None = None


def sealed_memfd(name: str, data: bytes | bytearray, *, executable: bool = False) -> int:
    """A descriptor of an anonymous file that holds *data* and can never change; memfd_create(2)."""
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        # Linux 6.3 asks which memfds shall be executable; before, the flag is unknown.
        fd = os.memfd_create(name, flags | (_MFD_EXEC if executable else 0))
    except OSError:
        fd = os.memfd_create(name, flags)
    try:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, memoryview(data)[written:])
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def init_path() -> str:
    """Where `pyrunc-init` lies: beside the native modules in a checkout, else in bin of the installation."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    prefix = os.path.normpath(os.path.join(package, "..", "..", "..", ".."))
    places = [
        os.path.join(package, "_native", "pyrunc-init"),
        os.path.join(prefix, "bin", "pyrunc-init"),
        os.path.join(os.path.dirname(package), "bin", "pyrunc-init"),
        os.path.join(sys.prefix, "bin", "pyrunc-init"),
    ]
    for path in places:
        if os.path.exists(path):
            return path
    raise Unavailable(f"pyrunc-init is not installed: looked for {', '.join(places)}")


def protected(path: str) -> int:
    """A descriptor of the program *path* that nobody who gets hold of it can write to (CVE-2019-5736).

    It is on a read-only mount that is attached nowhere, where processes share its memory; where that may not be made,
    it is a sealed copy. Raises OSError.
    """
    from pyrunc._native import mount

    try:
        fd = mount.open_tree(_AT_FDCWD, os.fsencode(path), mount.OPEN_TREE_CLONE | os.O_CLOEXEC)
    except OSError:
        fd = -1
    if fd >= 0:
        try:
            mount.mount_setattr(
                fd, attr_set=mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
            )
            return fd
        except OSError:
            os.close(fd)
    with open(path, "rb") as file:
        return sealed_memfd("pyrunc-init", file.read(), executable=True)


def check_host() -> None:
    """Refuse at once, in one line, what cannot work: too old a kernel, or no privileges.

    Raises Unsupported or PermissionDenied.
    """
    release = os.uname().release
    numbers = tuple(
        int("".join(filter(str.isdigit, part)) or 0) for part in release.split("-")[0].split(".")[:2]
    )
    if numbers < _KERNEL_MINIMUM:
        raise Unsupported(f"kernel {release} is too old: pyrunc needs Linux 5.15 or newer")
    if os.geteuid() != 0:
        raise PermissionDenied("pyrunc needs root to make namespaces and cgroups; run it with sudo")


class Spawner:
    """The socket to one spawner process."""

    def __init__(self) -> None:
        check_host()
        shared = [hierarchy.mountpoint + DEFAULT_PARENT for hierarchy in cgroup_layout.detect().hierarchies]
        program = protected(init_path())
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        # dup2 onto its own number would leave FD_CLOEXEC set: the copies come from numbers above those they get.
        far = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 16)
        near = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        null = fcntl.fcntl(near, fcntl.F_DUPFD_CLOEXEC, 16)
        os.close(near)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
            actions.append((os.POSIX_SPAWN_DUP2, far, 3))
            self.pid = os.posix_spawn(
                f"/proc/self/fd/{program}", ["pyrunc-init", "spawner", *shared], {}, file_actions=actions,
                setsigmask=[], setsigdef=range(1, 32),
            )  # fmt: skip
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as exc:
            ours.close()
            raise Unavailable(f"cannot start pyrunc-init: {os.strerror(exc.errno or 0).lower()}") from exc
        finally:
            theirs.close()
            os.close(far)
            os.close(program)
            os.close(null)
        self._socket = ours

    def send(self, descriptors: Sequence[int], wait: bool) -> None:
        """Send one request: plan, reply socket, then the plan's own descriptors.

        Raises BrokenPipeError or ConnectionResetError when the spawner is dead, and
        BlockingIOError when its queue is full and *wait* is False.
        """
        send_request(self._socket.fileno(), descriptors, wait)

    def hang_up(self) -> None:
        """Let the spawner end; who is about to send to it gets BrokenPipeError."""
        try:
            self._socket.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # it is dead already

    def reap(self, timeout_ms: int = _END_WAIT_MS) -> None:
        """Wait for its end, but not for ever: it ends after the last of its supervisors."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if poller.poll(timeout_ms):
            try:
                # By descriptor: a host program that reaps every child may have a new one of that number.
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            except ChildProcessError:
                pass

    def close(self) -> None:
        """Close the descriptors; what was sent is not affected."""
        self._socket.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __del__(self) -> None:
        # Not sooner: the number of a closed socket could be another's while a thread sends.
        if hasattr(self, "_pidfd"):
            self.close()


def request(descriptors: Sequence[int], wait: bool = True) -> None:
    """Send one request to this process's spawner, which is started, or started anew, as needed.

    Raises Unavailable when none can be started, and BlockingIOError when its queue is full and *wait* is False.
    """
    global _current
    for _ in range(3):
        spawner = current()
        try:
            spawner.send(descriptors, wait)
            return
        except (BrokenPipeError, ConnectionResetError):
            # Killed, or shut down by another thread: nothing of this request was taken.
            with _lock:
                if _current is spawner:
                    _current = None
            spawner.hang_up()
            spawner.reap(0)
    raise Unavailable("the spawner dies as soon as it is started")


def current() -> Spawner:
    """The spawner of this process, started if there is none.

    Raises Unavailable, Unsupported or PermissionDenied.
    """
    global _current
    spawner = _current
    if spawner is None:
        with _lock:
            if _current is None:
                _current = Spawner()
            spawner = _current
    return spawner


def shut_down() -> None:
    """End this process's spawner, when the last container has ended; the next request starts another."""
    global _current
    with _lock:
        spawner, _current = _current, None
    if spawner is not None:
        spawner.hang_up()
        spawner.reap()


def _at_exit() -> None:
    # What still runs ends now: its supervisors, for which the spawner waits, would wait for this process.
    held.end_all()
    shut_down()


def _forget() -> None:
    global _current, _lock
    _lock = allocate_lock()
    if _current is not None:
        _current.close()
        _current = None


os.register_at_fork(after_in_child=_forget)
atexit.register(_at_exit)
