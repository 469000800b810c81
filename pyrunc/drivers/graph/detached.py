"""Mounts that only this process sees, and whether a file system can hold an overlay at all.

An overlay is mounted by a thread in a mount namespace of its own, relative to a directory, and handed on as a detached
copy: nothing appears on the host, and no path has to be short enough for an option.
"""

from __future__ import annotations

import errno
import os
import threading

from pyrunc._native import mount as native
from pyrunc._native import namespaces
from pyrunc.drivers.graph import trees
from pyrunc.errors import Unsupported
from pyrunc.runtime.overlay_options import OPTIONS_MAX, option_pairs, option_text, writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Any directory will do: what is there before is hidden from the thread only.
_PLACE = b"/sys"


def overlay(base: str, lowers: Sequence[str], upper: str = "", work: str = "") -> int:
    """Mount an overlay of *lowers*, the lowest first, and return it, detached and close-on-exec.

    Without *upper* it is read-only. The directories are relative to *base*. Raises OSError.
    Source: kernel Documentation/filesystems/overlayfs.rst.
    """
    return in_own_namespace(lambda: _mount(base, lowers, upper, work))


def read_only(directory: str) -> int:
    """*directory* as a detached mount that cannot be written to, close-on-exec.

    Raises OSError.
    """
    tree = native.open_tree(-1, os.fsencode(directory))
    try:
        native.mount_setattr(tree, attr_set=native.MOUNT_ATTR_RDONLY)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _mount(base: str, lowers: Sequence[str], upper: str, work: str) -> int:
    os.chdir(base)
    more = writable(upper, work, volatile=False, layer=True) if upper else []
    options = option_text(lowers, more)
    if len(os.fsencode(options)) > OPTIONS_MAX:
        pairs = option_pairs(lowers, more)
        return native.new_mount(b"overlay", [(key.encode(), os.fsencode(value)) for key, value in pairs])
    native.mount(b"overlay", _PLACE, b"overlay", 0, os.fsencode(options))
    return native.open_tree(-1, _PLACE)


def in_own_namespace(function: Callable[[], int]) -> int:
    """Run *function* in a thread with a mount namespace and a working directory of its own."""
    result: list[int] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            native.mount(None, b"/", flags=native.MS_REC | native.MS_PRIVATE)
            result.append(function())
        except BaseException as exc:  # noqa: BLE001 - it is raised where the thread was started
            failure.append(exc)

    thread = threading.Thread(target=run, name="pyrunc-overlay")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def check_overlay(home: str, name: str) -> None:
    """Raise Unsupported, and say why, unless *home* can hold upper layers; tried in its empty directory *name*."""
    with trees.opened(f"{home}/{name}") as directory:
        for made in ("lower", "lower/emptied", "upper", "work"):
            os.mkdir(made, dir_fd=directory)
        for made in ("lower/gone", "lower/kept", "lower/emptied/gone"):
            os.close(os.open(made, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory))
    with trees.opened(f"{home}/{name}/upper") as upper:
        _check_attributes(home, upper)
        try:
            merged = overlay(f"{home}/{name}", ["lower"], "upper", "work")
        except OSError as exc:
            raise _refused(home, exc) from exc
        try:
            _check_changes(home, merged, upper)
        finally:
            os.close(merged)


def _check_attributes(home: str, upper: int) -> None:
    try:
        os.setxattr(upper, "trusted.overlay.pyrunc", b"y")
        os.removexattr(upper, "trusted.overlay.pyrunc")
    except OSError as exc:
        if exc.errno == errno.EPERM:
            raise Unsupported(
                "overlay2: setting trusted.* attributes needs CAP_SYS_ADMIN on the host"
            ) from exc
        if exc.errno != errno.EOPNOTSUPP:
            raise
        raise Unsupported(f"overlay2: {home} is on {_kind(home)}, which has no trusted.* attributes") from exc


def _check_changes(home: str, merged: int, upper: int) -> None:
    """What images need: files that are gone, and directories that hide what lies below them."""
    os.unlink("gone", dir_fd=merged)
    with trees.opened(".", merged) as root:
        names = sorted(os.listdir(root))
    if names != ["emptied", "kept"]:
        # Overlay knows a whiteout in a listing by its type.
        raise Unsupported(f"overlay2: {home} is on {_kind(home)}, whose directories do not tell d_type")
    os.unlink("emptied/gone", dir_fd=merged)
    os.rmdir("emptied", dir_fd=merged)
    os.mkdir("emptied", dir_fd=merged)
    with trees.opened("emptied", upper) as emptied:
        if "trusted.overlay.opaque" not in os.listxattr(emptied):
            raise Unsupported(f"overlay2: {home} is on {_kind(home)}, where directories do not become opaque")


def _refused(home: str, exc: OSError) -> Unsupported:
    kind = _kind(home)
    if exc.errno == errno.ENODEV:
        return Unsupported("overlay2: this kernel has no overlay file system")
    if kind == "overlay":
        return Unsupported(
            f"overlay2: {home} is on an overlay itself, and the kernel puts no upper layer on another"
        )
    reason = os.strerror(exc.errno or 0).lower()
    return Unsupported(f"overlay2: {home} is on {kind}, which cannot hold an overlay's upper layer: {reason}")


def _kind(path: str) -> str:
    """The type of the file system of *path*, as mountinfo has it."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split()[0]
    return "a file system that is not mounted here"
