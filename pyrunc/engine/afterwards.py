"""What is due after a run that keeps nothing, once its result is known: its files and rows are removed meanwhile.

A thread does that, within a millisecond. The shim waits for our word, so that if this process is killed before, the
exit command does the same. Who asks this engine for containers, images or events waits first, as do a fork, `close`
and the end of Python; so only another process can see that a container goes a little later than its result comes.
"""

import atexit
import os
from _thread import allocate_lock, get_ident, start_new_thread
from _weakref import ref

from pyrunc.engine import finish
from pyrunc.engine.parts import lock

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from _thread import LockType

    from pyrunc.engine.parts import Parts
    from pyrunc.runtime.shim import ShimProcess

_MOST = 4  # containers that wait for the thread; who has one more sees to it himself
_IDLE_S = 1.0  # how long the thread waits for the next one


class Afterwards:
    """Of one engine on *parts*. Safe to use from several threads, and after a fork."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts
        self._pid = 0
        self._due: list[tuple[str, ShimProcess]] = []
        self._work = allocate_lock()  # of the one who does it, *_worker*
        self._worker = 0
        self._bell = allocate_lock()  # held as long as there is nothing for the thread to do
        self._watches = False

    def take(self, container_id: str, process: "ShimProcess") -> None:
        """See that note is taken of a container's end, which has come, and that it goes."""
        with lock:
            if self._pid != os.getpid():
                # A process that was forked has no thread yet, and nothing was due when it was.
                self._due, self._watches, self._worker = [], False, 0
                self._work, self._bell = allocate_lock(), allocate_lock()
                self._bell.acquire()
                _all.append(ref(self, _all.remove))
                self._pid = os.getpid()
            self._due.append((container_id, process))
            many = len(self._due) > _MOST
            if not self._watches:
                start_new_thread(self._watch, (self._bell,))
                self._watches = True
            elif self._bell.locked():
                self._bell.release()
        if many:
            self.wait()

    def wait(self) -> None:
        """Return when all that was taken before is done."""
        while self._pid == os.getpid() and self._worker != get_ident() and (self._due or self._work.locked()):
            self._do_all()

    def _watch(self, bell: "LockType") -> None:
        while True:
            self._do_all()
            if not bell.acquire(True, _IDLE_S):
                with lock:
                    if not self._due:
                        self._watches = False
                        return

    def _do_all(self) -> None:
        with self._work:
            self._worker = get_ident()
            try:
                while self._due:
                    self._do(*self._due.pop(0))
            finally:
                self._worker = 0

    def _do(self, container_id: str, process: "ShimProcess") -> None:
        try:
            finish.settle(self._parts, container_id)
            process.finished()
        except Exception:  # noqa: BLE001
            process.release()  # such as a full disk: the exit command may have more luck
        except BaseException:
            process.release()
            raise


_all: "list[ref[Afterwards]]" = []


def _wait_for_all() -> None:
    for each in [*_all]:
        found = each()
        if found is not None:
            found.wait()


os.register_at_fork(before=_wait_for_all)
atexit.register(_wait_for_all)
