"""Namespaces of other containers: what ``container:NAME`` in a HostConfig means at the moment of a start.

A running container is held by a descriptor of each namespace, which is taken before its start time is looked at: so it is
no other process's that has got the same pid since.
"""

import os
from contextlib import contextmanager

from pyrunc.engine import finish
from pyrunc.errors import FailedPrecondition
from pyrunc.runtime import shim

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pyrunc.api import ContainerRecord
    from pyrunc.engine.parts import Parts

_KINDS = (("NetworkMode", "net"), ("PidMode", "pid"), ("IpcMode", "ipc"))
_PREFIX = "container:"


def normal(parts: "Parts", host_config: "Mapping[str, Any]") -> "dict[str, Any]":
    """*host_config*, the containers that it joins by their ids, as Docker stores it. Raises NotFound."""
    found = dict(host_config)
    for key, _ in _KINDS:
        mode = found.get(key) or ""
        if mode.startswith(_PREFIX):
            found[key] = _PREFIX + parts.containers.get(mode.removeprefix(_PREFIX)).record.id
    return found


def joined(host_config: "Mapping[str, Any]") -> "list[str]":
    """The keys of *host_config* that name another container."""
    return [key for key, _ in _KINDS if (host_config.get(key) or "").startswith(_PREFIX)]


@contextmanager
def resolved(parts: "Parts", record: "ContainerRecord") -> "Iterator[Mapping[str, Any]]":
    """The HostConfig of *record*, with paths of namespaces in the place of containers, good inside of the ``with``.

    Raises NotFound, FailedPrecondition for one that does not run, in Docker's words.
    """
    found = dict(record.host_config)
    opened: list[int] = []
    try:
        for key, kind in _KINDS:
            mode = found.get(key) or ""
            if mode.startswith(_PREFIX):
                opened.append(_open(parts, mode.removeprefix(_PREFIX), kind))
                found[key] = f"/proc/self/fd/{opened[-1]}"
        yield found
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open(parts: "Parts", container: str, kind: str) -> int:
    other = parts.containers.get(container).record
    if not other.running:
        raise FailedPrecondition(f"cannot join {kind} of a non running container: {other.id}")
    running = shim.running(other.state_dir)
    if running is not None:
        try:
            descriptor = os.open(f"/proc/{running.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass
        else:
            if shim.is_alive(running.pid, running.pid_started):
                return descriptor
            os.close(descriptor)
    finish.settle(parts, other.id)
    raise FailedPrecondition(f"cannot join {kind} of a non running container: {other.id}")
