"""The texts of `state.json` and of the state that hooks read, in the pieces between which the front door writes.

All but the last member, `pyrunc`, is what `state` prints, and looks as runc prints it.
"""

from __future__ import annotations

from pyrunc.records import dumps, quoted
from pyrunc.runtime import cgroup_layout

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.bundle import Bundle
    from pyrunc.runtime.plan import PlanTemplate

SLOW_HOOKS = ("poststart", "poststop")  # which `start` and `delete` run
VERSION = "1.0.2"


def json_text(text: str) -> str:
    """*text* as a string of JSON, escaped as Go's encoder does it."""
    found = quoted(text)
    for character in "<>&\u2028\u2029":
        if character in found:
            found = found.replace(character, f"\\u{ord(character):04x}")
    return found


def state(
    container_id: str,
    bundle: Bundle,
    template: PlanTemplate,
    no_new_keyring: bool = False,
    plain: bool = True,
) -> tuple[str, str, str, str, str]:
    """What stands before the pid, the status, the time of creation, the start time of the pid, and at last."""
    version = str(bundle.spec.get("ociVersion") or VERSION)
    notes = bundle.spec.get("annotations") or {}
    rows = ",\n".join(f"    {json_text(key)}: {json_text(notes[key])}" for key in sorted(notes))
    annotations = f'  "annotations": {{\n{rows}\n  }},\n' if rows else ""
    own = dumps(_own(bundle.spec, template, no_new_keyring, plain))
    first, _, last = own.partition(f'"start_time":{_MARK}')
    return (
        f'{{\n  "ociVersion": {json_text(version)},\n  "id": {json_text(container_id)},\n  "pid": ',
        ',\n  "status": "',
        f'",\n  "bundle": {json_text(bundle.path)},\n  "rootfs": {json_text(bundle.rootfs)},\n  "created": "',
        f'",\n{annotations}  "owner": "",\n  "pyrunc": {first}"start_time":',
        f"{last}\n}}\n",
    )


_MARK = (1 << 63) - 1


def _own(spec: dict[str, Any], template: PlanTemplate, no_new_keyring: bool, plain: bool) -> dict[str, Any]:
    """The last member, of which `_native/oci_state.pxd` reads the first ones in this order."""
    linux = spec.get("linux") or {}
    namespaces = {entry.get("type"): entry.get("path") or "" for entry in linux.get("namespaces") or ()}
    found = spec.get("hooks") or {}
    slow = {kind: found.get(kind) or [] for kind in SLOW_HOOKS}
    cgroups = _cgroups(template)
    return {
        "version": 1,
        "start_time": _MARK,
        "native": plain and not any(slow.values()),
        "own_pids": namespaces.get("pid") == "",
        "cgroups": cgroups,
        "freezer": next(
            (c["path"] for c in cgroups if c["version"] == 2 or "freezer" in c["controllers"]), ""
        ),
        "kill": next((c["path"] for c in sorted(cgroups, key=lambda c: -c["version"])), ""),
        "systemd": None,
        "namespaces": namespaces,
        "hooks": slow,
        "no_new_keyring": no_new_keyring,
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


def hook_state(container_id: str, bundle: Bundle) -> tuple[str, str, str]:
    """What stands before the status, the pid, and at last, in the state that a hook reads."""
    version = str(bundle.spec.get("ociVersion") or VERSION)
    notes = bundle.spec.get("annotations") or {}
    pairs = ",".join(f"{json_text(key)}:{json_text(notes[key])}" for key in sorted(notes))
    return (
        f'{{"ociVersion":{json_text(version)},"id":{json_text(container_id)},"status":"',
        '","pid":',
        f',"bundle":{json_text(bundle.path)}' + (f',"annotations":{{{pairs}}}' if pairs else "") + "}",
    )
