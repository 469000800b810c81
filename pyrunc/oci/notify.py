"""systemd's notification of readiness: what a container says at its own socket is told to the caller's, as runc does.

`create` makes the directory `notify` of the state directory, mounts it read-only at /run/notify in the container and
sets NOTIFY_SOCKET to /run/notify/notify.sock there. `start` binds that socket, waits until the container says READY=
or ends, and passes the line on with the pid that systemd should watch. What else a container says is not passed on.
Of a `run` the front door does so itself (pyrunc/_native/oci_readiness.pxd).

Source: sd_notify(3); runc's documentation of NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import select
import socket

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.state import Container

_DIRECTORY, _NAME = "notify", "notify.sock"


class Notify:
    """The socket of one container, bound before the container starts."""

    __slots__ = ("_host", "_socket")

    def __init__(self, container: Container, host: str) -> None:
        """Bind the socket; nothing is done where *host*, the caller's NOTIFY_SOCKET, is "".

        Nor is it where the container was created without one. Raises OSError.
        """
        self._host = host
        self._socket: socket.socket | None = None
        place = f"{container.directory}/{_DIRECTORY}"
        if not host or not os.path.isdir(place):
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        directory = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # By the descriptor: the path of a state directory may be longer than a socket's may be.
            path = f"/proc/self/fd/{directory}/{_NAME}"
            self._socket.bind(path)
            os.chmod(path, 0o777)  # whoever the container's program is must reach it
        finally:
            os.close(directory)

    def wait(self, pid: int) -> None:
        """Wait until the container, whose first process is *pid*, is ready or has ended; tell the caller's socket."""
        if self._socket is None:
            return
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.register(self._socket.fileno(), select.POLLIN)
            while True:
                ready = dict(poll.poll())
                if self._socket.fileno() in ready:
                    for line in self._socket.recv(4096).split(b"\n"):
                        if line.startswith(b"READY="):
                            self._tell(line, pid)
                            return
                elif process in ready:
                    return
        finally:
            os.close(process)

    def _tell(self, line: bytes, pid: int) -> None:
        # A leading @ stands for the NUL of an abstract socket.
        address = "\0" + self._host[1:] if self._host.startswith("@") else self._host
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as host:
            host.connect(address)
            host.send(line + b"\n")
            host.send(b"MAINPID=%d\n" % pid)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
