"""Mutated archives, applied: `python -m tests.fuzz.tar_mutants COUNT SEED [MODULE]`; MODULE is another build.

Prints how many were applied, refused as archives, and refused by the file system. Ends with an error if anything beside
the root has changed or a descriptor was left open.
"""

import importlib.machinery
import importlib.util
import os
import random
import re
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

BLOCK = 512
_SIZES = (0, 1, 100, 511, 512, 513, 1 << 20, (1 << 31) - 1, 1 << 32, (1 << 63) - 1)


def seeds() -> list[bytes]:
    """Return small archives that have among them all that the reader knows."""
    from tests.tars import END, entry, header, padded, pax, tar

    members: list[tuple[str, str] | tarfile.TarInfo] = [
        entry("dir/", tarfile.DIRTYPE, mode=0o755), ("dir/file", "content" * 100), ("dir/empty", ""),
        entry("dir/link", tarfile.SYMTYPE, linkname="file"), entry("up", tarfile.SYMTYPE, linkname=".."),
        ("up/inside", ""), entry("hard", tarfile.LNKTYPE, linkname="dir/file"),
        entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3), entry("pipe", tarfile.FIFOTYPE),
        entry("dir/.wh.lower"), entry(".wh.tree"), entry("dir/.wh..wh..opq"), ("long/" * 30 + "name", "x"),
        ("dir", "a file now"), entry("dir", tarfile.DIRTYPE), entry("through", tarfile.SYMTYPE, linkname="/dir/deep"),
        ("dir/deep/a", ""), ("through/b", ""),
    ]  # fmt: skip
    found = [tar(*members, form=form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    attributes = pax(
        {
            "SCHILY.xattr.user.a": b"\0\xff",
            "LIBARCHIVE.xattr.user.%62": b"YWJj",
            "mtime": b"1.5",
            "uid": b"70000",
        }
    )
    sparse = {
        "GNU.sparse.major": b"1",
        "GNU.sparse.minor": b"0",
        "GNU.sparse.name": b"s",
        "GNU.sparse.realsize": b"9999",
    }
    old = header(
        b"old", b"S", 6, sparse=b"00000000000\x0000000000003\x0000000000777\x0000000000003\0", more=b"\1",
        real_size=b"00000010000\0",
    )  # fmt: skip
    found.append(
        attributes + header(b"x", size=3) + padded(b"abc")
        + pax({"GNU.sparse.size": b"5000", "GNU.sparse.map": b"0,3,4000,3"}) + header(b"m", size=6) + padded(b"abcdef")
        + pax(sparse) + header(b"p", size=518) + padded(b"2\n0\n3\n4096\n3\n") + padded(b"abcdef")
        + old + bytes(BLOCK) + padded(b"abcdef") + pax({"gid": b"5"}, b"g") + header(b"last", b"6") + END
    )  # fmt: skip
    return found


def mutant(draw: random.Random, kept: list[bytes]) -> bytes:
    """Return an archive with a few changes, most of which leave the checksums right."""
    from tests.tars import sign

    data = bytearray(draw.choice(kept))
    for _ in range(draw.randrange(1, 6)):
        block = draw.randrange(len(data) // BLOCK) * BLOCK
        how = draw.randrange(7)
        if how == 0:
            data[draw.randrange(len(data))] = draw.randrange(256)
        elif how == 1:
            data[block + draw.choice((124, 100, 108, 136, 329, 386, 483)) + draw.randrange(12)] = (
                draw.randrange(256)
            )
        elif how == 2:
            data[block + 124 : block + 136] = b"%011o\0" % draw.choice(_SIZES[:-3])
        elif how == 3:
            data[block + 156] = draw.choice(b"01234567xgLKSXVD\0Z")
        elif how == 4:
            other = draw.choice(kept)
            start = draw.randrange(len(other) // BLOCK) * BLOCK
            data[block:block] = other[start : start + BLOCK * draw.randrange(1, 5)]
        elif how == 5:
            numbers = [match.span(1) for match in re.finditer(rb"(\d+)[ ,\n=]", data)]
            if numbers:
                start, end = draw.choice(numbers)
                data[start:end] = bytes(draw.choice(b"0199") for _ in range(end - start))
        else:
            text = str(draw.choice(_SIZES)).encode()
            at = block + draw.randrange(BLOCK - len(text))
            data[at : at + len(text)] = text
        if data[block + 257 : block + 262] == b"ustar" and draw.randrange(8):
            data[block : block + BLOCK] = sign(data[block : block + BLOCK])
    if draw.randrange(10) == 0:
        del data[draw.randrange(len(data)) :]
    return bytes(data)


def lower(root: Path) -> None:
    """What a layer below has left."""
    (root / "tree/deep").mkdir(parents=True)
    (root / "dir").mkdir(parents=True)
    for name in ("tree/deep/file", "dir/lower", "file"):
        (root / name).touch()


def run(count: int, seed: int) -> Counter[str]:
    """Apply *count* mutants, each to a root of its own, and return how often what became of them."""
    from tests.tars import apply

    draw = random.Random(seed)
    kept = seeds()
    outcomes: Counter[str] = Counter()
    place = Path(tempfile.mkdtemp(prefix="pyrunc-mutants-"))
    (place / "secret").write_text("secret")
    beside, descriptors = look(place), len(os.listdir("/proc/self/fd"))
    try:
        for _ in range(count):
            root = place / "root"
            root.mkdir()
            if draw.randrange(2):
                lower(root)
            data = mutant(draw, kept)
            try:
                apply(
                    data, root, draw.randrange(2), chunks=draw.choice((7, 100, 512, 1 << 20)), max_bytes=1 << 22,
                    set_root=bool(draw.randrange(2)),
                )  # fmt: skip
                outcomes["applied"] += 1
            except ValueError:
                outcomes["refused"] += 1
            except OSError:
                outcomes["impossible"] += 1
            root.chmod(0o700)
            shutil.rmtree(root)
            assert look(place) == beside, "something beside the root has changed"
            assert len(os.listdir("/proc/self/fd")) == descriptors, "a descriptor was left open"
    finally:
        shutil.rmtree(place)
    return outcomes


def look(place: Path) -> list[tuple[str, int, int, str]]:
    """Return what lies beside the root."""
    return sorted(
        (path.name, path.stat().st_mode, path.stat().st_nlink, path.read_text())
        for path in place.iterdir()
        if path.name != "root"
    )


def use(path: str) -> None:
    """Take *path* for the applier."""
    name = "pyrunc._native.layer_apply"
    spec = importlib.util.spec_from_loader(name, importlib.machinery.ExtensionFileLoader(name, path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        use(sys.argv[3])
    print(dict(run(int(sys.argv[1]), int(sys.argv[2]))))
