"""What a header, PAX records and attributes say of a member."""

import os
import stat
import tarfile
from pathlib import Path

import pytest

from pyrunc._native import layer_apply
from pyrunc._native.layer_apply import OVERLAY, REMOVE
from tests.tars import END, apply, entry, header, padded, pax, tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.mark.parametrize("whiteouts", [REMOVE, OVERLAY])
@pytest.mark.parametrize(
    "name", ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.metacopy"]
)
def test_attributes_of_overlays_do_not_come_from_layers(root: Path, whiteouts: int, name: str) -> None:
    """With a redirect of its own, a layer's directory would show another directory of lower layers."""
    data = pax({f"SCHILY.xattr.{name}": b"/etc", "SCHILY.xattr.user.kept": b"1"}) + header(b"a/", b"5")
    fd = os.open(root, os.O_RDONLY)
    applier = layer_apply.LayerApplier(fd, whiteouts, max_bytes=1, max_members=9, max_path_bytes=99)
    os.close(fd)
    applier.feed(data)
    applier.finish()
    assert os.listxattr(root / "a") == ["user.kept"]
    assert applier.skipped_xattrs == 1
    applier.close()


@pytest.mark.parametrize(
    "records",
    [
        {"SCHILY.xattr.": b"1"},
        {"SCHILY.xattr." + "n" * 256: b"1"},
        {"SCHILY.xattr.user.a\0b": b"1"},
        {"LIBARCHIVE.xattr.user.a": b"?!"},
        {"LIBARCHIVE.xattr.user.%4": b"AA=="},
        {"LIBARCHIVE.xattr.user.%00": b"AA=="},
    ],
)
def test_an_attribute_that_cannot_be_one_is_refused(root: Path, records: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="a: an extended attribute that cannot be one"):
        apply(pax(records) + header(b"a"), root)


def test_libarchives_form_of_attributes(root: Path) -> None:
    records = {"LIBARCHIVE.xattr.user.%61%3D": b"AP8vPQ", "LIBARCHIVE.xattr.user.b": b"aGVsbG8="}
    apply(pax(records) + header(b"a"), root)
    assert os.getxattr(root / "a", "user.a=") == b"\0\xff/="
    assert os.getxattr(root / "a", "user.b") == b"hello"


def test_what_a_file_has_no_place_for_is_counted(root: Path) -> None:
    data = pax({"SCHILY.xattr.user.x": b"1"}) + header(b"s", b"2", link=b"t")
    fd = os.open(root, os.O_RDONLY)
    applier = layer_apply.LayerApplier(fd, REMOVE, max_bytes=1, max_members=9, max_path_bytes=99)
    os.close(fd)
    applier.feed(data)
    assert applier.skipped_xattrs == 1
    applier.close()
    assert os.readlink(root / "s") == "t"


# What a header may say


def test_records_come_before_headers(root: Path) -> None:
    records = {
        "path": b"real",
        "size": b"3",
        "uid": b"3000000000",
        "gid": b"7",
        "mtime": b"-1.25",
        "atime": b"9",
    }
    apply(pax(records) + header(b"name", size=99) + padded(b"abc") + header(b"next") + END, root)
    status = (root / "real").stat()
    assert (root / "real").read_bytes() == b"abc"
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (3_000_000_000, 7, -1_250_000_000)
    assert (root / "next").stat().st_uid == 0  # they hold for one member


def test_an_empty_record_leaves_the_header(root: Path) -> None:
    apply(pax({"path": b"", "uid": b""}) + header(b"name", uid=b"0000007\0"), root)
    assert (root / "name").stat().st_uid == 7


def test_global_records_hold_for_all_that_follow(root: Path) -> None:
    first = pax({"uid": b"5", "mtime": b"1.5", "SCHILY.xattr.user.g": b"v", "comment": b"x"}, b"g")
    apply(first + header(b"a") + pax({"uid": b"6"}) + header(b"b") + header(b"c"), root)
    assert [(root / name).stat().st_uid for name in "abc"] == [5, 6, 5]
    assert {(root / name).stat().st_mtime_ns for name in "abc"} == {1_500_000_000}
    assert os.getxattr(root / "c", "user.g") == b"v"


