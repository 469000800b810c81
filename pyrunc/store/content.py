"""Content by digest: files whose names say what is in them, shared by all processes of one root.

    <root>/content/blobs/sha256/<hex>   whole, verified, 0444; replaced only by the same bytes
    <root>/content/ingest/<random>      being written, flock(2)ed by its writer; an unlocked one is garbage

Who wants a blob to stay names it in a lease *before* it looks whether the blob is there; whoever removes garbage
looks for names in a transaction that no new name can enter (leases.py, collect.py).
"""

import errno
import fcntl
import io
import os
import stat
import sys

from pyrunc.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from pyrunc.records import NamedTuple
from pyrunc.store.files import make_directory, said_full, sync_directory, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Protocol

    from typing_extensions import Buffer

    class Protects(Protocol):
        """What keeps a blob from being collected: a Lease."""

        def protect(self, *digests: str) -> None:
            """From when this returns the blobs stay, if they are there."""


MAX_DOCUMENT_BYTES = 4 << 20
_CHUNK = 1 << 20
_HEX = frozenset("0123456789abcdef")


class Blob(NamedTuple):
    """A blob: its digest (``sha256:`` and 64 hex digits) and its size in bytes."""

    digest: str
    size: int


def check_digest(digest: str) -> str:
    """Return the hex digits of *digest*, which become a file name.

    Raises Unsupported for another algorithm than sha256, InvalidArgument for what is no digest.
    Source: OCI image-spec, descriptor.md, "Digests".
    """
    algorithm, _, digits = digest.partition(":")
    if algorithm == "sha256" and len(digits) == 64 and _HEX.issuperset(digits):
        return digits
    if algorithm == "sha512" and len(digits) == 128:
        raise Unsupported(f"{digest}: only sha256 is supported")
    raise InvalidArgument(f"{digest!r} is not a digest: sha256: and 64 hex digits")


def blob_path(root: str, digest: str) -> str:
    """Return where the blob *digest* is below the store's *root*, if it is there."""
    return os.path.join(root, "content", "blobs", "sha256", check_digest(digest))


