"""The texts of `state.json` and of the state that hooks read, in the pieces between which the front door writes.

All but the last member, `pyrunc`, is what `state` prints, and looks as runc prints it.
"""

from __future__ import annotations

from pyrunc.oci.go_json import exact_text
from pyrunc.records import dumps
from pyrunc.runtime import cgroup_layout

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.oci.bundle import Bundle
    from pyrunc.oci.state import Container
    from pyrunc.runtime.cgroup_systemd import Unit
    from pyrunc.runtime.plan import PlanTemplate

_SLOW_HOOKS = ("poststart", "poststop")  # which `start` and `delete` run
VERSION = "1.0.2"


def state(
    container_id: str,
    bundle: Bundle,
    template: PlanTemplate,
    keyring: str = "",
    plain: bool = True,
    unit: Unit | None = None,
) -> tuple[str, str, str, str, str]:
    """What stands before the pid, the status, the time of creation, the start time of the pid, and at last."""
    version = str(bundle.spec.get("ociVersion") or VERSION)
    notes = bundle.spec.get("annotations") or {}
    rows = ",\n".join(f"    {exact_text(key)}: {exact_text(notes[key])}" for key in sorted(notes))
    annotations = f'  "annotations": {{\n{rows}\n  }},\n' if rows else ""
    own = dumps(_own(bundle.spec, template, keyring, plain, unit))
    first, _, last = own.partition(f'"start_time":{_MARK}')
    return (
        f'{{\n  "ociVersion": {exact_text(version)},\n  "id": {exact_text(container_id)},\n  "pid": ',
        ',\n  "status": "',
        f'",\n  "bundle": {exact_text(bundle.path)},\n  "rootfs": {exact_text(bundle.rootfs)},\n  "created": "',
        f'",\n{annotations}  "owner": "",\n  "pyrunc": {first}"start_time":',
        f"{last}\n}}\n",
    )


_MARK = (1 << 63) - 1


def _own(
    spec: dict[str, Any], template: PlanTemplate, keyring: str, plain: bool, unit: Unit | None
) -> dict[str, Any]:
    """The last member, of which `_native/oci_state.pxd` reads the first ones in this order."""
    linux = spec.get("linux") or {}
    namespaces = {entry.get("type"): entry.get("path") or "" for entry in linux.get("namespaces") or ()}
    hooks = spec.get("hooks") or {}
    cgroups = _cgroups(template)
    return {
        "version": 1,
        "start_time": _MARK,
        "native": plain and not any(hooks.get(kind) for kind in _SLOW_HOOKS),
        "own_pids": namespaces.get("pid") == "",
        "cgroups": cgroups,
        "freezer": next(
            (c["path"] for c in cgroups if c["version"] == 2 or "freezer" in c["controllers"]), ""
        ),
        "kill": next((c["path"] for c in sorted(cgroups, key=lambda c: -c["version"])), ""),
        "systemd": unit and {"unit": unit.name, "slice": unit.slice, "socket": unit.manager.socket},
        "keyring": keyring,
        "spec": spec,
    }


def _cgroups(template: PlanTemplate) -> list[dict[str, Any]]:
    layout = cgroup_layout.detect()
    hierarchies = (*layout.hierarchies, *layout.named)
    found = []
    for step in template.steps:
        if step.op == "cgroup_mkdir" and step.s0:
            path = f"{step.s0}{step.s1}"
            hierarchy = next(one for one in hierarchies if path.startswith(f"{one.mountpoint}/"))
            found.append(
                {"path": path, "version": hierarchy.version, "controllers": list(hierarchy.controllers)}
            )
    return found


def hook_state(
    version: str, container_id: str, bundle: str, annotations: Mapping[str, str]
) -> tuple[str, str, str]:
    """What stands before the status, the pid, and at last, in the state that a hook reads.

    Source: OCI runtime-spec runtime.md, "State".
    """
    pairs = ",".join(f"{exact_text(key)}:{exact_text(annotations[key])}" for key in sorted(annotations))
    return (
        f'{{"ociVersion":{exact_text(version)},"id":{exact_text(container_id)},"status":"',
        '","pid":',
        f',"bundle":{exact_text(bundle)}' + (f',"annotations":{{{pairs}}}' if pairs else "") + "}",
    )


def hook_state_of(container: Container) -> tuple[str, str, str]:
    """The same of a container that exists."""
    said = container.document
    return hook_state(said["ociVersion"], container.id, said["bundle"], said.get("annotations") or {})


def told_to_hooks(container: Container, status: str) -> bytes:
    """The whole of it, which has no pid where *status* is "stopped"."""
    first, middle, last = hook_state_of(container)
    pid = '"' if status == "stopped" else f"{middle}{container.pid}"
    return f"{first}{status}{pid}{last}".encode("utf-8", "surrogateescape")
