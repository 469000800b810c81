"""What `docker cp` makes of its two paths: where an archive is extracted, and what its entries are called there.

Source: what Docker's client 28 does, tests/fixtures/docker/copy.txt.
"""

import os
import stat
from posixpath import basename, dirname, isabs, join, normpath
from typing import NamedTuple

from pyrunc.cli.session import CommandError

_MOST_LINKS = 10


class Place(NamedTuple):
    """One end of a copy: *rebase* is what its entries are called instead of the last part of *path*."""

    path: str
    exists: bool = False
    is_directory: bool = False
    rebase: str = ""


class Renamer:
    """Changes the beginning of the names in an archive."""

    def __init__(self, old: str, new: str, before: "Renamer | None" = None) -> None:
        self._old = "" if old == "/" else old
        self._new = new
        self._before = before

    def __call__(self, name: str) -> str:
        """What an entry, or what a hard link names, is called instead."""
        if self._before is not None:
            name = self._before(name)
        return name.replace(self._old, self._new, 1) if name.startswith(self._old) else name


def split(path: str) -> tuple[str, str]:
    """The directory and the entry in it that *path* means; "." for what is in a directory."""
    clean = normpath(path)
    if basename(path) == ".":
        clean = join(clean, ".")
    return dirname(clean) or ".", basename(clean)


def absolute(path: str) -> str:
    """*path* from the root, without "..", and with the "/" or "/." at its end."""
    return _keep_end(normpath(join(os.getcwd(), path)), path)


def _keep_end(clean: str, path: str) -> str:
    if basename(path) == "." and basename(clean) != ".":
        clean = join(clean, ".")
    elif path.endswith("/") and not clean.endswith("/"):
        clean += "/"
    return clean


def rebased(path: str, resolved: str) -> tuple[str, str]:
    """Where the symlink *path* leads, with the end of *path*, and what its entries are called then."""
    resolved = _keep_end(resolved, path)
    old, new = (text.rstrip("/").rpartition("/")[2] or text for text in (path, resolved))
    return resolved, old if old != new else ""


def source(path: str, follow: bool) -> Place:
    """A file or directory of the host that is copied. Raises CommandError where there is none."""
    try:
        if follow:
            found, rebase = rebased(path, os.path.realpath(path, strict=True))
        else:
            above, leaf = path.rpartition("/")[::2]
            directory = os.path.realpath(above or "/", strict=True)
            if leaf in ("", ".") and not os.path.isdir(directory):
                raise CommandError("not a directory")
            found = f"{directory.rstrip('/')}/{leaf}"
            names = [text.rstrip("/").rpartition("/")[2] for text in (path, found)]
            rebase = names[0] if path.endswith("/") and names[0] != names[1] else ""
        return Place(found, True, stat.S_ISDIR(os.lstat(found).st_mode), rebase)
    except NotADirectoryError as exc:
        raise CommandError("not a directory") from exc
    except OSError as exc:
        raise CommandError(f"lstat {exc.filename or path}: {(exc.strerror or str(exc)).lower()}") from exc


def destination(path: str) -> Place:
    """Where on the host something is copied to; symlinks lead on. Raises CommandError."""
    asked = path
    for _ in range(_MOST_LINKS + 1):
        if not os.path.islink(path):
            break
        target = os.readlink(path)
        path = target if isabs(target) else join(split(path)[0], target)
    else:
        raise CommandError(f"too many symlinks in {asked}")
    if os.path.lexists(path):
        return Place(path, True, os.path.isdir(path))
    above = split(path)[0]
    if not os.path.isdir(above):
        raise CommandError(
            "not a directory" if os.path.exists(above) else f"stat {above}: no such file or directory"
        )
    return Place(path)


def check_output(path: str) -> None:
    """Raise CommandError if nothing can be written at *path*."""
    above = dirname(normpath(path))
    if above not in ("", ".") and not os.path.exists(above):
        raise CommandError(f'invalid output path: directory "{above}" does not exist')
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise CommandError(f'invalid output path: "{path}" must be a directory or a regular file')


def prepared(begin: Place, end: Place) -> tuple[str, Renamer | None]:
    """The directory that an archive of *begin* is extracted to, and how it is changed, so that *end* is its copy.

    Raises CommandError in Docker's words.
    """
    if not end.path:
        raise CommandError("no such directory")
    directory, name = split(end.path)
    old = split(begin.path)[1]
    rebased = Renamer(old, begin.rebase) if begin.rebase else None
    if end.is_directory:
        return end.path, rebased
    if end.exists and begin.is_directory:
        raise CommandError("cannot copy directory")
    if not end.exists and not begin.is_directory and (end.path.endswith("/") or basename(end.path) == "."):
        raise CommandError("no such directory")
    return directory, Renamer(begin.rebase or old, name, rebased)
