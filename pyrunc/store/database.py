"""A SQLite file that many processes and threads share, with its schema's version, and errors that name it.

WAL: readers never wait, writers wait for one another. Each thread has a connection of its own. SQLite forbids a
connection to cross a fork, and forbids even to open the same file again in the child while one is open; so a fork
waits for the transactions of other threads, all connections are closed before it, and opened again when next used.

Even a deletion needs some space, so a little is kept in <path>.reserve, which is given up on a full disk, and the log's
space is used again.
Source: sqlite.org/wal.html, sqlite.org/howtocorrupt.html section 2.6.
"""

import os
import time
from _thread import RLock, _local, get_ident
from _weakref import ref

from pyrunc.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    PermissionDenied,
    PyruncError,
    StorageFull,
    TimedOut,
    Unavailable,
    Unsupported,
)
from pyrunc.records import contextmanager
from pyrunc.store.files import Lock, make_directory, said_full, sync_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Literal, TypeVar

    _T = TypeVar("_T")

_BESIDE = ("", "-wal", "-shm", "-journal")
_LITTLE_BYTES = 256 << 10  # less than this is left on a disk that SQLite calls broken when it is full
_RESERVE_BYTES = 128 << 10  # enough for SQLite's shared index and a small transaction
_LONG_LOG_BYTES = 512 << 10  # which takes half a millisecond to read
_FROZEN_S = 5.0  # who holds the gate for so long was frozen there by the end of Python
_databases: "dict[int, ref[Database]]" = {}
_handles: "dict[int, ref[_Handle]]" = {}  # of all, also of those whose database goes just now
_abandoned: "list[sqlite3.Connection]" = []
# How deep each thread is inside of any database, and the thread that is about to fork. One gate for all, since a
# transaction of one database may use another one.
_gate = RLock()
_inside: dict[int, int] = {}
_forking = 0


