"""What the store knows of images: images.db, which survives a loss of power.

    images        id (digest of the config), manifest, created_ns, size, os, architecture, parent, added_ns
    image_blobs   image, position → digest, kind: "manifest", "config" or "layer"
    image_layers  image, position → chain_id: the snapshots that its layers are unpacked to, the lowest first
    names         name → kind "reference" ("docker.io/library/debian:bookworm") or "digest" ("…/debian@sha256:…"), image
    users         container → image, snapshot: its own, writable one
    leases        id → who holds it (leases.py)
    lease_names   lease → kind "blob" or "snapshot", name

image_blobs and image_layers of an image that was deleted stay while a container uses it.
"""

import os

from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound
from pyrunc.records import NamedTuple, contextmanager
from pyrunc.store.content import ContentStore, blob_path, check_digest
from pyrunc.store.database import Database

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from pyrunc.store import leases

SCHEMA = (
    """
    CREATE TABLE images (
        id TEXT PRIMARY KEY, manifest TEXT NOT NULL, created_ns INTEGER NOT NULL, size INTEGER NOT NULL,
        os TEXT NOT NULL, architecture TEXT NOT NULL, parent TEXT, added_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE image_blobs (
        image TEXT NOT NULL, position INTEGER NOT NULL, digest TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('manifest', 'config', 'layer')),
        PRIMARY KEY (image, position)
    ) WITHOUT ROWID;
    CREATE INDEX image_blobs_digest ON image_blobs (digest);
    CREATE TABLE image_layers (
        image TEXT NOT NULL, position INTEGER NOT NULL, chain_id TEXT NOT NULL,
        PRIMARY KEY (image, position)
    ) WITHOUT ROWID;
    CREATE INDEX image_layers_chain_id ON image_layers (chain_id);
    CREATE TABLE names (
        name TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('reference', 'digest')),
        image TEXT NOT NULL REFERENCES images ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX names_image ON names (image);
    CREATE TABLE users (container TEXT PRIMARY KEY, image TEXT NOT NULL, snapshot TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX users_image ON users (image);
    CREATE INDEX users_snapshot ON users (snapshot);
    CREATE TABLE leases (
        id TEXT PRIMARY KEY, boot TEXT NOT NULL, pid_namespace INTEGER NOT NULL, pid INTEGER NOT NULL,
        started INTEGER NOT NULL, made_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE lease_names (
        lease TEXT NOT NULL REFERENCES leases ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK (kind IN ('blob', 'snapshot')), name TEXT NOT NULL,
        PRIMARY KEY (lease, kind, name)
    ) WITHOUT ROWID;
    CREATE INDEX lease_names_name ON lease_names (name);
    """,
)
# One statement for each kind of thing: whether a row or a lease names ?1.
_NAMED = {
    "blob": "SELECT EXISTS (SELECT 1 FROM image_blobs WHERE digest = ?1)"
    " OR EXISTS (SELECT 1 FROM lease_names WHERE kind = 'blob' AND name = ?1)",
    "snapshot": "SELECT EXISTS (SELECT 1 FROM image_layers WHERE chain_id = ?1)"
    " OR EXISTS (SELECT 1 FROM users WHERE snapshot = ?1)"
    " OR EXISTS (SELECT 1 FROM lease_names WHERE kind = 'snapshot' AND name = ?1)",
}
_ROW = "id, manifest, created_ns, size, os, architecture, parent, added_ns"
_KINDS = ("manifest", "config", "layer")


class ImageRow(NamedTuple):
    """An image: *id* is its config's digest, *manifest* its manifest's, *parent* an id; sizes in bytes, times in ns."""

    id: str
    manifest: str
    created_ns: int
    size: int
    os: str
    architecture: str
    parent: str | None
    added_ns: int


