"""A container's options as the bundle of an OCI runtime: config.json, the files made for it, and its root's place."""

from __future__ import annotations

import json
import os

from pyrunc.drivers.exec import monitor_place
from pyrunc.errors import PyruncError, Unsupported
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime import option_privileges, users
from pyrunc.runtime.options import in_terms_of_options, to_request
from pyrunc.runtime.plan import ID, SHORT_ID
from pyrunc.spec import defaults

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.runtime.compile import Rootfs
    from pyrunc.runtime.joining import Wanted
    from pyrunc.runtime.options import SandboxOptions

OCI_VERSION = "1.0.2"  # all that is said here, and what the oldest runtimes in use know
# Options of a mount that are mount(8)'s or our own: no runtime knows them.
_OWN_OPTIONS = ("X-mount.", "nofail")


def write(
    place: str, container_id: str, argv: Sequence[str], rootfs: Rootfs, options: SandboxOptions, runtime: str
) -> dict[str, Any]:
    """Write the bundle of a container to the directory *place*, which is made; errors call the runtime *runtime*.

    What config.json says.

    Raises InvalidArgument, NotFound, InvalidSpec or Unsupported and names the option; OSError.
    Source: OCI runtime-spec, bundle.md and config.md.
    """
    layers = [*rootfs.layers, rootfs.upper] if rootfs.upper else list(rootfs.layers)
    try:
        request = to_request(layers, options)
    except PyruncError as exc:
        raise in_terms_of_options(exc) from exc
    os.mkdir(place, 0o700)
    for name in ("rootfs", "files"):
        os.mkdir(f"{place}/{name}", 0o755)
    spec = request.spec
    spec["ociVersion"] = OCI_VERSION
    spec["root"]["path"] = "rootfs"
    spec["process"]["args"] = list(argv)
    spec["process"]["env"] = [f"{key}={value}" for key, value in request.env.items()]
    spec["linux"].setdefault("cgroupsPath", f"{monitor_place.PARENT}/{ID}")
    for mount in spec["mounts"]:
        _check_mount(mount, runtime)
    for number, (path, content) in enumerate(request.files.items()):
        source = f"{place}/files/{number}"
        with open(source, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(_named(content, container_id))
        os.chmod(source, 0o644)
        flags = ["rbind", "rprivate"] + (["ro"] if spec["root"]["readonly"] else [])
        spec["mounts"].append({"destination": path, "type": "bind", "source": source, "options": flags})
    found: dict[str, Any] = _named(spec, container_id)
    with open(f"{place}/config.json", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(found, file)
    return found


def _check_mount(mount: Mapping[str, Any], runtime: str) -> None:
    for option in mount.get("options") or ():
        if option.startswith(_OWN_OPTIONS):
            raise Unsupported(f"mounts: {mount['destination']}: the runtime {runtime} has no option {option}")


def _named(value: Any, container_id: str) -> Any:
    """*value*, with the container's id in the place of the marks that stand for it."""
    if isinstance(value, str):
        return value.replace(ID, container_id).replace(SHORT_ID, container_id[:12])
    if isinstance(value, dict):
        return {key: _named(each, container_id) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_named(each, container_id) for each in value]
    return value


def write_process(place: str, bundle: str, wanted: Wanted, pid: int, variables: Sequence[str]) -> None:
    """Write process.json, for a further program in the container of *bundle*, to the directory *place*.

    The container's init is *pid*; *variables* ("K=V") are those of its documents. Raises InvalidArgument, NotFound,
    OSError. Source: OCI runtime-spec, config.md "Process".
    """
    with open(f"{bundle}/config.json", encoding="utf-8", errors="surrogateescape") as file:
        process: dict[str, Any] = json.load(file)["process"]
    checks.arguments(wanted.argv)
    environment = dict(text.split("=", 1) for text in process["env"])
    user = process["user"]
    if wanted.user or wanted.groups:
        found = users.resolve(
            wanted.user or f"{user['uid']}:{user['gid']}", wanted.groups, [f"/proc/{pid}/root"]
        )
        own = () if wanted.user else user.get("additionalGids") or ()
        user |= {"uid": found.uid, "gid": found.gid, "additionalGids": sorted({*found.groups, *own})}
        if wanted.user and not any(text.startswith("HOME=") for text in variables):
            environment["HOME"] = found.home or "/"
    environment |= {} if wanted.env is None else checks.environment(wanted.env)
    held = process["capabilities"]["bounding"]
    if wanted.privileged:
        held = process["capabilities"]["bounding"] = sorted(option_privileges.own_capabilities())
    effective = held if user["uid"] == 0 else []
    process["capabilities"] |= {"effective": effective, "permitted": effective}
    process["terminal"] = wanted.tty
    process.pop("consoleSize", None)
    if wanted.tty:
        rows, columns = checks.size(wanted.size, "size")
        process["consoleSize"] = {"height": rows, "width": columns}
        environment.setdefault("TERM", defaults.TERM)
    process["args"] = list(wanted.argv)
    process["env"] = [f"{key}={value}" for key, value in environment.items()]
    if wanted.cwd is not None:
        process["cwd"] = os.path.normpath(checks.path(wanted.cwd, "cwd"))
    with open(f"{place}/process.json", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(process, file)
