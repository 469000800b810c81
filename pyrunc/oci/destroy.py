"""Removing whatever a container has on the host: processes, cgroups, its state directory."""

from __future__ import annotations

import errno
import os
import signal
import time

from pyrunc.oci.container_cgroups import may_keep_some, processes, relative_paths
from pyrunc.oci.kill import signal_first
from pyrunc.oci.log import Failure, reason
from pyrunc.runtime.cgroup_layout import detect

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container
    from pyrunc.runtime.cgroup_layout import Layout

_PATIENCE_S = 10.0
_LEAVING_S = (
    0.5  # how long somebody in the cgroup may take who only passes through, as the start of an exec does
)
_STEP_S = 0.005


def destroy(container: Container, log: Log, *, kill: bool) -> None:
    """Remove a container; with *kill* its processes are killed first, and waited for.

    Its poststop hooks run last; what they fail with is logged as a warning. Raises Failure where a process or a
    cgroup of its own stays. A cgroup in which somebody else is by now is left to them, and that is logged.
    """
    layout = _all_hierarchies(container)
    if kill:
        _kill(container)
    for path in relative_paths(container, layout):
        try:
            _remove_cgroups(container, layout, path, log)
        except TimeoutError as error:
            raise Failure(str(error)) from None
        except OSError as error:
            raise Failure(
                f"unable to remove container's cgroup: unlinkat {error.filename}: {reason(error)}"
            ) from None
    remove_directory(container.directory)
    _poststop(container, log)


def _remove_cgroups(container: Container, layout: Layout, path: str, log: Log) -> None:
    from pyrunc.runtime import cgroup_control

    own = may_keep_some(container)
    if own:
        # A container without a pid namespace of its own leaves processes behind; runc kills them here too.
        cgroup_control.kill(layout, path)
    elif not _is_vacated(container):
        _leave(container, log)
        return
    if container.own.get("systemd"):
        _stop_unit(container, log)
    try:
        cgroup_control.remove(layout, path)
    except OSError as error:
        if own or error.errno != errno.EBUSY:
            raise
        _leave(container, log)
        return
    cgroup_control.prune(layout, path)


def _leave(container: Container, log: Log) -> None:
    """Leave its cgroups to who is in them, and mark them, so that they go with the last that is below them."""
    from pyrunc.runtime.cgroup_control import MADE_BY_A_START

    paths = [entry["path"] for entry in container.own["cgroups"]]
    log.write("warning", f"cgroup {paths[0]} has processes of others, and is left to them")
    for path in paths:
        try:
            os.setxattr(path, MADE_BY_A_START, b"1")
        except OSError:
            continue  # it is gone, or the mark is not ours to set


def _is_vacated(container: Container) -> bool:
    """Whether nobody is in its cgroups, or soon nobody is any more."""
    deadline = time.monotonic() + _LEAVING_S
    while processes(container):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_STEP_S)
    return True


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
