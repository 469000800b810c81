"""OCI layouts are read only when every byte is as promised, and no layer writes outside its root."""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import setup_hello
from pyrunc import errors
from pyrunc.image import layout
from tests.tars import entry, tar


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Maker:
    """Writes layouts, wrong ones too: *change* may edit the documents on their way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs/sha256"
        self.blobs.mkdir(parents=True)

    def blob(self, kind: str, data: bytes) -> dict[str, Any]:
        (self.blobs / digest(data)[7:]).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": digest(data),
            "size": len(data),
        }

    def write(
        self, *layers: bytes, compress: bool = False, change: Callable[[str, Any], None] = lambda _, __: None
    ) -> str:
        config: Any = {"rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}}
        change("config", config)
        kind = "layer.v1.tar+gzip" if compress else "layer.v1.tar"
        manifest: Any = {
            "config": self.blob("config.v1+json", json.dumps(config).encode()),
            "layers": [self.blob(kind, gzip.compress(layer) if compress else layer) for layer in layers],
        }
        change("manifest", manifest)
        index: Any = {"manifests": [self.blob("manifest.v1+json", json.dumps(manifest).encode())]}
        change("index", index)
        (self.path / "index.json").write_text(json.dumps(index))
        return str(self.path)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "layout")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "outer/root"
    path.mkdir(parents=True)
    (tmp_path / "outer/secret").write_text("secret")
    return path


def unpack(path: str, root: Path) -> None:
    layout.unpack(layout.read(path), str(root))


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("compress", [False, True])
def test_layers_become_one_directory(maker: Maker, root: Path, compress: bool) -> None:
    lower = tar(
        entry("./", tarfile.DIRTYPE, mode=0o755),
        entry("etc", tarfile.DIRTYPE, mode=0o750, mtime=7),
        ("etc/a", "lower"),
        ("/etc/absolute", "inside"),
        entry("sbin/su", mode=0o4755, uid=3, gid=4, mtime=5),
        entry("link", tarfile.SYMTYPE, linkname="etc/a"),
        entry("pipe", tarfile.FIFOTYPE, mode=0o600),
    )
    upper = tar(("etc/a", "upper"), entry("hard", tarfile.LNKTYPE, linkname="etc/a"), ("new/b", "b"))
    unpack(maker.write(lower, upper, compress=compress), root)
    assert tree(root) == [
        "etc", "etc/a", "etc/absolute", "hard", "link", "new", "new/b", "pipe", "sbin", "sbin/su",
    ]  # fmt: skip
    assert (root / "etc/a").read_text() == "upper"
    assert (root / "hard").samefile(root / "etc/a")
    assert os.readlink(root / "link") == "etc/a"
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)
    su = (root / "sbin/su").stat()
    assert (su.st_mode, su.st_uid, su.st_gid, su.st_mtime) == (stat.S_IFREG | 0o4755, 3, 4, 5)
    etc = (root / "etc").stat()
    assert stat.S_IMODE(etc.st_mode) == 0o750
    assert stat.S_IMODE(root.stat().st_mode) == 0o755


def test_whiteouts_hide_lower_layers_only(maker: Maker, root: Path) -> None:
    lower = tar(("a/one", ""), ("a/two", ""), ("b/deep/x", ""), ("b/deep/y", ""), ("c", ""))
    upper = tar(
        ("b/deep/new", ""),
        entry("a/.wh.one"),
        ("b/own", ""),
        # Opaque after the layer's own files: they stay, the lower layer's go, on every depth.
        entry("b/.wh..wh..opq"),
        ("d", ""),
        entry(".wh.d"),
        entry(".wh.never-was"),
    )
    unpack(maker.write(lower, upper), root)
    assert tree(root) == ["a", "a/two", "b", "b/deep", "b/deep/new", "b/own", "c", "d"]


def test_a_directory_and_a_file_take_each_others_place(maker: Maker, root: Path) -> None:
    lower = tar(("a/file", ""), ("b", ""), entry("c", tarfile.SYMTYPE, linkname="/"))
    upper = tar(("a", "now a file"), entry("b", tarfile.DIRTYPE), entry("c", tarfile.DIRTYPE), ("c/in", ""))
    unpack(maker.write(lower, upper), root)
    assert tree(root) == ["a", "b", "c", "c/in"]
    assert (root / "c").is_dir()
    assert not (root / "c").is_symlink()


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", "")],
        [("a/../../escaped", "")],
        [entry("a", tarfile.LNKTYPE, linkname="../secret")],
        [entry("s", tarfile.SYMTYPE, linkname=".."), entry("a", tarfile.LNKTYPE, linkname="s/secret")],
        [entry("a/.wh...")],
        [entry("a/.wh..")],
        [entry("a/.wh.")],
        [entry("a", tarfile.LNKTYPE, linkname="/")],
    ],
)
def test_no_member_leads_outside(maker: Maker, root: Path, members: list[Any]) -> None:
    before = tree(root.parent)
    with pytest.raises(errors.InvalidSpec):
        unpack(maker.write(tar(*members)), root)
    assert [path for path in tree(root.parent) if not path.startswith("root/")] == before
    assert (root.parent / "secret").read_text() == "secret"
    assert (root.parent / "secret").stat().st_nlink == 1


@pytest.mark.parametrize(
    "member",
    [("a/escaped", ""), entry("a/b", tarfile.DIRTYPE), entry("a/.wh.secret"), entry("a/.wh..wh..opq")],
)
def test_a_symlink_is_resolved_inside_the_root(maker: Maker, root: Path, member: Any) -> None:
    """As Docker does, for which the root is a chroot: what would climb out of it stays at its top."""
    unpack(maker.write(tar(entry("a", tarfile.SYMTYPE, linkname=".."), member)), root)
    assert [path for path in tree(root.parent) if not path.startswith("root/")] == ["root", "secret"]
    assert set(tree(root)) <= {"a", "escaped", "b"}


def test_an_extractor_that_trusts_names_would_lead_outside(root: Path) -> None:
    """The attack is real: joined paths follow the symlink that the layer itself has brought."""
    attack = tar(entry("a", tarfile.SYMTYPE, linkname=".."), ("a/escaped", "attack"))
    with tarfile.open(fileobj=io.BytesIO(attack)) as archive:
        for member in archive:
            if member.issym():
                (root / member.name).symlink_to(member.linkname)
            else:
                (root / member.name).write_text("attack")
    assert (root.parent / "escaped").read_text() == "attack"


def test_a_symlink_is_replaced_not_followed(maker: Maker, root: Path) -> None:
    attack = tar(entry("a", tarfile.SYMTYPE, linkname="../secret"), ("a", "mine"))
    unpack(maker.write(attack), root)
    assert (root.parent / "secret").read_text() == "secret"
    assert (root / "a").read_text() == "mine"


def test_device_nodes_are_made(maker: Maker, root: Path) -> None:
    unpack(maker.write(tar(entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3))), root)
    assert (root / "dev/null").stat().st_rdev == os.makedev(1, 3)


def test_a_changed_blob_is_noticed(maker: Maker, root: Path) -> None:
    data = tar(("a", "content"))
    path = maker.write(data)
    (maker.blobs / digest(data)[7:]).write_bytes(data.replace(b"content", b"CONTENT"))
    with pytest.raises(errors.InvalidSpec, match="another digest"):
        unpack(path, root)


@pytest.mark.parametrize("document", ["config", "manifest"])
def test_a_changed_document_is_noticed(maker: Maker, document: str) -> None:
    path = maker.write(tar())
    index = json.loads((maker.path / "index.json").read_text())
    blob = maker.blobs / index["manifests"][0]["digest"][7:]
    if document == "config":
        blob = maker.blobs / json.loads(blob.read_bytes())["config"]["digest"][7:]
    blob.write_bytes(blob.read_bytes().replace(b"{", b" ", 1))
    with pytest.raises(errors.InvalidSpec, match="another digest"):
        layout.read(path)


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_blob_of_another_size_is_refused(maker: Maker, root: Path, difference: int) -> None:
    def change(document: str, content: Any) -> None:
        if document == "manifest":
            content["layers"][0]["size"] += difference

    with pytest.raises(errors.InvalidSpec, match="bytes"):
        unpack(maker.write(tar(("a", "")), change=change), root)


def test_the_uncompressed_layer_is_verified_too(maker: Maker, root: Path) -> None:
    def change(document: str, content: Any) -> None:
        if document == "config":
            content["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64

    with pytest.raises(errors.InvalidSpec, match="another digest than sha256:0000"):
        unpack(maker.write(tar(("a", "")), compress=True, change=change), root)


def test_a_bomb_is_bounded(maker: Maker, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_BYTES", 1 << 20)
    bomb = tar(("small", "x" * (1 << 19)), ("large", "x" * (1 << 20)))
    with pytest.raises(errors.InvalidSpec, match="unpacks to more than"):
        unpack(maker.write(bomb, compress=True), root)
    assert not (root / "large").exists()


def test_the_number_of_members_is_bounded(maker: Maker, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_MEMBERS", 3)
    with pytest.raises(errors.InvalidSpec, match="d: the layer has more than 1 members"):
        unpack(maker.write(tar(("a", ""), ("b", "")), tar(("c", ""), ("d", ""))), root)


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_no_archive_is_refused(maker: Maker, root: Path, compress: bool) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"not a readable archive|another digest"):
        unpack(maker.write(b"no archive at all" * 100, compress=compress), root)


def test_a_truncated_archive_is_refused(maker: Maker, root: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="not a readable archive"):
        unpack(maker.write(tar(("a", "x" * 5000))[:2000]), root)


def pointer(**changed: Any) -> dict[str, Any]:
    return {"mediaType": "x", "digest": "sha256:" + "a" * 64, "size": 1, **changed}


@pytest.mark.parametrize(
    ("document", "wrong", "error", "words"),
    [
        ("index", {"manifests": []}, errors.NotFound, "no image"),
        ("index", {"manifests": "x"}, errors.InvalidSpec, r"index\.json\.manifests: must be a list"),
        ("index", {"manifests": [pointer(digest="sha256:../../etc")]}, errors.InvalidSpec, "64 hex"),
        ("index", {"manifests": [pointer(digest="sha256:" + "A" * 64)]}, errors.InvalidSpec, "64 hex"),
        ("index", {"manifests": [pointer(size=-1)]}, errors.InvalidSpec, r"manifests\[0\]\.size"),
        ("index", {"manifests": [pointer()]}, errors.Unsupported, "x is not supported"),
        ("manifest", {"layers": [pointer(mediaType="tar+xz")]}, errors.Unsupported, "xz"),
        ("manifest", {"config": None}, errors.InvalidSpec, r"manifest\.config: must be an object"),
        ("config", {"rootfs": {}}, errors.InvalidSpec, r"config\.rootfs: missing"),
        ("config", {"rootfs": {"diff_ids": []}}, errors.InvalidSpec, r"diff_ids: 0 for 1 layers"),
    ],
)
def test_documents_are_judged_by_name(
    maker: Maker, document: str, wrong: dict[str, Any], error: type[Exception], words: str
) -> None:
    def change(name: str, content: Any) -> None:
        if name == document:
            content.update(wrong)

    with pytest.raises(error, match=words):
        layout.read(maker.write(tar(), change=change))


def test_an_image_is_chosen_by_name(maker: Maker) -> None:
    def change(document: str, content: Any) -> None:
        if document == "index":
            entry = content["manifests"][0]
            content["manifests"] = [
                {**entry, "annotations": {"org.opencontainers.image.ref.name": name}} for name in ("a", "b")
            ]

    path = maker.write(tar(), change=change)
    assert layout.read(path, "b").layers
    with pytest.raises(errors.NotFound, match="no image 'c'"):
        layout.read(path, "c")
    with pytest.raises(errors.InvalidSpec, match="2 images"):
        layout.read(path)


def test_only_an_empty_directory_is_unpacked_into(maker: Maker, root: Path) -> None:
    (root / "there").touch()
    with pytest.raises(errors.AlreadyExists):
        unpack(maker.write(tar()), root)


def test_hello_ships_and_is_whole(root: Path) -> None:
    image = layout.read(layout.shipped("hello"), "hello")
    assert len(image.layers) == 2
    layout.unpack(image, str(root))
    assert image.config["config"]["Cmd"] == ["/bin/hello"]
    assert os.access(root / "bin/hello", os.X_OK)
    assert "root:x:0:0" in (root / "etc/passwd").read_text()


def test_hello_is_the_same_bytes_from_the_same_program(tmp_path: Path) -> None:
    shipped = Path(layout.shipped("hello"))
    program = tmp_path / "program"
    unpacked = tmp_path / "root"
    unpacked.mkdir()
    layout.unpack(layout.read(str(shipped)), str(unpacked))
    (unpacked / "bin/hello").rename(program)
    setup_hello.write(program, tmp_path / "again")
    files = {path: (shipped / path).read_bytes() for path in tree(shipped) if (shipped / path).is_file()}
    assert {path: (tmp_path / "again" / path).read_bytes() for path in files} == files
    assert tree(tmp_path / "again") == tree(shipped)


@pytest.mark.parametrize("name", ["nothing", "", "..", "../images/hello", "hello/"])
def test_an_image_that_does_not_ship_is_not_found(name: str) -> None:
    with pytest.raises(errors.NotFound, match="no image"):
        layout.shipped(name)
