"""`--systemd-cgroup`: the unit of systemd that a container is in, and what the verbs tell systemd of it.

| verb              | what is told                                          | by whom        |
|-------------------|-------------------------------------------------------|----------------|
| create, run       | start the unit, with all limits and a first process   | the front door |
| update            | other limits                                          | Python         |
| delete, run's end | stop it, and forget it where it has failed            | Python, or it  |

The others find its cgroups in state.json, as those of any container. Source: runc docs/systemd.md.
"""

from __future__ import annotations

import errno
import os

from pyrunc._native import systemd as native
from pyrunc.oci.log import Failure, reason_of
from pyrunc.runtime import cgroup_systemd
from pyrunc.runtime.cgroup_layout import detect
from pyrunc.runtime.cgroup_systemd import Manager, Unit

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container
    from pyrunc.runtime.cgroups import CgroupDir
    from pyrunc.runtime.compile_rootless import Rights


def unit_of(spec: Mapping[str, Any], container_id: str, rights: Rights, runtime: str) -> Unit:
    """The unit that a document names; *runtime* is XDG_RUNTIME_DIR. Raises Failure or InvalidSpec in runc's words."""
    if not os.path.isdir("/run/systemd/system"):
        raise Failure("systemd not running on this host, cannot use systemd cgroups manager")
    manager = _manager(runtime) if rights.loose_cgroups else Manager()
    path = (spec.get("linux") or {}).get("cgroupsPath") or ""
    return cgroup_systemd.parse(path, container_id, spec.get("annotations") or {}, manager)


def _manager(runtime: str) -> Manager:
    """The systemd that serves somebody who is not the host's root: that of a user namespace's root, or of the user."""
    users = not os.access(cgroup_systemd.SOCKET, os.W_OK)
    socket = f"{runtime or f'/run/user/{os.geteuid()}'}/systemd/private" if users else cgroup_systemd.SOCKET
    code, cgroup, _ = native.call(os.fsencode(socket), cgroup_systemd.whereabouts())
    if code < 0:
        raise Failure(
            f"{socket}: {why(code, cgroup)} (hint: for rootless containers, maybe there is no systemd --user)"
        )
    if users and detect().mode != "v2":
        raise Failure("--systemd-cgroup: a user's own systemd has no cgroups but those of cgroup v2")
    return Manager(socket, cgroup.rstrip("/"), users)


def of_container(container: Container) -> Unit | None:
    """The unit that a container is in, or None."""
    own = container.own.get("systemd")
    return Unit(own["slice"], own["unit"], "", (), Manager(own["socket"])) if own else None


def stop(unit: Unit, log: Log) -> None:
    """Stop a unit in which nobody is left; it is no error if it is gone. Raises Failure after 30 s."""
    code, text, _ = _call(unit, cgroup_systemd.stop(unit), waits=True)
    if code == -errno.ETIMEDOUT:
        raise Failure(f"timed out while waiting for systemd to remove {unit.name}")
    if code == -errno.ECANCELED:
        log.write("warning", f"error removing unit `{unit.name}`: got `{text}`. Continuing...")
    elif code not in (0, -errno.ENOENT):
        log.write("warning", f"error removing unit `{unit.name}`: {why(code, text)}. Continuing...")
    _call(unit, cgroup_systemd.reset(unit))


def set_limits(unit: Unit, directories: Iterable[CgroupDir]) -> None:
    """Have systemd know what is written to *directories*, and be done with it. Raises Failure in runc's words."""
    found = cgroup_systemd.limits(directories)
    if not found:
        return
    code, text, _ = _call(unit, cgroup_systemd.change(unit, found))
    if code == 0:
        # It answers before it writes to the cgroup's files, but writes before it answers the next.
        code, text, _ = _call(unit, cgroup_systemd.ping())
    if code < 0:
        raise Failure(f"unable to set unit properties: {why(code, text)}")


def why(code: int, text: str) -> str:
    """What systemd has said, or why it could not be asked."""
    if code == -errno.ETIMEDOUT:
        return "timed out while waiting for systemd"
    return text or f"failed to connect to systemd: {reason_of(-code)}"


def _call(unit: Unit, message: bytes, *, waits: bool = False) -> tuple[int, str, str]:
    return native.call(os.fsencode(unit.manager.socket), message, unit.name.encode() if waits else None)
