"""What is in an archive of images, wherever it is: a tar that streams by, or a directory.

A tar may be a pipe, and its members come in any order: only at its end is it known what they are. So small files are
held, and large ones go straight into the content store, under a lease: what no image turns out to need is collected
later, what is refused too.
"""

import hashlib
import os
import stat
from typing import NamedTuple, Protocol

from pyrunc.errors import DataLoss, InvalidSpec, NotFound
from pyrunc.image import compression
from pyrunc.image.archive.tar import CHUNK, Member, Readable, Reader
from pyrunc.image.layer import DEFAULT_LIMITS
from pyrunc.spec.image import LAYERS, MAX_DOCUMENT_BYTES, digest_of, is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.store.content import ContentStore, Ingest
    from pyrunc.store.leases import Lease

    # Called with what is read, the bytes read of it, and how many there are.
    Progress = Callable[[str, int, int], object]

MAX_MEMBERS = 100_000
# Of one layer, uncompressed, and how many times as large as the compressed one; that counts from some size on.
MAX_LAYER_BYTES = DEFAULT_LIMITS.max_bytes
MAX_RATIO = DEFAULT_LIMITS.max_ratio
_RATIO_FROM_BYTES = 64 << 20
_HELD_BYTES = 1 << 20
_ALL_HELD_BYTES = 64 << 20
_MAX_LINKS = 40
_DOCUMENTS = (".json", "/json", "repositories", "oci-layout", "VERSION")


class Stored(NamedTuple):
    """A blob in the content store: *digest* and *size* of its bytes, *diff_id* and *tar_bytes* of them uncompressed.

    *compression* is plain, gzip or zstd.
    """

    digest: str
    size: int
    diff_id: str
    tar_bytes: int
    compression: str


class Contents(Protocol):
    """The files of an archive, by their names in it."""

    what: str

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def document(self, name: str, digest: str | None = None) -> bytes:
        """Return the bytes of a document; *digest* is what they must have.

        Raises NotFound, InvalidSpec for a large one, DataLoss for other bytes than the digest's.
        """

    def blob(self, name: str, digest: str | None = None, size: int | None = None) -> Stored:
        """Put a file, of which *digest* and *size* may be known, into the content store. Raises as `document`."""

    def layer(self, name: str) -> Stored:
        """Put a layer into the content store, uncompressed if nothing in an image can say what it is compressed by."""


class Intake:
    """Puts blobs into *content*, under *lease*."""

    def __init__(self, content: "ContentStore", lease: "Lease", progress: "Progress | None") -> None:
        self._content = content
        self._lease = lease
        self._progress = progress

    def take(
        self, source: Readable, name: str, total: int, digest: str | None = None, size: int | None = None
    ) -> Stored:
        """Read the blob *name* of *total* bytes to the end of *source*, and store it.

        Its bytes are hashed as they pass, and so is what they are when uncompressed. Raises DataLoss where *digest*
        or *size* are others, InvalidSpec for what cannot be uncompressed or grows beyond bounds.
        """
        with self._content.ingest(digest, size, lease=self._lease) as target:
            passing = _Passing(source, target)
            packed = compression.open_reader(passing)
            diff = hashlib.sha256()
            tar_bytes = 0
            try:
                while data := packed.read(CHUNK):
                    tar_bytes += len(data)
                    if packed.kind != "plain":
                        diff.update(data)
                        _check_growth(target.size, tar_bytes)
                    if self._progress:
                        self._progress(name, target.size, total)
            except InvalidSpec as exc:
                raise InvalidSpec(f"{shown(name)}: {exc}") from exc
            while passing.read(CHUNK):
                pass  # what a compressed stream may have behind its end
            stored = target.commit()
        diff_id = stored.digest if packed.kind == "plain" else "sha256:" + diff.hexdigest()
        return Stored(stored.digest, stored.size, diff_id, tar_bytes, packed.kind)

    def usable(self, stored: Stored) -> Stored:
        """Return a layer's blob, or another of what it is uncompressed where no image can have the first."""
        if stored.compression in LAYERS.values():
            return stored
        with (
            self._content.open(stored.digest) as source,
            self._content.ingest(stored.diff_id, stored.tar_bytes, lease=self._lease) as target,
        ):
            packed = compression.open_reader(source)
            while data := packed.read(CHUNK):
                target.write(data)
            plain = target.commit()
        return Stored(plain.digest, plain.size, plain.digest, plain.size, "plain")

    def read(self, stored: Stored, what: str) -> bytes:
        """Return the bytes of a blob that was taken. Raises InvalidSpec for more than a document may have."""
        if stored.size > MAX_DOCUMENT_BYTES:
            raise InvalidSpec(f"{what}: {stored.size} bytes, and at most {MAX_DOCUMENT_BYTES} are read")
        return self._content.read(stored.digest)