def test_times_have_nine_digits_and_two_signs(root: Path) -> None:
    times = {b"1.123456789": 1_123_456_789, b"1.9999999999": 1_999_999_999, b"0": 0, b"-0.1": -100_000_000}
    for i, (text, ns) in enumerate(times.items()):
        apply(pax({"mtime": text}) + header(b"%d" % i), root)
        assert (root / str(i)).stat().st_mtime_ns == ns


def test_numbers_in_base_256(root: Path) -> None:
    apply(header(b"a", uid=b"\x80\0\0\0\xb2\xd0\x5e\0", mtime=b"\xff" * 12), root)
    assert ((root / "a").stat().st_uid, (root / "a").stat().st_mtime) == (3_000_000_000, -1)


def test_signed_checksums_of_old_tars(root: Path) -> None:
    block = bytearray(header("\u00fc".encode()))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in block)
    apply(bytes(block), root)
    assert [path.name for path in root.iterdir()] == ["\u00fc"]


def test_prefixes(root: Path) -> None:
    apply(header(b"name", prefix=b"posix/dir"), root)
    apply(header(b"name", magic=b"ustar  \0", prefix=b"11111111111 22222222222"), root)
    apply(header(b"name", prefix=b"star/dir" + bytes(123) + b"00000000001 00000000002 ", star=b"tar\0"), root)
    assert sorted(str(p.relative_to(root)) for p in root.rglob("name")) == [
        "name",
        "posix/dir/name",
        "star/dir/name",
    ]


def test_no_content_follows_what_has_none(root: Path) -> None:
    for kind in (b"1", b"2", b"3", b"5", b"6"):
        apply(header(b"target") + header(b"x", kind, 512, link=b"target") + header(b"next" + kind), root)
        assert (root / f"next{kind.decode()}").exists()


def test_a_contiguous_file_and_an_old_directory(root: Path) -> None:
    apply(header(b"c", b"7", 3) + padded(b"abc") + header(b"old/", b"\0", 3) + header(b"f", b"\0"), root)
    assert (root / "c").read_bytes() == b"abc"
    assert stat.S_ISDIR((root / "old").stat().st_mode)
    assert stat.S_ISREG((root / "f").stat().st_mode)


def test_a_label_is_passed_over(root: Path) -> None:
    apply(header(b"label", b"V", 700) + bytes(1024) + header(b"a"), root)
    assert [path.name for path in root.iterdir()] == ["a"]


def test_what_follows_the_end_is_not_read(root: Path) -> None:
    assert apply(header(b"a") + END + b"garbage" * 1000, root, chunks=100) == (1, 0)


def test_the_roots_own_entry(root: Path) -> None:
    """It is passed over, as dockerd's overlay2 and containerd do, unless it is asked for."""
    data = tar(entry("./", tarfile.DIRTYPE, mode=0o700, uid=9, mtime=5))
    mode = root.stat().st_mode
    apply(data, root)
    assert (root.stat().st_mode, root.stat().st_uid) == (mode, 0)
    apply(data, root, set_root=True)
    assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_uid, root.stat().st_mtime) == (0o700, 9, 5)


def test_a_link_to_itself_stays(root: Path) -> None:
    apply(header(b"a", size=3) + padded(b"abc") + header(b"./a", b"1", link=b"a"), root)
    assert (root / "a").read_bytes() == b"abc"


def test_missing_directories_are_roots(root: Path) -> None:
    before = os.umask(0o077)
    try:
        apply(header(b"a/b/c", mode=b"0000666\0"), root)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((root / path).stat().st_mode) for path in ("a", "a/b")} == {0o755}
    assert stat.S_IMODE((root / "a/b/c").stat().st_mode) == 0o666
