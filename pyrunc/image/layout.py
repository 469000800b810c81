"""An image in an OCI layout: its documents, checked, and its layers as one root directory.

    index.json -> manifest -> config
                           -> layers, the lowest first, each a tar, plain or compressed by gzip

Every blob's size and digest, and the digest of every uncompressed layer (its diffID), are verified
as the bytes arrive. A layer's members are made by descriptor, below the target and never through a
symlink, so no name leads outside.
"""

import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from pyrunc.errors import AlreadyExists, InvalidSpec, NotFound, PyruncError, Unsupported
from pyrunc.spec.image import (
    LAYERS,
    MANIFESTS,
    MAX_DOCUMENT_BYTES,
    REF_NAME,
    Descriptor,
    diff_ids,
    read_config,
    read_index,
    read_manifest,
)

# Of one image, unpacked: bounds for whatever a small archive can blow up to.
MAX_BYTES = 8 << 30
MAX_MEMBERS = 500_000
_CHUNK = 1 << 20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


class Image(NamedTuple):
    """An image in the directory *layout*; *diff_ids* are the digests of its *layers* uncompressed."""

    layout: str
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]


def shipped(name: str) -> str:
    """Return the path of the layout of the image *name* that ships with pyrunc.

    Raises NotFound.
    """
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "images", name)
    if "/" in name or not os.path.exists(os.path.join(path, "index.json")):
        raise NotFound(f"no image {name!r} ships with pyrunc")
    return path


def read(layout: str, name: str | None = None) -> Image:
    """Read the documents of the image *name* (None: the only one) in the directory *layout*.

    Raises NotFound, Unsupported, or InvalidSpec for what is not as the documents say.
    Source: OCI image-spec, image-layout.md, manifest.md, config.md.
    """
    index = read_index(_read_file(os.path.join(layout, "index.json"), "index.json"), "index.json")
    found = [each for each in index.manifests if name is None or each.annotations.get(REF_NAME) == name]
    if not found:
        raise NotFound(f"{layout}: no image {name!r}" if name else f"{layout}: no image")
    if len(found) > 1:
        raise InvalidSpec(
            f"index.json.manifests: {len(found)} images are called {name!r}; one has to be chosen"
        )
    target = found[0]
    if target.media_type not in MANIFESTS:
        raise Unsupported(f"index.json.manifests: {target.media_type} is not supported yet")
    manifest = read_manifest(_read_blob(layout, target), "manifest", target.media_type)
    config = read_config(_read_blob(layout, manifest.config), "config")
    layers, diffs = manifest.layers, diff_ids(config)
    for i, layer in enumerate(layers):
        if LAYERS[layer.media_type] not in ("plain", "gzip"):
            raise Unsupported(f"manifest.layers[{i}].mediaType: {layer.media_type} is not supported")
    if len(diffs) != len(layers):
        raise InvalidSpec(f"config.rootfs.diff_ids: {len(diffs)} for {len(layers)} layers")
    return Image(layout, config, layers, diffs)


def unpack(image: Image, target: str) -> None:
    """Unpack the layers of *image*, the lowest first, into the empty directory *target*.

    Owners are set when the caller is root. Raises InvalidSpec for content that does not match its
    digest, leads outside or is beyond MAX_BYTES and MAX_MEMBERS, Unsupported for device nodes,
    AlreadyExists when *target* is not empty, and OSError where the file system refuses a name or
    is full. After an error *target* holds a part.
    Source: OCI image-spec, layer.md.
    """
    if os.listdir(target):
        raise AlreadyExists(f"{target} is not empty")
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        left = _Budget(MAX_BYTES, MAX_MEMBERS)
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
            _apply(image.layout, layer, diff_id, root, left)
    finally:
        os.close(root)


def _open(path: str, what: str) -> IO[bytes]:
    try:
        return open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0)
    except FileNotFoundError as exc:
        raise NotFound(f"{what} does not exist") from exc


def _read_file(path: str, what: str) -> bytes:
    with _open(path, what) as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidSpec(f"{what}: more than {MAX_DOCUMENT_BYTES} bytes")
    return data


def _blob_path(layout: str, blob: Descriptor) -> str:
    return os.path.join(layout, "blobs", "sha256", blob.digest[7:])