class Database:
    """The SQLite file *path*, made when it is missing.

    *schema* has one script of SQL for each version, which leads there from the version before; *synchronous* FULL
    makes a transaction outlive a loss of power, NORMAL only a crash of the program. *remedy* says what to do when
    the file is damaged. A writer waits *timeout_s* for others, then TimedOut is raised.

    Raises DataLoss for a damaged file, Unsupported for one of a later version, StorageFull, PermissionDenied.
    """

    def __init__(
        self,
        path: str,
        schema: "Sequence[str]",
        synchronous: "Literal['FULL', 'NORMAL']",
        *,
        remedy: "str | Callable[[], str]" = "",
        timeout_s: float = 60.0,
    ) -> None:
        sqlite3 = _import()

        self.path = path
        self.schema = tuple(schema)
        self.synchronous = synchronous
        self._sqlite = sqlite3
        self._remedy = remedy
        self._timeout_s = timeout_s
        self._local = _local()
        self._handles: dict[int, ref[_Handle]] = {}
        self._closed = False
        self._torn = False
        if not os.path.exists(path):
            make_directory(os.path.dirname(os.path.abspath(path)))
            with Lock(path + ".lock", timeout_s=timeout_s):
                if not os.path.exists(path):
                    with _gate:  # nobody forks meanwhile
                        self._create()
        _know(_databases, self)
        self._check_version()
        self._keep_reserve()

    @contextmanager
    def transaction(self, *, durable: bool = True, frees: bool = False) -> "Iterator[sqlite3.Connection]":
        """Write: all of what is inside happens, or nothing; no other process writes meanwhile.

        Without *durable* it may be undone by a loss of power, and costs no fsync. One that *frees* space has some
        in reserve on a full disk. Not to be nested.
        """
        relaxed = not durable and self.synchronous == "FULL"
        tight = frees and _is_full(self.path)
        if tight:
            _remove(self.path + ".reserve")
        with self._connection() as connection:
            if tight:
                self._reuse_log(connection)
            try:
                self._flush(self._local.handle, relaxed)
                connection.execute("BEGIN IMMEDIATE")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version != len(self.schema):
                    raise self._other_version(version)
                yield connection
                connection.execute("COMMIT")
            finally:
                self._settle(connection)

    @contextmanager
    def snapshot(self) -> "Iterator[sqlite3.Connection]":
        """Read: all that is inside sees one and the same state. Not to be nested."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                self._settle(connection)

    def query(self, sql: str, parameters: "Sequence[object]" = ()) -> "list[tuple[Any, ...]]":
        """Return all rows of one statement that reads; within a transaction it sees what that wrote."""
        with self._connection() as connection:
            return connection.execute(sql, parameters).fetchall()

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong with the file; it reads all of it."""
        try:
            found = [row[0] for row in self.query("PRAGMA integrity_check(20)") if row[0] != "ok"]
            found += [
                f"{table}: row {row} names what is not in {parent}"
                for table, row, parent, _ in self.query("PRAGMA foreign_key_check")
            ]
        except DataLoss as exc:
            return [str(exc)]
        return found

    def close(self) -> None:
        """Close all connections; none of its threads may be inside. It cannot be used again."""
        with _gate:
            self._closed = True
            for handle in _alive(self._handles):
                handle.close()

    def leave(self) -> None:
        """At the end of this process: tidy up if the log has become long, else let the next one read it.

        Closing folds the log into the file, with three flushes of the disk, and the next one to write would begin
        a new log, with two more. A log that stays is what a killed process leaves: nothing that was committed is lost.
        """
        try:
            long = os.stat(f"{self.path}-wal").st_size > _LONG_LOG_BYTES
        except OSError:
            return
        if long:
            self.close()

    def abandon(self) -> None:
        """After a fork, in the child: leave alone what is still open, which is a transaction of the parent's."""
        for handle in _alive(self._handles):
            if handle.raw is not None:
                _abandoned.append(handle.raw)
                handle.raw, handle.relaxed = None, False
                self._torn = True

    # ---- connections

    @contextmanager
    def _connection(self) -> "Iterator[sqlite3.Connection]":
        """Lend the connection of this thread, with SQLite's errors translated."""
        thread = get_ident()
        entered = False
        handle: _Handle | None = None
        try:
            with _gate:
                while _forking not in (0, thread) and thread not in _inside:
                    _wait()
                handle = getattr(self._local, "handle", None)
                if handle is None:
                    self._local.handle = handle = _Handle()
                    _know(self._handles, handle)
                    _know(_handles, handle)
                _inside[thread] = _inside.get(thread, 0) + 1
                entered = True
            if self._closed:
                raise FailedPrecondition(f"{self.path} is closed")
            if self._torn:
                raise FailedPrecondition(f"{self.path}: this process was forked inside a transaction")
            if handle.raw is not None and _inside[thread] == 1 and handle.raw.in_transaction:
                handle.close()  # of somebody who was interrupted at its very end
            if handle.raw is None:
                handle.raw = self._connect_somehow()
            yield handle.raw
        except self._sqlite.Error as exc:
            if handle is not None and not isinstance(exc, self._sqlite.IntegrityError):
                handle.close()  # after a failed write it may be in any state: the next one is fresh
            raise self._translated(exc) from exc
        except BaseException as exc:
            if handle is not None and not isinstance(exc, Exception):
                handle.close()  # Ctrl-C: a statement may be half done, and keep what it has read, or all others out
            raise
        finally:
            if entered:
                with _gate:
                    _inside[thread] -= 1
                    if not _inside[thread]:
                        del _inside[thread]

    def _flush(self, handle: "_Handle", relaxed: bool) -> None:
        """See that what is committed from now on is flushed to the disk, or, if it is *relaxed*, is not."""
        assert handle.raw is not None
        # Whoever is interrupted in between is taken for relaxed.
        if relaxed and not handle.relaxed:
            handle.relaxed = True
            handle.raw.execute("PRAGMA synchronous=NORMAL")
        elif handle.relaxed and not relaxed:
            handle.raw.execute(f"PRAGMA synchronous={self.synchronous}")
            handle.relaxed = False

    def _settle(self, connection: "sqlite3.Connection") -> None:
        """End what is still a transaction."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except self._sqlite.Error:
            self._local.handle.close()  # which rolls back too

    def _connect_somehow(self) -> "sqlite3.Connection":
        """Connect, with the space in reserve if there is no other."""
        try:
            return self._connect(self.path)
        except self._sqlite.Error as exc:
            reserve = self.path + ".reserve"
            if not isinstance(self._translated(exc), StorageFull) or not os.path.exists(reserve):
                raise
            _remove(reserve)
            return self._connect(self.path)

    def _reuse_log(self, connection: "sqlite3.Connection") -> None:
        """Let the next transaction begin at the log's beginning, in space that it has already."""
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except self._sqlite.Error:
            pass  # the database would have to grow

    def _keep_reserve(self) -> None:
        reserve = self.path + ".reserve"
        if os.path.exists(reserve) or _is_full(self.path):
            return
        try:
            fd = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError:
            return  # there is none, or a smaller one

    def _connect(self, path: str) -> "sqlite3.Connection":
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        connection: sqlite3.Connection = self._sqlite.connect(
            f"file:{quoted}?mode=rw",  # never a new, empty file in the place of one that was moved away
            uri=True,
            timeout=self._timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA synchronous={self.synchronous}")
        except BaseException:
            connection.close()
            raise
        return connection

    # ---- schema

    def _create(self) -> None:
        """Make the file whole beside its place, then rename it there: an empty file is always a damaged one."""
        new = self.path + ".new"  # the lock makes it ours, and what is there was left by a killed process
        try:
            self._write_new(new)
            # Of a file that was moved away: SQLite would take them for this one's.
            for suffix in _BESIDE[1:]:
                _remove(self.path + suffix)
            os.rename(new, self.path)
            sync_directory(os.path.dirname(self.path))
        except (OSError, self._sqlite.Error) as exc:
            # Looked at before anything is removed, while a full disk is still full.
            error = said_full(exc, self.path) if isinstance(exc, OSError) else self._translated(exc)
            for suffix in _BESIDE:
                _remove(new + suffix)
            raise error from exc

    def _write_new(self, new: str) -> None:
        for suffix in _BESIDE:
            _remove(new + suffix)
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            connection = self._connect(new)
            try:
                # Logging ahead only from here on: what a log holds would stay behind on a full disk.
                self._upgrade(connection, 0)
                connection.execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()
            os.fsync(fd)
        finally:
            os.close(fd)

    def _check_version(self) -> None:
        if os.path.exists(self.path) and not os.path.getsize(self.path):
            raise self._damaged("the file is empty")
        ((version,),) = self.query("PRAGMA user_version")
        if 0 < version < len(self.schema):
            with Lock(self.path + ".lock", timeout_s=self._timeout_s), self._connection() as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version < len(self.schema):
                    self._upgrade(connection, version)
                version = len(self.schema)
        if version != len(self.schema):
            raise self._other_version(version)

    def _upgrade(self, connection: "sqlite3.Connection", version: int) -> None:
        scripts = "\n;\n".join(self.schema[version:])
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{scripts}\n;\nPRAGMA user_version={len(self.schema)};\nCOMMIT;"
            )
        except BaseException:
            self._settle(connection)
            raise

    def _other_version(self, version: int) -> PyruncError:
        if version < 1:
            return self._damaged("the file has no schema of pyrunc")
        return Unsupported(
            f"{self.path}: written by another version of pyrunc (schema {version}; this one knows {len(self.schema)})"
        )

    # ---- errors

    def _translated(self, exc: "sqlite3.Error") -> PyruncError:
        code = getattr(exc, "sqlite_errorcode", 0)
        name = getattr(exc, "sqlite_errorname", "")
        sqlite, text = self._sqlite, f"{self.path}: {exc}"
        primary = code & 0xFF
        if primary in (sqlite.SQLITE_CORRUPT, sqlite.SQLITE_NOTADB):
            return self._damaged(str(exc))
        if primary == sqlite.SQLITE_FULL:
            return StorageFull(f"no space left for {self.path}")
        if primary in (sqlite.SQLITE_BUSY, sqlite.SQLITE_LOCKED):
            return TimedOut(f"{self.path} is locked by another process for {self._timeout_s:g} s")
        if primary in (sqlite.SQLITE_IOERR, sqlite.SQLITE_CANTOPEN):
            if os.path.exists(self.path) and not os.access(self.path, os.R_OK | os.W_OK):
                return PermissionDenied(f"{self.path}: permission denied")
            if _is_full(self.path):
                return StorageFull(f"no space left for {self.path}")
            return Unavailable(f"{text} ({name})")
        if primary in (sqlite.SQLITE_READONLY, sqlite.SQLITE_PERM, sqlite.SQLITE_AUTH):
            return PermissionDenied(text)
        if code in (sqlite.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite.SQLITE_CONSTRAINT_UNIQUE):
            return AlreadyExists(text)
        if primary == sqlite.SQLITE_CONSTRAINT:
            return FailedPrecondition(text)
        return PyruncError(text)

    def _damaged(self, why: str) -> DataLoss:
        remedy = self._remedy if isinstance(self._remedy, str) else self._remedy()
        return DataLoss(f"{self.path} is damaged: {why}" + (f"; {remedy}" if remedy else ""))


