"""Archives that want out of their root, or to be more than was asked for; each is shown to work where nobody looks."""

import errno
import io
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import layer_apply
from pyrunc._native.layer_apply import OVERLAY, REMOVE
from tests.tars import apply, entry, header, padded, pax, record, sign, tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root beside which lies what attacks are after."""
    path = tmp_path / "outer/root"
    path.mkdir(parents=True)
    (tmp_path / "outer/secret").write_text("secret")
    (tmp_path / "outer/directory").mkdir()
    (tmp_path / "outer/directory/kept").write_text("kept")
    return path


def outside(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return all that lies beside the root."""
    return {
        str(path.relative_to(root.parent)): (
            path.lstat().st_mode, path.lstat().st_nlink, path.lstat().st_uid,
            path.read_text() if path.is_file() else "",
        )
        for path in root.parent.rglob("*")
        if root != path and root not in path.parents
    }  # fmt: skip


def careless(data: bytes, root: Path) -> None:
    """Apply as many a program has: names are joined to the root, and whatever is there is used."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = os.path.normpath(f"{root}/{member.name}")
            head, leaf = os.path.split(path)
            if leaf == ".wh..wh..opq":
                for name in os.listdir(head):
                    os.unlink(f"{head}/{name}")
            elif leaf.startswith(".wh."):
                subprocess.run(["rm", "-rf", f"{head}/{leaf[4:]}"], check=True)
            elif member.isdir():
                os.makedirs(path, exist_ok=True)
                os.chmod(path, member.mode)
            elif member.issym():
                os.symlink(member.linkname, path)
            elif member.islnk():
                os.link(os.path.normpath(f"{root}/{member.linkname}"), path)
            else:
                os.makedirs(head, exist_ok=True)
                source = archive.extractfile(member)
                Path(path).write_bytes(source.read() if source else b"")
                os.chown(path, member.uid, member.gid)
                os.chmod(path, member.mode)


UP = entry("up", tarfile.SYMTYPE, linkname="..")
ATTACKS: dict[str, list[Any]] = {
    "a name that climbs": [("../escaped", "x")],
    "a name that climbs from below": [entry("a", tarfile.DIRTYPE), ("a/../../escaped", "x")],
    "through a symlink": [UP, ("up/escaped", "x")],
    "through a symlink to a symlink": [UP, entry("s", tarfile.SYMTYPE, linkname="up"), ("s/escaped", "x")],
    "a directory through a symlink": [UP, entry("up/escaped", tarfile.DIRTYPE)],
    "the mode of a directory through a symlink": [UP, entry("up/directory", tarfile.DIRTYPE, mode=0o777)],
    "a file over a symlink": [entry("s", tarfile.SYMTYPE, linkname="../secret"), ("s", "overwritten")],
    "the mode of a file over a symlink": [
        entry("s", tarfile.SYMTYPE, linkname="../secret"), entry("s", mode=0o4777, uid=5)],
    "a hard link that climbs": [entry("stolen", tarfile.LNKTYPE, linkname="../secret")],
    "a hard link through a symlink": [UP, entry("stolen", tarfile.LNKTYPE, linkname="up/secret")],
    "a whiteout that climbs": [entry("../.wh.secret")],
    "a whiteout through a symlink": [UP, entry("up/.wh.secret")],
    "a whiteout of a tree through a symlink": [UP, entry("up/.wh.directory")],
    "an opaque directory through a symlink": [
        entry("s", tarfile.SYMTYPE, linkname="../directory"), entry("s/.wh..wh..opq")],
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attack_works_on_a_careless_program(root: Path, attack: str) -> None:
    before = outside(root)
    careless(tar(*ATTACKS[attack]), root)
    assert outside(root) != before


@pytest.mark.parametrize("whiteouts", [REMOVE, OVERLAY])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_leads_outside(root: Path, attack: str, whiteouts: int) -> None:
    before = outside(root)
    (root / "there").touch()  # so that there is something that whiteouts could hide
    try:
        apply(tar(*ATTACKS[attack]), root, whiteouts)
    except (ValueError, OSError):
        pass
    assert outside(root) == before


@pytest.mark.parametrize("target", ["/{outer}", "{outer}", "/../../../../../{outer}", "."])
def test_an_absolute_symlink_starts_at_the_root(root: Path, target: str) -> None:
    before = outside(root)
    outer = str(root.parent)[1:]
    link = entry("s", tarfile.SYMTYPE, linkname=target.format(outer=outer))
    apply(tar(entry(outer, tarfile.DIRTYPE), link, ("s/in", "x")), root)
    assert outside(root) == before
    assert [path.name for path in root.rglob("in")] == ["in"]


def test_magic_links_are_not_followed(root: Path) -> None:
    """With procfs inside a root, /proc/self/root would be a way out that no symlink's text shows."""
    before = outside(root)
    outer = os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY)
    (root / "proc").mkdir()
    script = (
        "import sys; from pathlib import Path; from tests.tars import *\n"
        "import ctypes, os; libc = ctypes.CDLL(None)\n"
        "assert not libc.unshare(0x20000) and not libc.mount(None, b'/', None, ctypes.c_ulong(0x44000), None)\n"
        f"assert not libc.mount(b'proc', {str(root / 'proc').encode()!r}, b'proc', 0, None)\n"
        f"link = entry('s', tarfile.SYMTYPE, linkname='/proc/self/fd/{outer}')\n"
        f"assert os.path.exists({str(root)!r} + '/proc/self/fd/{outer}/secret')\n"
        f"apply(tar(link, ('s/escaped', 'x')), Path({str(root)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], pass_fds=[outer], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    os.close(outer)
    assert done.returncode == 1
    assert "circle" in done.stderr, done.stderr
    (root / "proc").rmdir()
    assert outside(root) == before


BAD: dict[str, tuple[bytes, str]] = {
    "no tar": (b"no archive at all" * 100, "at byte 0 .*checksum"),
    "a lone block of zeros": (header(b"a") + bytes(512) + header(b"b"), "lone block of zeros"),
    "a wrong checksum": (header(b"a") + header(b"b")[:-1] + b"x", "at byte 512 .*checksum"),
    "a size that is no number": (header(b"a", size=b"12x"), "size is no number"),
    "a negative size": (header(b"a", size=b"\xff" * 12), "size is no number"),
    "a size beyond 63 bits": (header(b"a", size=b"\x80\xff" + b"\xff" * 10), "size is no number"),
    "a mode that is no number": (header(b"a", mode=b"rwxr-xr-x"[:8]), "a: the mode"),
    "an owner that means 'as it is'": (
        header(b"a", uid=b"\x80\0\0\0\xff\xff\xff\xff"), "a: the uid or gid is no number below 4294967295"),
    "a negative owner": (header(b"a", gid=b"\xff" * 8), "a: the uid or gid"),
    "a type that is unknown": (header(b"a", b"Z"), "a: a type of member that is not supported"),
    "a part of a volume": (header(b"a", b"M"), "a: a type of member"),
    "a device beyond the kernel's": (header(b"a", b"3", major=b"7777777\0"), "a: a device number beyond"),
    "no record": (pax(b"nonsense") + header(b"a"), "a: a PAX record is not"),
    "a record without newline": (pax(b"9 path=ab") + header(b"a"), "a PAX record is not"),
    "a record that is longer than all": (pax(b"99 path=b\n") + header(b"a"), "a PAX record is not"),
    "a record of length 0": (pax(b"0 path=b\n") + header(b"a"), "a PAX record is not"),
    "a record without a key": (pax(b"6 =abc\n"[:7]) + header(b"a"), "a PAX record is not"),
    "a record whose length overflows": (pax(b"18446744073709551617 a=b\n") + header(b"a"), "a PAX record is not"),
    "a path with a NUL": (pax({"path": b"in\0/../out"}) + header(b"a"), "PAX path with a NUL"),
    "a target with a NUL": (pax({"linkpath": b"a\0b"}) + header(b"a", b"2"), "PAX path with a NUL"),
    "a sparse name with a NUL": (pax({"GNU.sparse.name": b"a\0b"}) + header(b"a"), "PAX path with a NUL"),
    "a PAX size that is no number": (pax({"size": b"-1"}) + header(b"a"), "PAX size"),
    "a PAX owner that is no number": (pax({"uid": b"4294967295"}) + header(b"a"), "PAX uid"),
    "a PAX time that is none": (pax({"mtime": b"now"}) + header(b"a"), "PAX mtime"),
    "a global size": (pax({"size": b"512"}, b"g") + header(b"a"), "sets the size of every member"),
    "a header that is too large": (header(b"a", b"x", (1 << 20) + 1), "more than 1048576"),
    "nothing but a header for what does not come": (pax({"path": b"a"}), "cut short"),
    "half a header": (header(b"a")[:100], "cut short at byte 100"),
    "half a file": (header(b"a", size=1000) + b"x" * 600, "a: cut short at byte 1112"),
    "a symlink to nothing": (header(b"a", b"2"), "a: a symlink to nothing"),
    "a hard link to the root": (header(b"a", b"1", link=b"./"), "a: a hard link to the root"),
    "a hard link to what is not there": (header(b"a", b"1", link=b"b"), "a: the target of the hard link does not"),
    "a hard link to a directory": (header(b"d/", b"5") + header(b"a", b"1", link=b"d"), "a: a hard link to a dir"),
    "a file in place of the root": (header(b"./"), "in place of the root"),
    "a whiteout of nothing": (header(b"a/.wh."), "a/.wh.: a whiteout of nothing"),
    "a whiteout of itself": (header(b"a/.wh.."), "a whiteout of nothing"),
    "a whiteout of the one above": (header(b"a/.wh..."), "a whiteout of nothing"),
    "something in a whiteout": (header(b".wh.a/b"), "passes through a whiteout"),
    "something in a file": (header(b"a") + header(b"a/b"), "a/b: it passes through something that is no dir"),
    "something in a dangling symlink": (header(b"a", b"2", link=b"b") + header(b"a/c"), "leads nowhere"),
    "something in a circle": (header(b"a", b"2", link=b"a") + header(b"a/c"), "in a circle"),
    "sparse: pieces that overlap": (
        pax({"GNU.sparse.size": b"99", "GNU.sparse.map": b"0,9,8,1"}) + header(b"a", size=10) + bytes(512), "overlap"),
    "sparse: a piece beyond the end": (
        pax({"GNU.sparse.size": b"99", "GNU.sparse.map": b"98,2"}) + header(b"a", size=2) + bytes(512), "beyond"),
    "sparse: a sum beyond 64 bits": (
        pax({"GNU.sparse.size": b"9223372036854775807", "GNU.sparse.map": b"9223372036854775807,9223372036854775807"})
        + header(b"a"), "beyond"),
    "sparse: less data than the map": (
        pax({"GNU.sparse.size": b"99", "GNU.sparse.map": b"0,9"}) + header(b"a", size=2) + bytes(512), "add up"),
    "sparse: a map that is none": (pax({"GNU.sparse.size": b"9", "GNU.sparse.map": b"0;1"}) + header(b"a"), "no list"),
    "sparse: an offset alone": (pax({"GNU.sparse.size": b"9", "GNU.sparse.map": b"0"}) + header(b"a"), "has no size"),
    "sparse: sizes without offsets": (
        pax(record("GNU.sparse.size", b"9") + record("GNU.sparse.numbytes", b"1")) + header(b"a"), "take turns"),
    "sparse: another version": (
        pax({"GNU.sparse.major": b"2", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"1"}) + header(b"a"),
        "a version of GNU.sparse that is not supported"),
    "sparse: a map longer than the file": (
        pax({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"1"})
        + header(b"a", size=512) + b"500\n" + b"0\n" * 510, "longer than the member"),
    "sparse: a map of too many": (
        pax({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"1"})
        + header(b"a", size=512) + padded(b"1048577\n"), "more than 1048576 pieces"),
    "sparse, old: no number": (
        sign(header(b"a", b"S", sparse=b"00000000000\x0000000000z01", real_size=b"00000000001\0")), "no number"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_bad_archive_is_refused_by_name(root: Path, what: str, chunk: int) -> None:
    data, words = BAD[what]
    with pytest.raises(ValueError, match=words):
        apply(data, root, chunks=chunk)


def test_after_an_error_nothing_more_is_taken(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    applier = layer_apply.LayerApplier(fd, REMOVE, max_bytes=1, max_members=9, max_path_bytes=99)
    os.close(fd)
    with pytest.raises(ValueError, match="checksum"):
        applier.feed(b"x" * 512)
    with pytest.raises(ValueError, match="could not be applied"):
        applier.feed(tar(("a", "")))
    with pytest.raises(ValueError, match="could not be applied"):
        applier.finish()
    applier.close()
    applier.close()
    with pytest.raises(ValueError, match="closed"):
        applier.feed(b"")
    assert list(root.iterdir()) == []


def test_a_member_is_named_by_what_the_file_system_refuses(root: Path) -> None:
    with pytest.raises(OSError, match="name too long") as caught:
        apply(tar(("fine", "x"), (f"a/{'n' * 256}", "x")), root)
    assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, f"a/{'n' * 256}")


@pytest.mark.usefixtures("own_mounts")
def test_a_full_disk_is_an_error_of_the_member(root: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(root)], check=True)
    try:
        with pytest.raises(OSError, match="space") as caught:
            apply(tar(("a/small", "x"), ("a/large", "x" * 200_000)), root)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a/large")
    finally:
        subprocess.run(["umount", str(root)], check=True)


# Bounds


def test_content_is_bounded_before_it_is_written(root: Path) -> None:
    data = tar(("small", "x" * 600), ("large", "x" * 500))
    assert apply(data, root, max_bytes=1100) == (2, 1100)
    with pytest.raises(ValueError, match="large: the layer unpacks to more than 1099 bytes"):
        apply(data, root / "again", max_bytes=1099)
    assert not (root / "again/large").exists()


def test_a_size_that_lies_is_bounded(root: Path) -> None:
    with pytest.raises(ValueError, match="a: the layer unpacks to more"):
        apply(header(b"a", size=b"\x80\0\0\0\x0f" + b"\xff" * 7), root)
    with pytest.raises(ValueError, match="b: the layer unpacks to more"):
        apply(header(b"a", size=5) + padded(b"xxxxx") + header(b"b", size=6), root / "again", max_bytes=10)


def test_members_are_bounded(root: Path) -> None:
    data = tar(("a", ""), entry(".wh.b"), entry("c", tarfile.DIRTYPE))
    assert apply(data, root, max_members=3) == (3, 0)
    with pytest.raises(ValueError, match="c/: the layer has more than 2 members"):
        apply(data, root, max_members=2)


def test_paths_are_bounded(root: Path) -> None:
    path = "d/" * 40 + "f"
    apply(tar((path, "")), root, max_path_bytes=81)
    for member in ((path, ""), entry("s", tarfile.SYMTYPE, linkname=path)):
        with pytest.raises(ValueError, match="too long"):
            apply(tar(member), root, max_path_bytes=80)
    with pytest.raises(ValueError, match="too long"):
        apply(tar(("d/" * 3000, "")), root)


@pytest.mark.parametrize("bound", [0, 4096])
def test_a_bound_that_is_none_is_refused(root: Path, bound: int) -> None:
    with pytest.raises(ValueError, match="max_path_bytes"):
        apply(b"", root, max_path_bytes=bound)
    with pytest.raises(ValueError, match="whiteouts"):
        apply(b"", root, 7)


def test_a_file_of_holes_costs_nothing(root: Path) -> None:
    """It may be as large as the file system lets it; what counts is what it holds."""
    huge = {"GNU.sparse.size": b"%d" % (1 << 42), "GNU.sparse.map": b"%d,3" % (1 << 41)}
    assert apply(pax(huge) + header(b"a", size=3) + padded(b"abc"), root, max_bytes=3) == (1, 3)
    status = (root / "a").stat()
    assert status.st_size == 1 << 42
    assert status.st_blocks * 512 < 1 << 20
    too_large = {"GNU.sparse.size": b"%d" % ((1 << 63) - 1), "GNU.sparse.map": b"0,3"}
    with pytest.raises(OSError, match="too large") as caught:
        apply(pax(too_large) + header(b"a", size=3) + padded(b"abc"), root)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, "a")


def test_deep_paths_need_few_descriptors(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    deep = "/".join(["d"] * 2000)
    before = set(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + 80, hard))
    try:
        apply(tar((f"{deep}/a", "1"), (f"{deep}/b", "2"), ("top", ""), (f"{deep}/c", "3")), root)
        apply(tar((f"{deep}/own", ""), entry("d/.wh..wh..opq")), root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(os.listdir("/proc/self/fd")) == before
    bottom = root / "d"
    while (bottom / "d").exists():
        assert os.listdir(bottom) == ["d"]
        bottom /= "d"
        if len(str(bottom)) > 3000:
            break
    # The next run of pytest, which removes what this one leaves, would recurse too deep.
    subprocess.run(["rm", "-rf", root / "d"], check=True)
