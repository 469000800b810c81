"""Writes `hello`, the image that ships: an OCI layout of two layers, the same bytes from the same program.

    bin/hello           pyrunc-init under its other name
    etc/                who root is, and what this is: the second layer

Source: OCI image-spec, image-layout.md, config.md, layer.md.
"""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

NAME = "hello"
_PREFIX = "application/vnd.oci.image."
_EPOCH = "1970-01-01T00:00:00Z"
# Directory and mode; what a container mounts over has to be there when its root is read-only.
_DIRECTORIES = (
    (".", 0o755), ("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("proc", 0o755), ("root", 0o700),
    ("run", 0o755), ("sys", 0o755), ("tmp", 0o1777), ("var", 0o755),
)  # fmt: skip
_FILES = {
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hostname": "",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/os-release": 'ID=pyrunc-hello\nNAME="pyrunc hello"\nPRETTY_NAME="hello, which ships with pyrunc"\n',
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "etc/resolv.conf": "",
}


def _entry(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    entry.type = kind
    return entry


def _layer(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, data in members:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def write(program: Path, layout: Path) -> None:
    """Write the layout of the image whose `/bin/hello` is *program* into the directory *layout*."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for old in blobs.iterdir():
        old.unlink()

    def blob(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": _PREFIX + kind, "digest": f"sha256:{digest}", "size": len(data)}

    base = [(_entry(name, mode, tarfile.DIRTYPE), b"") for name, mode in _DIRECTORIES]
    base.append((_entry(f"bin/{NAME}", 0o755, tarfile.REGTYPE), program.read_bytes()))
    settings = [(_entry(name, 0o644, tarfile.REGTYPE), text.encode()) for name, text in _FILES.items()]
    layers = [blob("layer.v1.tar", _layer(members)) for members in (base, settings)]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": _EPOCH,
        "config": {"Cmd": [f"/bin/{NAME}"], "Env": ["PATH=/bin"], "WorkingDir": "/"},
        # Plain tar: a layer's digest is its diffID.
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        "history": [
            {"created": _EPOCH, "created_by": "pyrunc: the program"},
            {"created": _EPOCH, "created_by": "pyrunc: /etc"},
        ],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_PREFIX}manifest.v1+json",
        "config": blob("config.v1+json", _json(config)),
        "layers": layers,
    }
    named = blob("manifest.v1+json", _json(manifest))
    named["annotations"] = {"org.opencontainers.image.ref.name": NAME}
    index = {"schemaVersion": 2, "mediaType": f"{_PREFIX}index.v1+json", "manifests": [named]}
    (layout / "index.json").write_bytes(_json(index))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
