"""Directory trees of every oddity, what is true of each of their entries, and layers applied without our own code."""

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

Snapshot = dict[bytes, "Entry"]
_OVERLAY = ("trusted.overlay.", "user.overlay.")
# cap_net_raw=ep, as a file has it
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


class Entry(NamedTuple):
    """All of an entry that a layer has to carry; *links* are the names of the same file, sorted."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    rdev: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]


def entry_xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in names
        if not name.startswith(_OVERLAY)
    )


def content_of(path: bytes, kind: int) -> str:
    if kind == stat.S_IFLNK:
        return os.readlink(path).hex()
    if kind != stat.S_IFREG:
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def snapshot(root: str | Path) -> Snapshot:
    """Return every entry below *root* by its path; the root is b""."""
    top = os.fsencode(root)
    groups: dict[tuple[int, int], list[bytes]] = {}
    found: dict[bytes, os.stat_result] = {}
    waiting = [b""]
    while waiting:
        name = waiting.pop()
        status = os.lstat(os.path.join(top, name))
        found[name] = status
        if stat.S_ISDIR(status.st_mode):
            waiting += [os.path.join(name, leaf) for leaf in os.listdir(os.path.join(top, name) or top)]
        else:
            groups.setdefault((status.st_dev, status.st_ino), []).append(name)
    result: Snapshot = {}
    for name, status in found.items():
        path = os.path.join(top, name) if name else top
        kind = stat.S_IFMT(status.st_mode)
        links = () if kind == stat.S_IFDIR else tuple(sorted(groups[status.st_dev, status.st_ino]))
        result[name] = Entry(
            kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns,
            status.st_rdev, content_of(path, kind), entry_xattrs(path), links,
        )  # fmt: skip
    return result


def oddities(root: Path) -> None:
    """Make a tree with every kind of entry and name that a layer can carry."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "empty").mkdir()
    (root / "dir").mkdir(mode=0o750)
    (root / "dir" / "file").write_bytes(b"content\n" * 1000)
    (root / "file").write_bytes(b"x")
    (root / "none").write_bytes(b"")
    (root / "block").write_bytes(bytes(512))
    (root / "big").write_bytes(os.urandom(3_000_001))
    os.chmod(root / "file", 0o6755)
    os.link(root / "file", root / "dir" / "same")
    os.link(root / "file", root / "again")
    (root / "link").symlink_to("dir/file")
    (root / "broken").symlink_to("/no/where/" + "é" * 60)
    (root / "long-target").symlink_to("t" * 150)
    os.link(root / "link", root / "link-too", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "char", stat.S_IFCHR | 0o640, os.makedev(240, 300_000))
    os.mknod(root / "blockdev", stat.S_IFBLK | 0o600, os.makedev(7, 1))
    os.link(root / "char", root / "char-too")
    # names: as long as they come, not ASCII, not UTF-8, with what a shell or a format would trip over
    names = [
        b"n" * 255, "Übergröße".encode(), b"\xff\xfe", b"a\nb", b" ", b"-rf", b"a=b", b"\\t%s", b"*", b"~", b"\x01",
        b"x" * 100, b"y" * 101, b"wh.", b".whatever", b"PaxHeaders", b"'\"",
    ]  # fmt: skip
    for raw in names:
        Path(os.fsdecode(os.path.join(os.fsencode(root), raw))).write_bytes(raw)
    deep = root / ("p" * 80) / ("q" * 80)
    deep.mkdir(parents=True)
    (deep / ("r" * 90)).write_text("prefix")  # 251 bytes: a ustar header can just divide it
    (deep / ("s" * 101)).write_text("no prefix")
    (deep / "ü").write_text("not ASCII")
    # owners, times, attributes
    os.chown(root / "none", 3_000_000_000, 2_097_152)
    os.chown(root / "link", 1000, 1001, follow_symlinks=False)
    for name, value in [("user.a", b"1"), ("user.a=b%c\n", b"x\ny\0=\xff"), ("user.none", b""), ("trusted.t", b"t"),
                        ("security.capability", CAPABILITY), ("user.big", bytes(range(256)) * 8)]:  # fmt: skip
        os.setxattr(root / "big", name, value)
    os.setxattr(root / "dir", "user.dir", b"d")
    os.setxattr(root / "none", "user.on-empty", b"e")
    os.setxattr(root / "link", "trusted.on-symlink", b"l", follow_symlinks=False)
    os.setxattr(root / "fifo", "trusted.on-fifo", b"f")
    times = {
        "file": 1_600_000_000_123_456_789, "none": -1_500_000_000, "block": 10**9, "empty": -1,
        "link": 1_234_567_890_000_000_100, "big": (1 << 34) * 10**9 - 1, "char": 0, "dir": 1_000_000_010,
    }  # fmt: skip
    for name, time_ns in times.items():
        os.utime(root / name, ns=(time_ns, time_ns), follow_symlinks=False)


