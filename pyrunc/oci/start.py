"""`start`: let the first process of a created container, which waits at its socket, become its program."""

from __future__ import annotations

import os
import signal
import struct

from pyrunc.oci.kill import signal_first
from pyrunc.oci.lock import Lock
from pyrunc.oci.log import Failure
from pyrunc.oci.notify import Notify
from pyrunc.oci.state import load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container

_RECORD = struct.Struct("=IIiI")  # the beginning of `progress` in pyrunc/_native/channel.pxd
_READY, _FAILED = 1, 2
_NO_WORD = (1 << 32) - 1
_REFUSALS = {
    "stopped": "cannot start a container that has stopped",
    "running": "cannot start an already running container",
}


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Start one container; its poststart hooks run when it executes its program."""
    root, container_id = root_of(command.options), command.arguments[0]
    container = load(root, container_id)
    with Lock(container.directory) as lock:
        lock.claim(container_id)
        status = container.status()
        if status != "created":
            raise Failure(_REFUSALS.get(status, f"cannot start a container in the {status} state"))
        notify = Notify(container, os.environ.get("NOTIFY_SOCKET", ""))
        failed = _start(container)
    if failed is not None:
        from pyrunc.oci.failed import start_words

        raise Failure(start_words(*failed))
    _poststart(container)
    notify.wait(container.pid)
    notify.close()
    return 0


def _start(container: Container) -> tuple[int, int, int] | None:
    """Tell init to go on; None when it executed its program, else the step that failed, its errno and its op."""
    import socket

    directory = os.open(container.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        try:
            # By the descriptor: the path of a state directory may be longer than a socket's may be.
            connection.connect(f"/proc/self/fd/{directory}/start")
            os.unlink("start", dir_fd=directory)
        except (ConnectionRefusedError, FileNotFoundError):
            raise Failure(_REFUSALS["running" if container.alive() else "stopped"]) from None
        finally:
            os.close(directory)
        ready = False
        while True:
            message = connection.recv(4096)
            if len(message) < _RECORD.size:
                return None if ready else (_NO_WORD, 0, 0)
            kind, step, error, op = _RECORD.unpack_from(message)
            if kind == _FAILED:
                return step, abs(error), op
            ready = ready or kind == _READY


def _poststart(container: Container) -> None:
    """Run the poststart hooks; a container whose hook fails is killed, as runc does. Source: OCI config.md."""
    if not (container.spec.get("hooks") or {}).get("poststart"):
        return
    from pyrunc.oci import hooks
    from pyrunc.oci.state_text import told_to_hooks

    failures = hooks.run(hooks.parse(container.spec), "poststart", told_to_hooks(container, "running"))
    if failures:
        try:
            signal_first(container, signal.SIGKILL)
        except Failure:
            pass  # it has ended by itself
        raise Failure(failures[0])
