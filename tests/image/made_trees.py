"""Trees that hypothesis makes: few names, contents and times, so that two of them have much in common."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

CONTENTS = (b"", b"x", b"y", b"z" * 700)
# A second, or one of the fractions that belong to each content: where these agree, so does the content.
SECONDS = (0, 10**9, -(10**9))


class Common(NamedTuple):
    """What every entry has; times are nanoseconds."""

    mode: int
    uid: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]


class Leaf(NamedTuple):
    """An entry that is no directory; *kind* is one of file, symlink, fifo, char, link (to the first file so far)."""

    kind: str
    common: Common
    content: int
    fraction: bool


class Directory(NamedTuple):
    """A directory with its entries by name."""

    common: Common
    entries: dict[bytes, "Leaf | Directory"]


def trees(names: st.SearchStrategy[bytes] | None = None) -> st.SearchStrategy[Directory]:
    """Return trees of at most four levels; *names* are any that a file can have, but no whiteout's."""
    if names is None:
        names = st.binary(min_size=1, max_size=255).filter(
            lambda name: (
                name not in (b".", b"..") and not {0, ord("/")} & set(name) and not name.startswith(b".wh.")
            )
        )
    xattrs = st.dictionaries(
        st.sampled_from(["user.a", "user.b=%", "trusted.c"]),
        st.sampled_from([b"", b"1", b"\n\0"]),
        max_size=2,
    )
    common = st.builds(
        lambda mode, uid, mtime, found: Common(mode, uid, mtime, tuple(sorted(found.items()))),
        st.sampled_from([0o644, 0o755, 0o4711]),
        st.sampled_from([0, 1000, 4_000_000]),
        st.sampled_from(SECONDS),
        xattrs,
    )
    leaf = st.builds(
        Leaf,
        st.sampled_from(["file", "file", "file", "symlink", "fifo", "char", "link"]),
        common,
        st.integers(0, len(CONTENTS) - 1),
        st.booleans(),
    )
    node = st.recursive(
        leaf,
        lambda below: st.builds(Directory, common, st.dictionaries(names, below, max_size=5)),
        max_leaves=20,
    )
    return st.builds(Directory, common, st.dictionaries(names, node, max_size=5))


def make(spec: Directory, root: Path) -> None:
    """Make the tree *spec* as the new directory *root*."""
    files: list[bytes] = []
    _directory(spec, os.fsencode(root), files)


def _directory(spec: Directory, path: bytes, files: list[bytes]) -> None:
    os.mkdir(path)
    for name, entry in spec.entries.items():
        below = os.path.join(path, name)
        if isinstance(entry, Directory):
            _directory(entry, below, files)
        else:
            _leaf(entry, below, files)
    _common(spec.common, path, spec.common.mtime_ns)


def _leaf(spec: Leaf, path: bytes, files: list[bytes]) -> None:
    common = spec.common
    mtime_ns = common.mtime_ns + (spec.content + 1) * 1000 if spec.fraction else common.mtime_ns
    kind = spec.kind
    if kind == "link" and files:
        os.link(files[0], path)
        return
    if kind == "symlink":
        os.symlink(CONTENTS[spec.content] or b"t", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "char":
        os.mknod(path, stat.S_IFCHR, os.makedev(1, 3 + spec.content))
    else:
        with open(path, "xb") as file:
            file.write(CONTENTS[spec.content])
        files.append(path)
    _common(common, path, mtime_ns)


def _common(common: Common, path: bytes, mtime_ns: int) -> None:
    os.chown(path, common.uid, common.uid, follow_symlinks=False)
    kind = stat.S_IFMT(os.lstat(path).st_mode)
    if kind != stat.S_IFLNK:
        os.chmod(path, common.mode)
    for name, value in common.xattrs:
        if kind in (stat.S_IFREG, stat.S_IFDIR) or not name.startswith("user."):
            os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