def gnu_extract(archive: Path, target: Path) -> None:
    """Let GNU tar extract, as root would with all it can."""
    target.mkdir(exist_ok=True)
    command = ["tar", "--extract", "--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*",
               "--warning=no-timestamp"]  # fmt: skip
    done = subprocess.run(
        [*command, "-f", archive, "-C", target], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def tarfile_snapshot(archive: Path) -> Snapshot:
    """Return what Python's tarfile reads in an archive, in the form of `snapshot`."""
    result: Snapshot = {}
    groups: dict[bytes, list[bytes]] = {}
    kinds = {
        tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK,
        tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    }  # fmt: skip
    with tarfile.open(archive, errors="surrogateescape") as tar:
        for member in tar:
            name = b"" if member.name == "." else os.fsencode(member.name)
            if member.islnk():
                groups[os.fsencode(member.linkname)].append(name)
                continue
            kind = kinds[member.type]
            content = os.fsencode(member.linkname).hex() if member.issym() else ""
            if kind == stat.S_IFREG:
                data = tar.extractfile(member)
                assert data is not None
                content = hashlib.sha256(data.read()).hexdigest()
            xattrs = [
                (key.removeprefix("SCHILY.xattr.").replace("%3D", "=").replace("%25", "%"),
                 value.encode("utf-8", "surrogateescape"))
                for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")
            ]  # fmt: skip
            mtime_ns = int(Decimal(member.pax_headers.get("mtime", str(member.mtime))) * 10**9)
            rdev = (
                os.makedev(member.devmajor, member.devminor) if member.isdev() and not member.isfifo() else 0
            )
            groups[name] = [name]
            result[name] = Entry(
                kind, member.mode, member.uid, member.gid, mtime_ns, rdev, content, tuple(xattrs), ()
            )
    for first, names in groups.items():
        if result[first].kind != stat.S_IFDIR:
            links = tuple(sorted(names))
            result.update((name, result[first]._replace(links=links)) for name in names)
    return result


def apply_layer(archive: Path, root: Path) -> None:
    """Apply an OCI layer to the tree *root*, slowly and plainly: what it hides first, then GNU tar."""
    top = os.fsencode(root)
    with tarfile.open(archive, errors="surrogateescape") as tar:
        members = tar.getmembers()
    whiteouts = []
    for member in members:
        directory, _, leaf = os.fsencode(member.name).rpartition(b"/")
        path = os.path.join(top, directory)
        if leaf == b".wh..wh..opq":
            for old in os.listdir(path) if os.path.isdir(path) else []:
                _remove(os.path.join(path, old))
        elif leaf.startswith(b".wh."):
            _remove(os.path.join(path, leaf[4:]))
        elif not member.isdir() or not _is_directory(os.path.join(path, leaf)):
            _remove(os.path.join(path, leaf))
            continue
        else:
            # what the layer says of a directory is all that there is of it
            for attribute in os.listxattr(os.path.join(path, leaf)):
                os.removexattr(os.path.join(path, leaf), attribute)
            continue
        whiteouts.append(member.name)
    gnu_extract(archive, root)
    made = {os.path.dirname(name) for name in whiteouts}
    times = {name: os.stat(root / name).st_mtime_ns for name in made}
    for name in whiteouts:
        (root / name).unlink()
    for name, time_ns in times.items():
        os.utime(root / name, ns=(time_ns, time_ns))


def _is_directory(path: bytes) -> bool:
    return os.path.lexists(path) and stat.S_ISDIR(os.lstat(path).st_mode)


def _remove(path: bytes) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: str | Path, other: str | Path) -> None:
    """Let two names change places at once; renameat2(2), RENAME_EXCHANGE."""
    if _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")
