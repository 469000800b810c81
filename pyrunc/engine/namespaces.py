"""Namespaces of other containers: what ``container:NAME`` in a HostConfig means at the moment of a start.

A running container is held by a descriptor of each namespace, which is taken before its start time is looked at: so it
is no other process's that has got the same pid since.
"""

import os

from pyrunc.engine import observing
from pyrunc.errors import FailedPrecondition
from pyrunc.records import contextmanager
from pyrunc.runtime import shim

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.parts import Parts

_KINDS = (("NetworkMode", "net"), ("PidMode", "pid"), ("IpcMode", "ipc"))
_WORDS = {
    "net": "cannot join network of a non running container: {}",
    "pid": "container {} is not running",
    "ipc": "cannot join IPC of a non running container: {}",
    "mnt": "cannot join IPC of a non running container: {}",
}
_PREFIX = "container:"


def normal(parts: "Parts", host_config: "Mapping[str, Any]") -> "dict[str, Any]":
    """*host_config*, the containers that it joins by their ids, as Docker stores it. Raises NotFound."""
    found = dict(host_config)
    for key, _ in _KINDS:
        mode = found.get(key) or ""
        if mode.startswith(_PREFIX):
            found[key] = _PREFIX + parts.containers.get(mode.removeprefix(_PREFIX)).id
    return found


def joined(host_config: "Mapping[str, Any]") -> "list[str]":
    """The keys of *host_config* that name another container."""
    return [key for key, _ in _KINDS if (host_config.get(key) or "").startswith(_PREFIX)]


@contextmanager
def joined_by(parts: "Parts", record: "ContainerRecord") -> "Iterator[Mapping[str, str]]":
    """What *record* joins of other containers, as host_config.options_of wants it, good inside of the ``with``.

    Raises NotFound, FailedPrecondition for one that does not run, or shares no memory, in Docker's words.
    """
    found: dict[str, str] = {}
    opened: list[int] = []
    try:
        for key, kind in _KINDS:
            mode = record.host_config.get(key) or ""
            if not mode.startswith(_PREFIX):
                continue
            other = parts.containers.get(mode.removeprefix(_PREFIX))
            opened.append(_open(other, kind))
            found[key] = f"/proc/self/fd/{opened[-1]}"
            if key == "NetworkMode":
                found["Hostname"] = other.config.get("Hostname") or other.id[:12]
            elif key == "IpcMode":
                opened.append(_shared_memory(other))
                found["Shm"] = f"/proc/self/fd/{opened[-1]}"
        yield found
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _shared_memory(other: "ContainerRecord") -> int:
    if other.host_config.get("IpcMode") != "shareable":
        raise FailedPrecondition(
            f"can't join IPC of container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor"
            " container)"
        )
    from pyrunc.engine import shared_memory

    namespace = _open(other, "mnt")
    try:
        return shared_memory.taken(namespace)
    except OSError as exc:
        raise FailedPrecondition(f"can't join IPC of container {other.id}: {exc}") from exc
    finally:
        os.close(namespace)


def _open(other: "ContainerRecord", kind: str) -> int:
    running = observing.who_runs(other) if other.running else None
    if running is not None:
        try:
            descriptor = os.open(f"/proc/{running.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass
        else:
            if shim.is_alive(running.pid, running.pid_started):
                return descriptor
            os.close(descriptor)
    raise FailedPrecondition(_WORDS[kind].format(other.id))
