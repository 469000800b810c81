"""The outer tar of an archive of images, as a stream in both directions.

Only what such archives are made of is understood: files, directories and links, with the long names and sizes of
ustar, PAX and GNU. Everything is bounded before it is held. Layers have a reader of their own.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar, "Basic Tar Format".
"""

from typing import NamedTuple, Protocol

from pyrunc.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

BLOCK = 512
CHUNK = 1 << 20
_MAX_EXTENSION = 1 << 20
_BUFFERED = 1 << 16
_ZERO = bytes(BLOCK)
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "symlink", b"5": "directory"}
_EMPTY_KINDS = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))


class Readable(Protocol):
    """What can be read from, in pieces of any size, b"" at its end."""

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes."""


class Member(NamedTuple):
    """A member: *kind* is file, directory, link, symlink or other; *size* in bytes, *target* of a link."""

    name: str
    kind: str
    size: int
    target: str


class Reader:
    """Reads *source*, called *what* in errors, member by member; the content of each is read before the next.

    Raises InvalidSpec for what is no tar, is cut short, or has more than *max_members* members.
    """

    def __init__(self, source: Readable, what: str, max_members: int) -> None:
        self._source = source
        self._what = what
        self._max = max_members
        self._data = b""
        self._at = 0
        self._left = 0  # of the current member's content
        self._padding = 0

    def __iter__(self) -> "Iterator[Member]":
        count = 0
        while (member := self._next()) is not None:
            count += 1
            if count > self._max:
                raise InvalidSpec(f"{self._what}: more than {self._max} members")
            yield member

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes of the current member's content, b"" at its end."""
        size = min(size, self._left)
        if not size:
            return b""
        data = self._some(size)
        if not data:
            raise self._short()
        self._left -= len(data)
        return data

    def rest(self, size: int) -> bytes:
        """Return at most *size* bytes of what comes after the archive's end."""
        return self._some(size)

    def _next(self) -> Member | None:
        path = link = None
        length: int | None = None
        sparse = False
        while True:
            while self._left:
                self.read(CHUNK)
            self._exactly(self._padding)
            self._padding = 0
            header = self._block()
            if header is None:
                return None
            kind = header[156:157]
            size = self._number(header[124:136], "size")
            if kind in (b"x", b"g", b"L", b"K"):
                data = self._extension(size)
                if kind == b"L":
                    path = data.rstrip(b"\0")
                elif kind == b"K":
                    link = data.rstrip(b"\0")
                elif kind == b"x":
                    records = self._records(data)
                    path = records.get(b"path", path)
                    link = records.get(b"linkpath", link)
                    if b"size" in records:
                        length = self._decimal(records[b"size"])
                    sparse = any(key.startswith(b"GNU.sparse.") for key in records)
                continue
            return self._member(header, size if length is None else length, path, link, sparse)

    def _member(
        self, header: bytes, size: int, path: bytes | None, link: bytes | None, sparse: bool
    ) -> Member:
        kind = header[156:157]
        if kind in _EMPTY_KINDS:
            size = 0
        if path is None:
            path = _field(header, 0, 100)
            prefix = _field(header, 345, 155) if header[257:263] == b"ustar\0" else b""
            if prefix:
                path = prefix + b"/" + path
        if link is None:
            link = _field(header, 157, 100)
        if kind == b"S":
            more = header[482]
            while more:
                more = self._exactly(BLOCK)[504]
        self._left = size
        self._padding = -size % BLOCK
        name = path.decode("utf-8", "surrogateescape")
        what = "other" if sparse else _KINDS.get(kind, "other")
        if what == "file" and name.endswith("/"):
            what = "directory"  # of before POSIX
        return Member(name, what, size, link.decode("utf-8", "surrogateescape"))

    def _block(self) -> bytes | None:
        """The next header, None at the end: a block of zeros, or the end of the source between two members."""
        first = self._some(BLOCK)
        if not first:
            return None
        header = first + self._exactly(BLOCK - len(first))
        if header == _ZERO:
            return None
        said = self._number(header[148:156], "checksum")
        without = sum(header) - sum(header[148:156]) + 8 * 32
        # Some old writers added signed characters.
        signed = without - 256 * sum(1 for i, byte in enumerate(header) if byte > 127 and not 148 <= i < 156)
        if said not in (without, signed):
            raise InvalidSpec(f"{self._what}: not a tar archive, or damaged: a header's checksum is wrong")
        return header

    def _extension(self, size: int) -> bytes:
        if size > _MAX_EXTENSION:
            raise InvalidSpec(
                f"{self._what}: a header of {size} bytes, and at most {_MAX_EXTENSION} are read"
            )
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        """The records of a PAX header: length, key, equals sign, value, end of line."""
        found = {}
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 12)
            length = self._decimal(data[at:space]) if space > 0 else 0
            record = data[space + 1 : at + length]
            key, equals, value = record.partition(b"=")
            if length < 5 or at + length > len(data) or not equals or not value.endswith(b"\n"):
                raise InvalidSpec(f"{self._what}: a PAX header is damaged")
            found[key] = value[:-1]
            at += length
        return found

    def _decimal(self, text: bytes) -> int:
        if not text.isdigit() or len(text) > 19:
            raise InvalidSpec(f"{self._what}: {text[:30]!r} in a PAX header is no size")
        return int(text)

    def _number(self, field: bytes, what: str) -> int:
        """A number of a header: octal, or binary after GNU's mark."""
        if field[0] == 0x80:
            value = int.from_bytes(field[1:], "big")
        else:
            text = field.strip(b" \0")
            if text.strip(b"01234567"):
                raise InvalidSpec(f"{self._what}: not a tar archive, or damaged: {field!r} is no {what}")
            value = int(text, 8) if text else 0
        if value >= 1 << 63:
            raise InvalidSpec(f"{self._what}: a {what} of {value}")
        return value

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._some(size)
            if not part:
                raise self._short()
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, size: int) -> bytes:
        """At most *size* bytes; a large piece passes by the buffer."""
        if self._at == len(self._data):
            try:
                data = self._source.read(max(size, _BUFFERED))
            except InvalidSpec as exc:  # of a decompressor, which does not know whose the bytes are
                raise InvalidSpec(f"{self._what}: {exc}") from exc
            if size >= _BUFFERED:
                return data
            self._data = data
            self._at = 0
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        return data

    def _short(self) -> InvalidSpec:
        return InvalidSpec(f"{self._what}: the archive is cut short")


