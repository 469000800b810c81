"""Clients of a container's shim: its output, its input, its terminal's size, and how it ends.

A connection carries frames both ways: kind, three zeros, length (big-endian), and so many bytes.

| kind | from, to      | payload                                                                          |
|------|---------------|----------------------------------------------------------------------------------|
| 0    | client, shim  | input for the program                                                            |
| 16   | client, shim  | HELLO, first and once: u32 of 1 stdin, 2 stdout, 4 stderr                        |
| 17   | client, shim  | CLOSE_STDIN: no more input; counts where the container's stdin opens only once   |
| 18   | client, shim  | RESIZE: u16 rows, u16 columns                                                    |
| 19   | client, shim  | DETACH: that this client goes is no end of the input                             |
| 1, 2 | shim, client  | output, as in Docker's multiplexed stream; of a terminal all is 1                |
| 20   | shim, client  | EXIT: the line of `status`; then the connection closes                           |
| 21   | shim, client  | READY, after HELLO: from here on this client misses nothing                      |
"""

from __future__ import annotations

import _socket  # see pyrunc.runtime.spawner
import os

from pyrunc.errors import FailedPrecondition
from pyrunc.runtime import held
from pyrunc.runtime.shim_state import Status, numbers_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

STDIN, STDOUT, STDERR = 0, 1, 2
_HELLO, _CLOSE_STDIN, _RESIZE, _DETACH, _EXIT, _READY = 16, 17, 18, 19, 20, 21
_HEAD_SIZE = 8  # the kind, three zeros, the length
_CHUNK = 65536
_INPUT_MOST = 65536  # of one frame


class AttachClient(held.Holder):
    """One connection to a shim; nothing here waits but `connect` and `ready`.

    A forked child lets go of it, since the container's input may end with its last holder.
    """

    def __init__(self, sock: _socket.socket, wants: int) -> None:
        """*sock* is connected; *wants* is HELLO's. With held.lock held since *sock* was made."""
        self._sock = sock
        self._received = bytearray()
        self._unsent = b""  # of a frame that the socket did not take whole
        self._is_ready = False
        self.exit_status: Status | None = None
        self.closed = False
        held.note(self)
        sock.setblocking(False)
        self._send(_head(_HELLO, 4) + wants.to_bytes(4, "big"))

    @classmethod
    def connect(
        cls, state_dir: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True,
        name: str = "attach",
    ) -> Self:  # fmt: skip
        """Attach to the container of *state_dir*.

        Raises FailedPrecondition if no shim listens there.
        """
        directory = -1
        with held.lock:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                sock.connect(f"/proc/self/fd/{directory}/{name}")  # a path may be too long for an address
                return cls(sock, _wants(stdin, stdout, stderr))
            except (FileNotFoundError, ConnectionRefusedError) as exc:
                sock.close()
                raise FailedPrecondition(f"{state_dir}: the container does not run") from exc
            except BaseException:
                sock.close()
                raise
            finally:
                if directory >= 0:
                    os.close(directory)

    @classmethod
    def pair(cls, *, stdin: bool, stdout: bool, stderr: bool) -> tuple[Self, int]:
        """A client that is attached from the start, and the descriptor to pass to pyrunc.runtime.shim.start.

        That one is the caller's, to be closed after it.
        """
        with held.lock:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
            return cls(ours, _wants(stdin, stdout, stderr)), theirs.detach()

    def fileno(self) -> int:
        """Readable when there is something to `receive`, writable when `send` would take something; or -1."""
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether a part of what `send` and the others took waits for the socket; `flush` when that is writable."""
        return bool(self._unsent)

    def flush(self) -> bool:
        """Send what is pending; whether all of it has gone."""
        if self._unsent and not self.closed:
            self._send(b"")
        return not self._unsent

    def receive(self) -> list[tuple[int, bytes]]:
        """What has come since: (STDOUT or STDERR, data), in order.

        After the shim's last word `closed` is true, and `exit_status` says how the container ended, or is None if
        the shim was killed.
        """
        if self.closed:
            return []
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return []
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
            return []
        self._received += data
        return self._frames()

    def _frames(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        at = 0
        while len(self._received) - at >= _HEAD_SIZE:
            kind = self._received[at]
            length = int.from_bytes(self._received[at + 4 : at + _HEAD_SIZE], "big")
            end = at + _HEAD_SIZE + length
            if len(self._received) < end:
                break
            data = bytes(self._received[at + _HEAD_SIZE : end])
            at = end
            if kind in (STDOUT, STDERR):
                found.append((kind, data))
            elif kind == _READY:
                self._is_ready = True
            elif kind == _EXIT:
                self.exit_status = Status.of(numbers_of(data.decode("ascii")))
        del self._received[:at]
        return found

    @property
    def is_ready(self) -> bool:
        """Whether the shim has said that this client misses nothing from here on; `receive` finds out."""
        return self._is_ready

    def send(self, data: bytes | memoryview) -> int:
        """Give the program input; how much was taken, 0 if the socket must become writable first."""
        if self.closed or not self.flush() or not data:
            return 0
        part = bytes(data[:_INPUT_MOST])
        self._send(_head(STDIN, len(part)) + part)
        return len(part)

    def close_stdin(self) -> None:
        """Say that no more input comes, which ends the program's where the container's stdin opens only once."""
        self._send(_head(_CLOSE_STDIN, 0))

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the program's terminal."""
        self._send(_head(_RESIZE, 4) + rows.to_bytes(2, "big") + columns.to_bytes(2, "big"))

    def detach(self) -> None:
        """Leave; the program's input stays open for others.

        But where it opens only once, and the program does not even take what `pending` waits behind, this is as
        `close`: it says so behind the input. Docker ends the input of such a program with any client's leaving.
        """
        self._send(_head(_DETACH, 0))
        self.close()

    def shut(self) -> None:
        """Wake who waits for the descriptor in another thread; `close` comes next."""
        try:
            self._sock.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # it is over

    def close(self) -> None:
        """Hang up, which ends the program's input as `close_stdin` does."""
        if not self.closed:
            self.closed = True
            held.forget(self)
            self._sock.close()

    def let_go(self) -> None:
        """In a process that this one was forked into."""
        self.close()

    def _send(self, frame: bytes) -> None:
        """Send what is pending and *frame*, or keep what the socket does not take."""
        if self.closed:
            return
        self._unsent += frame
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent, _socket.MSG_NOSIGNAL) :]
        except (BlockingIOError, InterruptedError):
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._unsent = b""  # its last words may still be there to be received

    def __del__(self) -> None:
        if hasattr(self, "_sock"):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wants(stdin: bool, stdout: bool, stderr: bool) -> int:
    return bool(stdin) | bool(stdout) << 1 | bool(stderr) << 2


def _head(kind: int, length: int) -> bytes:
    return bytes((kind, 0, 0, 0)) + length.to_bytes(4, "big")
