"""A tar becomes files in a directory, as Docker's `cp` has it: merged into what is there, nothing of it outside.

Each entry's directory is opened anew by the kernel, inside of the root; entries themselves are made, or removed and
made again, and never followed. So neither a link in the archive, nor one that a program of the container makes
meanwhile, leads outside. Source: Docker Engine API v1.51, PUT /containers/{id}/archive.
"""

import os
import stat
import tarfile
from posixpath import normpath

from pyrunc.drivers.graph import trees
from pyrunc.errors import InvalidArgument, PyruncError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    Open = Callable[[str, int], int]

_CAPABILITY = "SCHILY.xattr.security.capability"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_ATTEMPTS = 64  # against a program that makes again what is removed
_CHUNK = 256 << 10


class Refused(InvalidArgument):
    """The archive has something that would lead outside, or take the place of what must stay."""


class Extractor:
    """Extracts into one directory.

    *open_directory* opens a directory by its path from there ("." is the directory itself), safely, with flags of
    open(2). *shown* is what errors call the directory. Without *overwrite* nothing but a directory takes the place of a
    directory, and no directory that of anything else. *owner* (uid, gid) has all that is made; None: whom the archive
    says, if *set_owner*, or else this process. *rename* changes each name first.
    """

    def __init__(
        self, open_directory: "Open", shown: str, *, overwrite: bool = False, set_owner: bool = True,
        owner: tuple[int, int] | None = None, rename: "Callable[[str], str] | None" = None,
    ) -> None:  # fmt: skip
        self._open = open_directory
        self._shown = shown
        self._overwrite = overwrite
        self._set_owner = set_owner
        self._owner = owner
        self._rename = rename or (lambda name: name)

    def extract(self, source: "IO[bytes]") -> None:
        """Extract what *source* reads: a tar, plain or compressed by gzip, bzip2 or xz; nothing at all is one too.

        Raises InvalidArgument for an archive that is none, or that has entries outside; OSError.
        """
        counted: Any = _Counted(source)
        directories: list[tuple[str, int, tuple[int, int]]] = []
        try:
            with tarfile.open(
                fileobj=counted, mode="r|*", bufsize=_CHUNK, encoding="utf-8", errors="surrogateescape"
            ) as tar:
                for entry in tar:
                    tar.members.clear()  # type: ignore[attr-defined]  # which it would keep, however many
                    self._add(tar, entry, directories)
        except (tarfile.TarError, EOFError) as exc:
            if counted.passed:
                raise InvalidArgument(f"archive/tar: invalid tar header: {exc}") from exc
            return
        for path, _, times in reversed(directories):
            try:
                fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                os.utime(fd, ns=times)
            finally:
                os.close(fd)

    def _add(
        self,
        tar: tarfile.TarFile,
        entry: tarfile.TarInfo,
        directories: list[tuple[str, int, tuple[int, int]]],
    ) -> None:
        name = self._inside(self._rename(entry.name), "")
        above, _, leaf = name.rpartition("/")
        parent = self._parent(above or ".")
        try:
            if leaf in ("", "."):
                return  # the directory itself, which stays as it is
            there = self._clear(parent, leaf, name, entry.isdir())
            mode = stat.S_IMODE(entry.mode)
            if entry.isdir():
                self._directory(parent, leaf, entry, there)
                directories.append((name, mode, _times(entry)))
            elif entry.isreg():
                self._file(tar, parent, leaf, entry)
            elif entry.islnk():
                self._link(parent, leaf, self._inside(self._rename(entry.linkname), entry.name))
            elif entry.issym():
                self._check_symlink(above, leaf, entry.linkname)
                os.symlink(entry.linkname, leaf, dir_fd=parent)
                self._own(leaf, entry, parent)
                os.utime(leaf, ns=_times(entry), dir_fd=parent, follow_symlinks=False)
            elif entry.type in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
                kind = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}.get(
                    entry.type, stat.S_IFIFO
                )
                device = os.makedev(entry.devmajor, entry.devminor) if kind != stat.S_IFIFO else 0
                os.mknod(leaf, kind | mode, device, dir_fd=parent)
                self._own(leaf, entry, parent)
                # Not through a name: what is at it now may be another's.
                fd = os.open(leaf, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                try:
                    if stat.S_IFMT(os.fstat(fd).st_mode) == kind:
                        os.chmod(f"/proc/self/fd/{fd}", mode)
                finally:
                    os.close(fd)
                os.utime(leaf, ns=_times(entry), dir_fd=parent, follow_symlinks=False)
            else:
                raise Refused(f"unhandled tar header type {ord(entry.type)}")
        finally:
            os.close(parent)

    def _inside(self, name: str, of: str) -> str:
        """*name*, of an entry or of what the hard link *of* names, from the directory; "." for that itself."""
        clean = normpath(name.lstrip("/") or ".")
        if clean == ".." or clean.startswith("../"):
            if of:
                raise Refused(f'invalid hardlink "{self._shown}/{of}" -> "{name}"')
            raise Refused(f'"{name}" is outside of "{self._shown}"')
        return clean

    def _check_symlink(self, above: str, leaf: str, target: str) -> None:
        """Refuse a link that leads out of the directory by its text, as Docker does; what follows it is safe anyway."""
        depth = 0
        for part in (*above.split("/"), *target.split("/")) if not target.startswith("/") else ():
            if part == "..":
                depth -= 1
            elif part not in ("", "."):
                depth += 1
            if depth < 0:
                place = "/".join(part for part in (self._shown.rstrip("/"), above, leaf) if part)
                raise Refused(f'invalid symlink "{place}" -> "{target}"')

    def _parent(self, path: str) -> int:
        """The directory *path*, made with all that is missing above it."""
        try:
            return self._open(path, _DIRECTORY)
        except FileNotFoundError:
            if path == ".":
                raise
        parent, way = self._open(".", _DIRECTORY), ""
        for part in path.split("/"):
            way = f"{way}/{part}" if way else part
            try:
                os.mkdir(part, 0o755, dir_fd=parent)
            except FileExistsError:
                pass
            finally:
                os.close(parent)
            parent = self._open(way, _DIRECTORY)
        return parent

    def _clear(self, parent: int, leaf: str, name: str, wanted_directory: bool) -> bool:
        """Make room for an entry; whether a directory is there that it is merged with."""
        try:
            status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        directory = stat.S_ISDIR(status.st_mode)
        if directory and wanted_directory:
            return True
        if not self._overwrite and directory != wanted_directory:
            kinds = ("directory", "non-directory") if directory else ("non-directory", "directory")
            raise Refused(
                f'cannot overwrite {kinds[0]} "{self._shown.rstrip("/")}/{name}" with {kinds[1]} "{self._shown}"'
            )
        if directory:
            trees.remove(parent, leaf)
        else:
            os.unlink(leaf, dir_fd=parent)
        return False

    def _directory(self, parent: int, leaf: str, entry: tarfile.TarInfo, there: bool) -> None:
        if not there:
            try:
                os.mkdir(leaf, 0o700, dir_fd=parent)
            except FileExistsError:
                pass
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, dir_fd=parent)
        try:
            self._own(fd, entry)
            os.fchmod(fd, stat.S_IMODE(entry.mode))
        finally:
            os.close(fd)

    def _file(self, tar: tarfile.TarFile, parent: int, leaf: str, entry: tarfile.TarInfo) -> None:
        fd = self._new(parent, leaf)
        try:
            content = tar.extractfile(entry)
            while content is not None and (data := content.read(_CHUNK)):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            self._own(fd, entry)
            os.fchmod(fd, stat.S_IMODE(entry.mode))  # after chown, which clears set-user-ID
            value = entry.pax_headers.get(_CAPABILITY)
            if value is not None:
                try:
                    os.setxattr(fd, "security.capability", value.encode("utf-8", "surrogateescape"))
                except OSError:
                    pass  # a file system without attributes, or a caller who may not
            os.utime(fd, ns=_times(entry))
        finally:
            os.close(fd)

    def _new(self, parent: int, leaf: str) -> int:
        """A new file, and never what a program has put at its name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for _ in range(_ATTEMPTS):
            try:
                return os.open(leaf, flags, 0o600, dir_fd=parent)
            except FileExistsError:
                self._clear(parent, leaf, leaf, False)
        raise PyruncError(f"{self._shown}: {leaf} is made again and again by another")

    def _link(self, parent: int, leaf: str, target: str) -> None:
        above, _, name = target.rpartition("/")
        source = self._open(above or ".", _DIRECTORY)
        try:
            os.link(name, leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _own(self, what: "int | str", entry: tarfile.TarInfo, parent: int | None = None) -> None:
        if not self._set_owner:
            return
        uid, gid = self._owner or (entry.uid, entry.gid)
        if isinstance(what, int):
            os.fchown(what, uid, gid)
        else:
            os.chown(what, uid, gid, dir_fd=parent, follow_symlinks=False)


class _Counted:
    """A source of bytes that knows whether there were any."""

    def __init__(self, source: "IO[bytes]") -> None:
        self._source = source
        self.passed = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.passed += len(data)
        return data


def _times(entry: tarfile.TarInfo) -> tuple[int, int]:
    """Access and change, in nanoseconds; exactly, where the archive says so as text."""
    whole, _, part = entry.pax_headers.get("mtime", "").partition(".")
    if whole.removeprefix("-").isdigit() and (part or "0").isdigit():
        sign = -1 if whole.startswith("-") else 1
        ns = int(whole) * 10**9 + sign * int((part or "0")[:9].ljust(9, "0"))
    else:
        ns = int(entry.mtime) * 10**9
    return ns, ns
