"""Image archives for the scenarios: the same bytes every time, but for busybox, which is padded to one size."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

_BUSYBOX_BYTES = 4_000_000
_PASSWD = b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n"
_MTIME = 1_577_836_800  # 2020-01-01


def write(directory: Path, busybox: Path) -> dict[str, str]:
    """Write every archive that the scenarios name into *directory*; the id of the image that has no name."""
    program = busybox.read_bytes().ljust(_BUSYBOX_BYTES, b"\0")
    tools = _layer(
        [
            ("bin/", b"", 0o755), ("bin/busybox", program, 0o755),
            *[(f"bin/{applet}", "busybox", 0o777) for applet in ("sh", "true", "sleep", "rm", "touch", "mkdir")],
            ("etc/", b"", 0o755), ("etc/passwd", _PASSWD, 0o644),
            ("tmp/", b"", 0o1777), ("data/", b"", 0o755), ("data/seed", b"seed\n", 0o644),
        ]
    )  # fmt: skip
    words = _layer([("etc/", b"", 0o755), ("etc/motd", b"hello\n" * 2000, 0o644)])
    more = _layer([("etc/", b"", 0o755), ("etc/issue", b"x" * 1234, 0o644)])
    alpha = _config(
        [tools, words], "2020-01-02T03:04:05.123456789Z",
        {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NAME=alpha", "EMPTY="],
            "Cmd": ["-c", "echo $NAME"], "Entrypoint": ["/bin/sh"], "WorkingDir": "/data", "User": "web",
            "Labels": {"maintainer": "someone", "tier": "test"}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}}, "StopSignal": "SIGINT",
        },
        [
            ("/bin/sh -c #(nop) ADD file:tools in / ", False), ("/bin/sh -c #(nop)  ENV NAME=alpha", True),
            ("/bin/sh -c printf 'hello\\n' >> /etc/motd # a long line that does not fit into the column", False),
            ('/bin/sh -c #(nop)  ENTRYPOINT ["/bin/sh"]', True),
        ],
    )  # fmt: skip
    beta = _config([tools], "2021-06-01T00:00:00Z", {"Cmd": ["/bin/sh"], "Labels": {"tier": "prod"}})
    gamma = _config([words, more], "2022-03-04T00:00:00Z", {"Cmd": ["/nothing"]})
    loose = _config([more], "2019-02-03T00:00:00Z", {"Cmd": ["/loose"]})
    _save(directory / "alpha.tar", [(alpha, [tools, words], ["alpha:1"])])
    _save(
        directory / "beta.tar",
        [(beta, [tools], ["beta:latest", "beta:old", "example.org:5000/team/beta:v2"])],
    )
    _save(
        directory / "several.tar",
        [
            (gamma, [words, more], ["gamma:1", "gamma:2"]),
            (loose, [more], []),
            (beta, [tools], ["delta:latest"]),
        ],
    )
    _save(directory / "loose.tar", [(loose, [more], [])])
    (directory / "root.tar").write_bytes(more)
    (directory / "noise.tar").write_bytes(b"this is no archive at all\n" * 100)
    (directory / "empty.tar").write_bytes(b"")
    (directory / "short.tar").write_bytes((directory / "beta.tar").read_bytes()[:1_000_000])
    return {"loose": _digest(loose)}


def _layer(members: list[tuple[str, bytes | str, int]]) -> bytes:
    """A tar of directories (a name with a slash), files, and symlinks (content that is text)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content, mode in members:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode, info.mtime = mode, _MTIME
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _config(
    layers: list[bytes], created: str, config: dict[str, Any], history: list[tuple[str, bool]] | None = None
) -> bytes:
    rows = history or [(f"/bin/sh -c #(nop) ADD file:{number} in / ", False) for number in range(len(layers))]
    document = {
        "architecture": "amd64", "os": "linux", "author": "someone <someone@example.org>", "created": created,
        "config": config, "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
        "history": [
            {"created": created, "created_by": text, **({"empty_layer": True} if empty else {}),
             **({"comment": "the last"} if number == len(rows) else {})}
            for number, (text, empty) in enumerate(rows, 1)
        ],
    }  # fmt: skip
    return json.dumps(document, separators=(",", ":")).encode()


def _save(path: Path, images: list[tuple[bytes, list[bytes], list[str]]]) -> None:
    """A docker-archive of *images*: config, layers, references."""
    files: dict[str, bytes] = {}
    manifest = []
    for config, layers, references in images:
        name = f"{_digest(config).removeprefix('sha256:')}.json"
        files[name] = config
        names = [f"{_digest(layer).removeprefix('sha256:')}/layer.tar" for layer in layers]
        files.update(zip(names, layers, strict=True))
        manifest.append({"Config": name, "RepoTags": references or None, "Layers": names})
    files["manifest.json"] = json.dumps(manifest).encode()
    path.write_bytes(_layer([(name, content, 0o644) for name, content in files.items()]))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