def _field(header: bytes, start: int, length: int) -> bytes:
    return header[start : start + length].partition(b"\0")[0]


class Writer:
    """Writes members to *sink*: root's, of the epoch, so that the same content is the same bytes."""

    def __init__(self, sink: "Callable[[Buffer], object]") -> None:
        self._sink = sink
        self._left = 0
        self._padding = 0

    def directory(self, name: str) -> None:
        """Add a directory."""
        self._begin(f"{name}/", b"5", 0o755, 0)

    def file(self, name: str, size: int) -> None:
        """Begin a file, whose *size* bytes then come by `write`."""
        self._begin(name, b"0", 0o644, size)

    def write(self, data: "Buffer") -> None:
        """Add bytes to the file that was begun."""
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise ValueError("more content than the header says")
        self._sink(data)

    def add(self, name: str, data: bytes) -> None:
        """Add a whole file."""
        self.file(name, len(data))
        self.write(data)

    def finish(self) -> None:
        """End the archive."""
        self._end_member()
        self._sink(_ZERO * 2)

    def _end_member(self) -> None:
        if self._left:
            raise ValueError("less content than the header says")
        if self._padding:
            self._sink(bytes(self._padding))

    def _begin(self, name: str, kind: bytes, mode: int, size: int) -> None:
        self._end_member()
        self._left, self._padding = size, -size % BLOCK
        encoded = name.encode("ascii")
        if len(encoded) > 100:
            raise ValueError(f"{name}: too long a name")
        # GNU's binary form for what eleven octal digits cannot say; Go, GNU tar and Python read it.
        length = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
        header = b"".join((
            encoded.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, length, b"%011o\0" % 0,
            b" " * 8, kind, bytes(100), b"ustar\x0000", bytes(32), bytes(32), b"%07o\0" % 0, b"%07o\0" % 0,
            bytes(167),
        ))  # fmt: skip
        self._sink(header[:148] + b"%06o\0 " % sum(header) + header[156:])