def _import() -> "Any":
    """What sqlite3 is made of, if it is there: sqlite3 itself imports datetime, which is half of what it costs."""
    try:
        import _sqlite3

        return _sqlite3
    except ImportError:
        import sqlite3

        return sqlite3


def _know(known: "dict[int, ref[_T]]", item: "_T") -> None:
    """Add *item* to *known* until it goes; weakref.WeakSet would be a millisecond to import."""
    key = id(item)
    known[key] = ref(item, lambda _: known.pop(key, None))


def _alive(known: "dict[int, ref[_T]]") -> "list[_T]":
    found = [reference() for reference in list(known.values())]
    return [item for item in found if item is not None]


class _Handle:
    """A thread's connection; *relaxed* while its commits are not flushed."""

    __slots__ = ("__weakref__", "raw", "relaxed")

    def __init__(self) -> None:
        self.raw: sqlite3.Connection | None = None
        self.relaxed = False

    def close(self) -> None:
        raw, self.raw, self.relaxed = self.raw, None, False
        if raw is not None:
            raw.close()

    def __del__(self, gate: "Any" = _gate) -> None:
        """When its thread has ended, but while nobody forks: the child would take what is half closed for locked."""
        if self.raw is None:
            return
        held = gate.acquire(True, _FROZEN_S)
        try:
            self.close()
        finally:
            if held:
                gate.release()


