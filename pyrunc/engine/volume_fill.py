"""An empty volume begins with what the image has at its place: contents, owners, modes, attributes.

It is copied beside and renamed into place, whole, so that a process that is killed leaves an empty volume. Only where
another container has the volume already, and may have the empty directory mounted, it is copied into that.
"""

import errno
import os
from contextlib import ExitStack

from pyrunc._native import filesystem, openat2
from pyrunc.drivers.graph import trees
from pyrunc.errors import FailedPrecondition
from pyrunc.store.files import Lock, sync_directory

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.engine.parts import Parts

_BEGUN = ".fill-"


def fill(parts: "Parts", name: str, tree: int, path: str, *, alone: bool, place: str = "") -> None:
    """Copy what the root *tree*, an open directory, has at *path* into the volume *name*, if that is empty.

    *alone*: no other container has it. *place* is the directory of a volume that is elsewhere. Raises
    FailedPrecondition, in Docker's words, if the image has no directory there, and OSError.
    """
    try:
        source = openat2.open_in_root(tree, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY)
    except NotADirectoryError:
        if place or not os.listdir(parts.volumes.ensure_data(name)):
            raise FailedPrecondition(f"source {path} is not directory") from None
        return  # the start says what a directory is mounted over
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP):
            return  # the image has nothing there: the volume stays empty, and root's
        raise
    try:
        with Lock(os.path.join(parts.locks, f"{name}.volume"), transient=True):
            if place:
                if os.path.isdir(place) and not os.listdir(place):
                    _copy_into(source, place, place)
                return
            data = parts.volumes.ensure_data(name)
            home = os.path.dirname(data)
            with trees.opened(home) as directory:
                for left in os.listdir(directory):
                    if left.startswith(_BEGUN):
                        trees.remove(directory, left)
            if os.listdir(data):
                return
            if alone:
                _copy_beside(source, home, data)
            else:
                _copy_into(source, data, home)
    finally:
        os.close(source)


def _copy_beside(source: int, home: str, data: str) -> None:
    begun = _BEGUN + os.urandom(8).hex()
    with trees.opened(home) as directory:
        os.mkdir(begun, 0o700, dir_fd=directory)
        try:
            with trees.opened(begun, directory) as beside:
                os.mkdir("data", 0o700, dir_fd=beside)
                os.mkdir("links", 0o700, dir_fd=beside)
                with trees.opened("data", beside) as target, trees.opened("links", beside) as links:
                    trees.Copier(links).copy(source, target)
                    if os.listdir(target):
                        filesystem.syncfs(target)
                os.rename("data", data, src_dir_fd=beside)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:  # somebody has written there meanwhile: that stays
                raise
        finally:
            trees.remove(directory, begun)
    sync_directory(home)


def _copy_into(source: int, data: str, beside: str) -> None:
    """Copy into a directory that others may see; hard links are kept for the time in one *beside* it."""
    begun = _BEGUN + os.urandom(8).hex()
    with ExitStack() as stack:
        home = stack.enter_context(trees.opened(os.path.dirname(data) if beside == data else beside))
        os.mkdir(begun, 0o700, dir_fd=home)
        stack.callback(trees.remove, home, begun)
        links = stack.enter_context(trees.opened(begun, home))
        target = stack.enter_context(trees.opened(data))
        try:
            trees.Copier(links).copy(source, target)
        except FileExistsError as exc:
            raise FailedPrecondition(
                f"{data}: it was written to while it was filled with what the image has"
            ) from exc
