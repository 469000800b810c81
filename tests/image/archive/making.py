"""Images and archives made by hand, right and wrong ones."""

import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyrunc.image import compression
from tests import trees
from tests.image.trees import CAPABILITY
from tests.tars import gnu_tar

Files = dict[str, bytes | str]  # by name; a text is a symlink's target

TYPES = "application/vnd.oci.image."
DOCKER_TYPES = "application/vnd.docker."


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zstd(data: bytes) -> bytes:
    target = io.BytesIO()
    compressor = compression.writer("zstd", target.write)
    compressor.write(data)
    compressor.finish()
    return target.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def archive(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of files and symlinks, in the order of *files*."""
    return tar(
        (
            (member(name, tarfile.SYMTYPE, linkname=content), b"")
            if isinstance(content, str)
            else (member(name, mode=0o644), content)
            for name, content in files.items()
        ),
        form,
    )


class Image(NamedTuple):
    """An image: its config, its layers as plain tars, its names."""

    config: bytes
    layers: tuple[bytes, ...]
    names: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return digest(self.config)


def image(layers: Sequence[bytes], *names: str, **config: Any) -> Image:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-02-03T04:05:06.789Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"what": "odd <&> é"}},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [
            {"created": "2024-02-03T04:05:06Z", "created_by": f"layer {i}"} for i in range(len(layers))
        ],
        **config,
    }
    return Image(json.dumps(document).encode(), tuple(layers), names)


def odd_layers(count: int = 3) -> tuple[bytes, ...]:
    """At least three layers with everything that a layer may have; more repeat it in other places."""
    xattrs = {"SCHILY.xattr.user.note": "a note", "SCHILY.xattr.user.long": "x" * 300}
    first = [
        (member("./", tarfile.DIRTYPE, mode=0o755), b""),
        (member("bin/", tarfile.DIRTYPE, mode=0o755, mtime=1_600_000_000), b""),
        (member("bin/tool", mode=0o4755, uid=3, gid=4, mtime=1_600_000_000.25), b"\x7fELF" + b"tool" * 9000),
        # A link says of its file what the file says; Docker believes it, GNU tar does not look.
        (
            member(
                "bin/hard",
                tarfile.LNKTYPE,
                linkname="bin/tool",
                mode=0o4755,
                uid=3,
                gid=4,
                mtime=1_600_000_000.25,
            ),
            b"",
        ),
        (member("link", tarfile.SYMTYPE, linkname="bin/tool", mode=0o777), b""),
        (member("dangling", tarfile.SYMTYPE, linkname="../../nowhere", mode=0o777), b""),
        (member("pipe", tarfile.FIFOTYPE, mode=0o600), b""),
        (member("dev/", tarfile.DIRTYPE, mode=0o755), b""),
        (member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), b""),
        (member("dev/block", tarfile.BLKTYPE, devmajor=7, devminor=300, mode=0o660, gid=6), b""),
        (member("attributes", mode=0o644, pax_headers=xattrs), b"has some"),
        (member("empty", mode=0o000), b""),
        (member("sticky/", tarfile.DIRTYPE, mode=0o1777), b""),
        (member("long/", tarfile.DIRTYPE, mode=0o755), b""),
        (member("long/" + "n" * 200, tarfile.DIRTYPE, mode=0o755), b""),
        (member("long/" + "n" * 200 + "/" + "m" * 100, mode=0o644), b"long names"),
        (member("umlaut-é-日本", mode=0o644, uid=200_000, gid=3_000_000), b"unicode"),
        (member("many/", tarfile.DIRTYPE, mode=0o755), b""),
        *((member(f"many/{i:03}", mode=0o644), b"%d" % i) for i in range(50)),
        (member("opaque/", tarfile.DIRTYPE, mode=0o700), b""),
        (member("opaque/lower", mode=0o644), b"lower"),
        (member("replaced/", tarfile.DIRTYPE, mode=0o755), b""),
        (member("replaced/inside", mode=0o644), b"gone"),
    ]
    second = [
        (member("bin/", tarfile.DIRTYPE, mode=0o755, mtime=1_600_000_000), b""),
        (member("many/", tarfile.DIRTYPE, mode=0o755, mtime=1), b""),
        (member("many/.wh.007"), b""),
        (member(".wh.dangling"), b""),
        (member("opaque/", tarfile.DIRTYPE, mode=0o711), b""),
        (member("opaque/.wh..wh..opq"), b""),
        (member("opaque/upper", mode=0o644), b"upper"),
        (member("replaced", mode=0o640), b"a file now"),
        (member("bin/tool", mode=0o755, mtime=1_700_000_000), b"another tool"),
    ]
    third = [
        (member("many/", tarfile.DIRTYPE, mode=0o755, mtime=2), b""),
        (member("many/007", mode=0o644), b"back again"),
        (member("big", mode=0o644), bytes(range(256)) * 8192),
    ]
    return (tar(first), tar(second), tar(third), *(tar(_again(i)) for i in range(3, count)))


def _again(i: int) -> list[tuple[tarfile.TarInfo, bytes]]:
    """What every further layer does to those below: it hides, replaces, links, and becomes opaque."""
    members = [
        (member("many/", tarfile.DIRTYPE, mode=0o755, mtime=1_600_000_000 + i), b""),
        (member(f"many/.wh.{i:03}"), b""),
        (member(f"many/{i - 1:03}", mode=0o600 + i % 8, uid=i, mtime=1_600_000_000 + i / 8), b"again %d" % i),
        (member("chain/", tarfile.DIRTYPE, mode=0o755, mtime=i), b""),
        (member(f"chain/{i}", mode=0o644, pax_headers={"SCHILY.xattr.user.layer": str(i)}), b"x" * i * 999),
        (member(f"chain/{i}-hard", tarfile.LNKTYPE, linkname=f"chain/{i}", mode=0o644), b""),
        (member(f"chain/{i}-soft", tarfile.SYMTYPE, linkname=f"{i - 1}", mode=0o777), b""),
        (member(f"chain/{i}-device", tarfile.CHRTYPE, devmajor=i, devminor=i * 300, mode=0o600), b""),
        (member("turning/", tarfile.DIRTYPE, mode=0o755, mtime=i), b""),
    ]
    kinds = [
        [
            (member("turning/it/", tarfile.DIRTYPE, mode=0o711, mtime=i), b""),
            (member(f"turning/it/{i}"), b"inside"),
        ],
        [(member("turning/it", mode=0o640), b"a file")],
        [(member("turning/it", tarfile.SYMTYPE, linkname="../many", mode=0o777), b"")],
        [(member("turning/.wh.it"), b"")],
    ]
    members += kinds[i % 4]
    if i % 5 == 0:
        members += [
            (member("opaque/", tarfile.DIRTYPE, mode=0o755, mtime=i), b""),
            (member("opaque/.wh..wh..opq"), b""),
            (member(f"opaque/{i}", mode=0o644), b"only this"),
        ]
    return members


# As GNU tar writes them: forms of holes and of long names, with what each can say of a file. GNU's own form of holes
# is not among them: Docker refuses it ("unhandled tar header type 83").
_XATTRS = ("--format=pax", "--xattrs", "--xattrs-include=*")
GNU_FORMS = {
    "ustar": ("--format=ustar",),
    "pax": _XATTRS,
    "pax-sparse-0.0": (*_XATTRS, "-S", "--sparse-version=0.0"),
    "pax-sparse-0.1": (*_XATTRS, "-S", "--sparse-version=0.1"),
    "pax-sparse-1.0": (*_XATTRS, "-S", "--sparse-version=1.0"),
    "gnu": ("--format=gnu",),
    "old-gnu": ("--format=oldgnu",),
}


def gnu_layers(place: Path) -> tuple[bytes, ...]:
    """One layer for each of GNU_FORMS, below a directory of its name, of a tree that is made at *place*."""
    layers = []
    for number, (form, options) in enumerate(GNU_FORMS.items()):
        root = place / form
        top = root / form
        top.mkdir(parents=True)
        short = form == "ustar"
        deep = top / ("d" * (60 if short else 120)) / ("e" * (40 if short else 200))
        deep.mkdir(parents=True)
        (deep / ("f" * (30 if short else 250))).write_bytes(b"a long name")
        (top / "link").symlink_to("t" * (90 if short else 300))
        (top / "capable").write_bytes(b"#!")
        for name, size, pieces in (
            ("holes", 3 << 20, (0, 1 << 20, (3 << 20) - 5)), ("tail", 1 << 20, (4096,)), ("hole", 1 << 20, ()),
            ("many", 40 << 14, range(0, 40 << 14, 1 << 14)),
        ):  # fmt: skip
            with (top / name).open("wb") as file:
                for at in pieces:
                    file.seek(at)
                    file.write(b"piece")
                file.truncate(size)
        for each in reversed(trees.paths(root)):
            os.chown(each, 100 + number, 200 + number, follow_symlinks=False)
            os.utime(each, ns=(0, 1_600_000_000_123_456_789 + number), follow_symlinks=False)
        os.setxattr(top / "capable", "security.capability", CAPABILITY)
        os.setxattr(top / "holes", "user.of-holes", b"\0=\xff\n")
        layers.append(gnu_tar(root, *options))
    return tuple(layers)


# ---- what docker save writes


def docker_1_10(images: Sequence[Image], *, links: bool = True) -> Files:
    """As Docker 1.10 to 24: a directory for each layer, a link where a layer was there before."""
    files: Files = {}
    where: dict[str, str] = {}
    entries = []
    repositories: dict[str, dict[str, str]] = {}
    for each in images:
        paths = []
        for i, data in enumerate(each.layers):
            name = hashlib.sha256(f"{each.id} {i}".encode()).hexdigest()
            files[f"{name}/VERSION"] = b"1.0"
            files[f"{name}/json"] = json.dumps({"id": name, "os": "linux"}).encode()
            known = where.setdefault(digest(data), name)
            files[f"{name}/layer.tar"] = f"../{known}/layer.tar" if known != name and links else data
            paths.append(f"{name}/layer.tar")
        files[f"{each.id[7:]}.json"] = each.config
        entries.append(
            {"Config": f"{each.id[7:]}.json", "RepoTags": list(each.names) or None, "Layers": paths}
        )
        for name in each.names:
            repository, _, label = name.rpartition(":")
            repositories.setdefault(repository, {})[label] = paths[-1].partition("/")[0]
    files["manifest.json"] = json.dumps(entries).encode()
    files["repositories"] = json.dumps(repositories).encode()
    return files


def docker_25(images: Sequence[Image], *, broken_index: bool = False) -> Files:
    """As Docker since 25: an OCI layout too; the first of them left the layers out of their manifests."""
    files: Files = {}
    entries, manifests = [], []
    for each in images:
        layers = [
            {"mediaType": f"{TYPES}layer.v1.tar", "digest": digest(data), "size": len(data)}
            for data in each.layers
        ]
        config = {"mediaType": f"{TYPES}config.v1+json", "digest": each.id, "size": len(each.config)}
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{TYPES}manifest.v1+json",
                "config": config,
                "layers": [] if broken_index else layers,
            }
        ).encode()
        for data in (*each.layers, manifest, each.config):
            files[f"blobs/sha256/{digest(data)[7:]}"] = data
        entries.append(
            {
                "Config": f"blobs/sha256/{each.id[7:]}",
                "RepoTags": list(each.names) or None,
                "Layers": [f"blobs/sha256/{digest(data)[7:]}" for data in each.layers],
            }
        )
        manifests += [
            {
                "mediaType": f"{TYPES}manifest.v1+json",
                "digest": digest(manifest),
                "size": len(manifest),
                "annotations": {
                    "io.containerd.image.name": f"docker.io/library/{name}",
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            }
            for name in each.names
        ]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    files["manifest.json"] = json.dumps(entries).encode()
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return files


# ---- OCI layouts


class Layout:
    """An OCI layout on its way."""

    def __init__(self) -> None:
        self.files: Files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(self, media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
        self.files[f"blobs/sha256/{digest(data)[7:]}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def image(
        self, each: Image, *, compress: str | None = None, docker: bool = False, **more: Any
    ) -> dict[str, Any]:
        """Add an image; the descriptor of its manifest."""
        kind = f"{DOCKER_TYPES}image.rootfs.diff.tar" if docker else f"{TYPES}layer.v1.tar"
        if compress:
            kind += f"{'.' if docker else '+'}{compress}"
        packers: dict[str | None, Callable[[bytes], bytes]] = {
            None: bytes,
            "gzip": gzipped,
            "zstd": zstd,
            "xz": lzma.compress,
        }
        pack = packers[compress]
        config = f"{DOCKER_TYPES}container.image.v1+json" if docker else f"{TYPES}config.v1+json"
        manifest = f"{DOCKER_TYPES}distribution.manifest.v2+json" if docker else f"{TYPES}manifest.v1+json"
        document = {
            "schemaVersion": 2,
            "mediaType": manifest,
            "config": self.blob(config, each.config),
            "layers": [self.blob(kind, pack(data)) for data in each.layers],
        }
        return self.blob(manifest, json.dumps(document).encode(), **more)

    def index(
        self, manifests: Sequence[Mapping[str, Any]], *, docker: bool = False, **more: Any
    ) -> dict[str, Any]:
        """Add an index below; its descriptor."""
        kind = f"{DOCKER_TYPES}distribution.manifest.list.v2+json" if docker else f"{TYPES}index.v1+json"
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
        return self.blob(kind, json.dumps(document).encode(), **more)

    def finish(self, *manifests: Mapping[str, Any]) -> Files:
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
        return self.files


def platform(architecture: str, variant: str = "", system: str = "linux") -> dict[str, str]:
    found = {"os": system, "architecture": architecture}
    return {**found, "variant": variant} if variant else found


def named(name: str) -> dict[str, str]:
    return {"org.opencontainers.image.ref.name": name}