def leave_all() -> None:
    """`Database.leave` for all of this process."""
    for database in _alive(_databases):
        database.leave()


def _is_full(path: str) -> bool:
    try:
        status = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _LITTLE_BYTES or (status.f_files > 0 and not status.f_favail)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _wait() -> None:
    """Let other threads pass the gate, however often it is held here; who forks waits so, and that is rare."""
    held = _gate._release_save()  # type: ignore[attr-defined]  # noqa: SLF001 - what threading.Condition does
    time.sleep(0.0005)
    _gate._acquire_restore(held)  # type: ignore[attr-defined]  # noqa: SLF001


def _before_fork() -> None:
    """Wait until no other thread is inside of a database, close the connections, and keep the gate."""
    global _forking
    thread = get_ident()
    _gate.acquire()
    while _forking:
        _wait()
    _forking = thread
    while any(other != thread for other in _inside):
        _wait()
    for handle in _alive(_handles):
        if handle.raw is not None and not handle.raw.in_transaction:
            handle.close()  # the next use opens it again


def _after_fork(child: bool) -> None:
    global _forking
    for database in _alive(_databases) if child else ():
        database.abandon()
    _forking = 0
    _gate.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=lambda: _after_fork(False),
    after_in_child=lambda: _after_fork(True),
)
