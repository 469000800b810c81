"""`kill`: a signal to the first process of a container, or to all of them."""

from __future__ import annotations

import errno
import os
import signal

from pyrunc.oci.container_cgroups import freezer_place, may_keep_some, processes, relative_path
from pyrunc.oci.log import Failure, reason
from pyrunc.oci.state import frozen, load, root_of, start_time
from pyrunc.runtime.cgroup_layout import detect

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container

NOT_RUNNING = "container not running"


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Send the signal of the second argument, SIGTERM without one."""
    container_id, word = [*command.arguments, "SIGTERM"][:2]
    container = load(root_of(command.options), container_id)
    number = signal_number(word)
    # Where the container has no pid namespace of its own, its first process does not take the others along.
    if command.flag("all") or (number == signal.SIGKILL and not container.own.get("own_pids", True)):
        if not signal_all(container, number) and not command.flag("all"):
            raise Failure(NOT_RUNNING)
    else:
        signal_first(container, number)
    return 0


def signal_number(word: str) -> int:
    """A signal by its number, or by its name with or without SIG, in any case. Raises Failure."""
    digits = word.removeprefix("-").removeprefix("+")
    if digits.isdecimal() and digits.isascii():
        return int(word)
    name = word.upper()
    number = _names().get(name.removeprefix("SIG"))
    if number is None:
        raise Failure(f'unknown signal "{word}"')
    return number


def _names() -> dict[str, int]:
    names = {entry.name.removeprefix("SIG"): int(entry) for entry in signal.Signals}
    # Those that Linux has and Python does not name.
    names.update({"STKFLT": 16, "UNUSED": 31, "IOT": signal.SIGABRT, "CLD": signal.SIGCHLD})
    for number in range(int(signal.SIGRTMIN) + 1, int(signal.SIGRTMAX)):
        first = number - int(signal.SIGRTMIN)
        last = int(signal.SIGRTMAX) - number
        names[f"RTMIN+{first}" if first <= 15 else f"RTMAX-{last}"] = number
    return names


def signal_first(container: Container, number: int) -> None:
    """Signal the container's first process, the very one: its pid may be another's by now.

    Raises Failure where it does not run, or where the kernel refuses.
    """
    try:
        handle = os.pidfd_open(container.pid)
    except (ProcessLookupError, OSError):
        raise Failure(NOT_RUNNING) from None
    try:
        if start_time(container.pid) != container.own.get("start_time"):
            raise Failure(NOT_RUNNING)
        _send(handle, number)
    except ProcessLookupError:
        raise Failure(NOT_RUNNING) from None
    except OSError as error:
        raise Failure(f"unable to signal init: {reason(error)}") from None
    finally:
        os.close(handle)
    if number == signal.SIGKILL:
        _thaw(container)


def _send(handle: int, number: int) -> None:
    if not 0 <= number <= int(signal.SIGRTMAX):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    signal.pidfd_send_signal(handle, number)


def signal_all(container: Container, number: int) -> bool:
    """Signal every process in the container's cgroups; whether there was one."""
    found = False
    if not container.alive() and not may_keep_some(container):
        return False
    if number == signal.SIGKILL:
        from pyrunc.runtime import cgroup_control

        layout = detect()
        path = relative_path(container, layout)
        found = bool(processes(container))
        if path:
            cgroup_control.kill(layout, path)
        return found
    for pid in processes(container):
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # It may have been given to a stranger since it was read.
            if pid in processes(container):
                _send(handle, number)
                found = True
        except ProcessLookupError:
            continue
        except OSError as error:
            raise Failure(f"unable to signal all processes: {reason(error)}") from None
        finally:
            os.close(handle)
    return found


def _thaw(container: Container) -> None:
    """Let a killed process die: in a frozen cgroup v1 it would not."""
    if frozen(container.own.get("freezer") or ""):
        from pyrunc.runtime import cgroup_control

        try:
            cgroup_control.thaw(*freezer_place(container))
        except OSError:
            return  # gone with its last process
