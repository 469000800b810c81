"""`delete`: remove a container that is stopped or was never started; with --force any, and what a create left."""

from __future__ import annotations

import signal

from pyrunc.oci.destroy import destroy, remove_directory
from pyrunc.oci.kill import signal_all, signal_first
from pyrunc.oci.lock import Lock
from pyrunc.oci.log import Failure
from pyrunc.oci.state import NO_SUCH, check_id, load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container


_GLANCE_S = 0.2  # longer than anybody holds a lock who only looks whether somebody has it


def run(command: Command, log: Log) -> int:
    """Delete one container; with --force it is no error if there is none."""
    root, container_id = root_of(command.options), command.arguments[0]
    force = command.flag("force")
    check_id(container_id)
    directory = f"{root}/{container_id}"
    try:
        lock = Lock(directory)
    except (FileNotFoundError, NotADirectoryError):
        return _missing(force)
    with lock:
        try:
            container = _settled(root, container_id, lock, force)
        except Failure as failure:
            if not force or not lock.take(0):
                raise
            _delete_remains(directory, container_id, failure, log)
            return 0
        if container is None:
            # A creator that was killed before it wrote down what it was about to make has made nothing else.
            remove_directory(directory)
            return _missing(force)
        status = container.status(locked=True)
        if not force and status not in ("stopped", "created"):
            raise Failure(f"cannot delete container {container_id} that is not stopped: {status}")
        destroy(container, log, kill=status != "stopped")
    return 0


def _delete_remains(directory: str, container_id: str, failure: Failure, log: Log) -> None:
    """Clear what a damaged state.json still names; what it does not is left, and that is said."""
    from pyrunc.oci.remains import remains

    log.write("warning", f"{failure.message}; what it does not name may be left")
    destroy(remains(directory, container_id), log, kill=True)


def _missing(force: bool) -> int:
    if force:
        return 0
    raise Failure(NO_SUCH)


def _settled(root: str, container_id: str, lock: Lock, force: bool) -> Container | None:
    """The container once nobody creates it any more; None where it has no state (any more).

    With *force* whatever creates or starts it is ended by killing what it waits for.
    """
    if not lock.take(0):
        container = _load(root, container_id)
        if container is not None:
            if force:
                _kill(container)
            elif container.unfinished and not lock.take(_GLANCE_S):
                raise Failure(f"cannot delete container {container_id} that is not stopped: creating")
        lock.claim(container_id)
    return _load(root, container_id)


def _kill(container: Container) -> None:
    signal_all(container, signal.SIGKILL)
    try:
        signal_first(container, signal.SIGKILL)
    except Failure:
        pass  # it has ended, or there is none yet


def _load(root: str, container_id: str) -> Container | None:
    try:
        return load(root, container_id)
    except Failure as failure:
        if failure.message == NO_SUCH:
            return None
        raise
