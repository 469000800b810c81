"""Acting on the cgroups of a running or dead container: freeze, thaw, kill, remove.

A start does none of this. Where a v2 hierarchy has the container's cgroup it is used, also on a hybrid host:
its freezer is reliable and `cgroup.kill` cannot be outrun by a fork; cgroup v1 has the slower ways below.

Source: kernel Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files";
cgroup-v1/freezer-subsystem.rst.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyrunc.runtime.cgroup_files import clean_path, open_below, open_cgroup, read_at, write_at
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout

_STEP_S = 0.001
_GRACE_S = 0.05
# A container that may make cgroups can nest them as deep as it likes; this bounds the descriptors that
# remove() holds.
_OPEN_LEVELS = 64
MADE_BY_A_START = "trusted.pyrunc"  # as pyrunc/_native/cgroup.pxd sets it


def freeze(layout: Layout, path: str, timeout_s: float = 10.0) -> None:
    """Stop every process of the cgroup *path* and below, and return when all of them have stopped.

    Raises TimeoutError after *timeout_s* seconds, having thawed them again; FileNotFoundError where there is
    no such cgroup or no freezer.
    """
    deadline = time.monotonic() + timeout_s
    with _freezer(layout, path) as (version, directory):
        try:
            if version == 2:
                _set_frozen_v2(directory, True, deadline)
            else:
                _freeze_v1(directory, deadline)
        except TimeoutError as error:
            write_at(directory, *_THAW[version])
            raise TimeoutError(f"cannot freeze cgroup {path} within {timeout_s} s") from error


def thaw(layout: Layout, path: str, timeout_s: float = 10.0) -> None:
    """Let the processes that `freeze` stopped go on, and return when they do.

    Raises TimeoutError after *timeout_s* seconds; FileNotFoundError where there is no such cgroup or no
    freezer.
    """
    deadline = time.monotonic() + timeout_s
    with _freezer(layout, path) as (version, directory):
        if version == 2:
            _set_frozen_v2(directory, False, deadline)
        else:
            write_at(directory, *_THAW[version])


def kill(layout: Layout, path: str, timeout_s: float = 10.0) -> None:
    """Kill every process of the cgroup *path* and below with SIGKILL; a cgroup that is gone is no error.

    With v2 (`cgroup.kill`, Linux 5.14 or a distribution's older kernel) all are signalled at once, frozen
    ones too. A process that is in the container's v1 cgroups only is found there. Returns when none of them
    is left in its cgroup; their parents may still have to reap them. Raises TimeoutError after *timeout_s*
    seconds.
    """
    clean = clean_path(path)
    deadline = time.monotonic() + timeout_s
    # One v1 hierarchy is enough to look into, since a process is in all of them; best one that can freeze.
    v1 = layout.of("freezer", "pids", "devices", "memory", "cpu")
    opened: list[tuple[Hierarchy, int]] = []
    try:
        for hierarchy in (layout.v2, v1):
            if hierarchy is not None and not any(hierarchy is other for other, _ in opened):
                try:
                    opened.append((hierarchy, open_cgroup(hierarchy, clean)))
                except FileNotFoundError:
                    continue
        _kill_all(opened, deadline)
    except TimeoutError as error:
        raise TimeoutError(f"cannot kill all processes of cgroup {path} within {timeout_s} s") from error
    finally:
        for _, directory in opened:
            os.close(directory)


def remove(layout: Layout, path: str, timeout_s: float = 5.0) -> None:
    """Remove the cgroup *path* and everything below it, in every hierarchy; what is missing is no error.

    A cgroup stays busy for a moment after its last process is gone, so it is tried again until *timeout_s*
    seconds have passed. All hierarchies are tried; then the first failure is raised: OSError EBUSY where
    processes are left.
    """
    deadline = time.monotonic() + timeout_s
    *parents, name = clean_path(path).split("/")
    failure: OSError | None = None
    for hierarchy in layout.hierarchies:
        try:
            parent = open_cgroup(hierarchy, "/".join(parents)) if parents else _open_root(hierarchy)
        except FileNotFoundError:
            continue
        try:
            _remove_tree(parent, name, deadline)
        except OSError as error:
            failure = failure or OSError(
                error.errno, error.strerror, f"{hierarchy.mountpoint}/{clean_path(path)}"
            )
        finally:
            os.close(parent)
    if failure is not None:
        raise failure


def prune(layout: Layout, path: str) -> None:
    """Remove the cgroups above *path* that a start has made, and marked, if nobody uses them any more."""
    names = clean_path(path).split("/")
    for hierarchy in (*layout.hierarchies, *layout.named):
        for depth in range(len(names) - 1, 0, -1):
            place = "/".join((hierarchy.mountpoint, *names[:depth]))
            try:
                os.getxattr(place, MADE_BY_A_START)
                os.rmdir(place)
            except OSError:
                break


# --- freezing

_THAW = {1: ("freezer.state", "THAWED"), 2: ("cgroup.freeze", "0")}


@contextmanager
def _freezer(layout: Layout, path: str) -> Iterator[tuple[int, int]]:
    """Open the container's cgroup in the hierarchy that can freeze it; gives its version and the
    descriptor.
    """
    clean = clean_path(path)
    error: OSError = FileNotFoundError(errno.ENOENT, "no cgroup hierarchy with a freezer", clean)
    for hierarchy in (layout.v2, layout.of("freezer")):
        if hierarchy is None:
            continue
        try:
            directory = open_cgroup(hierarchy, clean)
        except FileNotFoundError as missing:
            error = FileNotFoundError(missing.errno, missing.strerror, f"{hierarchy.mountpoint}/{clean}")
            continue
        try:
            yield hierarchy.version, directory
        finally:
            os.close(directory)
        return
    raise error


def _set_frozen_v2(directory: int, frozen: bool, deadline: float) -> None:
    write_at(directory, "cgroup.freeze", "1" if frozen else "0")
    # The kernel notifies a change of cgroup.events with POLLPRI, relative to what was read before through the
    # same descriptor.
    events = os.open("cgroup.events", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while f"frozen {int(frozen)}" not in os.pread(events, 4096, 0).decode().splitlines():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            poll.poll(min(left_s, 0.1) * 1000)
    finally:
        os.close(events)


def _freeze_v1(directory: int, deadline: float) -> None:
    attempt = 0
    while True:
        # A process that is born while the kernel walks through the group is missed; writing it again includes
        # it.
        write_at(directory, "freezer.state", "FROZEN")
        if read_at(directory, "freezer.state").strip() == "FROZEN":
            return
        if time.monotonic() >= deadline:
            raise TimeoutError
        attempt += 1
        if attempt % 50 == 0:
            # A fork that waits for a frozen process never ends, and blocks the rest, unless all may run for a
            # moment.
            write_at(directory, *_THAW[1])
        time.sleep(_STEP_S)


# --- killing


def _kill_all(opened: list[tuple[Hierarchy, int]], deadline: float) -> None:
    patience = time.monotonic()
    for hierarchy, directory in opened:
        if hierarchy.version == 2:
            try:
                write_at(directory, "cgroup.kill", "1")
            except FileNotFoundError:
                continue  # older than 5.14
            # They die within a millisecond or so; who has not by then is frozen by v1, or not in this cgroup.
            patience += _GRACE_S
    while True:
        left = [(hierarchy, directory, _processes(directory)) for hierarchy, directory in opened]
        if not any(pids for _, _, pids in left):
            return
        now = time.monotonic()
        if now >= deadline:
            raise TimeoutError
        if now >= patience:
            for hierarchy, directory, pids in left:
                try:
                    _signal(hierarchy, directory, pids)
                except OSError as error:
                    # Whoever looks after it has removed it since we looked; the next look tells.
                    if error.errno not in (errno.ENOENT, errno.ENODEV):
                        raise
        time.sleep(_STEP_S)


def _processes(directory: int) -> list[int]:
    """All processes of a cgroup and below; 0 stands for one outside our pid namespace, which cannot be
    signalled.
    """
    pids = []
    pending: list[list[str]] = [[]]
    while pending:
        names = pending.pop()
        try:
            level = open_below(directory, names)
        except FileNotFoundError:
            continue
        try:
            pending += [[*names, child] for child in _children(level)]
            pids += [int(pid) for pid in read_at(level, "cgroup.procs").split()]
        except OSError as error:
            # Removed while it was open; or a threaded cgroup, whose processes are listed further up.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(level)
    return pids


def _signal(hierarchy: Hierarchy, directory: int, pids: list[int]) -> None:
    """Send SIGKILL to *pids* of a cgroup without cgroup.kill.

    They are frozen meanwhile where this hierarchy can, so that none forks. A pid may have been given to a
    stranger since it was read: the descriptor is taken first, and it is signalled only if the pid is still in
    the cgroup then.
    """
    freezable = "freezer" in hierarchy.controllers
    if freezable:
        write_at(directory, "freezer.state", "FROZEN")
    try:
        handles = {}
        for pid in filter(None, pids):
            try:
                handles[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
        still = set(_processes(directory))
        for pid, handle in handles.items():
            try:
                if pid in still:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(handle)
    finally:
        if freezable:
            write_at(directory, *_THAW[1])


# --- removing


def _open_root(hierarchy: Hierarchy) -> int:
    return os.open(hierarchy.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _children(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _remove_tree(parent: int, name: str, deadline: float) -> None:
    """Remove the cgroup *name* of *parent*, children first, without recursion and with few descriptors."""
    names = [name]
    # levels[i] is the parent of names[i]; the uppermost ones are closed (-1) while the tree is deeper than
    # the bound.
    levels = [os.dup(parent)]
    try:
        while names:
            if levels[-1] < 0:
                levels[-1] = open_below(parent, names[:-1])
            if _remove_one(levels[-1], names[-1], deadline):
                names.pop()
                os.close(levels.pop())
                continue
            if time.monotonic() >= deadline:
                # Somebody makes new ones all the time.
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            try:
                below = open_below(levels[-1], names[-1:])
            except FileNotFoundError:
                continue
            children = _children(below)
            if not children:
                # The child that made it busy has gone meanwhile.
                os.close(below)
                continue
            levels.append(below)
            names.append(children[0])
            if len(levels) > _OPEN_LEVELS and levels[-1 - _OPEN_LEVELS] >= 0:
                os.close(levels[-1 - _OPEN_LEVELS])
                levels[-1 - _OPEN_LEVELS] = -1
    finally:
        for level in levels:
            if level >= 0:
                os.close(level)


def _remove_one(parent: int, name: str, deadline: float) -> bool:
    """Remove one cgroup; False where children are in the way. Raises OSError EBUSY when the time is over."""
    while True:
        try:
            os.rmdir(name, dir_fd=parent)
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            try:
                directory = open_below(parent, [name])
            except FileNotFoundError:
                return True
            try:
                if _children(directory):
                    return False
            finally:
                os.close(directory)
            if time.monotonic() >= deadline:
                raise
        time.sleep(_STEP_S)
