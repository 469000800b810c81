"""`start`: let the first process of a created container, which waits at its socket, become its program."""

from __future__ import annotations

import os
import signal
import struct
import time

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
_LOOKS, _LOOK_S = 20, 0.005
_REFUSALS = {
    "stopped": "cannot start a container that has stopped",
    "running": "cannot start an already running container",
}


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Start one container; its poststart hooks run when it executes its program."""
    root, container_id = root_of(command.options), command.arguments[0]
    container = load(root, container_id)
    with Lock(container.directory) as lock:
        if not lock.take(0):
            # Who creates it may be waiting for a hook, which may be waiting for us.
            if container.unfinished:
                raise Failure("cannot start a container in the creating state")
            lock.claim(container_id)
        container = load(root, container_id)
        status = container.status(locked=True)
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
        except (ConnectionRefusedError, FileNotFoundError):
            raise Failure(_refusal(container)) from None
        finally:
            os.close(directory)
        ready = False
        while True:
            try:
                message = connection.recv(4096)
            except ConnectionResetError:
                raise Failure(_refusal(container)) from None  # never accepted
            if len(message) < _RECORD.size:
                break
            kind, step, error, op = _RECORD.unpack_from(message)
            if kind == _FAILED:
                return step, abs(error), op
            ready = ready or kind == _READY
    if ready:
        # Only now it is started; and if nobody comes to this, the kernel knows.
        try:
            os.unlink(f"{container.directory}/start")
        except FileNotFoundError:
            pass  # whoever was sooner
        return None
    return _NO_WORD, 0, 0


def _refusal(container: Container) -> str:
    """Of a container at whose socket nobody listens: another has started it, who may be gone; or it is at its end."""
    for _ in range(_LOOKS):
        if not container.alive():
            return _REFUSALS["stopped"]
        time.sleep(_LOOK_S)  # its files are closed before it is dead
    return _REFUSALS["running"]


def _poststart(container: Container) -> None:
    """Run the poststart hooks in the bundle; the first that fails ends them and the container.

    Source: OCI runtime.md, "Lifecycle"; runc.
    """
    if not (container.spec.get("hooks") or {}).get("poststart"):
        return
    from pyrunc.oci import hooks
    from pyrunc.oci.state_text import told_to_hooks

    bundle = container.document["bundle"]
    if os.path.isdir(bundle):
        os.chdir(bundle)
    failures = hooks.run(
        hooks.parse(container.spec), "poststart", told_to_hooks(container, "running"), until_failure=True
    )
    if failures:
        try:
            signal_first(container, signal.SIGKILL)
        except Failure:
            pass  # it has ended by itself
        raise Failure(failures[0])
