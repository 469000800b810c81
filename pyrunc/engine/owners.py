"""The containers that this process has started and that go on: a thread takes note of their ends.

So an end costs no process of its own as long as their starter lives. Whoever waits for a container here takes it from
the thread meanwhile, and takes note himself.
"""

import os
import select
from _thread import allocate_lock, start_new_thread

from pyrunc.engine import finish
from pyrunc.engine.parts import lock
from pyrunc.errors import PyruncError, TimedOut

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.engine.parts import Parts
    from pyrunc.runtime.shim import ShimProcess

_REMEMBERED = 1024  # ends; a number each
_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class _Owned:
    """A container of ours: the owner's end of its shim, and who waits for it."""

    __slots__ = ("code", "guard", "process")

    def __init__(self, process: "ShimProcess") -> None:
        self.process = process
        self.guard = allocate_lock()  # of whoever takes the record of the end
        self.code: int | None = None


class Owners:
    """Those of one engine on *parts*; unless it *watches*, only who waits for one takes note of its end."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts
        self._pid = 0
        self._owned: dict[str, _Owned] = {}
        self._by_fd: dict[int, str] = {}
        self._epoll: select.epoll | None = None
        self._over = -1
        self._codes: dict[str, int] = {}
        self.watches = True

    def code(self, container_id: str) -> int | None:
        """How a container ended of which this process took note, also of one that is gone since."""
        return self._codes.get(container_id)

    def add(self, container_id: str, process: "ShimProcess") -> None:
        """Take note of the end of a container that has just been started."""
        with lock:
            if self._pid != os.getpid():
                # A process that was forked has none of the containers, and no thread yet.
                self._owned, self._by_fd = {}, {}
                self._epoll, self._over = select.epoll(), os.eventfd(0, os.EFD_CLOEXEC)
                self._epoll.register(self._over, select.EPOLLIN)
                if self.watches:
                    start_new_thread(self._watch, (self._epoll, self._over))
                self._pid = os.getpid()  # last: who is interrupted before has begun nothing
            assert self._epoll is not None
            self._codes.pop(container_id, None)
            # In this order: what an interrupted one has begun is nobody's.
            self._epoll.register(process.fileno(), _ONCE)
            self._by_fd[process.fileno()] = container_id
            self._owned[container_id] = _Owned(process)

    def wait(self, container_id: str, timeout_s: float | None) -> int | None:
        """Wait for the end of a container of ours and take note of it: its exit code; None if it is not ours.

        Raises TimedOut.
        """
        with lock:
            owned = self._owned.get(container_id) if self._pid == os.getpid() else None
            if owned is None:
                return None
            fd = self._watched(owned, 0)
            ours = os.dup(fd) if fd >= 0 else -1
        if ours < 0:
            with owned.guard:  # somebody is at it
                return owned.code
        try:
            poller = select.poll()
            poller.register(ours, select.POLLIN)
            if not poller.poll(None if timeout_s is None else timeout_s * 1000):
                raise TimedOut(f"the container still runs after {timeout_s} s")
            return self._end(container_id, owned)
        finally:
            os.close(ours)
            with lock:
                self._watched(owned, _ONCE)

    def forget(self, container_id: str) -> None:
        """A container is removed, or goes on without us: its shim does what is due."""
        with lock:
            owned = self._owned.pop(container_id, None) if self._pid == os.getpid() else None
        if owned is None:
            return
        with owned.guard:
            if owned.code is None:
                self._let_go(owned)
                owned.process.release()

    def close(self) -> None:
        """Let all go on without us."""
        with lock:
            mine = list(self._owned) if self._pid == os.getpid() else []
        for container_id in mine:
            self.forget(container_id)
        with lock:
            if self._pid == os.getpid():
                if self.watches:
                    os.eventfd_write(self._over, 1)
                elif self._epoll is not None:
                    self._epoll.close()
                    os.close(self._over)
            self._epoll, self._pid = None, 0

    def _watch(self, epoll: select.epoll, over: int) -> None:
        while True:
            for fd, _ in epoll.poll():
                if fd == over:
                    epoll.close()
                    os.close(over)
                    return
                with lock:
                    container_id = self._by_fd.get(fd, "")
                    owned = self._owned.get(container_id)
                    # Of what was told, another may have taken note since, and the number be the next container's.
                    ended = owned is not None and _has_come(fd)
                if owned is not None and ended:
                    self._end(container_id, owned)

    def _end(self, container_id: str, owned: _Owned) -> int:
        """Take the record of the end, unless somebody has, and do what is due."""
        with owned.guard:
            if owned.code is not None:
                return owned.code
            try:
                try:
                    code = int(owned.process.wait(0).exit_code)
                except PyruncError:
                    code = 137  # the shim was killed, and the container with it
                found = finish.settle(self._parts, container_id)
                over = found is None or found.state != "restarting"
            except (PyruncError, OSError):
                over = False  # such as a full disk: the exit command may have more luck
            except (
                BaseException
            ):  # such as Ctrl-C: the shim, which waits for our word, shall not wait for ever
                self._let_go(owned)
                owned.process.release()
                raise
            self._let_go(owned)
            if over:
                owned.process.finished()
            else:
                owned.process.release()
            owned.code = code
        with lock:
            if self._owned.get(container_id) is owned:
                del self._owned[container_id]
            self._codes.pop(container_id, None)
            self._codes[container_id] = code
            if len(self._codes) > _REMEMBERED:
                self._codes.pop(next(iter(self._codes)))
        return code

    def _watched(self, owned: _Owned, events: int) -> int:
        """Change for which events the thread looks at a container: its descriptor; -1 if it is over."""
        fd = owned.process.fileno()
        if fd < 0 or self._epoll is None or fd not in self._by_fd:
            return -1
        self._epoll.modify(fd, events)
        return fd

    def _let_go(self, owned: _Owned) -> None:
        with lock:
            fd = owned.process.fileno()
            if fd >= 0 and self._by_fd.pop(fd, None) is not None and self._epoll is not None:
                self._epoll.unregister(fd)


def _has_come(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
