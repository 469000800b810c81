"""A container's options as the bundle of an OCI runtime: config.json, the files made for it, and its root's place."""

from __future__ import annotations

import json
import os

from pyrunc.drivers.exec import monitor_place
from pyrunc.errors import PyruncError, Unsupported
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime import option_privileges, shim_state, users
from pyrunc.runtime.options import in_terms_of_options, to_request
from pyrunc.runtime.plan import ID, SHORT_ID
from pyrunc.spec import defaults

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.drivers.exec.driver import StartExec
    from pyrunc.runtime.compile import Rootfs
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


def write_process(place: str, exec_: StartExec) -> None:
    """Write process.json, for a further program in a container, to the directory *place*.

    Raises FailedPrecondition if the container has ended, InvalidArgument, NotFound, OSError.
    Source: OCI runtime-spec, config.md "Process".
    """
    wanted = exec_.wanted
    checks.arguments(wanted.argv)
    checks.flag(wanted.tty, "tty")
    checks.flag(wanted.privileged, "privileged")
    name = "" if wanted.user is None else checks.text(wanted.user, "user")
    if wanted.user == "":
        raise checks.refuse("user", "a name or number, optionally with :group", wanted.user)
    further = checks.listed(checks.text)(wanted.groups, "groups")
    added = {} if wanted.env is None else checks.environment(wanted.env)
    try:
        with open(f"{exec_.place}/bundle/config.json", encoding="utf-8", errors="surrogateescape") as file:
            process: dict[str, Any] = json.load(file)["process"]
    except FileNotFoundError as exc:
        raise shim_state.not_running(exec_.container_id) from exc
    environment = dict(text.split("=", 1) for text in process["env"])
    user = process["user"]
    if name or further:
        found = _look_up(exec_, name or f"{user['uid']}:{user['gid']}", further)
        own = () if name else user.get("additionalGids") or ()
        user |= {"uid": found.uid, "gid": found.gid, "additionalGids": sorted({*found.groups, *own})}
        if name and not any(text.startswith("HOME=") for text in exec_.variables):
            environment["HOME"] = found.home or "/"
    environment |= added
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


def _look_up(exec_: StartExec, user: str, groups: Sequence[str]) -> users.User:
    """Who *user* with *groups* is in the container's root."""
    who = exec_.who
    try:
        root = os.open(f"/proc/{who.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as exc:
        raise shim_state.not_running(exec_.container_id) from exc
    try:
        if not shim_state.is_alive(
            who.pid, who.pid_started
        ):  # else the number was its own when this was opened
            raise shim_state.not_running(exec_.container_id)
        return users.resolve(user, groups, [f"/proc/self/fd/{root}"])
    finally:
        os.close(root)
