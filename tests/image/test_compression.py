"""Compressed data is told by its bytes, read whole or refused, and written the same every time."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import sys
from typing import Any

import pytest

from pyrunc import errors
from pyrunc.image import compression

DATA = random.Random(1).randbytes(300_000) + bytes(2_000_000) + b"end"


def zstd(data: bytes) -> bytes:
    out = io.BytesIO()
    writer = compression.writer("zstd", out.write)
    writer.write(data)
    writer.finish()
    return out.getvalue()


FORMS: dict[str, Any] = {
    "plain": bytes, "gzip": gzip.compress, "zstd": zstd, "bzip2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip


class Trickle(io.BytesIO):
    """A source that gives less than is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 3) if size and size > 0 else size)


def read(data: bytes, size: int = 100_000, source: type[io.BytesIO] = io.BytesIO) -> tuple[str, bytes]:
    reader = compression.open_reader(source(data))
    return reader.kind, b"".join(iter(lambda: reader.read(size), b""))


@pytest.mark.parametrize("kind", FORMS)
def test_each_kind_is_told_and_read(kind: str) -> None:
    assert read(FORMS[kind](DATA)) == (kind, DATA)
    assert read(FORMS[kind](DATA[-2000:]), 7, Trickle) == (kind, DATA[-2000:])


@pytest.mark.parametrize("data", [b"", b"\x1f", b"\x1f\x8b", b"BZ", b"ustar"])
def test_little_is_plain(data: bytes) -> None:
    assert read(data) == ("plain", data)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_streams_one_after_the_other_are_one(kind: str) -> None:
    compress = FORMS[kind]
    data = compress(b"one") + compress(b"") + compress(DATA) + compress(b"four")
    assert read(data) == (kind, b"one" + DATA + b"four")
    assert read(compress(b"x") + bytes(512)) == (kind, b"x")


def test_frames_of_zstd_that_say_nothing_are_passed_over() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"extra"
    assert read(skippable + zstd(b"a") + skippable + zstd(b"b") + skippable) == ("zstd", b"ab")


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_damage_is_refused(kind: str) -> None:
    whole = FORMS[kind](DATA)
    for cut in (7, len(whole) // 2, len(whole) - 1):
        with pytest.raises(errors.InvalidSpec, match=f"the {kind} data is cut short"):
            read(whole[:cut])
    for at in (len(whole) // 3, len(whole) - 6):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        with pytest.raises(errors.InvalidSpec, match=f"the {kind} data is (damaged|cut short)"):
            read(bytes(damaged))
    with pytest.raises(errors.InvalidSpec, match=f"the {kind} data is damaged"):
        read(whole + b"something else behind it")


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
def test_the_same_bytes_are_written_whatever_their_pieces(kind: Any) -> None:
    results = set()
    for size in (len(DATA), 100_000, 4096):
        out = io.BytesIO()
        writer = compression.writer(kind, out.write)
        for at in range(0, len(DATA), size):
            writer.write(memoryview(DATA)[at : at + size])
        writer.finish()
        assert read(out.getvalue()) == (kind, DATA)
        results.add(out.getvalue())
    assert len(results) == 1


@pytest.mark.parametrize("program", ["gzip", "zstd"])
def test_the_programs_read_what_is_written(program: Any) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    out = io.BytesIO()
    writer = compression.writer(program, out.write)
    writer.write(DATA)
    writer.finish()
    assert (
        subprocess.run([program, "-dc"], input=out.getvalue(), stdout=subprocess.PIPE, check=True).stdout
        == DATA
    )


def test_a_kind_that_is_not_written() -> None:
    with pytest.raises(ValueError, match="xz"):
        compression.writer("xz", print)  # type: ignore[arg-type]


def test_codecs_are_imported_when_they_are_used() -> None:
    code = (
        "import io, sys; from pyrunc.image import compression as c; c.open_reader(io.BytesIO(b'plain')).read(9)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'isal', 'backports', 'bz2', 'lzma', 'zlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
