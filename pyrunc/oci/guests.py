"""Who comes to a planner's socket, and who of them has said something: nobody is waited for who says nothing.

A caller of the front door's says all at once. Others of the same user may do as they like: whoever is silent, hangs up,
or sends what is too much costs a place among many, and the one that came first gives up its own.
"""

from __future__ import annotations

import _socket  # without what the socket module adds: its import costs milliseconds
import select
import sys

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 128
_AT_ONCE = 16  # that are let in before those who are there are served
_SCM_RIGHTS = 1
_MSG_CMSG_CLOEXEC = 0x40000000


class Guests:
    """Those who are connected to *listener* and have said nothing yet, in the order of their coming."""

    def __init__(self, listener: _socket.socket) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._waiting: dict[int, _socket.socket] = {}
        self._poller = select.poll()
        self._poller.register(listener.fileno(), select.POLLIN)

    def wait(self, patience_ms: int) -> Iterator[_socket.socket]:
        """Those of whom there is something to hear, which the caller has to close; none after *patience_ms*."""
        ready = [fd for fd, _ in self._poller.poll(patience_ms)]
        # Before others are let in, for whom one that has spoken would have to go.
        for fd in ready:
            if fd in self._waiting:
                self._poller.unregister(fd)
                yield self._waiting.pop(fd)
        if self._listener.fileno() in ready:
            self._let_in()

    def _let_in(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left, or it has gone
                self._drop_first()
                return
            guest = _socket.socket(fileno=fd)
            guest.setblocking(False)
            self._waiting[fd] = guest
            self._poller.register(fd, select.POLLIN)
            if len(self._waiting) > _MOST:
                self._drop_first()

    def _drop_first(self) -> None:
        for fd in self._waiting:
            self._poller.unregister(fd)
            self._waiting.pop(fd).close()
            return


def receive(guest: _socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Its message, empty if it has more than *most* bytes, and descriptors; nothing of one that hung up."""
    try:
        data, control, flags, _ = guest.recvmsg(most, 4096, _MSG_CMSG_CLOEXEC)
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
