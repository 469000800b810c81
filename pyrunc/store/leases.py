"""Leases: what a live process is about to name in a row stays until it has.

A lease is a row that says which process holds it, and rows for the blobs and snapshots that it protects. Whoever
wants something to stay writes the row first, and only then looks whether the thing is there. A collector deletes
inside of a transaction, in which it has looked for rows: either it sees the row, or the holder sees that the thing
is gone. Rows of dead processes are dropped by the next collection.
"""

import os
import time

from pyrunc.errors import FailedPrecondition
from pyrunc.records import NamedTuple
from pyrunc.store.content import check_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal

    from pyrunc.store.database import Database

# A process in another pid namespace cannot be looked up; whatever it does does not last a day.
_FOREIGN_NS = 24 * 3600 * 10**9


class Owner(NamedTuple):
    """A process, so that no later one is taken for it.

    The id of the boot, the inode of its pid namespace, its pid there, its start in clock ticks after the boot.
    """

    boot: str
    pid_namespace: int
    pid: int
    started: int


def this_process() -> Owner:
    """Return who we are."""
    pid = os.getpid()
    return Owner(_boot(), os.stat("/proc/self/ns/pid").st_ino, pid, _started(pid))


def is_alive(owner: Owner, made_ns: int = 0) -> bool:
    """Whether *owner*, who wrote a row at *made_ns* (nanoseconds since the epoch), may still need it."""
    if owner.boot != _boot():
        return False
    if owner.pid_namespace != os.stat("/proc/self/ns/pid").st_ino:
        return time.time_ns() - made_ns < _FOREIGN_NS
    return _started(owner.pid) == owner.started


def drop_dead(database: "Database") -> int:
    """Drop the leases of dead processes; how many there were."""
    rows = database.query("SELECT id, boot, pid_namespace, pid, started, made_ns FROM leases")
    dead = [(row[0],) for row in rows if not is_alive(Owner(*row[1:5]), row[5])]
    if dead:
        with database.transaction(durable=False) as connection:
            connection.executemany("DELETE FROM leases WHERE id = ?", dead)
    return len(dead)


class Lease:
    """Protects blobs and snapshots from collection until it is released; a context manager, for all threads.

    It costs nothing on the disk, since it need not outlive a loss of power.
    """

    __slots__ = ("_database", "_held", "_pid", "id")

    def __init__(self, database: "Database") -> None:
        self.id = os.urandom(16).hex()
        self._database = database
        self._pid = os.getpid()
        self._held: set[tuple[str, str]] = set()

    def protect(self, *digests: str) -> None:
        """Protect the blobs *digests*; those that are there when this returns stay."""
        for digest in digests:
            check_digest(digest)
        self._protect("blob", digests)

    def protect_snapshot(self, *keys: str) -> None:
        """Protect the snapshots *keys*, of whatever driver; those that are there when this returns stay."""
        self._protect("snapshot", keys)

    def release(self) -> None:
        """End the protection."""
        if self._held and self._pid == os.getpid():
            with self._database.transaction(durable=False) as connection:
                connection.execute("DELETE FROM leases WHERE id = ?", (self.id,))
            self._held.clear()

    def _protect(self, kind: "Literal['blob', 'snapshot']", names: tuple[str, ...]) -> None:
        if self._pid != os.getpid():
            raise FailedPrecondition("a lease is not inherited by a forked process")
        fresh = [(kind, name) for name in names if (kind, name) not in self._held]
        if not fresh:
            return
        with self._database.transaction(durable=False) as connection:
            connection.execute(
                "INSERT OR IGNORE INTO leases (id, boot, pid_namespace, pid, started, made_ns)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (self.id, *this_process(), time.time_ns()),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO lease_names (lease, kind, name) VALUES (?, ?, ?)",
                [(self.id, *each) for each in fresh],
            )
        self._held.update(fresh)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.release()


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _started(pid: int) -> int:
    """When the process *pid* was started, in clock ticks after the boot; 0 if it is dead, reaped or not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