def _read_blob(layout: str, blob: Descriptor) -> bytes:
    data = _read_file(_blob_path(layout, blob), blob.digest)
    if len(data) != blob.size:
        raise InvalidSpec(f"{blob.digest}: {len(data)} bytes, not {blob.size}")
    if hashlib.sha256(data).hexdigest() != blob.digest[7:]:
        raise InvalidSpec(f"{blob.digest}: the content has another digest")
    return data


class _Budget:
    """How much an image may still unpack to."""

    def __init__(self, size: int, members: int) -> None:
        self.bytes = size
        self.members = members

    def spend(self, size: int, what: str) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise InvalidSpec(f"{what}: the image unpacks to more than {MAX_BYTES} bytes")

    def member(self, what: str) -> None:
        self.members -= 1
        if self.members < 0:
            raise InvalidSpec(f"{what}: the image has more than {MAX_MEMBERS} members")


class _Hashed:
    """A file to read that hashes and counts what passes; more than *limit* bytes are refused."""

    def __init__(self, source: IO[bytes], limit: int, what: str) -> None:
        self._source = source
        self._limit = limit
        self._what = what
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(_CHUNK if size < 0 else size)
        self.size += len(data)
        if self.size > self._limit:
            raise InvalidSpec(f"{self._what}: more than {self._limit} bytes")
        self._hash.update(data)
        return data

    def finish(self, digest: str) -> None:
        """Read to the end and compare."""
        while self.read(_CHUNK):
            pass
        if "sha256:" + self._hash.hexdigest() != digest:
            raise InvalidSpec(f"{self._what}: the content has another digest than {digest}")


def _apply(layout: str, layer: Descriptor, diff_id: str, root: int, left: _Budget) -> None:
    what = f"layer {layer.digest[:19]}"
    with _open(_blob_path(layout, layer), layer.digest) as file:
        blob = _Hashed(file, layer.size, what)
        packed: Any = gzip.GzipFile(fileobj=blob, mode="rb") if LAYERS[layer.media_type] == "gzip" else blob  # type: ignore[call-overload]
        # A tar is a little larger than what is in it; what it holds is counted member by member.
        tar = _Hashed(packed, MAX_BYTES * 2, what)
        try:
            with tarfile.open(fileobj=tar, mode="r|") as archive:  # type: ignore[call-overload]
                _Applier(root, left, what).apply(archive)
            tar.finish(diff_id)
        except PyruncError:
            raise
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, OverflowError, ValueError) as exc:
            raise InvalidSpec(f"{what}: not a readable archive: {exc}") from exc
        blob.finish(layer.digest)
        if blob.size != layer.size:
            raise InvalidSpec(f"{what}: {blob.size} bytes, not {layer.size}")


