"""The driver of LXC 5: `lxc-start` makes the container, by a configuration that is made of the container's documents.

What LXC is told is in lxc_config.py, who tells it is lxc_create.py, a program of the monitor that containers of
other runtimes have too (driven.py). LXC's own monitor ends as soon as the container stands: the container's init
becomes a child of ours, so how it ends is known exactly, and nothing of LXC's stays on the host.

A further program joins the container as one joins a native container: lxc-attach knows no groups and no working
directory, and its process is for a while the host's and the container's at once.
"""

from __future__ import annotations

import json
import os
import sys

from pyrunc import errors
from pyrunc.errors import PyruncError, StartError, Unsupported
from pyrunc.runtime import cgroup_layout, shim_state

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.drivers.exec.driven import Failed
    from pyrunc.drivers.exec.driver import Start, StartExec
    from pyrunc.runtime.joining import Joining
    from pyrunc.runtime.shim import ShimProcess
    from pyrunc.runtime.supervised import Supervised

PROGRAM = "lxc-start"
_CREATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lxc_create.py")
_KINDS = ("Unsupported", "CommandNotFound", "CommandNotExecutable", "InvalidSpec", "StartError")


class Lxc:
    """See ExecDriver. *path* is LXC's program lxc-start."""

    takes_plans = False

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    def check(
        self, config: Mapping[str, Any], host_config: Mapping[str, Any], rest: Mapping[str, Any]
    ) -> None:
        """See ExecDriver: what LXC cannot honour is seen in the document, at a start."""

    def start(self, wanted: Start) -> ShimProcess:
        """See ExecDriver."""
        from pyrunc.drivers.exec import bundle, driven, lxc_config, monitor_place
        from pyrunc.runtime.compile_beside import Beside

        place, container_id, rootfs = wanted.settings.state_dir, wanted.container_id, wanted.rootfs
        assert rootfs is not None
        files = f"{place}/bundle"
        mounts: list[dict[str, Any]] = []
        spec = bundle.write(files, container_id, wanted.argv, rootfs, wanted.options, self.name, mounts)
        try:
            lxc_config.check(spec)
        except Unsupported as exc:
            raise Unsupported(f"--runtime {self.name}: {exc}") from exc
        drive = driven.Drive(
            container_id, files, create=(sys.executable or "python3", "-I", "-S", _CREATE, files, self.path),
            counter=monitor_place.memory_counter(spec["linux"]["cgroupsPath"]), terminal=wanted.settings.terminal,
            beside=Beside(rootfs, os.path.join(files, spec["root"]["path"]), spec), mounts=mounts,
        )  # fmt: skip
        layout = cgroup_layout.detect()
        try:
            monitor_place.begin(layout, container_id)
            return driven.start(drive, wanted.settings, wanted.client, wanted.until, shim_state.signal)
        except driven.Failed as exc:
            monitor_place.end(layout, container_id)
            raise self._failure(exc, files) from exc
        except BaseException:
            monitor_place.end(layout, container_id)
            raise

    def start_exec(self, wanted: StartExec) -> ShimProcess:
        """See ExecDriver."""
        from pyrunc.runtime import shim_exec

        with _joining(wanted) as joining:
            return shim_exec.start(joining, wanted.settings, wanted.client)

    def attach_exec(self, wanted: StartExec) -> Asked:
        """See ExecDriver."""
        return Asked(_joining(wanted), wanted.settings.state_dir)

    def signal(self, place: str, container_id: str, who: shim_state.Running, number: int) -> None:  # noqa: ARG002
        """See ExecDriver."""
        shim_state.signal(who, number)

    def _failure(self, failed: Failed, files: str) -> PyruncError:
        """What has failed, as lxc_create.py has written it down."""
        try:
            with open(f"{files}/error", encoding="utf-8", errors="surrogateescape") as file:
                kind, _, words = file.read().partition(" ")
        except OSError:
            kind, words = "", failed.words
        if not failed.verb:
            words = f"its monitor: {os.strerror(failed.errno).lower() if failed.errno else 'was killed'}"
        text = f"--runtime {self.name}: {words}" if kind == "Unsupported" else f"{self.name}: {words}"
        found: PyruncError = getattr(errors, kind)(text) if kind in _KINDS else StartError(text)
        return found


class Asked:
    """See AskedExec. The directory *place* is of no use to who joins."""

    def __init__(self, joining: Joining, place: str) -> None:
        self._joining = joining
        self._place = place

    def request(self, stdio: Sequence[int], flags: int, wait: bool = True) -> Supervised:
        """See AskedExec."""
        return self._joining.request(stdio, flags, wait)

    def close(self) -> None:
        """See AskedExec."""
        from pyrunc.drivers.exec import driven

        self._joining.close()
        driven.forget(self._place)


def _joining(wanted: StartExec) -> Joining:
    """What joins the container of *wanted*, by its documents as LXC got them. Raises what `start_exec` does."""
    from pyrunc.runtime.compile_host import Rootfs
    from pyrunc.runtime.joining import Joining, Target, open_init
    from pyrunc.runtime.launcher import Launcher
    from pyrunc.runtime.options import Request

    try:
        with open(f"{wanted.place}/bundle/config.json", encoding="utf-8", errors="surrogateescape") as file:
            spec: dict[str, Any] = json.load(file)
    except FileNotFoundError as exc:
        raise shim_state.not_running(wanted.container_id) from exc
    environment = dict(text.split("=", 1) for text in spec["process"]["env"])
    # What only matters to a start may be gone.
    spec["mounts"], spec["linux"]["devices"], spec["linux"]["sysctl"] = [], [], {}
    spec["process"].pop("terminal", None)
    asked = any(text.startswith("HOME=") for text in wanted.variables)
    home = "" if asked else environment.get("HOME", "")
    launcher = Launcher(Request(spec, Rootfs(("/",), idmap=False), {}, environment, home))
    pidfd = open_init(wanted.container_id, wanted.who.pid, wanted.who.pid_started)
    try:
        target = Target(launcher, wanted.container_id, wanted.who.pid, pidfd, environment)
        return Joining(target, wanted.wanted)
    finally:
        os.close(pidfd)
