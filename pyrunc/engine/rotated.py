"""Files of lines that their writer renames away while others read them: `x` is the latest, `x.1` the one before.

What is open is known by its inode, which nothing else can have as long as it is open. A file that is not at its first
name any more gets no further line (its writer's promise), so it is read to its end, and then the one after it.
"""

import os
import time

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

CHUNK = 1 << 16
LONGEST = 1 << 20  # of a line; what is longer is no record of ours
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1


def opened(path: str) -> "list[int]":
    """Descriptors of all files of *path*, the oldest first; none if there is none.

    Raises OSError for one that is there and cannot be opened.
    """
    while True:
        most = _highest(path) + 1
        found = _scan(path, most)
        # A name that still means the file that was opened meant it all the time, since files only move to higher
        # numbers. If all do, then no rotation in between has shown an older file before a newer one; and if none is
        # beyond *most* now, none was.
        if all(_same(name, fd) for name, fd in found) and _highest(path) <= most:
            return _without_links([fd for _, fd in reversed(found)])
        for _, fd in found:
            os.close(fd)


def _without_links(files: "list[int]") -> "list[int]":
    """*files* without a second name of the latest, which it has for a moment while it is being rotated."""
    if len(files) > 1 and os.path.samestat(os.fstat(files[-1]), os.fstat(files[-2])):
        os.close(files.pop())
    return files


def _scan(path: str, most: int) -> "list[tuple[str, int]]":
    """Name and descriptor of each file with a number up to *most*, the latest first."""
    found = []
    for number in range(most + 1):
        name = f"{path}.{number}" if number else path
        try:
            found.append((name, os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)))
        except FileNotFoundError:
            continue  # a rotation goes on, or one was killed
    return found


def _highest(path: str) -> int:
    """The highest number of a file of *path*."""
    directory, name = os.path.split(path)
    highest = 0
    try:
        names = os.listdir(directory or ".")
    except FileNotFoundError:
        return 0
    for each in names:
        if each.startswith(name) and each[len(name) : len(name) + 1] == ".":
            number = each[len(name) + 1 :]
            if number.isascii() and number.isdigit():
                highest = max(highest, int(number[:4]))
    return highest


def _same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


class RotatedFile:
    """The lines of *path*, from its oldest file on, in one direction; a context manager.

    *files* are descriptors to read instead, the oldest first, each at the place where reading begins; they are its own
    then. *skipped* counts what was no whole line. Not for several threads.
    """

    def __init__(self, path: str, files: "list[int] | None" = None) -> None:
        self._path = path
        self._files = opened(path) if files is None else files
        self._left = b""
        self._overlong = False
        self.skipped = 0

    def lines(self, *, go_on: bool = True) -> "Iterator[bytes]":
        """Every line that is there, without its line feed; called again, those that have come since.

        Without *go_on* only those of the files that are open: what is rotated while they are read may be gone before it
        is opened, and a gap be in the middle. Raises OSError for a file that cannot be read.
        """
        while True:
            if not self._files:
                self._files = opened(self._path)
                if not self._files:
                    return
            # Looked at before reading: what is renamed by now has all that it will ever have.
            ended = len(self._files) > 1 or not _same(self._path, self._files[0])
            yield from self._to_end(self._files[0])
            if not ended or (len(self._files) == 1 and not go_on):
                return
            if len(self._files) == 1:
                self._files += self._after(self._files[0])
                if len(self._files) == 1:
                    return  # it is being renamed just now, or its directory was removed
            self._drop()
            os.close(self._files.pop(0))

    def _to_end(self, fd: int) -> "Iterator[bytes]":
        if os.fstat(fd).st_size < os.lseek(fd, 0, os.SEEK_CUR):  # somebody truncated it
            self._drop()
            os.lseek(fd, 0, os.SEEK_SET)
        while chunk := os.read(fd, CHUNK):
            first, *more = chunk.split(b"\n")
            self._take(first)
            for piece in more:
                line, self._left = self._left, b""
                if self._overlong:
                    self._overlong = False
                    self.skipped += 1
                else:
                    yield line
                self._take(piece)

    def _take(self, piece: bytes) -> None:
        if not self._overlong:
            self._left += piece
            if len(self._left) > LONGEST:
                self._left, self._overlong = b"", True

    def _drop(self) -> None:
        """Forget a line that its writer did not end."""
        if self._left or self._overlong:
            self._left, self._overlong = b"", False
            self.skipped += 1

    def _after(self, fd: int) -> "list[int]":
        """The files that came after *fd*; all that there are if that was removed."""
        status = os.fstat(fd)
        found = opened(self._path)
        for place, other in enumerate(found):
            if os.path.samestat(os.fstat(other), status):
                for old in found[: place + 1]:
                    os.close(old)
                return found[place + 1 :]
        return found

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()


class Pace:
    """Pauses between looks: 2 ms after something happened, doubling to 100 ms, which is 10 looks a second when idle.

    A look costs some 10 µs. inotify(7) would cost none, and one of the user's 128 instances for each who follows.
    """

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S

    def reset(self) -> None:
        """Look soon again: something happened."""
        self._pause_s = _FIRST_PAUSE_S

    def next_s(self, until_ns: int | None = None) -> float:
        """How long to sleep now, and no longer than until *until_ns* (since 1970) is over."""
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return (
            pause_s if until_ns is None else max(0.0, min(pause_s, (until_ns - time.time_ns()) / 1e9 + 0.001))
        )