class _Applier:
    """One layer on its way into the root; its whiteouts do not hide what it has *written* itself."""

    def __init__(self, root: int, left: _Budget, what: str) -> None:
        self.root = root
        self.left = left
        self.what = what
        self.written: set[str] = set()
        self.own_user = os.geteuid() != 0
        # A directory's time is set last: whatever is made in it would change it.
        self.times: dict[str, float] = {}

    def apply(self, archive: tarfile.TarFile) -> None:
        for member in archive:
            self.left.member(self.what)
            path = self._path(member.name)
            if path:
                self._member(archive, member, path)
            elif member.isdir():
                os.fchmod(self.root, member.mode & 0o7777)
        for path, when in self.times.items():
            parent, leaf = self._parent(path)
            try:
                os.utime(leaf, (when, when), dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)

    def _path(self, name: str) -> str:
        """The name without what says nothing; it may be absolute, as old archives are, but not climb."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise InvalidSpec(f"{self.what}: {name!r} leads outside")
        return "/".join(parts)

    def _parent(self, path: str) -> tuple[int, str]:
        """The open directory above *path*, made (0755) where it is missing, and the last component."""
        *above, leaf = path.split("/")
        fd = os.dup(self.root)
        try:
            for part in above:
                try:
                    below = self._directory(part, fd)
                except FileNotFoundError:
                    os.mkdir(part, 0o755, dir_fd=fd)
                    below = self._directory(part, fd)
                os.close(fd)
                fd = below
        except NotADirectoryError as exc:
            os.close(fd)
            raise InvalidSpec(f"{self.what}: {path!r} passes through something that is no directory") from exc
        except BaseException:
            os.close(fd)
            raise
        return fd, leaf

    def _directory(self, name: str, parent: int) -> int:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        parent, leaf = self._parent(path)
        try:
            if leaf == _OPAQUE:
                self._hide_below(parent, path[: -len(_OPAQUE) - 1])
            elif leaf.startswith(_WHITEOUT):
                self._hide(parent, path[: -len(leaf)] + leaf[len(_WHITEOUT) :], leaf[len(_WHITEOUT) :])
            else:
                self._make(archive, member, parent, leaf)
                self._remember(path)
                if member.isdir():
                    self.times[path] = member.mtime
                else:
                    self._forget_times(path)
        finally:
            os.close(parent)

    def _forget_times(self, path: str) -> None:
        """What was a directory earlier in this layer is something else now."""
        if path in self.times:
            self.times = {
                other: when
                for other, when in self.times.items()
                if other != path and not other.startswith(f"{path}/")
            }

    def _remember(self, path: str) -> None:
        while path and path not in self.written:
            self.written.add(path)
            path = path.rpartition("/")[0]

    def _hide(self, parent: int, path: str, leaf: str) -> None:
        """Remove what a lower layer has at *path*."""
        if leaf in ("", ".", ".."):
            raise InvalidSpec(f"{self.what}: a whiteout of {leaf!r}")
        if path in self.written:
            self._hide_inside(parent, path, leaf)
        else:
            _remove(parent, leaf)

    def _hide_inside(self, parent: int, path: str, leaf: str) -> None:
        """As `_hide_below`, where *leaf* in *parent* is a directory of this layer."""
        try:
            directory = self._directory(leaf, parent)
        except NotADirectoryError:
            return
        try:
            self._hide_below(directory, path)
        finally:
            os.close(directory)

    def _hide_below(self, directory: int, path: str) -> None:
        """Remove what lower layers have in the open *directory*, whose path is *path*."""
        for leaf in os.listdir(directory):
            below = f"{path}/{leaf}" if path else leaf
            if below in self.written:
                self._hide_inside(directory, below, leaf)
            else:
                _remove(directory, leaf)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
        if any(key.startswith("SCHILY.xattr.") for key in member.pax_headers):
            raise Unsupported(f"{self.what}: {member.name}: extended attributes are not supported yet")
        if member.isdir():
            self._make_directory(parent, leaf)
        else:
            _remove(parent, leaf)
            if member.isreg():
                self._copy(archive, member, parent, leaf)
            elif member.issym():
                os.symlink(member.linkname, leaf, dir_fd=parent)
            elif member.islnk():
                self._link(member, parent, leaf)
                return
            elif member.isfifo():
                os.mkfifo(leaf, 0o600, dir_fd=parent)
            else:
                raise Unsupported(f"{self.what}: {member.name}: device nodes in images are not supported")
        if not self.own_user:
            os.chown(leaf, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not member.issym():
            # After chown, which clears set-user-ID; there is no symlink that chmod could follow: just made.
            os.chmod(leaf, member.mode & 0o7777, dir_fd=parent)
        if not member.isdir():
            os.utime(leaf, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def _make_directory(self, parent: int, leaf: str) -> None:
        try:
            if stat.S_ISDIR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode):
                return
            os.unlink(leaf, dir_fd=parent)
        except FileNotFoundError:
            pass
        os.mkdir(leaf, 0o700, dir_fd=parent)

    def _copy(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
        self.left.spend(member.size, self.what)
        source = archive.extractfile(member)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        with open(fd, "wb", buffering=0) as target:
            if source is not None:
                shutil.copyfileobj(source, target, _CHUNK)

    def _link(self, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
        path = self._path(member.linkname)
        if not path:
            raise InvalidSpec(f"{self.what}: {member.name}: a hard link to the root")
        source, name = self._parent(path)
        try:
            os.link(name, leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as exc:
            raise InvalidSpec(f"{self.what}: {member.name}: no hard link to {path}: {exc.strerror}") from exc
        finally:
            os.close(source)


def _remove(parent: int, leaf: str) -> None:
    """Remove the file or tree *leaf* of *parent*, if there is one, and follow no symlink."""
    try:
        os.unlink(leaf, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(leaf, dir_fd=parent)
