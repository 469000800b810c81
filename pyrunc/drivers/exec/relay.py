"""A terminal that an OCI runtime has made, and the one that a monitor has from its shim: one goes on in the other."""

import errno
import fcntl
import os
import select
import socket
import termios
from signal import SIGWINCH, signal

from pyrunc.runtime.terminal import raw

_CHUNK = 32768
_HUNG_MS = 300  # how often a terminal that no process has open is looked at
_TAKE_S = 10.0
_SIZE = b"\0" * 8  # struct winsize


class Console:
    """Where a runtime sends the terminal that it makes: *path* is for its --console-socket, at *directory*/console."""

    def __init__(self, directory: str) -> None:
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # However long that of the directory is, this path is short enough for a socket.
        self.path = f"/proc/{os.getpid()}/fd/{self._directory}/console"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen(1)
        # All that is the other terminal's.
        termios.tcsetattr(0, termios.TCSANOW, raw(termios.tcgetattr(0)))

    def take(self) -> int:
        """The terminal's master, which the runtime has sent by now. Raises OSError."""
        self._socket.settimeout(_TAKE_S)
        connection, _ = self._socket.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, _CHUNK, 1)
        self._socket.close()
        os.close(self._directory)
        if not descriptors:
            raise OSError(errno.EPROTO, "the runtime has sent no terminal")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]


def relay(master: int, pid: int) -> None:
    """Copy between this process's terminal and *master*, and sizes, until the process *pid* has ended."""
    os.set_blocking(master, False)
    signal(SIGWINCH, lambda *_: _pass_size(master))
    _pass_size(master)
    pidfd = os.pidfd_open(pid)
    left, hung, reads = b"", False, True
    while True:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if reads and not left:
            poller.register(0, select.POLLIN)
        if not hung:
            poller.register(master, select.POLLIN | (select.POLLOUT if left else 0))
        found = dict(poller.poll(_HUNG_MS if hung else None))
        hung = False
        if 0 in found:
            left = _read(0)
            reads = bool(left)
        if left:
            left = left[_written(master, left) :]
        if found.get(master, 0) & ~select.POLLOUT:
            data = _read(master)
            hung = not data
            _write_all(data)
        if pidfd in found:
            while data := _read(master):
                _write_all(data)
            break
    os.close(pidfd)
    os.close(master)


def _read(fd: int) -> bytes:
    """What is there; nothing of a terminal that no process has open."""
    try:
        return os.read(fd, _CHUNK)
    except OSError as exc:
        if exc.errno not in (errno.EIO, errno.EAGAIN):
            raise
        return b""


def _written(fd: int, data: bytes) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)  # nobody will read it


def _write_all(data: bytes) -> None:
    while data:
        data = data[_written(1, data) :]


def _pass_size(master: int) -> None:
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, _SIZE))
    except OSError:
        pass  # one of them has gone
