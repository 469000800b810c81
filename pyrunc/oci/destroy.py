"""Removing whatever a container has on the host: processes, cgroups, its state directory."""

from __future__ import annotations

import os
import signal
import time

from pyrunc.oci.container_cgroups import relative_paths
from pyrunc.oci.kill import signal_first
from pyrunc.oci.log import Failure, reason
from pyrunc.runtime.cgroup_layout import detect

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container
    from pyrunc.runtime.cgroup_layout import Layout

_PATIENCE_S = 10.0
_STEP_S = 0.005


def destroy(container: Container, log: Log, *, kill: bool) -> None:
    """Remove a container; with *kill* its processes are killed first, and waited for.

    Its poststop hooks run last; what they fail with is logged as a warning. Raises Failure where a process or a
    cgroup stays.
    """
    from pyrunc.runtime import cgroup_control

    layout = _all_hierarchies(container)
    if kill:
        _kill(container)
    for path in relative_paths(container, layout):
        try:
            # A container without a pid namespace of its own leaves processes behind; runc kills them here too.
            cgroup_control.kill(layout, path)
            if container.own.get("systemd"):
                _stop_unit(container, log)
            cgroup_control.remove(layout, path)
            cgroup_control.prune(layout, path)
        except TimeoutError as error:
            raise Failure(str(error)) from None
        except OSError as error:
            raise Failure(
                f"unable to remove container's cgroup: unlinkat {error.filename}: {reason(error)}"
            ) from None
    remove_directory(container.directory)
    _poststop(container, log)


def _stop_unit(container: Container, log: Log) -> None:
    from pyrunc.oci import systemd

    unit = systemd.of_container(container)
    if unit is not None:
        systemd.stop(unit, log)


def _all_hierarchies(container: Container) -> Layout:
    """The host's hierarchies, with those without controllers in which the container has a cgroup too."""
    layout = detect()
    paths = [entry["path"] for entry in container.own.get("cgroups") or ()]
    named = [
        hierarchy
        for hierarchy in layout.named
        if any(path.startswith(f"{hierarchy.mountpoint}/") for path in paths)
    ]
    return layout._replace(hierarchies=(*named, *layout.hierarchies))


def _kill(container: Container) -> None:
    try:
        signal_first(container, signal.SIGKILL)
    except Failure:
        if container.alive():
            raise
    deadline = time.monotonic() + _PATIENCE_S
    while container.alive():
        if time.monotonic() >= deadline:
            raise Failure("container init still running")
        time.sleep(_STEP_S)


def remove_directory(directory: str) -> None:
    """Remove a state directory and what is in it, its state.json last; it is no error if it is gone.

    By descriptors: whoever can put something else in a name's place does not choose what is removed.
    """
    try:
        _remove(directory, None)
    except FileNotFoundError:
        return


def _remove(directory: str, above: int | None) -> None:
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        with os.scandir(here) as entries:
            inside = sorted(
                (e.name == "state.json", e.name, e.is_dir(follow_symlinks=False)) for e in entries
            )
        for _, name, is_directory in inside:
            if is_directory:
                _remove(name, here)
            else:
                os.unlink(name, dir_fd=here)
    finally:
        os.close(here)
    os.rmdir(directory, dir_fd=above)


def _poststop(container: Container, log: Log) -> None:
    """Run the hooks of a container that is gone. Source: OCI config.md, "Poststop"."""
    if not (container.spec.get("hooks") or {}).get("poststop"):
        return
    from pyrunc.oci import hooks
    from pyrunc.oci.state_text import told_to_hooks

    for words in hooks.run(hooks.parse(container.spec), "poststop", told_to_hooks(container, "stopped")):
        log.write("warning", words)
