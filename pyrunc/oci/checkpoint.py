"""`checkpoint` and `restore`, which criu does where there is one that works on this host."""

from __future__ import annotations

import os

from pyrunc.oci import criu, go_json
from pyrunc.oci.bundle import read
from pyrunc.oci.destroy import destroy, remove_directory
from pyrunc.oci.lock import Lock
from pyrunc.oci.log import Failure, reason
from pyrunc.oci.state import Container, check_id, load, root_of, start_time
from pyrunc.oci.state_text import VERSION
from pyrunc.records import dumps

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.bundle import Bundle
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log

# systemd forgets the unit when nobody is in it, and criu would make the cgroups behind its back.
_NO_UNIT = "--systemd-cgroup: a container in cgroups that systemd has made cannot be restored"
_MODES = ("", "soft", "full", "strict", "ignore")


def run(command: Command, log: Log) -> int:
    """Save a container, which ends it unless --leave-running or --pre-dump is given; or make a saved one again."""
    return _checkpoint(command, log) if command.verb == "checkpoint" else _restore(command, log)


def _checkpoint(command: Command, log: Log) -> int:
    container = load(root_of(command.options), command.arguments[0])
    status = container.status()
    if status in ("created", "stopped", "creating"):
        raise Failure(f"Container cannot be checkpointed in {status} state")
    if container.own.get("systemd"):
        raise Failure(_NO_UNIT)
    _check_flags(command)
    criu.check(command.options.criu)
    with Lock(container.directory) as lock:
        lock.claim(container.id)
        criu.dump(command, container)
        if not (command.flag("leave-running") or command.flag("pre-dump")):
            destroy(container, log, kill=True)
    return 0


def _check_flags(command: Command) -> None:
    parent = command.values.get("parent-path")
    if parent and os.path.isabs(str(parent)):
        raise Failure("--parent-path must be relative")
    server = command.values.get("page-server")
    if server and str(server).count(":") != 1:
        raise Failure("Use --page-server ADDRESS:PORT to specify page server")
    if command.text("manage-cgroups-mode") not in _MODES:
        raise Failure("Invalid manage cgroups mode")
    for name in command.texts("empty-ns"):
        if name != "network":
            raise Failure(f'namespace "{name}" is not supported')


def _restore(command: Command, log: Log) -> int:
    root, container_id = root_of(command.options), command.arguments[0]
    check_id(container_id)
    bundle = read(command.text("bundle"))
    _check_flags(command)
    if bundle.spec["process"].get("terminal"):
        raise Failure("criu: a container with a terminal of its own cannot be restored")
    if command.options.systemd_cgroup:
        raise Failure(_NO_UNIT)
    criu.check(command.options.criu)
    directory = f"{root}/{container_id}"
    os.makedirs(root, mode=0o700, exist_ok=True)
    try:
        os.mkdir(directory, 0o711)
    except FileExistsError:
        raise Failure("container with given ID already exists") from None
    with Lock(directory) as lock:
        try:
            lock.claim(container_id)
            container = _restored(command, bundle, directory)
        except BaseException:
            remove_directory(directory)
            raise
    if command.text("pid-file"):
        _write_pid(command.text("pid-file"), container.pid)
    if command.flag("detach"):
        return 0
    code = os.waitstatus_to_exitcode(os.waitpid(container.pid, 0)[1])
    destroy(container, log, kill=False)
    return code if code >= 0 else 128 - code


def _restored(command: Command, bundle: Bundle, directory: str) -> Container:
    """Let criu make the processes, and write the state of what it made."""
    spec = bundle.spec
    _mount_root(bundle.rootfs)
    pid, own = criu.restore(command, spec, bundle.path, bundle.rootfs)
    document: dict[str, Any] = {
        "ociVersion": spec.get("ociVersion") or VERSION,
        "id": os.path.basename(directory),
        "pid": pid,
        "status": "created",
        "bundle": bundle.path,
        "rootfs": bundle.rootfs,
        "created": _now(),
    }
    if spec.get("annotations"):
        document["annotations"] = dict(sorted(spec["annotations"].items()))
    document["owner"] = ""
    own = {**own, "start_time": start_time(pid), "spec": spec}
    text = f'{go_json.indented(document)[:-2]},\n  "pyrunc": {dumps(own)}\n}}\n'
    new = f"{directory}/.state.json"
    with open(new, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    os.rename(new, f"{directory}/state.json")
    return Container(directory, {**document, "pyrunc": own})


def _mount_root(rootfs: str) -> None:
    """Mount the root on itself, as criu wants it, in a mount namespace of our own, where nobody else sees it."""
    from pyrunc._native import mount, namespaces

    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.mount(None, b"/", None, mount.MS_REC | mount.MS_SLAVE)
    path = os.fsencode(rootfs)
    tree = mount.open_tree(-100, path, mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE)
    target = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount.move_mount(tree, target)
    finally:
        os.close(tree)
        os.close(target)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _now() -> str:
    import time

    now_ns = time.time_ns()
    seconds, part = divmod(now_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{part:09d}Z"


def _write_pid(path: str, pid: int) -> None:
    directory, name = os.path.split(os.path.abspath(path))
    new = f"{directory}/.{name}"
    try:
        with open(new, "w", encoding="ascii") as file:
            file.write(str(pid))
        os.rename(new, path)
    except OSError as error:
        raise Failure(f"open {new}: {reason(error)}") from None
