"""Archives to apply: written by tarfile, by GNU tar, or by hand where neither would write such a thing."""

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrunc._native import layer_apply

BLOCK = 512
END = bytes(2 * BLOCK)


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """Return a member's header."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar(*members: tuple[str, str] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of files (name, text) and of headers alone."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                data = member[1].encode()
                archive.addfile(entry(member[0], size=len(data)), io.BytesIO(data))
    return target.getvalue()


def header(name: bytes, kind: bytes = b"0", size: int | bytes = 0, **fields: bytes) -> bytes:
    """Return one block as it is said, with a right checksum: *fields* go where tar has them, bytes as they are."""
    places = {
        "mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "link": 157, "magic": 257, "major": 329,
        "minor": 337, "prefix": 345, "sparse": 386, "more": 482, "real_size": 483, "star": 508,
    }  # fmt: skip
    block = bytearray(BLOCK)
    block[: len(name)] = name
    number = size if isinstance(size, bytes) else b"%011o\0" % size
    for key, value in {
        "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0", "size": number, "mtime": b"00000000007\0",
        "magic": b"ustar\x0000", **fields,
    }.items():  # fmt: skip
        block[places[key] : places[key] + len(value)] = value
    block[156:157] = kind
    return sign(block)


def sign(block: bytes | bytearray) -> bytes:
    """Return the block with the checksum that it should have."""
    head = bytearray(block)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def padded(data: bytes) -> bytes:
    """Return the data up to the end of its last block."""
    return data + bytes(-len(data) % BLOCK)


def record(key: str, value: bytes) -> bytes:
    """Return one PAX record."""
    text = b" " + key.encode() + b"=" + value + b"\n"
    size = len(text) + 1
    while len(b"%d" % size) + len(text) != size:
        size += 1
    return b"%d" % size + text


def pax(records: Mapping[str, bytes] | bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header of these records."""
    data = records if isinstance(records, bytes) else b"".join(record(k, v) for k, v in records.items())
    return header(b"pax", kind, len(data)) + padded(data)


def gnu_tar(source: Path, *options: str) -> bytes:
    """Return what GNU tar makes of the directory, names sorted."""
    command = ["tar", "-C", str(source), "--sort=name", "--numeric-owner", *options, "-cf", "-", "."]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def gnu_untar(data: bytes, target: Path) -> None:
    """Unpack as GNU tar does for root."""
    target.mkdir(exist_ok=True)
    command = ["tar", "-C", str(target), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", "-"]
    subprocess.run(command, input=data, check=True)


def apply(
    data: bytes,
    target: Path,
    whiteouts: int = layer_apply.REMOVE,
    *,
    chunks: int | list[int] = 1 << 20,
    max_bytes: int = 1 << 30,
    max_members: int = 10_000,
    max_path_bytes: int = 4095,
    **options: Any,
) -> tuple[int, int]:
    """Apply the archive to the directory, fed in pieces of *chunks* bytes (a list: in turn, and the rest at once)."""
    target.mkdir(exist_ok=True)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        applier = layer_apply.LayerApplier(
            root,
            whiteouts,
            max_bytes=max_bytes,
            max_members=max_members,
            max_path_bytes=max_path_bytes,
            **options,
        )
        try:
            at = 0
            turns = iter([chunks] * (len(data) // chunks + 1) if isinstance(chunks, int) else chunks)
            while at < len(data):
                size = next(turns, len(data))
                applier.feed(memoryview(data)[at : at + size])
                at += size
            return applier.finish()
        finally:
            applier.close()
    finally:
        os.close(root)
