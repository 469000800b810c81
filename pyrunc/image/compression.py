"""What layers and archives are compressed by: told by the first bytes, never by a name or a media type.

The codecs are imported when they are first used. Reading knows all that Docker reads (gzip, zstd, bzip2, xz); writing
what images are made of: plain, gzip, zstd.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pyrunc.errors import InvalidSpec

if TYPE_CHECKING:
    from typing_extensions import Buffer

Kind = Literal["plain", "gzip", "zstd", "bzip2", "xz"]
_INPUT_BYTES = 256 << 10
_MAGIC: dict[Kind, bytes] = {
    "gzip": b"\x1f\x8b\x08",
    "zstd": b"\x28\xb5\x2f\xfd",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
}
_HEAD_BYTES = max(map(len, _MAGIC.values()))
_SKIPPABLE_ZSTD = b"\x2a\x4d\x18"  # after a byte 0x50..0x5f: a frame that says nothing


class Readable(Protocol):
    """Whatever has bytes to read: up to *size* of them, and none only at the end."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        ...


class _Decoder(Protocol):
    """What the decompressors of the standard library and of both others have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def kind_of(head: bytes) -> Kind:
    """Return what the data that begins with *head* (6 bytes suffice) is compressed by."""
    for kind, magic in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[1:4] == _SKIPPABLE_ZSTD and head[0] >> 4 == 5:
        return "zstd"
    return "plain"


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _decoder(kind: Kind) -> tuple[Callable[[], _Decoder], tuple[type[Exception], ...]]:
    """Return what makes a decoder of one stream, and what it raises for bad data."""
    if kind == "gzip":
        from isal import igzip_lib

        # Its stub calls the class an instance.
        bad: Any = igzip_lib.error
        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), (bad,)
    if kind == "zstd":
        zstd = _zstd()
        return zstd.ZstdDecompressor, (zstd.ZstdError,)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    import lzma

    return lzma.LZMADecompressor, (lzma.LZMAError,)


class Decompressed:
    """The uncompressed bytes of a source; *kind* says what it is compressed by."""

    def __init__(self, source: Readable, kind: Kind, head: bytes) -> None:
        self.kind = kind
        self._source = source
        self._head = head
        self._decoder: _Decoder | None = None
        self._bad: tuple[type[Exception], ...] = ()
        if kind != "plain":
            self._make, self._bad = _decoder(kind)
            self._decoder = self._make()

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes, and none only at the end.

        Raises InvalidSpec for data that is damaged or cut short, and what the source raises.
        """
        decoder = self._decoder
        if decoder is None:
            if self._head:
                head, self._head = self._head[:size], self._head[size:]
                return head
            return self._source.read(size)
        while True:
            data = b""
            if decoder.eof:
                # Another stream may follow: parallel compressors write many, and zeros may fill a last block.
                data = self._more(decoder.unused_data)
                if not data:
                    return b""
                self._decoder = decoder = self._make()
            elif decoder.needs_input:
                data = self._input()
                if not data:
                    raise InvalidSpec(f"not a readable archive: the {self.kind} data is cut short")
            try:
                out = decoder.decompress(data, size)
            except self._bad as exc:
                raise InvalidSpec(f"not a readable archive: the {self.kind} data is damaged: {exc}") from exc
            if out:
                return out

    def _input(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._source.read(_INPUT_BYTES)

    def _more(self, unused: bytes) -> bytes:
        data = unused.lstrip(b"\0") if unused else b""
        while not data:
            data = self._input()
            if not data:
                return b""
            data = data.lstrip(b"\0")
        return data


def open_reader(source: Readable, media_type: str | None = None) -> Decompressed:
    """Return a reader of the uncompressed bytes of *source*, from where it stands.

    The first bytes decide and not *media_type*: archives are known to call compressed layers plain, and plain ones
    compressed, and Docker reads them.
    """
    del media_type
    head = b""
    while len(head) < _HEAD_BYTES:
        more = source.read(_INPUT_BYTES)
        if not more:
            break
        head += more
    return Decompressed(source, kind_of(head), head)


class Compressor:
    """Passes what is written to it on to a sink, compressed; equal input gives equal bytes."""

    def __init__(self, kind: Literal["plain", "gzip", "zstd"], sink: "Callable[[Buffer], object]") -> None:
        self._sink = sink
        self._encoder: Any = None
        self._waiting = bytearray()
        if kind == "gzip":
            from isal import isal_zlib

            # A gzip header from here has no time and no name in it.
            self._encoder = isal_zlib.compressobj(level=2, wbits=31)
        elif kind == "zstd":
            zstd = _zstd()
            self._encoder = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
        elif kind != "plain":
            raise ValueError(f"layers are not compressed by {kind!r}")

    def write(self, data: "Buffer") -> None:
        """Take more bytes; the sink is called when there are some for it."""
        if self._encoder is None:
            self._sink(data)
            return
        self._waiting += data
        # What igzip makes of the data depends on the pieces that it gets.
        at = 0
        while len(self._waiting) - at >= _INPUT_BYTES:
            self._pass_on(self._encoder.compress(memoryview(self._waiting)[at : at + _INPUT_BYTES]))
            at += _INPUT_BYTES
        del self._waiting[:at]

    def finish(self) -> None:
        """Pass on what is left; the sink stays open."""
        if self._encoder is not None:
            self._pass_on(self._encoder.compress(self._waiting))
            self._pass_on(self._encoder.flush())
            self._waiting.clear()

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._sink(data)


def writer(kind: Literal["plain", "gzip", "zstd"], sink: "Callable[[Buffer], object]") -> Compressor:
    """Return a compressor that calls *sink* with bytes as they become ready; `finish` ends the stream.

    The same bytes written give the same bytes whatever their pieces. Raises ValueError for another *kind*.
    """
    return Compressor(kind, sink)
