"""Files into containers and out of them: what Docker's API has for `docker cp`, also for containers that do not run.

Source: Docker Engine API v1.51, /containers/{id}/archive; dockerd's answers, tests/fixtures/docker/copy.txt.
"""

import errno
import os
import stat
from posixpath import normpath

from pyrunc.engine import archive_extract, archive_write, container_root
from pyrunc.engine.argument_checks import check_path
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from pyrunc.engine.container_root import Root
    from pyrunc.engine.parts import Parts

    Sink = Callable[[bytes], object]


class PathStat(NamedTuple):
    """A file of a container: its *name*, *size* in bytes, *mode* as in stat(2), where a symlink leads in the end."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, and no link to one."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symlink."""
        return stat.S_ISLNK(self.mode)


def absolute(path: str) -> str:
    """*path* from the root of a container, without "..", and with the "/" or "/." at its end."""
    clean = normpath("/" + path)
    clean = clean[1:] if clean.startswith("//") else clean
    base = path.rsplit("/", 1)[-1]
    if base == "." and not clean.endswith("/."):
        clean = clean.rstrip("/") + "/."
    elif path.endswith("/") and not clean.endswith("/"):
        clean += "/"
    return clean


def stat_path(parts: "Parts", container: str, path: str, name: str = "") -> PathStat:
    """What is at *path*. Raises NotFound in Docker's words, which call the container *name*, FailedPrecondition."""
    check_path("path", path)
    with container_root.opened(parts, container, name or container) as root:
        return _stat(root, absolute(path))


def get_archive(parts: "Parts", container: str, path: str, sink: "Sink", name: str = "") -> PathStat:
    """Write the file or directory at *path*, a symlink as such, as a tar to *sink*; what it is.

    Names in it begin with the last part of *path*. Raises NotFound in Docker's words, FailedPrecondition, OSError.
    """
    check_path("path", path)
    with container_root.opened(parts, container, name or container) as root:
        clean = absolute(path)
        found = _stat(root, clean)
        above, _, leaf = clean.rpartition("/")
        parent = _open(root, (above or "/") if leaf not in ("", ".") else clean, clean)
        try:
            base = leaf or found.name if leaf != "." else "."
            archive_write.write(
                parent, leaf or ".", "" if clean == "/" else base, sink, hidden=root.is_hidden
            )
        finally:
            os.close(parent)
        return found


def put_archive(
    parts: "Parts", container: str, path: str, source: "IO[bytes]", name: str = "", *, overwrite: bool = False,
    copy_owner: bool = False, rename: "Callable[[str], str] | None" = None,
) -> None:  # fmt: skip
    """Extract the tar that *source* reads, compressed or not, to the directory *path*, or where such a symlink leads.

    Unless *overwrite* nothing but a directory takes the place of a directory, nor the other way round. Files belong to
    whom the archive says; with *copy_owner*, to the container's user. *rename* changes each name first.
    Raises NotFound, FailedPrecondition, InvalidArgument in Docker's words, OSError.
    """
    check_path("path", path)
    if not callable(getattr(source, "read", None)):
        raise InvalidArgument(f"source must be what can be read from, not {source!r:.100}")
    clean = absolute(path)
    with container_root.opened(parts, container, name or container, writable=True) as root:
        try:
            top = root.open(clean, os.O_RDONLY)
        except OSError as exc:
            raise _translated(exc, root, clean) from exc
        try:
            if not stat.S_ISDIR(os.fstat(top).st_mode):
                raise FailedPrecondition("extraction point is not a directory")
            _check_writable(parts, container, root, top)
        finally:
            os.close(top)
        owner = _user(parts, container, root) if copy_owner else None

        def open_directory(below: str, flags: int) -> int:
            return root.open(f"{clean}/{below}", flags)

        archive_extract.Extractor(
            open_directory, clean, overwrite=overwrite, owner=owner, rename=rename
        ).extract(source)


def _stat(root: "Root", clean: str) -> PathStat:
    above, _, leaf = clean.rpartition("/")
    name = clean.rstrip("/").rpartition("/")[2] or "/"
    parent = _open(root, (above or "/") if leaf not in ("", ".") else clean, clean)
    try:
        status = os.stat(leaf or ".", dir_fd=parent, follow_symlinks=False)
    except OSError as exc:
        raise _translated(exc, root, clean) from exc
    finally:
        os.close(parent)
    target = root.resolved(clean) if stat.S_ISLNK(status.st_mode) else ""
    return PathStat(name, status.st_size, status.st_mode, status.st_mtime_ns, target)


def _open(root: "Root", path: str, asked: str) -> int:
    """The directory *path*, for the sake of *asked*."""
    try:
        return root.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise _translated(exc, root, asked) from exc


def _translated(exc: OSError, root: "Root", path: str) -> Exception:
    shown = path.rstrip("/") or "/"
    if exc.errno == errno.ENOENT:
        return NotFound(f"Could not find the file {shown} in container {root.name}")
    if exc.errno == errno.ENOTDIR:
        if path.endswith(("/", "/.")):
            return FailedPrecondition(f"lstat {path}: not a directory")
        return NotFound(f"Could not find the file {shown} in container {root.name}")
    return FailedPrecondition(f"{path}: {(exc.strerror or str(exc)).lower()}")


def _check_writable(parts: "Parts", container: str, root: "Root", top: int) -> None:
    own = root.is_own(top)
    if own and parts.containers.find(container).record.host_config.get("ReadonlyRootfs"):
        raise FailedPrecondition("container rootfs is marked read-only")
    if os.fstatvfs(top).f_flag & os.ST_RDONLY:
        what = "container rootfs" if own else "mounted volume"
        raise FailedPrecondition(f"{what} is marked read-only")


def _user(parts: "Parts", container: str, root: "Root") -> tuple[int, int] | None:
    """Who the container's programs are, by its own files; None if nobody was named."""
    from pyrunc.runtime import users

    user = str(parts.containers.find(container).record.config.get("User") or "")
    if not user:
        return None
    try:
        found = users.resolve(user, (), [f"/proc/self/fd/{root.fd}"])
    except NotFound as exc:
        raise InvalidArgument(str(exc)) from exc
    return found.uid, found.gid
