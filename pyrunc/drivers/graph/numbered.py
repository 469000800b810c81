"""What the built-in drivers share: snapshots as numbered directories, and a row for each.

    <root>/snapshots/<driver>/metadata.db
    <root>/snapshots/<driver>/<number>/fs       the files
    <root>/snapshots/<driver>/temp-…            for one call, flock'ed by it
    <root>/snapshots/<driver>/dead-<number>-…   what is being removed

The row is the truth. A directory is made within the transaction that inserts its row, so whoever holds the write lock
knows that a directory without a row is garbage. Where filling it takes long (vfs copies), the row is inserted with
``ready`` 0 and its maker keeps the directory flock'ed until it is filled: a row that is not ready and whose directory
nobody has locked is garbage too. A snapshot's files are flushed before its row says committed.
"""

from __future__ import annotations

import fcntl
import os
import time

from pyrunc.drivers.graph import trees
from pyrunc.drivers.graph.snapshotter import Info, Usage
from pyrunc.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound, PermissionDenied
from pyrunc.records import NamedTuple, contextmanager, lru_cache
from pyrunc.store.database import Database
from pyrunc.store.files import make_directory, said_full

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from pyrunc._native.descriptor import Descriptor
    from pyrunc.drivers.graph.snapshotter import Kind
    from pyrunc.runtime.compile_host import Rootfs

# number    never given twice; names the directory
# parent    the number of a committed snapshot
# ready     0 while its maker fills the directory
# boot      of volatile ones: the boot in which they were made
# bytes, inodes   of committed ones, once they were measured
SCHEMA = (
    """
    CREATE TABLE snapshots (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        parent INTEGER REFERENCES snapshots (number),
        kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
        ready INTEGER NOT NULL,
        created_ns INTEGER NOT NULL,
        boot TEXT,
        bytes INTEGER,
        inodes INTEGER
    );
    CREATE INDEX children ON snapshots (parent);
    """,
)
_CHAIN = """
    WITH RECURSIVE chain (number, parent, depth) AS (
        SELECT number, parent, 0 FROM snapshots WHERE number = ?
        UNION ALL
        SELECT above.number, above.parent, depth + 1 FROM snapshots above JOIN chain ON above.number = chain.parent
    ) SELECT number FROM chain ORDER BY depth DESC"""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Row(NamedTuple):
    """A snapshot as its row has it, and in *chain* the numbers of its ancestors, the lowest first, and its own."""

    number: int
    key: str
    parent: int | None
    kind: Kind
    boot: str | None
    chain: tuple[int, ...]


