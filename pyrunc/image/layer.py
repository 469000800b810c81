"""A layer's blob becomes files: decompressed, verified and applied in one pass.

    source -> sha256 (digest) -> decompressor -> sha256 (diffID) -> LayerApplier

The left half runs in a thread of its own where there is enough to do and more than one processor: neither the
codecs, the hashes nor the applier hold the interpreter's lock.
"""

import hashlib
import os
from collections.abc import Callable, Generator
from typing import NamedTuple

from pyrunc._native.layer_apply import OVERLAY, REMOVE, LayerApplier
from pyrunc.errors import DataLoss, InvalidSpec
from pyrunc.image import compression
from pyrunc.image.compression import Readable

__all__ = ["DEFAULT_LIMITS", "OVERLAY", "REMOVE", "Applied", "Limits", "apply"]

# Large enough that few calls are made, small enough to be in the processor's cache from the hash to the write.
_CHUNK = 256 << 10
_AHEAD = 4
# What compresses this well is small in any case.
_RATIO_FROM_BYTES = 64 << 20


class Limits(NamedTuple):
    """Bounds of one layer.

    *max_bytes* of content, *max_members* of the archive, *max_path_bytes* of a path, and how many times as large as the
    compressed data the archive may be (*max_ratio*; counted from 64 MiB on).
    """

    max_bytes: int = 64 << 30
    max_members: int = 2_000_000
    max_path_bytes: int = 4095
    max_ratio: int = 1100


DEFAULT_LIMITS = Limits()


class Applied(NamedTuple):
    """What a layer was: *digest* and *size* as it came, *diff_id* and *tar_bytes* uncompressed, and what it held."""

    digest: str
    size: int
    diff_id: str
    tar_bytes: int
    members: int
    content_bytes: int


class _Source:
    """A source that hashes and counts what passes; more than *size* bytes are too many."""

    def __init__(self, source: Readable, size: int | None, what: str) -> None:
        self._source = source
        self._size = size
        self._what = what
        self._hash = hashlib.sha256()
        self.passed = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.passed += len(data)
        if self._size is not None and self.passed > self._size:
            raise DataLoss(f"{self._what}: more than {self._size} bytes")
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def verify(self, digest: str | None) -> None:
        """Read what is left; DataLoss if size or digest are not as expected."""
        while self.read(_CHUNK):
            pass
        if self._size is not None and self.passed != self._size:
            raise DataLoss(f"{self._what}: {self.passed} bytes, not {self._size}")
        if digest is not None and self.digest() != digest:
            raise DataLoss(f"{self._what}: the content has another digest than {digest}")


def apply(
    source: Readable,
    root_fd: int,
    whiteouts: int,
    *,
    digest: str | None = None,
    size: int | None = None,
    diff_id: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[int], None] | None = None,
    userxattr: bool = False,
    set_owner: bool = True,
    what: str = "layer",
) -> Applied:
    """Apply the layer that *source* reads, compressed or not, to the directory *root_fd*.

    *whiteouts* (REMOVE or OVERLAY), *userxattr* and *set_owner* are LayerApplier's. *digest* and *size* (bytes) are
    those of *source*, *diff_id* that of the uncompressed archive; what is given is verified. *progress* is called, in
    the caller's thread, with the number of bytes of *source* read so far. Messages begin with *what*.

    Raises DataLoss when *source* is not what *digest* or *size* says, InvalidSpec for an archive that is damaged, leads
    outside or is beyond *limits*, and for another diffID; OSError, with the member's path as its file name, where the
    file system refuses something. After an error the directory holds a part.
    Source: OCI image-spec, layer.md, config.md ("DiffID").
    """
    blob = _Source(source, size, what)
    applier = LayerApplier(
        root_fd,
        whiteouts,
        max_bytes=limits.max_bytes,
        max_members=limits.max_members,
        max_path_bytes=limits.max_path_bytes,
        userxattr=userxattr,
        set_owner=set_owner,
    )
    try:
        try:
            hashed, tar_bytes = _run(blob, applier, limits, progress)
            members, content_bytes = applier.finish()
        except (ValueError, EOFError) as exc:
            # Damage is told from a bad archive by the digest, for which all has to be read.
            if digest is not None:
                blob.verify(digest)
            raise InvalidSpec(f"{what}: {exc}") from exc
        blob.verify(digest)
    finally:
        applier.close()
    found = hashed or blob.digest()
    if diff_id is not None and found != diff_id:
        raise InvalidSpec(f"{what}: the uncompressed content has another digest than {diff_id}")
    return Applied(blob.digest(), blob.passed, found, tar_bytes, members, content_bytes)


def _run(
    blob: _Source, applier: LayerApplier, limits: Limits, progress: Callable[[int], None] | None
) -> tuple[str, int]:
    """Feed all of the archive; its diffID ("" where it is the blob's own digest) and its size."""
    reader = compression.open_reader(blob)
    hashed = None if reader.kind == "plain" else hashlib.sha256()
    tar_bytes = 0
    chunks = _chunks(reader, blob)
    try:
        for data, passed in chunks:
            tar_bytes += len(data)
            if tar_bytes > _RATIO_FROM_BYTES and tar_bytes > passed * limits.max_ratio:
                raise InvalidSpec(f"it unpacks to more than {limits.max_ratio} times its size")
            if hashed is not None:
                hashed.update(data)
            applier.feed(data)
            if progress is not None:
                progress(passed)
    finally:
        chunks.close()
    return "sha256:" + hashed.hexdigest() if hashed is not None else "", tar_bytes


def _chunks(reader: compression.Decompressed, blob: _Source) -> Generator[tuple[bytes, int], None, None]:
    """The uncompressed bytes, each piece with how much of the blob had been read for it."""
    for _ in range(_AHEAD):
        data = reader.read(_CHUNK)
        if not data:
            return
        yield data, blob.passed
    if len(os.sched_getaffinity(0)) > 1:
        yield from _read_ahead(reader, blob)
        return
    while data := reader.read(_CHUNK):
        yield data, blob.passed


def _read_ahead(reader: compression.Decompressed, blob: _Source) -> Generator[tuple[bytes, int], None, None]:
    """The same, read by a thread that is up to _AHEAD pieces ahead."""
    import threading
    from queue import Queue

    queue: Queue[tuple[bytes, int] | BaseException] = Queue(_AHEAD)
    enough = threading.Event()

    def read() -> None:
        try:
            while not enough.is_set():
                data = reader.read(_CHUNK)
                queue.put((data, blob.passed))
                if not data:
                    return
        except BaseException as exc:  # noqa: BLE001 - it is raised where the bytes are waited for
            queue.put(exc)

    thread = threading.Thread(target=read, name="pyrunc-layer", daemon=True)
    thread.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, BaseException):
                raise item
            if not item[0]:
                return
            yield item
    finally:
        enough.set()
        while thread.is_alive():
            # It may wait for room in the queue.
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.01)