class Metadata:
    """The rows of the store at *root*; for all threads, and after a fork.

    Raises what Database raises. A damaged images.db costs names and what belongs to them, no content.
    """

    __slots__ = ("database", "root")

    def __init__(self, root: str) -> None:
        self.root = root
        path = os.path.join(root, "images.db")
        self.database = Database(path, SCHEMA, "FULL", remedy=lambda: _remedy(root))

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def lease(self) -> "leases.Lease":
        """Return a lease, which protects what it is told to until its ``with`` ends or this process does."""
        from pyrunc.store import leases

        return leases.Lease(self.database)

    def drop_dead_leases(self) -> int:
        """Drop the leases of dead processes; how many there were."""
        from pyrunc.store import leases

        return leases.drop_dead(self.database)

    # ---- images

    def put_image(
        self,
        row: ImageRow,
        blobs: "Sequence[tuple[str, str]]",
        references: "Sequence[str]" = (),
        *,
        chain_ids: "Sequence[str]" = (),
        digests: "Sequence[str]" = (),
    ) -> None:
        """Add the image *row*, or replace it, with its *blobs* (digest, "manifest"|"config"|"layer") in their order.

        *references* and *digests* (``name@sha256:…``) name it from now on, and no other image; *chain_ids* are
        the snapshots of its layers. One transaction, in which it is seen that every blob is there.
        Raises NotFound for a blob that is not.
        """
        check_digest(row.id)
        if (row.id, "config") not in blobs or (row.manifest, "manifest") not in blobs:
            raise InvalidArgument(f"{row.id}: its config and its manifest must be among its blobs")
        for digest, kind in blobs:
            check_digest(digest)
            if kind not in _KINDS:
                raise InvalidArgument(f"{digest}: {kind!r} is no kind of blob")
        with self.database.transaction() as connection:
            # No collector runs inside of our transaction: what is there now will be named.
            for digest, _ in blobs:
                if not os.path.lexists(blob_path(self.root, digest)):
                    raise NotFound(f"{digest} of image {row.id} is not in the store")
            connection.execute(
                f"INSERT INTO images ({_ROW}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
                " ON CONFLICT (id) DO UPDATE SET manifest = ?2, created_ns = ?3, size = ?4, os = ?5,"
                " architecture = ?6, parent = ?7, added_ns = ?8",
                tuple(row),
            )
            connection.execute("DELETE FROM image_blobs WHERE image = ?", (row.id,))
            connection.execute("DELETE FROM image_layers WHERE image = ?", (row.id,))
            connection.executemany(
                "INSERT INTO image_blobs (image, position, digest, kind) VALUES (?, ?, ?, ?)",
                [(row.id, i, digest, kind) for i, (digest, kind) in enumerate(blobs)],
            )
            connection.executemany(
                "INSERT INTO image_layers (image, position, chain_id) VALUES (?, ?, ?)",
                [(row.id, i, chain_id) for i, chain_id in enumerate(chain_ids)],
            )
            for name in references:
                _set_name(connection, name, "reference", row.id)
            for name in digests:
                _set_name(connection, name, "digest", row.id)

    def get_image(self, image_id: str) -> ImageRow | None:
        """Return the image *image_id*, if there is one."""
        rows = self.database.query(f"SELECT {_ROW} FROM images WHERE id = ?", (image_id,))
        return ImageRow(*rows[0]) if rows else None

    def images(self) -> list[ImageRow]:
        """Return all images, the latest first."""
        rows = self.database.query(f"SELECT {_ROW} FROM images ORDER BY created_ns DESC, id")
        return [ImageRow(*row) for row in rows]

    def find_ids(self, hex_prefix: str) -> list[str]:
        """Return the ids whose hex digits begin with *hex_prefix*, sorted."""
        low = f"sha256:{hex_prefix}"
        # "g" follows all hex digits.
        rows = self.database.query(
            "SELECT id FROM images WHERE id >= ? AND id < ? ORDER BY id", (low, f"{low}g")
        )
        return [row[0] for row in rows]

    def blobs(self, image_id: str) -> list[tuple[str, str]]:
        """Return the blobs of an image as they were put, also of a deleted one that a container uses."""
        return self.database.query(
            "SELECT digest, kind FROM image_blobs WHERE image = ? ORDER BY position", (image_id,)
        )

    def chain_ids(self, image_id: str) -> list[str]:
        """Return the snapshots of the layers of an image, the lowest first."""
        rows = self.database.query(
            "SELECT chain_id FROM image_layers WHERE image = ? ORDER BY position", (image_id,)
        )
        return [row[0] for row in rows]

    def delete_image(self, image_id: str, *, if_unnamed: bool = False, if_unused: bool = False) -> None:
        """Delete an image and its names; its content goes with a collection, once no container uses it either.

        Raises NotFound; FailedPrecondition with *if_unnamed* while a reference, with *if_unused* while a container
        names it, seen in the same transaction.
        """
        with self.database.transaction(frees=True) as connection:
            _need_image(connection, image_id)
            for wanted, sql, what in (
                (
                    if_unnamed,
                    "SELECT name FROM names WHERE kind = 'reference' AND image = ? LIMIT 1",
                    "named",
                ),
                (if_unused, "SELECT container FROM users WHERE image = ? LIMIT 1", "used by container"),
            ):
                found = connection.execute(sql, (image_id,)).fetchone() if wanted else None
                if found:
                    raise FailedPrecondition(f"image {image_id} is {what} {found[0]}")
            connection.execute("DELETE FROM images WHERE id = ?", (image_id,))
            _forget_unused(connection, image_id)

    # ---- names

    def references(self, image_id: str | None = None) -> list[tuple[str, str]]:
        """Return (reference, image id), of one image or of all, sorted."""
        return self._names("reference", image_id)

    def set_reference(self, name: str, image_id: str) -> str | None:
        """Let the reference *name* mean an image; the id of the one that it meant before. Raises NotFound."""
        with self.database.transaction() as connection:
            return _set_name(connection, name, "reference", image_id)

    def delete_reference(self, name: str) -> str | None:
        """Delete the reference *name*; the id of the image that it meant."""
        return self._delete_name(name, "reference")

    def digests(self, image_id: str | None = None) -> list[tuple[str, str]]:
        """Return (``name@sha256:…``, image id), of one image or of all, sorted."""
        return self._names("digest", image_id)

    def set_digest(self, name: str, image_id: str) -> str | None:
        """Let ``name@sha256:…`` mean an image; the id of the one that it meant before. Raises NotFound."""
        with self.database.transaction() as connection:
            return _set_name(connection, name, "digest", image_id)

    def delete_digest(self, name: str) -> str | None:
        """Delete ``name@sha256:…``; the id of the image that it meant."""
        return self._delete_name(name, "digest")

    def resolve(self, name: str) -> str | None:
        """Return the id of the image that a reference or a ``name@sha256:…`` means, if any."""
        rows = self.database.query("SELECT image FROM names WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    # ---- containers

    def use_image(
        self, container_id: str, image_id: str, *, snapshot: str | None = None, durable: bool = True
    ) -> None:
        """Say that a container uses an image, and which snapshot is its own (None: one called like itself).

        Without *durable* a loss of power may undo it. Raises NotFound for an image that is not there.
        """
        with self.database.transaction(durable=durable) as connection:
            _need_image(connection, image_id)
            connection.execute(
                "INSERT INTO users (container, image, snapshot) VALUES (?1, ?2, ?3)"
                " ON CONFLICT (container) DO UPDATE SET image = ?2, snapshot = ?3",
                (container_id, image_id, container_id if snapshot is None else snapshot),
            )

    def unuse(self, container_id: str, *, durable: bool = True) -> None:
        """Say that a container uses no image any more; without *durable* a loss of power may undo it."""
        with self.database.transaction(durable=durable, frees=True) as connection:
            row = connection.execute(
                "SELECT image FROM users WHERE container = ?", (container_id,)
            ).fetchone()
            if row:
                connection.execute("DELETE FROM users WHERE container = ?", (container_id,))
                if not connection.execute("SELECT 1 FROM images WHERE id = ?", row).fetchone():
                    _forget_unused(connection, row[0])

    def users(self, image_id: str) -> list[str]:
        """Return the containers that use an image, sorted."""
        rows = self.database.query(
            "SELECT container FROM users WHERE image = ? ORDER BY container", (image_id,)
        )
        return [row[0] for row in rows]

    def uses(self) -> list[tuple[str, str, str]]:
        """Return (container, image id, its snapshot) of all containers, sorted."""
        return self.database.query("SELECT container, image, snapshot FROM users ORDER BY container")

    # ---- for collect and check

    def is_named(self, kind: "Literal['blob', 'snapshot']", name: str) -> bool:
        """Whether a row or a lease names the blob or the snapshot *name*."""
        return bool(self.database.query(_NAMED[kind], (name,))[0][0])

    @contextmanager
    def unnamed(self, kind: "Literal['blob', 'snapshot']", names: "Iterable[str]") -> "Iterator[list[str]]":
        """Yield those of *names* that neither a row nor a lease names; inside, nobody can begin to name one."""
        with self.database.transaction() as connection:
            yield [name for name in names if not connection.execute(_NAMED[kind], (name,)).fetchone()[0]]

    def named_blobs(self) -> list[str]:
        """Return the digests that rows of images name, sorted."""
        return [
            row[0] for row in self.database.query("SELECT DISTINCT digest FROM image_blobs ORDER BY digest")
        ]

    def images_of(self, digest: str) -> list[str]:
        """Return the ids of the images whose rows name the blob *digest*, sorted."""
        rows = self.database.query(
            "SELECT DISTINCT image FROM image_blobs WHERE digest = ? ORDER BY image", (digest,)
        )
        return [row[0] for row in rows]

    def _names(self, kind: str, image_id: str | None) -> list[tuple[str, str]]:
        return self.database.query(
            "SELECT name, image FROM names WHERE kind = ?1 AND (?2 IS NULL OR image = ?2) ORDER BY name",
            (kind, image_id),
        )

    def _delete_name(self, name: str, kind: str) -> str | None:
        with self.database.transaction(frees=True) as connection:
            row = connection.execute(
                "SELECT image FROM names WHERE name = ? AND kind = ?", (name, kind)
            ).fetchone()
            connection.execute("DELETE FROM names WHERE name = ? AND kind = ?", (name, kind))
        return row[0] if row else None


def _remedy(root: str) -> str:
    blobs = list(ContentStore(root).walk())
    return (
        f"the names of images are lost with it, the {len(blobs)} blobs of {sum(blob.size for blob in blobs)} bytes"
        f" below {root}/content are not: move images.db, images.db-wal and images.db-shm away, then load or"
        " pull the images again; what is not loaded again goes with the next collection"
    )


def _need_image(connection: "sqlite3.Connection", image_id: str) -> None:
    if not connection.execute("SELECT 1 FROM images WHERE id = ?", (image_id,)).fetchone():
        raise NotFound(f"no image {image_id}")


def _set_name(connection: "sqlite3.Connection", name: str, kind: str, image_id: str) -> str | None:
    _need_image(connection, image_id)
    old = connection.execute("SELECT image FROM names WHERE name = ?", (name,)).fetchone()
    connection.execute(
        "INSERT INTO names (name, kind, image) VALUES (?1, ?2, ?3)"
        " ON CONFLICT (name) DO UPDATE SET kind = ?2, image = ?3",
        (name, kind, image_id),
    )
    return old[0] if old else None


def _forget_unused(connection: "sqlite3.Connection", image_id: str) -> None:
    """Forget what belongs to an image that is gone, unless a container uses it."""
    if not connection.execute("SELECT 1 FROM users WHERE image = ?", (image_id,)).fetchone():
        connection.execute("DELETE FROM image_blobs WHERE image = ?", (image_id,))
        connection.execute("DELETE FROM image_layers WHERE image = ?", (image_id,))
