"""The outer tar is read as tarfile and GNU tar write it, and written as they read it."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc.errors import InvalidSpec
from pyrunc.image.archive.tar import Member, Reader, Writer
from tests.image.archive.making import member, tar


class Dripping:
    """A source that gives what it likes, at most *most* bytes."""

    def __init__(self, data: bytes, most: int) -> None:
        self.file = io.BytesIO(data)
        self.most = most

    def read(self, size: int, /) -> bytes:
        return self.file.read(min(size, self.most))


def members(data: bytes, most: int = 1 << 20) -> list[tuple[Member, bytes]]:
    reader = Reader(Dripping(data, most), "it", 1000)
    found = []
    for each in reader:
        content = b""
        while part := reader.read(4096):
            content += part
        found.append((each, content))
    return found


NAMES = ["a", "d/b", "n" * 100, "p" * 99 + "/" + "q" * 99, "long/" + "x" * 300, "é-日本", "with space"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("most", [1, 7, 511, 513, 1 << 20])
def test_what_tarfile_writes_is_read(form: int, most: int) -> None:
    names = [name for name in NAMES if form != tarfile.USTAR_FORMAT or len(name.encode()) < 250]
    made = [(member(name), name.encode() * 150) for name in names]
    made += [
        (
            member(
                "link", tarfile.SYMTYPE, linkname="../" + "t" * (90 if form == tarfile.USTAR_FORMAT else 200)
            ),
            b"",
        ),
        (member("hard", tarfile.LNKTYPE, linkname="a"), b""),
        (member("dir", tarfile.DIRTYPE), b""),
        (member("pipe", tarfile.FIFOTYPE), b""),
    ]
    found = members(tar(made, form), most)
    assert [(each.name.rstrip("/"), content) for each, content in found] == [
        (info.name, content) for info, content in made
    ]
    assert [each.kind for each, _ in found[-4:]] == ["symlink", "link", "directory", "other"]
    assert [each.target for each, _ in found[-4:-2]] == [made[-4][0].linkname, "a"]


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_bytes(b"content" * 1000)
    (tmp_path / "d/link").symlink_to("file")
    with (tmp_path / "d/sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "d/z").write_bytes(b"after")
    sparse = [] if form in ("v7", "ustar") else ["--sparse"]
    command = ["tar", "-c", f"--format={form}", "--sort=name", *sparse, "-C", str(tmp_path), "d"]
    found = members(subprocess.run(command, capture_output=True, check=True).stdout)
    assert [each.name for each, _ in found][:3] == ["d/", "d/file", "d/link"]
    assert [each.kind for each, _ in found][:3] == ["directory", "file", "symlink"]
    assert found[1][1] == b"content" * 1000
    # A sparse file is no file of an archive of images, and what follows it is still found.
    assert found[3][0].kind == ("other" if sparse else "file")
    assert (found[-1][0].name, found[-1][1]) == ("d/z", b"after")


def test_a_size_beyond_octal_is_read_and_written() -> None:
    class Endless:
        def __init__(self, head: bytes) -> None:
            self.head = head

        def read(self, size: int, /) -> bytes:
            data, self.head = self.head[:size], self.head[size:]
            return data or bytes(size)

    header: list[bytes] = []
    Writer(lambda data: header.append(bytes(data))).file("large", 9 << 30)
    reader = Reader(Endless(header[0]), "it", 10)
    assert next(iter(reader)) == Member("large", "file", 9 << 30, "")
    assert tarfile.TarInfo.frombuf(header[0], "utf-8", "strict").size == 9 << 30


@given(st.lists(st.tuples(st.text("abc/", min_size=1, max_size=90), st.binary(max_size=2000)), max_size=5))
def test_what_is_written_is_read(files: list[tuple[str, bytes]]) -> None:
    data = io.BytesIO()
    writer = Writer(data.write)
    writer.directory("dir")
    for name, content in files:
        writer.add(f"x{name}x", content)
    writer.finish()
    found = members(data.getvalue())
    assert [(each.name, content) for each, content in found] == [
        ("dir/", b""), *((f"x{name}x", content) for name, content in files)
    ]  # fmt: skip
    data.seek(0)
    with tarfile.open(fileobj=data) as archive:
        infos = archive.getmembers()
        assert [info.name for info in infos] == ["dir", *(f"x{name}x" for name, _ in files)]
        assert {(info.uid, info.gid, info.mtime) for info in infos} == {(0, 0, 0)}
        assert [info.mode for info in infos] == [0o755] + [0o644] * len(files)


def test_a_writer_is_held_to_what_it_said() -> None:
    writer = Writer(lambda _: None)
    writer.file("a", 3)
    with pytest.raises(ValueError, match="less"):
        writer.finish()
    with pytest.raises(ValueError, match="more"):
        writer.write(b"1234")


def patched(data: bytes, at: int, value: bytes, *, checksum: bool = True) -> bytes:
    """Change a header, and its checksum with it."""
    data = data[:at] + value + data[at + len(value) :]
    start = at - at % 512
    header = data[start : start + 148] + b" " * 8 + data[start + 156 : start + 512]
    return data[: start + 148] + b"%06o\0 " % sum(header) + data[start + 156 :] if checksum else data


PLAIN = tar([(member("a"), b"content")], tarfile.USTAR_FORMAT)
PAX = tar([(member("é"), b"content")], tarfile.PAX_FORMAT)
LONG = tar([(member("n" * 200), b"content")], tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (patched(PLAIN, 0, b"b", checksum=False), "a header's checksum is wrong"),
        (patched(PLAIN, 124, b"9" * 11), "no size"),
        (patched(PLAIN, 124, b"-0000000001"), "no size"),
        (patched(PLAIN, 124, b"\xff" * 12), "no size"),
        (patched(PLAIN, 124, b"\x80" + b"\xff" * 11), "a size of"),
        (PLAIN[:511], "cut short"),
        (PLAIN[:515], "cut short"),
        (PLAIN[:1000], "cut short"),
        (patched(PAX, 124, b"77777777777"), "a header of"),
        (patched(LONG, 124, b"77777777777"), "a header of"),
        (PAX[:512] + b"99 path=x\n".ljust(512, b"\0") + PAX[1024:], "PAX header is damaged"),
        (PAX[:512] + b"0 path=x\n".ljust(512, b"\0") + PAX[1024:], "PAX header is damaged"),
        (PAX[:512] + b"x".ljust(512, b"\0") + PAX[1024:], "PAX header is damaged"),
        (PAX[:512] + b"10 size=-1\n".ljust(512, b"\0") + PAX[1024:], "PAX header"),
        (PAX[:512], "cut short"),
    ],
)
def test_what_is_damaged_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidSpec, match=f"it: .*{words}"):
        members(data)


def test_the_end_is_a_block_of_zeros_or_the_end() -> None:
    for data in (PLAIN, PLAIN[:1024], PLAIN[:1536], PLAIN + b"after the end"):
        assert [(each.name, content) for each, content in members(data)] == [("a", b"content")]


def test_a_signed_checksum_of_old_is_right() -> None:
    data = tar([(member("é"), b"x")], tarfile.GNU_FORMAT)
    header = data[:148] + b" " * 8 + data[156:512]
    signed = sum(byte - 256 if byte > 127 else byte for byte in header)
    assert members(data[:148] + b"%06o\0 " % signed + data[156:])[0][0].name == "é"


@given(st.binary(max_size=3000), st.integers(0, 10_000))
def test_any_bytes_are_read_or_refused(data: bytes, at: int) -> None:
    for whole in (data, PAX[: at % len(PAX)] + data + PAX[at % len(PAX) :]):
        try:
            members(whole)
        except InvalidSpec as exc:
            assert str(exc).startswith("it: ")