class ContentStore:
    """The blobs below *root*, which is made when it is missing; for all threads, and after a fork."""

    __slots__ = ("_blobs", "_ingest", "root")

    def __init__(self, root: str) -> None:
        self.root = root
        self._blobs = os.path.join(root, "content", "blobs", "sha256")
        self._ingest = os.path.join(root, "content", "ingest")
        make_directory(self._blobs)
        make_directory(self._ingest)

    def ingest(
        self, digest: str | None = None, size: int | None = None, *, lease: "Protects | None" = None
    ) -> "Ingest":
        """Begin to write a blob, of which *digest* and *size* may be known.

        *lease* protects it from before it appears; without one a collector may take it before a row names it.
        Use as ``with store.ingest() as w: w.write(data); w.commit()``; whoever leaves without commit leaves nothing.
        """
        if digest is not None:
            check_digest(digest)
        return Ingest(self, digest, size, lease)

    def add(self, data: "Buffer", digest: str | None = None, *, lease: "Protects | None" = None) -> Blob:
        """Store *data* as one blob."""
        with self.ingest(digest, memoryview(data).nbytes, lease=lease) as writer:
            writer.write(data)
            return writer.commit()

    def open(self, digest: str) -> "BlobReader":
        """Open the blob *digest* to read it from its beginning to its end, where it is verified.

        Raises NotFound, and DataLoss for what is no file.
        """
        return BlobReader(digest, self._open(digest))

    def open_unverified(self, digest: str) -> io.FileIO:
        """Open the blob *digest* for one who verifies all of it, as layer.apply does; nothing is hashed here.

        Raises NotFound, and DataLoss for what is no file.
        """
        return io.FileIO(self._open(digest))

    def read(self, digest: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
        """Return the bytes of the blob *digest*, which have been verified.

        Raises NotFound, InvalidArgument for more than *max_bytes*, DataLoss for other bytes than the digest's.
        """
        with self.open(digest) as reader:
            if reader.size > max_bytes:
                raise InvalidArgument(f"{digest}: {reader.size} bytes, and at most {max_bytes} are read")
            return reader.read()

    def stat(self, digest: str) -> Blob:
        """Return the blob *digest* as the file system knows it; nothing is verified. Raises NotFound."""
        try:
            return Blob(digest, os.lstat(self.path(digest)).st_size)
        except FileNotFoundError as exc:
            raise _missing(digest) from exc

    def path(self, digest: str) -> str:
        """Return where *digest* is, if it is there; whoever opens that verifies it."""
        return os.path.join(self._blobs, check_digest(digest))

    def walk(self) -> "Iterator[Blob]":
        """Yield every blob, in no order; those that come or go meanwhile or not."""
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                if len(entry.name) == 64 and _HEX.issuperset(entry.name):
                    try:
                        yield Blob(f"sha256:{entry.name}", entry.stat(follow_symlinks=False).st_size)
                    except FileNotFoundError:
                        continue

    def strangers(self) -> list[str]:
        """Return the paths below blobs/ that no blob has; nobody here makes or removes them."""
        above = os.path.dirname(self._blobs)
        found = [os.path.join(above, name) for name in os.listdir(above) if name != "sha256"]
        found += [
            os.path.join(self._blobs, name)
            for name in os.listdir(self._blobs)
            if len(name) != 64 or not _HEX.issuperset(name)
        ]
        return sorted(found)

    def remove(self, digest: str) -> None:
        """Remove the blob *digest*, whoever may name it. Raises NotFound."""
        _remove(self._move_away(digest))

    def set_aside(self, digest: str) -> None:
        """Take the blob *digest* out of the store in one quick step; `sweep` frees its space.

        Raises NotFound.
        """
        self._move_away(digest)

    def sweep(self) -> int:
        """Remove what nobody writes any more from ingest/; how many bytes that were.

        It needs no free space, so it is the first thing to do on a full disk.
        """
        freed = 0
        for name in os.listdir(self._ingest):
            path = os.path.join(self._ingest, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            except OSError as exc:
                if exc.errno not in (errno.ELOOP, errno.ENXIO):
                    raise
                os.unlink(path)  # a symbolic link, a socket: not ours, and nobody's
                continue
            try:
                status = os.fstat(fd)
                if stat.S_ISDIR(status.st_mode):
                    _remove_tree(path)
                    continue
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A writer that has not locked it yet sees that it is gone, and begins anew.
                os.unlink(path)
                freed += status.st_size
            except (BlockingIOError, FileNotFoundError):
                continue
            finally:
                os.close(fd)
        return freed

    def _move_away(self, digest: str) -> str:
        target = os.path.join(self._ingest, os.urandom(16).hex())
        try:
            os.rename(self.path(digest), target)
        except FileNotFoundError as exc:
            raise _missing(digest) from exc
        return target

    def _open(self, digest: str) -> int:
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as exc:
            raise _missing(digest) from exc
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO):
                raise DataLoss(f"{digest} is not a file in {self._blobs}") from exc
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DataLoss(f"{digest} is not a file in {self._blobs}")
        return fd

    def _begin(self) -> tuple[int, str]:
        """Make a file in ingest/ that is locked; its descriptor and path."""
        while True:
            path = os.path.join(self._ingest, os.urandom(16).hex())
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as exc:
                raise said_full(exc, self._ingest) from exc
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink:
                    return fd, path
            except BlockingIOError:
                pass
            # A collector came between the two calls and took it for one of a dead writer.
            os.close(fd)


class Ingest:
    """A blob on its way into *store*; a context manager with one writer."""

    __slots__ = ("_digest", "_fd", "_hash", "_lease", "_path", "_size", "_store", "size")

    def __init__(
        self, store: ContentStore, digest: str | None, size: int | None, lease: "Protects | None"
    ) -> None:
        self._store = store
        self._digest = digest
        self._size = size
        self._lease = lease
        self._hash = _sha256(None)
        self._fd, self._path = store._begin()  # noqa: SLF001 - the store's other half
        self.size = 0

    def write(self, data: "Buffer") -> int:
        """Write all of *data*; its size. Raises DataLoss beyond the size that was announced, and StorageFull."""
        if self._fd < 0:
            raise FailedPrecondition("the blob is finished")
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self._size is not None and self.size > self._size:
            raise DataLoss(f"{self._name()}: more than {self._size} bytes")
        self._hash.update(view)
        try:
            return write_all(self._fd, view)
        except OSError as exc:
            raise said_full(exc, f"{self._name()} in {self._store.root}") from exc

    def commit(self) -> Blob:
        """Make what was written a blob, durably; one that was there is replaced, which heals it if it was damaged.

        Raises DataLoss where size or digest are not as announced, and StorageFull.
        """
        if self._fd < 0:
            raise FailedPrecondition("the blob is finished")
        digest = "sha256:" + self._hash.hexdigest()
        if self._size is not None and self.size != self._size:
            raise DataLoss(f"{self._name()}: {self.size} bytes, not {self._size}")
        if self._digest is not None and digest != self._digest:
            raise DataLoss(f"{self._digest}: the content has another digest, {digest}")
        try:
            os.fchmod(self._fd, 0o444)
            os.fsync(self._fd)
            if self._lease is not None:
                self._lease.protect(digest)
            target = self._store.path(digest)
            os.rename(self._path, target)
            self._path = ""
            sync_directory(os.path.dirname(target))
        except OSError as exc:
            raise said_full(exc, f"{digest} in {self._store.root}") from exc
        self.close()
        return Blob(digest, self.size)

    def close(self) -> None:
        """End; what was not committed is removed."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._path:
                _remove(self._path)
        finally:
            os.close(fd)

    def _name(self) -> str:
        return self._digest or "a blob"

    def __enter__(self) -> "Ingest":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.close()


class BlobReader(io.RawIOBase):
    """The bytes of a blob, once, in order; the last of them are only given when all are the digest's.

    *digest* and *size* (in bytes) say which; *verified*, whether the end was reached. A consumer that stops
    before the end calls `finish`. There is no `fileno`: who reads past this class gets bytes that nobody verified.
    """

    def __init__(self, digest: str, fd: int) -> None:
        super().__init__()
        self.digest = digest
        self.size = os.fstat(fd).st_size
        self.verified = False
        self._fd = fd
        self._left = self.size
        self._hash = _sha256(self.size)

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most *size* bytes, or all that are left; fewer only at the end. Raises DataLoss there."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        parts = []
        while wanted:
            part = os.read(self._fd, min(wanted, _CHUNK))
            if not part:
                raise self._damaged()
            parts.append(part)
            wanted -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._took(data)
        return data

    def readall(self) -> bytes:
        """Return all that is left."""
        return self.read()

    def readinto(self, buffer: "Buffer", /) -> int:
        """Fill *buffer*; how many bytes were left for it. Raises DataLoss at the end."""
        view = memoryview(buffer).cast("B")[: self._left]
        done = 0
        while done < len(view):
            count = os.readv(self._fd, [view[done:]])
            if not count:
                raise self._damaged()
            done += count
        try:
            self._took(view)
        except DataLoss:
            view[:] = bytes(len(view))
            raise
        return done

    def finish(self) -> None:
        """Read what is left, to verify it. Raises DataLoss."""
        while not self.verified:
            self.read(_CHUNK)

    def close(self) -> None:
        """Close, whether the end was reached or not."""
        if not self.closed:
            fd, self._fd = self._fd, -1
            os.close(fd)
        super().close()

    def _took(self, data: "Buffer") -> None:
        self._hash.update(data)
        self._left -= memoryview(data).nbytes
        if not self._left and not self.verified:
            if "sha256:" + self._hash.hexdigest() != self.digest:
                raise self._damaged()
            self.verified = True

    def _damaged(self) -> DataLoss:
        return DataLoss(f"{self.digest} is damaged: the file of {self.size} bytes has another content")


def _sha256(size: int | None) -> "hashlib._Hash":
    """A digest of *size* bytes (None: of any number), which is as hashlib's.

    hashlib's own is OpenSSL's: twice as fast, and 3 ms to import, in which the other digests a megabyte.
    """
    if size is not None and size < 1 << 20:
        try:
            if sys.version_info >= (3, 12):
                from _sha2 import sha256
            else:
                from _sha256 import sha256  # type: ignore[import-not-found]
            return sha256()  # type: ignore[no-any-return]
        except ImportError:
            pass
    import hashlib

    return hashlib.sha256()


def _missing(digest: str) -> NotFound:
    return NotFound(f"{digest} is not in the store")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # swept by another process


def _remove_tree(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
