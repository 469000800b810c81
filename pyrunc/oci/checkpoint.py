"""`checkpoint` and `restore`, which criu does where there is one that works on this host."""

from __future__ import annotations

import os

from pyrunc.oci.log import Failure, reason
from pyrunc.oci.state import check_id, load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log

_MODES = ("", "soft", "full", "strict", "ignore")


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Check the flags as runc does, and that a criu works; then let it act."""
    root, container_id = root_of(command.options), command.arguments[0]
    if command.verb == "checkpoint":
        container = load(root, container_id)
        status = container.status()
        if status in ("created", "stopped", "creating"):
            raise Failure(f"Container cannot be checkpointed in {status} state")
    else:
        check_id(container_id)
        bundle = command.text("bundle") or "."
        if not os.path.exists(f"{bundle}/config.json"):
            raise Failure("JSON specification file config.json not found")
    _check_flags(command)
    _check_criu(command.options.criu)
    raise Failure(f"criu: {command.verb} is not supported by this version")


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


def _check_criu(path: str) -> None:
    """Raise Failure, in one line that names criu and why, unless *path* is a criu that works here."""
    import subprocess

    try:
        ended = subprocess.run([path, "check"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        where = ": no such file or directory" if "/" in path else ": executable file not found in $PATH"
        raise Failure(f'CRIU version check failed: exec: "{path}"{where}') from None
    except OSError as error:
        raise Failure(f"CRIU version check failed: fork/exec {path}: {reason(error)}") from None
    if ended.returncode:
        lines = (ended.stdout + ended.stderr).decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if "Error" in line), "")
        raise Failure(f"criu does not work on this host: {said or f'exit status {ended.returncode}'}")