class _Passing:
    """*source*, of which every byte goes into *target* as it is read."""

    def __init__(self, source: Readable, target: "Ingest") -> None:
        self._source = source
        self._target = target

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._target.write(data)
        return data


def _check_growth(packed: int, unpacked: int) -> None:
    if unpacked > MAX_LAYER_BYTES or (unpacked > _RATIO_FROM_BYTES and unpacked > MAX_RATIO * packed):
        raise InvalidSpec(f"{packed} bytes unpack to {unpacked} or more")


class Unpacking:
    """*source* uncompressed, to read. What grows as no layer may is InvalidSpec."""

    def __init__(self, source: Readable) -> None:
        self._packed = _Counted(source)
        self._size = 0
        self._reader = compression.open_reader(self._packed)

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes, and none only at the end."""
        data = self._reader.read(size)
        self._size += len(data)
        if self._reader.kind != "plain":
            _check_growth(self._packed.size, self._size)
        return data


class _Counted:
    """*source*, and the *size* of what was read of it."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.size += len(data)
        return data


class _Bytes:
    """Held bytes, to read."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read(self, size: int, /) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return bytes(data)


class Tar:
    """The files of a tar that has been read from *source* to its end; *what* is what errors call it.

    Raises InvalidSpec for what is no tar or leads outside.
    """

    def __init__(self, source: Readable, intake: Intake, what: str) -> None:
        self.what = what
        self._intake = intake
        self._held: dict[str, bytes] = {}
        self._held_bytes = 0
        self._stored: dict[str, Stored] = {}
        self._links: dict[str, str] = {}
        reader = Reader(source, what, MAX_MEMBERS)
        for member in reader:
            name = inside(member.name, what)
            if member.kind == "directory":
                continue
            # The last of a name counts, as if all were unpacked one after the other.
            self._held_bytes -= len(self._held.pop(name, b""))
            self._stored.pop(name, None)
            self._links.pop(name, None)
            if member.kind == "symlink":
                if member.target.startswith("/"):
                    raise InvalidSpec(
                        f"{what}: {shown(member.name)} links outside, to {shown(member.target)}"
                    )
                self._links[name] = inside(f"{os.path.dirname(name)}/{member.target}", what)
            elif member.kind == "link":
                self._links[name] = inside(member.target, what)
            elif member.kind == "file":
                self._file(name, member, reader)
        left = CHUNK
        while left and (data := reader.rest(left)):  # so that whoever writes the pipe is not cut off
            left -= len(data)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        name = self._resolve(name)
        return name in self._held or name in self._stored

    def document(self, name: str, digest: str | None = None) -> bytes:
        """Return the bytes of a document."""
        data = self._held.get(self._resolve(name))
        if data is None:
            stored = self._stored.get(self._resolve(name))
            if stored is None:
                raise NotFound(f"{self.what}: {shown(name)} is missing")
            data = self._intake.read(stored, f"{self.what}: {shown(name)}")
        if digest is not None and digest_of(data) != digest:
            raise DataLoss(f"{self.what}: {shown(name)}: the content has another digest, {digest_of(data)}")
        return data

    def blob(self, name: str, digest: str | None = None, size: int | None = None) -> Stored:
        """Put a file into the content store."""
        found = self._resolve(name)
        if found in self._held:
            data = self._held[found]
            if digest is not None and digest_of(data) != digest:
                raise DataLoss(
                    f"{self.what}: {shown(name)}: the content has another digest, {digest_of(data)}"
                )
            self._stored[found] = self._intake.take(_Bytes(data), name, len(data))
        stored = self._stored.get(found)
        if stored is None:
            raise NotFound(f"{self.what}: {shown(name)} is missing")
        if digest is not None and stored.digest != digest:
            raise DataLoss(f"{self.what}: {shown(name)}: the content has another digest, {stored.digest}")
        if size is not None and stored.size != size:
            raise DataLoss(f"{self.what}: {shown(name)}: {stored.size} bytes, not {size}")
        return stored

    def layer(self, name: str) -> Stored:
        """Put a layer into the content store."""
        return self._intake.usable(self.blob(name))

    def _resolve(self, name: str) -> str:
        found = inside(name, self.what)
        for _ in range(_MAX_LINKS):
            if found not in self._links:
                return found
            found = self._links[found]
        raise InvalidSpec(f"{self.what}: {shown(name)}: too many links")

    def _file(self, name: str, member: Member, reader: Reader) -> None:
        if member.size > MAX_DOCUMENT_BYTES and name.endswith(_DOCUMENTS):
            raise InvalidSpec(
                f"{self.what}: {shown(name)}: {member.size} bytes, and at most {MAX_DOCUMENT_BYTES} are read"
            )
        if member.size <= _HELD_BYTES and self._held_bytes + member.size <= _ALL_HELD_BYTES:
            parts = []
            while data := reader.read(CHUNK):
                parts.append(data)
            self._held[name] = b"".join(parts)
            self._held_bytes += member.size
            return
        digest = f"sha256:{name[13:]}" if name.startswith("blobs/sha256/") else None
        self._stored[name] = self._intake.take(
            reader, name, member.size, digest if is_digest(digest) else None, member.size
        )


class Directory:
    """The files of the layout in the directory *path*, opened below it and through no symlink."""

    def __init__(self, path: str, intake: Intake) -> None:
        self.what = path
        self._intake = intake

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return os.path.isfile(os.path.join(self.what, inside(name, self.what)))

    def document(self, name: str, digest: str | None = None) -> bytes:
        """Return the bytes of a document."""
        with os.fdopen(self._open(name), "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise InvalidSpec(f"{self.what}: {shown(name)}: at most {MAX_DOCUMENT_BYTES} bytes are read")
        if digest is not None and digest_of(data) != digest:
            raise DataLoss(f"{self.what}: {shown(name)}: the content has another digest, {digest_of(data)}")
        return data

    def blob(self, name: str, digest: str | None = None, size: int | None = None) -> Stored:
        """Put a file into the content store."""
        with os.fdopen(self._open(name), "rb", buffering=0) as file:
            return self._intake.take(file, name, os.fstat(file.fileno()).st_size, digest, size)

    def layer(self, name: str) -> Stored:
        """Put a layer into the content store."""
        return self._intake.usable(self.blob(name))

    def _open(self, name: str) -> int:
        path = inside(name, self.what)
        fd = os.open(self.what, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in path.split("/"):
            above = fd
            try:
                fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
            except FileNotFoundError as exc:
                raise NotFound(f"{self.what}: {shown(name)} is missing") from exc
            except OSError as exc:
                raise InvalidSpec(f"{self.what}: {shown(name)}: {exc.strerror}") from exc
            finally:
                os.close(above)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidSpec(f"{self.what}: {shown(name)} is not a file")
        return fd


def inside(name: str, what: str) -> str:
    """Return *name* without what says nothing. Raises InvalidSpec for one that climbs out of the archive."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise InvalidSpec(f"{what}: {shown(name)} leads outside")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def shown(name: str) -> str:
    """Return *name* so that it can be printed, whatever a stranger wrote there."""
    return name if name.isprintable() and len(name) <= 200 else ascii(name)[:200]