class NumberedSnapshots:
    """Rows and directories; a driver says what is in a directory and how it becomes a root.

    Raises Unsupported where *root*'s file system or this kernel lacks what the driver needs, PermissionDenied.
    """

    name: str
    #: whether filling a new snapshot takes so long that no lock may be held meanwhile
    slow = False

    def __init__(self, root: str) -> None:
        if os.geteuid() != 0:
            raise PermissionDenied(f"graph driver {self.name}: needs root")
        self.home = os.path.join(os.path.abspath(root), "snapshots", self.name)
        database = os.path.join(self.home, "metadata.db")
        make_directory(self.home)
        self._home_fd = os.open(self.home, _DIRECTORY)
        try:
            if not os.path.exists(database):
                self.check()
            self._database = Database(
                database, SCHEMA, "NORMAL", remedy=f"remove {self.home} and unpack the images again"
            )
        except BaseException:
            os.close(self._home_fd)
            raise

    # What a driver decides.

    def check(self) -> None:
        """Raise Unsupported if *home* is on a file system where this driver does not work; asked once a root."""

    def begin(self, directory: int, row: Row) -> None:
        """Make what a new snapshot has in its open directory, at once."""
        raise NotImplementedError

    def fill(self, directory: int, row: Row) -> None:
        """The part of that which takes long, where the driver is *slow*."""

    def root(self, row: Row) -> Rootfs:
        """What the runtime needs for a container on *row*."""
        raise NotImplementedError

    def change(self, row: Row) -> AbstractContextManager[int]:
        """The directory of what *row* takes on disk, within a ``with`` block."""
        return self.opened(f"{row.number}/fs")

    def settle(self, directory: int) -> None:
        """Remove what a committed snapshot has no use for."""

    def discard(self, number: str) -> None:
        """Remove the directory *number*, which no row names any more."""
        trees.remove(self._home_fd, number)

    # What all of them do alike.

    def prepare(self, key: str, parent: str | None, *, volatile: bool = False) -> Rootfs:
        """See Snapshotter."""
        return self._make(key, parent, "active", volatile)

    def view(self, key: str, parent: str) -> Rootfs:
        """See Snapshotter."""
        return self._make(key, parent, "view", False)

    def rootfs(self, key: str) -> Rootfs:
        """See Snapshotter."""
        return self.root(self.usable(key))

    def commit(self, name: str, key: str) -> None:
        """See Snapshotter."""
        from pyrunc._native.filesystem import syncfs

        with self._database.transaction() as connection:
            self._refuse_taken(connection, name)
        row = active(self.usable(key))
        with self.opened(f"{row.number}/fs") as files:
            syncfs(files)
        with self._database.transaction() as connection:
            self._refuse_taken(connection, name)
            changed = connection.execute(
                "UPDATE snapshots SET key = ?, kind = 'committed', boot = NULL"
                " WHERE number = ? AND key = ? AND kind = 'active'",
                (name, row.number, key),
            )
            if changed.rowcount != 1:
                raise NotFound(f"no snapshot {key}: another has committed or removed it")
        with self.opened(str(row.number)) as directory:
            self.settle(directory)

    def remove(self, key: str) -> None:
        """See Snapshotter."""
        self.discard(str(self._forget(key)))

    def forget(self, key: str) -> None:
        """See Snapshotter."""
        self._forget(key)

    def stat(self, key: str) -> Info:
        """See Snapshotter."""
        with self._database.snapshot() as connection:
            row = self._find(connection, key)
            found = connection.execute(f"{_INFO} AND s.number = ?", (row.number,)).fetchone()
        return Info(*found)

    def usage(self, key: str) -> Usage:
        """See Snapshotter."""
        with self._database.snapshot() as connection:
            row = self._find(connection, key)
            known = connection.execute(
                "SELECT bytes, inodes FROM snapshots WHERE number = ? AND bytes IS NOT NULL", (row.number,)
            ).fetchone()
        if known:
            return Usage(*known)
        with self.change(row) as files:
            found = Usage(*trees.measure(files))
        if row.kind == "committed":
            with self._database.transaction() as connection:
                connection.execute(
                    "UPDATE snapshots SET bytes = ?, inodes = ? WHERE number = ?", (*found, row.number)
                )
        return found

    def walk(self) -> Iterator[Info]:
        """See Snapshotter."""
        for row in self._database.query(f"{_INFO} ORDER BY s.number"):
            yield Info(*row)

    def reclaim(self) -> int:
        """See Snapshotter."""
        garbage: list[str] = []
        settled: list[int] = []
        with self._making_temporary():
            temporary = [name for name in os.listdir(self._home_fd) if name.startswith("temp-")]
            garbage += [self._bury(name) for name in temporary if self._abandoned(name)]
        with self._database.transaction(frees=True) as connection:
            for number, ready in connection.execute("SELECT number, ready FROM snapshots").fetchall():
                if not ready and self._abandoned(str(number)):
                    connection.execute("DELETE FROM snapshots WHERE number = ?", (number,))
            kinds = dict(connection.execute("SELECT number, kind FROM snapshots").fetchall())
            for name in os.listdir(self._home_fd):
                if name.startswith("dead-") and name not in garbage:
                    garbage.append(name)
                elif name.isdigit() and int(name) not in kinds:
                    garbage.append(self._bury(name))
                elif name.isdigit() and kinds[int(name)] == "committed":
                    settled.append(int(name))
        for name in garbage:
            trees.remove(self._home_fd, name)
        for number in settled:
            try:
                with self.opened(str(number)) as directory:
                    self.settle(directory)
            except FileNotFoundError:
                continue  # removed meanwhile
        return len(garbage)

    def close(self) -> None:
        """See Snapshotter."""
        self._database.close()
        if self._home_fd >= 0:
            os.close(self._home_fd)
        self._home_fd = -1

    # Helpers.

    def find(self, key: str) -> Row:
        """The row of *key*; NotFound."""
        with self._database.snapshot() as connection:
            return self._find(connection, key, chain=True)

    def usable(self, key: str) -> Row:
        """The row of *key*, which must be active or a view; see Snapshotter.rootfs."""
        row = self.find(key)
        if row.kind == "committed":
            raise FailedPrecondition(f"snapshot {key} is committed: prepare another on it")
        if row.boot is not None and row.boot != _boot():
            raise DataLoss(f"snapshot {key} is volatile and of before a reboot: what it held may be lost")
        return row

    def remove_empty(self, files: Sequence[str], directories: Sequence[str]) -> bool:
        """Remove *files* and then *directories* below *home*; False if one of these is not empty."""
        for path in files:
            try:
                os.unlink(path, dir_fd=self._home_fd)
            except FileNotFoundError:
                continue
        try:
            for path in directories:
                try:
                    os.rmdir(path, dir_fd=self._home_fd)
                except FileNotFoundError:
                    continue
        except OSError:
            return False
        return True

    def open(self, path: str) -> int:
        """Open a directory below *home*; the caller closes it."""
        return os.open(path, _DIRECTORY, dir_fd=self._home_fd)

    def opened(self, path: str) -> Descriptor:
        """The same for a ``with`` block, which closes it."""
        return trees.opened(path, self._home_fd)

    @contextmanager
    def temporary(self) -> Iterator[str]:
        """The name of an empty directory below *home*, for the time of a ``with`` block."""
        name = f"temp-{os.urandom(8).hex()}"
        with self._making_temporary():
            os.mkdir(name, 0o700, dir_fd=self._home_fd)
            directory = self.opened(name)
            fcntl.flock(directory.fd, fcntl.LOCK_EX)
        try:
            yield name
        finally:
            trees.remove(self._home_fd, name)
            directory.close()

    @contextmanager
    def _making_temporary(self) -> Iterator[None]:
        """Nobody else makes a temporary directory, or takes one that is not locked yet for garbage."""
        with self.opened(".") as own:  # opened anew: threads that share a descriptor share its lock
            fcntl.flock(own, fcntl.LOCK_EX)
            yield

    def _make(self, key: str, parent: str | None, kind: Kind, volatile: bool) -> Rootfs:
        try:
            row, directory, rootfs = self._begin(key, parent, kind, _boot() if volatile else None)
            with directory as fd:
                if self.slow:
                    self._fill(fd, row)
        except OSError as exc:
            raise said_full(exc, f"snapshot {key}") from exc
        return rootfs

    def _begin(
        self, key: str, parent: str | None, kind: Kind, boot: str | None
    ) -> tuple[Row, Descriptor, Rootfs]:
        """The new row, its directory, opened and locked if it is to be filled, and what it is for the runtime."""
        directory: Descriptor | None = None
        try:
            with self._database.transaction() as connection:
                row = self._insert(connection, key, parent, kind, boot)
                try:
                    directory = self._new_directory(row.number)
                    if self.slow:
                        fcntl.flock(directory.fd, fcntl.LOCK_EX)
                    self.begin(directory.fd, row)
                    return row, directory, self.root(row)
                except BaseException:
                    # Not later: once this transaction is undone, its number is somebody else's.
                    trees.remove(self._home_fd, str(row.number))
                    raise
        except BaseException:
            if directory is not None:
                directory.close()
            raise

    def _insert(
        self, connection: sqlite3.Connection, key: str, parent: str | None, kind: Kind, boot: str | None
    ) -> Row:
        above = self._parent(connection, parent)
        self._refuse_taken(connection, key)
        inserted = connection.execute(
            "INSERT INTO snapshots (key, parent, kind, ready, created_ns, boot) VALUES (?, ?, ?, ?, ?, ?)",
            (key, above.number if above else None, kind, not self.slow, time.time_ns(), boot),
        )
        number = inserted.lastrowid
        assert number is not None
        chain = (*above.chain, number) if above else (number,)
        return Row(number, key, above.number if above else None, kind, boot, chain)

    def _forget(self, key: str) -> int:
        """Delete the row of *key*; its number, which is nobody's from now on."""
        with self._database.transaction(frees=True) as connection:
            row = self._find(connection, key)
            children = connection.execute(
                "SELECT number, key, ready FROM snapshots WHERE parent = ?", (row.number,)
            ).fetchall()
            for number, child, ready in children:
                if ready or not self._abandoned(str(number)):
                    raise FailedPrecondition(f"snapshot {key} is the parent of {child}")
                connection.execute("DELETE FROM snapshots WHERE number = ?", (number,))
            connection.execute("DELETE FROM snapshots WHERE number = ?", (row.number,))
        return row.number

    def _fill(self, directory: int, row: Row) -> None:
        try:
            self.fill(directory, row)
            with self._database.transaction() as connection:
                connection.execute("UPDATE snapshots SET ready = 1 WHERE number = ?", (row.number,))
        except BaseException:
            with self._database.transaction(frees=True) as connection:
                connection.execute("DELETE FROM snapshots WHERE number = ?", (row.number,))
            trees.remove(self._home_fd, str(row.number))
            raise

    def _new_directory(self, number: int) -> Descriptor:
        name = str(number)
        try:
            os.mkdir(name, 0o700, dir_fd=self._home_fd)
        except FileExistsError:
            # Its maker was killed before the row was there, or the row was lost with the host.
            self._bury(name)
            os.mkdir(name, 0o700, dir_fd=self._home_fd)
        return self.opened(name)

    def _bury(self, name: str) -> str:
        """Give garbage a name that is nobody's number; whoever made it may be removing it at the same time."""
        dead = f"dead-{name}-{os.urandom(4).hex()}"
        try:
            os.rename(name, dead, src_dir_fd=self._home_fd, dst_dir_fd=self._home_fd)
        except FileNotFoundError:
            pass
        return dead

    def _abandoned(self, name: str) -> bool:
        """Whether the process that keeps this directory locked while it works in it is dead."""
        try:
            with self.opened(name) as directory:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            pass
        return True

    def _refuse_taken(self, connection: sqlite3.Connection, key: str) -> None:
        found = connection.execute("SELECT number, ready FROM snapshots WHERE key = ?", (key,)).fetchone()
        if found is None:
            return
        if found[1] or not self._abandoned(str(found[0])):
            raise AlreadyExists(f"snapshot {key} exists")
        connection.execute("DELETE FROM snapshots WHERE number = ?", (found[0],))

    def _parent(self, connection: sqlite3.Connection, key: str | None) -> Row | None:
        if key is None:
            return None
        row = self._find(connection, key, chain=True)
        if row.kind != "committed":
            raise FailedPrecondition(f"snapshot {key} is not committed and cannot be a parent")
        return row

    def _find(self, connection: sqlite3.Connection, key: str, *, chain: bool = False) -> Row:
        """The row of *key*, with its ancestors if *chain* asks for them; NotFound."""
        found = connection.execute(
            "SELECT number, key, parent, kind, boot FROM snapshots WHERE key = ? AND ready", (key,)
        ).fetchone()
        if found is None:
            raise NotFound(f"no snapshot {key}")
        numbers = connection.execute(_CHAIN, (found[0],)).fetchall() if chain else ()
        return Row._make((*found, tuple([row[0] for row in numbers])))


_INFO = (
    "SELECT s.key, p.key, s.kind, s.created_ns FROM snapshots s LEFT JOIN snapshots p ON p.number = s.parent"
    " WHERE s.ready"
)


def active(row: Row) -> Row:
    """*row*, which must be active; FailedPrecondition."""
    if row.kind != "active":
        raise FailedPrecondition(f"snapshot {row.key} is not active but {row.kind}")
    return row


@lru_cache(maxsize=1)
def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()
