"""Driving criu(8): the command lines that save and restore a container, and what it must be told of its host.

Beside criu's images the directory has `pyrunc.json`: the container's own part of state.json, and what its standard
streams were, since a restored container gets the ones of whoever restores it.

Source: criu(8); the options that runc passes to criu for its flags of the same names.
"""

from __future__ import annotations

import os
import subprocess

from pyrunc.oci.log import Failure, reason
from pyrunc.records import dumps, loads
from pyrunc.runtime.cgroup_layout import parse_mounts

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.state import Container

OWN_FILE = "pyrunc.json"
# Flags that mean the same, by our name and by criu's.
_SWITCHES = {
    "tcp-established": "--tcp-established",
    "ext-unix-sk": "--ext-unix-sk",
    "shell-job": "--shell-job",
    "file-locks": "--file-locks",
    "auto-dedup": "--auto-dedup",
    "lazy-pages": "--lazy-pages",
    "leave-running": "--leave-running",
    "link-remap": "--link-remap",
    "tcp-skip-in-flight": "--skip-in-flight",
}
_TEXTS = {
    "parent-path": "--prev-images-dir",
    "lsm-profile": "--lsm-profile",
    "lsm-mount-context": "--lsm-mount-context",
}
_DEFAULT_DIRECTORY = "checkpoint"


def check(path: str) -> None:
    """Raise Failure, in one line that names criu and why, unless *path* is a criu that works here."""
    try:
        ended = subprocess.run([path, "check"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        why = f'exec: "{path}": executable file not found in $PATH'
        if "/" in path:
            why = f"fork/exec {path}: no such file or directory"
        raise Failure(f"CRIU version check failed: {why}") from None
    except OSError as error:
        raise Failure(f"CRIU version check failed: fork/exec {path}: {reason(error)}") from None
    if ended.returncode:
        lines = (ended.stdout + ended.stderr).decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if "Error" in line), "")
        raise Failure(f"criu does not work on this host: {said or f'exit status {ended.returncode}'}")


class Places:
    """The directories of one run of criu."""

    __slots__ = ("images", "log", "work")

    def __init__(self, command: Command, log_file: str, *, make: bool) -> None:
        """Those of the flags; with *make* that of the images is made, otherwise it must exist. Raises Failure."""
        self.images = os.path.abspath(command.text("image-path") or _DEFAULT_DIRECTORY)
        try:
            if make:
                os.makedirs(self.images, mode=0o700, exist_ok=True)
            elif not os.path.isdir(self.images):
                raise Failure(f"stat {self.images}: no such file or directory")
            self.work = os.path.abspath(command.text("work-path") or self.images)
            os.makedirs(self.work, mode=0o700, exist_ok=True)
        except OSError as error:
            raise Failure(f"mkdir {error.filename}: {reason(error)}") from None
        self.log = f"{self.work}/{log_file}"


def dump(command: Command, container: Container) -> None:
    """Save a container into its images. Raises Failure with the last error of criu's log."""
    places = Places(command, "dump.log", make=True)
    streams = [_link(container.pid, number) for number in range(3)]
    words = ["pre-dump" if command.flag("pre-dump") else "dump", "--tree", str(container.pid)]
    words += _common(command, places)
    words += ["--root", container.document["rootfs"]]
    binds = bind_mounts(container.spec, container.document["bundle"])
    outside = _from_outside(container)
    for destination in dict.fromkeys([*(destination for destination, _ in binds), *outside]):
        words += ["--external", f"mnt[{destination}]:{destination}"]
    server = command.text("page-server")
    if server:
        address, _, port = server.partition(":")
        words += ["--page-server", "--address", address, "--port", port]
    passed: tuple[int, ...] = ()
    if command.number("status-fd") >= 0:
        words += ["--status-fd", str(command.number("status-fd"))]
        passed = (command.number("status-fd"),)
    _run(command.options.criu, words, places, passed)
    own = {**container.own, "spec": None}
    with open(f"{places.images}/{OWN_FILE}", "w", encoding="utf-8") as file:
        file.write(dumps({"pyrunc": own, "streams": streams, "outside": outside}))


