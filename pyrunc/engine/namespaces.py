"""Namespaces of other containers: what ``container:NAME`` in a HostConfig means at the moment of a start.

A running container is held by a descriptor of each namespace, which is taken before its start time is looked at: so it
is no other process's that has got the same pid since.
"""

import os

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
}
_PREFIX = "container:"
_SHM = "shm"  # the /dev/shm of a container whose IPC others may join


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
                found["Shm"] = _shared_memory(other)
        if record.host_config.get("IpcMode") == "shareable":
            found["Shm"] = os.path.join(record.state_dir, _SHM)
            os.mkdir(found["Shm"])
            os.chmod(found["Shm"], 0o1777)
        yield found
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _shared_memory(other: "ContainerRecord") -> str:
    place = os.path.join(other.state_dir, _SHM)
    if not os.path.isdir(place):
        raise FailedPrecondition(
            f"can't join IPC of container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor"
            " container)"
        )
    return place


def _open(other: "ContainerRecord", kind: str) -> int:
    running = shim.running(other.state_dir) if other.running else None
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
