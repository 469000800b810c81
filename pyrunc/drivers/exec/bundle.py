"""A container's options as the bundle of an OCI runtime: config.json, the files made for it, and its root's place."""

from __future__ import annotations

import json
import os
import sys

from pyrunc.drivers.exec import monitor_place
from pyrunc.errors import PyruncError, Unsupported
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime import option_privileges, shim_state, spawner, users
from pyrunc.runtime.compile_host import for_supervisor
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
# Flags of any mount, which some runtimes clear where they are not told them; of a recursive one, the first level's.
_FLAGS = {
    option: option.removeprefix("r") if option.startswith("rn") or option == "rro" else option
    for option in (
        "ro",
        "rro",
        "nosuid",
        "rnosuid",
        "nodev",
        "rnodev",
        "noexec",
        "rnoexec",
        "noatime",
        "nodiratime",
    )
}
_PLACES = ("/mnt", "/media", "/srv", "/opt")  # FHS 3.0, chapter 3: for an administrator's own, if at all


def write(
    place: str, container_id: str, argv: Sequence[str], rootfs: Rootfs, options: SandboxOptions, runtime: str,
    mounts: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the bundle of a container to the directory *place*, which is made; errors call the runtime *runtime*.

    What config.json says. Mounts with options that no runtime knows are added to *mounts*: the monitor's own, which
    the runtime only binds; with None they are refused.
    Raises InvalidArgument, NotFound, InvalidSpec or Unsupported and names the option; OSError.
    Source: OCI runtime-spec, bundle.md and config.md.
    """
    layers = [*rootfs.layers, rootfs.upper] if rootfs.upper else list(rootfs.layers)
    try:
        request = to_request(layers, options)
    except PyruncError as exc:
        raise in_terms_of_options(exc) from exc
    os.mkdir(place, 0o700)
    for name in ("rootfs", "files", "mounts"):
        os.mkdir(f"{place}/{name}", 0o755)
    spec = request.spec
    spec["ociVersion"] = OCI_VERSION
    spec["process"]["args"] = list(argv)
    spec["process"]["env"] = [f"{key}={value}" for key, value in request.env.items()]
    spec["linux"].setdefault("cgroupsPath", f"{monitor_place.PARENT}/{ID}")
    spec["mounts"] = [
        _mount(mount, place, runtime, mounts) for mount in spec["mounts"] if not _is_missing(mount)
    ]
    for namespace in spec["linux"]["namespaces"]:
        if namespace.get("path"):
            namespace["path"] = for_supervisor(namespace["path"])  # another container's, that we hold open
    for number, (path, content) in enumerate(request.files.items()):
        source = f"{place}/files/{number}"
        with open(source, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(_named(content, container_id))
        os.chmod(source, 0o644)
        flags = ["rbind", "rprivate"] + (["ro"] if spec["root"]["readonly"] else [])
        spec["mounts"].append({"destination": path, "type": "bind", "source": source, "options": flags})
    spec["root"]["path"] = _open_place(spec, place, runtime) if spec["linux"].get("uidMappings") else "rootfs"
    found: dict[str, Any] = _named(spec, container_id)
    with open(f"{place}/config.json", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(found, file)
    return found


def _is_missing(mount: Mapping[str, Any]) -> bool:
    return "nofail" in (mount.get("options") or ()) and not os.path.exists(mount.get("source") or "")


def _mount(
    mount: dict[str, Any], place: str, runtime: str, mounts: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """The entry of a runtime's document for *mount*, which may be one of *mounts* first."""
    own = [option for option in mount.get("options") or () if option.startswith(_OWN_OPTIONS)]
    if not own:
        return mount
    if mounts is None:
        raise Unsupported(f"mounts: {mount['destination']}: the runtime {runtime} has no option {own[0]}")
    there = f"{place}/mounts/{len(mounts)}"
    mounts.append({**mount, "destination": there})
    flags = ["rbind", "rprivate", *(_FLAGS[option] for option in mount["options"] if option in _FLAGS)]
    return {"destination": mount["destination"], "type": "bind", "source": there, "options": flags}


def _open_place(spec: Mapping[str, Any], place: str, runtime: str) -> str:
    """A directory of the host's to which everybody can walk, and that nobody needs: a root may be mounted there.

    Only the monitor sees that. In a user namespace whoever is root may not walk to a bundle.
    """
    needed = [place, sys.prefix, sys.base_prefix, spawner.init_path()]
    needed += [runtime] if runtime.startswith("/") else []
    needed += [mount["source"] for mount in spec["mounts"] if (mount.get("source") or "").startswith("/")]
    for found in _PLACES:
        if os.path.isdir(found) and not any(
            f"{os.path.realpath(path)}/".startswith(f"{found}/") for path in needed
        ):
            return found
    raise Unsupported(f"a user namespace needs one of {', '.join(_PLACES)} for the container's root")


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
    added = {} if wanted.env is None else checks.changes(wanted.env)
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
    environment = {name: value for name, value in {**environment, **added}.items() if value is not None}
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