def restore(command: Command, spec: dict[str, Any], bundle: str, rootfs: str) -> tuple[int, dict[str, Any]]:
    """Make the processes of a container again, as our children; gives the first one's pid, and its own part.

    *rootfs* is mounted somewhere, as criu wants it. Raises Failure with the last error of criu's log.
    """
    places = Places(command, "restore.log", make=False)
    try:
        with open(f"{places.images}/{OWN_FILE}", encoding="utf-8") as file:
            saved = loads(file.read())
    except OSError as error:
        raise Failure(f"open {places.images}/{OWN_FILE}: {reason(error)}") from None
    pid_file = f"{places.work}/restored.pid"
    if os.path.lexists(pid_file):
        os.unlink(pid_file)
    words = ["restore", "--restore-detached", "--restore-sibling", "--pidfile", pid_file]
    words += [*_common(command, places), "--root", rootfs]
    sources = {**saved["outside"], **dict(bind_mounts(spec, bundle))}
    for destination, source in sources.items():
        words += ["--external", f"mnt[{destination}]:{source}"]
    for number, link in enumerate(saved["streams"]):
        if link.startswith(("pipe:", "socket:")):
            words += ["--inherit-fd", f"fd[{number}]:{link}"]
    _run(command.options.criu, words, places, (), streams=True)
    with open(pid_file, encoding="ascii") as file:
        pid = int(file.read())
    os.unlink(pid_file)
    own: dict[str, Any] = saved["pyrunc"]
    return pid, own


def bind_mounts(spec: dict[str, Any], bundle: str) -> list[tuple[str, str]]:
    """The destinations and the absolute sources of a document's bind mounts, which criu is told of."""
    return [
        (mount["destination"], os.path.join(bundle, mount.get("source") or ""))
        for mount in spec.get("mounts") or ()
        if {"bind", "rbind"}.intersection(mount.get("options") or ()) or mount.get("type") == "bind"
    ]


def _from_outside(container: Container) -> dict[str, str]:
    """What the runtime has mounted from the host: destinations, and what is mounted there.

    The host's /dev/null over masked files (a masked directory has a file system of its own), and the container's own
    cgroups. Source: proc_pid_mountinfo(5).
    """
    root = f"/proc/{container.pid}/root"
    paths = (container.spec.get("linux") or {}).get("maskedPaths") or ()
    found = {
        path: "/dev/null" for path in paths if os.path.exists(root + path) and not os.path.isdir(root + path)
    }
    own = container.own.get("cgroups") or ()
    with open(f"/proc/{container.pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = parse_mounts(file.read())
    for mounted in mounts:
        if mounted.kind in ("cgroup", "cgroup2") and mounted.root != "/":
            options = set(mounted.super_options.split(","))
            for entry in own:
                version = 2 if mounted.kind == "cgroup2" else 1
                if entry["version"] == version and (version == 2 or options.issuperset(entry["controllers"])):
                    found[mounted.mountpoint] = entry["path"]
    return found


def _link(pid: int, number: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except OSError:
        return ""


def _common(command: Command, places: Places) -> list[str]:
    mode = command.text("manage-cgroups-mode") or "soft"
    words = ["--images-dir", places.images, "--work-dir", places.work, "--log-file", places.log, "-v4"]
    words.append(f"--manage-cgroups={mode}")
    words += [there for here, there in _SWITCHES.items() if command.values.get(here)]
    for here, there in _TEXTS.items():
        if command.values.get(here):
            words += [there, str(command.values[here])]
    if command.texts("empty-ns"):
        words += ["--empty-ns", "net"]
    return words


def _run(
    path: str, words: list[str], places: Places, passed: tuple[int, ...], *, streams: bool = False
) -> None:
    """Run criu. Only a restore gets our standard streams: they become the container's."""
    quiet = None if streams else subprocess.DEVNULL
    ended = subprocess.run(
        [path, *words], check=False, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=passed, cwd="/"
    )
    if ended.returncode:
        raise Failure(f"criu failed: {_last_error(places.log)}\nlog file: {places.log}")


def _last_error(log: str) -> str:
    """The last line of a log that says what went wrong, and not only that something did."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            errors = [line.strip() for line in file if "Error" in line]
    except OSError:
        errors = []
    told = [line for line in errors if "FAILED" not in line] or errors
    return told[-1] if told else "it says nothing of why"
